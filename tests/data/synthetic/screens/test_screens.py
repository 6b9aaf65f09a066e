import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from internvl35.data.grounding import middle_of, read_place
from internvl35.data.synthetic import Drawing, Mark, Turn, draw, start_chance
from internvl35.data.synthetic.canvas import TILE_SIZE
from internvl35.data.synthetic.drawing import Box
from internvl35.data.synthetic.screens.screen_layouts import compose_screen
from internvl35.data.synthetic.screens.screen_places import tell_apart
from internvl35.data.synthetic.screens.screen_rows import MIN_CAP_HEIGHT
from internvl35.data.synthetic.screens.screen_words import ICON_USES, LABELS, TAKEN_WORDS
from internvl35.data.synthetic.screens.screens import NOUNS, STEP, Screens
from internvl35.data.synthetic.screens.widgets import Screen, Widget

NUM = 160
POINTING = ("point text", "point icon", "box text", "box icon")


@cache
def _drawings(level: float = 1.0) -> tuple[Drawing, ...]:
    return tuple(draw("screens", "test", index, level) for index in range(NUM))


@cache
def _many_drawings() -> tuple[Drawing, ...]:
    return tuple(draw("screens", "train", index) for index in range(400))


@cache
def _screens() -> tuple[Screen, ...]:
    return tuple(compose_screen(start_chance("other", "test", index)) for index in range(NUM))


def _turns(*kinds: str) -> Iterator[tuple[Drawing, Turn]]:
    for drawing in _drawings():
        for turn in drawing.turns:
            if turn.kind in kinds:
                yield drawing, turn


def _is_within(inner: Box, outer: Box, room: float = 0.0) -> bool:
    return (
        outer[0] - room <= inner[0]
        and outer[1] - room <= inner[1]
        and inner[2] <= outer[2] + room
        and inner[3] <= outer[3] + room
    )


def _find_print(text: str, marks: list[Mark] | tuple[Mark, ...]) -> list[Box]:
    """Where a text is printed, by the marks of its letters; one box for each place."""
    letters = text.replace(" ", "")
    glyphs = [mark for mark in marks if mark.label.startswith("glyph:")]
    printed = "".join(mark.label.removeprefix("glyph:") for mark in glyphs)
    found = []
    for match in re.finditer(f"(?={re.escape(letters)})", printed):
        run = glyphs[match.start() : match.start() + len(letters)]
        left, top, right, bottom = zip(*(mark.box for mark in run), strict=True)
        tallest = max(end - start for start, end in zip(top, bottom, strict=True))
        in_a_line = all(
            before.box[0] <= after.box[0] and abs(before.box[3] - after.box[3]) <= tallest
            for before, after in pairwise(run)
        )
        if in_a_line:
            found.append((min(left), min(top), max(right), max(bottom)))
    return found


# --- targets and pixels ------------------------------------------------------------------------


def test_the_box_of_an_element_encloses_its_printed_label() -> None:
    num = 0
    for screen in _screens():
        for widget in screen.widgets:
            if not widget.label or widget.kind == "slider":
                continue
            places = _find_print(widget.label, screen.marks)
            if widget.kind == "field":  # its label stands before it, or in it as a hint
                top, bottom = widget.box[1], widget.box[3]
                assert any(
                    top - 2 <= place[1] and place[3] <= bottom + 2 and place[0] < widget.box[2]
                    for place in places
                )
            else:
                assert any(_is_within(place, widget.box, room=2) for place in places), widget
            num += 1
    assert num > 2 * NUM


def test_there_is_ink_where_a_label_is_said_to_be() -> None:
    for screen in _screens()[:80]:
        pixels = np.asarray(screen.image).astype(int)
        for widget in screen.widgets:
            for place in _find_print(widget.label, screen.marks) if widget.label else ():
                left, top, right, bottom = (round(edge) for edge in place)
                inked = pixels[top:bottom, left:right]
                assert np.ptp(inked.sum(axis=2)) > 100, widget


def test_no_two_elements_overlap_or_share_a_name() -> None:
    for screen in _screens():
        labels = [widget.label.lower() for widget in screen.widgets if widget.label]
        assert len(set(labels)) == len(labels)
        for one in labels:
            assert not any(one in other for other in labels if other != one)
        icons = [widget.icon for widget in screen.widgets if widget.icon]
        assert len(set(icons)) == len(icons)
        for index, first in enumerate(screen.widgets):
            for second in screen.widgets[index + 1 :]:
                width = min(first.box[2], second.box[2]) - max(first.box[0], second.box[0])
                height = min(first.box[3], second.box[3]) - max(first.box[1], second.box[1])
                assert min(width, height) <= 0, (first, second)


