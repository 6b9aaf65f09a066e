import re
from collections import Counter

from internvl35.data.synthetic import FAMILIES, draw
from internvl35.data.synthetic.drawing import Turn
from internvl35.data.synthetic.talk.chinese import CHINESE
from internvl35.data.synthetic.talk.stories import (
    ANY_THEME,
    ANY_WORDINGS,
    STORIES,
    THEME_WORDINGS,
    name_theme,
)
from internvl35.data.synthetic.talk.talk import TOPICS

TALK = FAMILIES["talk"]


def _turns(num: int, split: str = "test", level: float = 1.0) -> list[Turn]:
    return [turn for index in range(num) for turn in draw("talk", split, index, level).turns]


def test_no_question_has_two_answers() -> None:
    known: dict[str, str] = {}
    for topic in TOPICS:
        for question in (*topic.asked.seen, *topic.asked.kept):
            assert known.setdefault(question, topic.answer) == topic.answer
    for theme, story in STORIES.items():
        for wording in (*THEME_WORDINGS.seen, *THEME_WORDINGS.kept):
            assert known.setdefault(wording.format(theme=name_theme(theme)), story) == story
    for question in (*ANY_WORDINGS.seen, *ANY_WORDINGS.kept):
        assert known.setdefault(question, STORIES[ANY_THEME]) == STORIES[ANY_THEME]
    for turn in _turns(400):
        assert known[turn.question] == turn.answer


def test_the_official_first_questions_are_known_to_training() -> None:
    seen = {question for topic in TOPICS for question in topic.asked.seen}
    assert {"Hello, who are you?", "Thank you for providing the answer."} <= seen
    assert "Can you tell me a story?" in ANY_WORDINGS.seen


def test_stories_are_short_and_name_their_theme() -> None:
    assert len(STORIES) >= 12
    assert len(set(STORIES.values())) == len(STORIES)
    for theme, story in STORIES.items():
        assert 3 <= len(re.findall(r"[.!?]", story)) <= 5
        assert len(re.findall(r"[A-Za-z]+|[.,!?]", story)) <= 50
        assert re.search(theme, story.lower())


def test_each_theme_is_asked_for_and_gets_its_own_story() -> None:
    told = {}
    for turn in _turns(1500, "train"):
        named = re.search(r"about (?:an? |the )?(\w+)", turn.question)
        if turn.kind == "story" and named:
            told.setdefault(named[1], set()).add(turn.answer)
    assert told == {theme: {story} for theme, story in STORIES.items()}


def test_chinese_questions_get_chinese_answers() -> None:
    assert len(CHINESE) == 10
    for turn in _turns(300):
        is_chinese = re.search("[\u4e00-\u9fff]", turn.answer) is not None
        assert is_chinese == (turn.kind == "Chinese")
        assert is_chinese == (re.search("[\u4e00-\u9fff]", turn.question) is not None)


def test_all_kinds_occur_and_no_answer_is_common() -> None:
    kinds, answers = Counter(), Counter()
    for turn in _turns(1000):
        kinds[turn.kind] += 1
        answers[turn.answer] += 1
    assert set(kinds) == {"who", "can do", "story", "thanks", "hello", "Chinese"}
    assert answers.most_common(1)[0][1] / answers.total() < 0.15


def test_wordings_of_the_test_are_never_trained_on() -> None:
    trained = {turn.question for turn in _turns(4000, "train")}
    asked = _turns(400)
    assert any(turn.is_unseen for turn in asked)
    assert not trained & {turn.question for turn in asked if turn.is_unseen}


def test_a_low_level_tells_fewer_stories() -> None:
    easy, hard = (
        sum(turn.kind == "story" for turn in _turns(300, level=level)) for level in (0.0, 1.0)
    )
    assert easy < 0.7 * hard


def test_only_the_fixed_answer_is_right() -> None:
    turn = Turn("Thanks", "You are welcome.", "thanks")
    assert TALK.score(turn, "you are  welcome") == {"right": 1.0}
    for wrong in ("", "no", "You are not welcome.", "You are welcome. Goodbye!", "\0" * 999):
        assert TALK.score(turn, wrong) == {"right": 0.0}
