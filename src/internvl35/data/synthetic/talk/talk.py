"""Small talk without a picture, in English and Chinese: who answers here, what it can do, stories.

Stories are left to :mod:`internvl35.data.synthetic.talk.stories`, sums without a picture to
:mod:`internvl35.data.synthetic.sums.arithmetic`, the words of the Chinese to
:mod:`internvl35.data.synthetic.talk.chinese`. No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl35.data.synthetic.answers import score_short
from internvl35.data.synthetic.drawing import Chance, Drawing, Pool, Turn, wordings
from internvl35.data.synthetic.talk.chinese import CHINESE
from internvl35.data.synthetic.talk.stories import (
    ANY_THEME,
    ANY_WORDINGS,
    STORIES,
    THEME_WORDINGS,
    name_theme,
)


@dataclass(frozen=True)
class Topic:
    """One thing to be said, with the ways to ask for it."""

    kind: str
    """See ``Turn.kind``."""
    answer: str
    """What is always said."""
    asked: Pool[str]
    """Ways to ask for it."""


TOPICS: tuple[Topic, ...] = (
    Topic(
        "hello",
        "Hello! Show me a picture and ask a question about it.",
        wordings(
            "Hello", "Hello!", "Hi", "Hi!", "Hello there.", "Good morning", "Good day!", "Hey",
            "Hello, how are you?", "Hi there!", "Good evening.", "Hey there", "How are you?",
            "Good afternoon", "Hi, how are you?", "Good morning!", "Hello there", "Hello again!",
            "Nice to meet you.", "Hi, good morning.",
        ),
    ),
    Topic(
        "who",
        "I am InternVL3.5 tiny, an embedded test model.",
        wordings(
            "Who are you?", "Hello, who are you?", "What are you?", "Hi, who are you?",
            "What is your name?", "Tell me your name.", "Please introduce yourself.",
            "What's your name?", "Which model are you?", "Are you a person?", "Say who you are.",
            "Which model is this?", "Are you a robot?", "Are you a human?",
            "Introduce yourself.", "Please tell me your name.", "Who am I talking to?",
            "What kind of model are you?", "Tell me who you are.", "Tell me what you are.",
            "Do you have a name?", "Are you ChatGPT?", "What model are you?", "Are you human?",
        ),
    ),
    Topic(
        "who",
        "I learned from pictures that a program drew.",
        wordings(
            "How were you trained?", "What were you trained on?", "Who made you?",
            "Who trained you?", "Where do you come from?", "Who created you?",
            "What data were you trained on?", "What was your training data?",
            "Who built you?", "Where were you made?", "How did you learn?", "How were you made?",
            "What did you learn from?", "Which pictures were you trained on?",
            "Who are your makers?", "Where did you learn?",
        ),
    ),
    Topic(
        "who",
        "I am very small: I have about six million weights.",
        wordings(
            "How large are you?", "How big are you?", "How many parameters do you have?",
            "What is your size?", "How many weights do you have?", "Are you a large model?",
            "Are you a big model?", "Are you large?", "How small are you?", "Are you small?",
            "What size are you?", "How big is this model?", "How many parameters are there?",
            "How large is this model?", "Tell me your size.", "How many parameters has this model?",
        ),
    ),
    Topic(
        "can do",
        "I read print, count, name colours and shapes, read charts, point at screens, write simple "
        "SVG and LaTeX, know room plans, several pictures and short videos, and do small sums.",
        wordings(
            "What can you do?", "What are you able to do?", "How can you help me?",
            "What do you know?", "Help", "What are you good at?", "What can this model do?",
            "What are your skills?", "Tell me what you can do.", "What questions can you answer?",
            "What can I ask you?", "What can you do for me?", "Help me.", "List your skills.",
            "Hello, what can you do?", "Can you help me?", "What is this model good for?",
            "Hi, what can you do?", "What can I ask?", "Which questions can I ask?",
            "Please help me.", "What are you for?", "Name your skills.", "What things can you do?",
        ),
    ),
    Topic(
        "can do",
        "Yes. Show me a drawn picture and ask a question about it.",
        wordings(
            "Can you see?", "Can you see pictures?", "Can you look at a picture?",
            "Do you understand images?", "Do you understand pictures?", "Can you see images?",
            "Can I show you a picture?", "Can I send you an image?", "May I send you a picture?",
            "Are you able to see?", "Can you look at images?", "May I show you a picture?",
            "Can you read pictures?", "Can I upload a picture?", "May I upload an image?",
            "Can I upload an image?",
        ),
    ),
    Topic(
        "can do",
        "I speak a little English and a few words of Chinese.",
        wordings(
            "Which languages do you speak?", "What languages do you speak?",
            "Do you speak Chinese?", "Can you speak Chinese?", "Do you speak English?",
            "Can you speak English?", "Do you know Chinese?", "Do you speak German?",
            "Do you speak other languages?", "What language do you speak?",
            "Which languages do you know?", "What languages do you know?",
            "Do you speak French?", "How many languages do you speak?",
            "Can you speak other languages?", "Which language do you speak?",
        ),
    ),
    Topic(
        "story",
        "A square met a ball. You roll, said the square. You stand, said the ball. "
        "They were friends for good.",
        wordings(
            "Write a poem.", "Tell me a poem.", "Please write a poem.", "Can you write a poem?",
            "Do you know a poem?", "Write a short poem.", "A poem, please.", "Make a poem.",
            "Please tell me a poem.", "Write me a poem.", "Say a poem.", "Write a poem for me.",
        ),
    ),
    Topic(
        "story",
        "Why is the circle never late? It always comes around.",
        wordings(
            "Tell me a joke.", "Do you know a joke?", "Please tell me a joke.", "Tell a joke.",
            "Can you tell me a joke?", "Make me laugh.", "A joke, please.", "Write a joke.",
            "Do you know any jokes?", "Make a joke.", "Tell me something funny.", "Say a joke.",
        ),
    ),
    Topic(
        "thanks",
        "You are welcome.",
        wordings(
            "Thank you", "Thank you!", "Thanks", "Thanks!", "Thank you for providing the answer.",
            "Thanks a lot.", "Many thanks!", "Great, thank you.", "Thank you very much.",
            "Thank you for your help.", "Good, thanks.", "Thank you so much!", "Thanks so much.",
            "Thank you, that was good.", "Very good, thanks.", "Thanks for your help.",
        ),
    ),
    Topic(
        "thanks",
        "Goodbye!",
        wordings(
            "Bye", "Goodbye", "Bye!", "Goodbye!", "Bye bye", "See you.", "See you later!",
            "Bye, see you.", "Good night.", "That is all, goodbye.", "Thanks, bye.",
            "See you later.", "I have to go.", "See you soon.", "Bye for now.", "Good night!",
        ),
    ),
    *(Topic("Chinese", answer, asked) for answer, asked in CHINESE),
)  # fmt: skip
"""What is said, each with the questions it belongs to; no question belongs to two."""


class Talk:
    """A few fixed, honest answers, and a story for each theme."""

    name = "talk"

    def draw(self, chance: Chance) -> Drawing:
        """Choose three to five topics; a low level asks for less that is long."""
        rng = chance.rng
        num = rng.randint(3, 5)
        num_stories = rng.choice((1, 2)) if chance.is_hard() else rng.choice((0, 1))
        turns = [_tell(chance, theme) for theme in rng.sample(list(STORIES), num_stories)]
        if num_stories and rng.random() < 0.15:
            turns[0] = chance.turn(ANY_WORDINGS, STORIES[ANY_THEME], "story")
        turns += [
            chance.turn(topic.asked, topic.answer, topic.kind)
            for topic in rng.sample(TOPICS, num - num_stories)
        ]
        rng.shuffle(turns)
        return Drawing(self.name, (), tuple(turns))

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the fixed one."""
        return score_short(turn, answer)


def _tell(chance: Chance, theme: str) -> Turn:
    parts = {"theme": name_theme(theme)}
    return chance.turn(THEME_WORDINGS, STORIES[theme], "story", parts=parts)