def test_no_label_says_what_an_icon_is_for() -> None:
    for screen in _screens():
        for widget in screen.widgets:
            if not widget.icon:
                assert TAKEN_WORDS.isdisjoint(widget.label.lower().split())
    assert {"search", "settings", "delete", "photo", "close", "back"} <= TAKEN_WORDS


def test_print_and_targets_stay_large_enough_when_pressed_into_one_tile() -> None:
    for drawing in _drawings():
        down = TILE_SIZE / drawing.images[0].height
        capitals = [
            (mark.box[3] - mark.box[1]) * down
            for mark in drawing.marks[0]
            if mark.label.removeprefix("glyph:") in set("EFHILMNT")
        ]
        assert not capitals or min(capitals) >= MIN_CAP_HEIGHT - 1
        for turn in drawing.turns:
            if turn.box is not None:
                left, top, right, bottom = turn.box
                assert min(right - left, bottom - top) * TILE_SIZE >= 14


def test_a_tick_is_seen_where_and_only_where_a_box_is_ticked() -> None:
    states = Counter[bool]()
    for screen in _screens():
        pixels = np.asarray(screen.image).astype(int)
        boxes = [mark.box for mark in screen.marks if mark.label == "part:checkbox"]
        for widget in screen.widgets:
            if widget.kind == "checkbox":
                box = next(box for box in boxes if _is_within(box, widget.box, room=1))
                rim = round(0.2 * (box[2] - box[0]))
                left, top, right, bottom = (round(edge) for edge in box)
                inside = pixels[top + rim : bottom - rim, left + rim : right - rim].sum(axis=2)
                assert (np.ptp(inside) > 60) == widget.is_on
                states[widget.is_on] += 1
    assert min(states.values()) > 0.4 * states.total()


def test_one_tab_and_one_radio_button_is_selected() -> None:
    for screen in _screens():
        for kind in ("tab", "radio"):
            states = [widget.is_on for widget in screen.widgets if widget.kind == kind]
            assert sum(states) == (1 if states else 0)


# --- questions ---------------------------------------------------------------------------------


def test_a_question_for_an_icon_points_at_the_mark_of_that_icon() -> None:
    names = "|".join(sorted(ICON_USES, key=len, reverse=True))
    num = 0
    for drawing, turn in _turns("point icon", "box icon"):
        uses = [
            (len(use), icon)
            for icon, texts in ICON_USES.items()
            for use in texts
            if re.search(rf"\b{re.escape(use)}\b", turn.question, re.IGNORECASE)
        ]
        named = re.search(rf"\b({names}) icon\b", turn.question)
        icon = named[1] if named else max(uses)[1]
        width, height = drawing.images[0].size
        assert turn.box is not None
        box = (
            turn.box[0] * width,
            turn.box[1] * height,
            turn.box[2] * width,
            turn.box[3] * height,
        )
        found = [mark.box for mark in drawing.marks[0] if mark.label == f"icon:{icon}"]
        assert len(found) == 1
        assert _is_within(found[0], box, room=0.01), turn
        num += 1
    assert num > NUM // 4


def test_the_form_of_an_answer_follows_from_the_question() -> None:
    for _, turn in _turns(*POINTING):
        is_click = turn.kind.startswith("point")
        if is_click:
            assert re.fullmatch(r"pyautogui\.click\(x=[01]\.\d\d, y=[01]\.\d\d\)", turn.answer)
        else:
            form = r"<ref>[^<>]+</ref><box>\[\[(\d+), (\d+), (\d+), (\d+)\]\]</box>"
            match = re.fullmatch(form, turn.answer)
            assert match is not None
            assert all(int(number) % STEP == 0 for number in match.groups())
            assert turn.box is not None
            for number, side in zip(match.groups(), turn.box, strict=True):
                assert abs(int(number) / 1000 - side) <= STEP / 2000 + 1e-9
        asks_for_box = re.search(r"\b(box|locate|detect|find)\b", turn.question, re.IGNORECASE)
        label = re.findall(r'"([^"]*)"', turn.question)
        if not re.search(r"\b(box|locate|detect|find)\b", " ".join(label), re.IGNORECASE):
            assert bool(asks_for_box) == (not is_click), turn.question


@pytest.mark.parametrize(
    ("noun", "part"),
    [("buttons", "button"), ("icons", "icon"), ("fields", "field"), ("checkboxes", "checkbox"),
     ("radio buttons", "radio"), ("tabs", "tab"), ("links", "link")],
)  # fmt: skip
def test_counts_are_those_of_the_marks(noun: str, part: str) -> None:
    num = 0
    for drawing, turn in _turns("count"):
        pattern = rf"(?<!radio ){noun}( with text)?\b"
        if re.search(pattern, turn.question) and "boxes" not in turn.question.split(noun)[0]:
            marks = [mark for mark in drawing.marks[0] if mark.label == f"part:{part}"]
            assert turn.answer == str(len(marks)), turn
            num += 1
    assert num > 0


def test_what_is_asked_by_its_place_stands_there() -> None:
    rng = random.Random(3)
    for _ in range(300):
        boxes: list[Box] = []
        for _ in range(rng.randint(1, 5)):
            x, y = rng.uniform(0, 0.8), rng.choice((0.1, 0.4, rng.uniform(0, 0.8)))
            boxes.append((x, y, x + 0.1, y + 0.1))
        for place, words in tell_apart(rng, boxes, "icon"):
            x, y = boxes[place][:2]
            others = [box for box in boxes if box is not boxes[place]]
            if re.search("left", words):
                assert all(x <= box[0] + 0.03 for box in others)
            if re.search("right", words):
                assert all(x >= box[0] - 0.03 for box in others)
            if re.search("top|highest", words):
                assert all(y <= box[1] + 0.03 for box in others)
            if re.search("bottom|lowest", words):
                assert all(y >= box[1] - 0.03 for box in others)


def test_two_elements_in_one_place_cannot_be_told_apart() -> None:
    boxes = [(0.1, 0.1, 0.2, 0.2), (0.12, 0.13, 0.22, 0.23)]
    assert tell_apart(random.Random(1), boxes, "tab") == []
    row = [(0.1, 0.1, 0.2, 0.2), (0.5, 0.1, 0.6, 0.2), (0.8, 0.1, 0.9, 0.2)]
    named = {place for place, _ in tell_apart(random.Random(1), row, "tab")}
    assert named == {0, 2}


def _is_on(drawing: Drawing, label: str) -> bool:
    """Whether a symbol for "on" stands around a printed label, as a tab, or just before it."""
    marks = drawing.marks[0]
    ticks = {mark.box for mark in marks if mark.label in ("part:checkbox", "part:radio")}
    return any(
        _is_within(place, symbol.box)
        or (
            symbol.box in ticks
            and symbol.box[1] < (place[1] + place[3]) / 2 < symbol.box[3]
            and 0 < place[0] - symbol.box[2] < 1.5 * (place[3] - place[1])
        )
        for place in _find_print(label, marks)
        for symbol in marks
        if symbol.label == "part:symbol"
    )


def test_what_is_on_is_said_to_be_and_nothing_else() -> None:
    num = 0
    for drawing, turn in _turns("state", "selected"):
        if turn.kind == "selected":
            assert _is_on(drawing, turn.answer), turn
        else:
            (label,) = re.findall('"(.+)"', turn.question)
            assert _is_on(drawing, label) == (turn.answer == "yes"), turn
        num += 1
    assert num > 30


def test_ticked_boxes_are_counted_without_the_others() -> None:
    num = 0
    drawings = (*_drawings(), *_many_drawings())
    for drawing, turn in ((one, turn) for one in drawings for turn in one.turns):
        if re.search("(ticked|checked) boxes", turn.question):
            boxes = {mark.box for mark in drawing.marks[0] if mark.label == "part:checkbox"}
            ticked = [mark for mark in drawing.marks[0] if mark.label == "part:symbol"]
            assert turn.answer == str(sum(mark.box in boxes for mark in ticked))
            num += len(boxes) > int(turn.answer)
    assert num > 4


def test_the_kind_of_an_element_is_not_asked_where_its_label_tells_it() -> None:
    telling = {label.lower() for labels in LABELS.values() for label in labels}
    for _, turn in _turns("element"):
        label = re.findall(r'"([^"]*)"', turn.question)[0]
        assert label.lower() not in telling
        assert turn.answer in NOUNS.values()


def test_answers_are_balanced() -> None:
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for drawing in _many_drawings():
        for turn in drawing.turns:
            answers[turn.kind][turn.answer] += 1
    shares = {
        kind: counts.most_common(1)[0][1] / counts.total() for kind, counts in answers.items()
    }
    assert shares["state"] < 0.65
    assert shares["exists"] < 0.6
    assert shares["element"] < 0.35
    assert shares["count"] < 0.4
    assert shares["icon name"] < 0.35
    assert all(shares[kind] < 0.06 for kind in (*POINTING, "text"))


def test_targets_stand_everywhere() -> None:
    cells = Counter[tuple[int, int]]()
    for _, turn in _turns(*POINTING):
        assert turn.box is not None
        x, y = middle_of(turn.box)
        cells[int(3 * x), int(3 * y)] += 1
    assert len(cells) == 9
    assert max(cells.values()) < 0.3 * cells.total()


# --- scoring -----------------------------------------------------------------------------------

CLICK = Turn("", "", "point text", box=(0.2, 0.4, 0.4, 0.5))
BOX = Turn("", "", "box icon", box=(0.2, 0.4, 0.4, 0.5))


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("pyautogui.click(x=0.30, y=0.45)", 1),
        ("pyautogui.click(x=0.2, y=0.4)", 1),
        ("pyautogui.click(x=0.41, y=0.45)", 0),
        ("pyautogui.click(x=0.45, y=0.30)", 0),
        ("<ref>Save</ref><box>[[210, 410, 390, 490]]</box>", 1),
        ("<ref>Save</ref><box>[[0, 0, 210, 410]]</box>", 0),
        ("[[300, 450]]", 1),
        ("Save", 0),
        ("", 0),
    ],
)
def test_a_place_is_right_if_its_middle_lies_in_the_target(answer: str, right: int) -> None:
    assert Screens().score(CLICK, answer) == {"right": right}
    assert Screens().score(BOX, answer)["right"] == right


def test_a_box_is_also_scored_by_its_overlap() -> None:
    score = Screens().score
    assert score(BOX, "[[200, 400, 400, 500]]") == {"right": 1.0, "iou": pytest.approx(1.0)}
    assert score(BOX, "[[200, 400, 300, 500]]")["iou"] == pytest.approx(0.5)
    assert score(BOX, "[[400, 500, 600, 700]]") == {"right": 0.0, "iou": 0.0}
    assert score(BOX, "pyautogui.click(x=0.3, y=0.45)") == {"right": 1.0, "iou": 0.0}


def test_own_answers_point_into_their_targets_and_boxes_fit_them() -> None:
    for _, turn in _turns(*POINTING):
        scores = Screens().score(turn, turn.answer)
        assert scores["right"] == 1
        assert scores.get("iou", 1.0) > 0.85
        assert read_place(turn.answer) is not None


def test_the_answer_of_another_screen_is_mostly_wrong() -> None:
    turns = [turn for _, turn in _turns("point text", "point icon")]
    rights = [
        Screens().score(turn, other.answer)["right"]
        for turn, other in zip(turns, turns[7:], strict=False)
    ]
    assert sum(rights) / len(rights) < 0.15


# --- levels ------------------------------------------------------------------------------------


def test_easy_screens_have_fewer_and_larger_elements_on_white() -> None:
    def count_parts(drawing: Drawing) -> int:
        return sum(mark.label.startswith("part:") for mark in drawing.marks[0])

    easy, hard = _drawings(0.0)[:60], _drawings()[:60]
    assert 2 * sum(map(count_parts, easy)) < 1.3 * sum(map(count_parts, hard))
    for drawing in easy:
        assert drawing.images[0].size == (TILE_SIZE, TILE_SIZE)
        assert drawing.images[0].getpixel((191, 191)) == (255, 255, 255)


def _widget_kinds(widgets: list[Widget]) -> set[str]:
    return {widget.kind for widget in widgets}


def test_every_kind_of_element_and_question_occurs() -> None:
    kinds = set[str]().union(*(_widget_kinds(screen.widgets) for screen in _screens()))
    assert kinds == {*NOUNS, "icon"}
    asked = {turn.kind for drawing in _drawings() for turn in drawing.turns}
    assert asked == {
        *POINTING, "text", "element", "state", "selected", "exists", "count", "icon name",
    }  # fmt: skip
