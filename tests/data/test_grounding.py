from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl35.data.grounding import (
    Objects,
    fill_objects,
    has_object_marks,
    is_inside,
    middle_of,
    overlap,
    read_objects,
    read_place,
    write_box,
    write_click,
)
from internvl35.data.messages import Message
from internvl35.errors import DataError


def no_size(number: int) -> tuple[int, int]:
    raise AssertionError("the size of a picture was asked for")


def fill(text: str, objects: Objects, size: tuple[int, int] = (200, 100)) -> str:
    return fill_objects([Message("user", text)], objects, lambda number: size)[0].text


def test_names_and_boxes_are_written_as_the_released_models_write_them() -> None:
    objects = read_objects(
        {"ref": ["the cat", "a dog"], "bbox": [[20, 10, 100, 50], [0, 0, 200, 100]]}
    )
    messages = [
        Message("user", "Where are <ref-object> and <ref-object>?"),
        Message("assistant", "At <bbox> and <bbox>."),
    ]
    filled = fill_objects(messages, objects, lambda number: (200, 100))
    assert filled[0].text == "Where are <ref>the cat</ref> and <ref>a dog</ref>?"
    assert filled[1].text == (
        "At <box>[[100, 100, 500, 500]]</box> and <box>[[0, 0, 1000, 1000]]</box>."
    )
    assert [message.role for message in filled] == ["user", "assistant"]


def test_parts_of_the_sides_need_no_picture() -> None:
    objects = read_objects({"bbox": [[0.1, 0.25, 0.5, 1]], "bbox_type": "norm1"})
    filled = fill_objects([Message("assistant", "<bbox>")], objects, no_size)
    assert filled[0].text == "<box>[[100, 250, 500, 1000]]</box>"


def test_each_box_is_measured_in_its_own_picture() -> None:
    sizes = {0: (100, 100), 1: (1000, 500)}
    objects = read_objects({"bbox": [[50, 50, 100, 100]] * 2, "image_id": [1, 0]})
    filled = fill_objects([Message("user", "<bbox><bbox>")], objects, sizes.__getitem__)
    assert filled[0].text == "<box>[[50, 100, 100, 200]]</box><box>[[500, 500, 1000, 1000]]</box>"


def test_points_and_several_boxes_share_the_form() -> None:
    objects = read_objects({"bbox": [[100, 50], [[0, 0, 2, 1], [198, 99, 200, 100]]]})
    assert fill("<bbox> <bbox>", objects) == (
        "<box>[[500, 500]]</box> <box>[[0, 0, 10, 10], [990, 990, 1000, 1000]]</box>"
    )


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.lists(st.floats(0, 1), min_size=4, max_size=4)
)
def test_pixels_and_parts_of_the_sides_agree(width: int, height: int, corners: list[float]) -> None:
    x1, x2 = sorted(corners[:2])
    y1, y2 = sorted(corners[2:])
    pixels = read_objects({"bbox": [[x1 * width, y1 * height, x2 * width, y2 * height]]})
    parts = read_objects({"bbox": [[x1, y1, x2, y2]], "bbox_type": "norm1"})
    written = [fill("<bbox>", objects, (width, height)) for objects in (pixels, parts)]
    numbers = [[int(n) for n in text[7:-8].split(", ")] for text in written]
    assert all(abs(a - b) <= 1 for a, b in zip(*numbers, strict=True))
    for got, side in zip(numbers[1], (x1, y1, x2, y2), strict=True):
        assert abs(got - side * 1000) <= 0.5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"ref": "cat"}, "objects.ref must be a list of texts"),
        ({"ref": [1]}, "objects.ref must be a list of texts"),
        ({"bbox": 5}, "objects.bbox must be a list of boxes"),
        ({"bbox": [[1, 2, 3]]}, r"entry 1 of objects.bbox is \[1, 2, 3\]"),
        ({"bbox": [[1, 2], ["a", 2]]}, "entry 2 of objects.bbox"),
        ({"bbox": [[1, float("nan")]]}, "entry 1 of objects.bbox"),
        ({"bbox": [[True, 1]]}, "entry 1 of objects.bbox"),
        ({"bbox": [[10**400, 1]]}, "entry 1 of objects.bbox"),
        ({"bbox": [[1e308, 1]]}, "entry 1 of objects.bbox"),
        ({"bbox": [[]]}, "entry 1 of objects.bbox"),
        ({"bbox_type": "norm1000"}, "bbox_type is 'norm1000'; known: real, norm1"),
        ({"image_id": [-1]}, "image_id must be a list of whole numbers"),
        ({"image_id": 1}, "image_id must be a list of whole numbers"),
    ],
)
def test_a_column_of_another_form_is_refused(value: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_objects(value)


@pytest.mark.parametrize(
    ("text", "value", "message"),
    [
        ("<bbox>", {}, "1 <bbox> marks but 0 entries in objects.bbox"),
        ("no mark", {"ref": ["x"]}, "0 <ref-object> marks but 1 entries in objects.ref"),
        ("<bbox>", {"bbox": [[0, 0, 201, 1]]}, "does not lie in its picture of 200 x 100"),
        ("<bbox>", {"bbox": [[-1, 0, 1, 1]]}, "does not lie in its picture"),
        ("<bbox>", {"bbox": [[1e8, 0, 1e8, 1]]}, "does not lie in its picture"),
        ("<bbox>", {"bbox": [[9, 0, 1, 1]]}, "ends before it begins"),
        ("<bbox>", {"bbox": [[20, 1, 40, 2]], "bbox_type": "norm1"}, "check bbox, bbox_type"),
    ],
)
def test_marks_and_boxes_that_do_not_fit_are_refused(
    text: str, value: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fill(text, read_objects(value))


def test_marks_of_objects_are_noticed() -> None:
    assert has_object_marks([Message("user", "x"), Message("assistant", "<bbox>")])
    assert has_object_marks([Message("user", "<ref-object>")])
    assert not has_object_marks([Message("user", "<box> <ref>")])


# --- answers ---------------------------------------------------------------------------------


def test_a_box_and_a_click_are_written_as_the_released_models_write_them() -> None:
    box = (0.1, 0.205, 0.3333, 1.0)
    assert write_box("Save button", box) == (
        "<ref>Save button</ref><box>[[100, 205, 333, 1000]]</box>"
    )
    assert write_click((0.4213, 0.117)) == "pyautogui.click(x=0.42, y=0.12)"
    with pytest.raises(DataError, match="does not lie in its picture"):
        write_box("x", (0.5, 0.5, 1.01, 0.6))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("pyautogui.click(x=0.2346, y=0.381)", (0.2346, 0.381)),
        ("I click: pyautogui.click( x = 0.5 ,y = 1 ) there", (0.5, 1.0)),
        ("click(x=500, y=250)", (0.5, 0.25)),
        ("<ref>a</ref><box>[[100, 200, 300, 400]]</box>", (0.1, 0.2, 0.3, 0.4)),
        ("[[100,200,300,400]]", (0.1, 0.2, 0.3, 0.4)),
        ("[0.1, 0.2, 0.3, 0.4]", (0.1, 0.2, 0.3, 0.4)),
        ("[[100, 200]]", (0.1, 0.2)),
        ("<box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", (0.001, 0.002, 0.003, 0.004)),
        ("[[0, 0, 1001, 5]]", None),
        ("[[-1, 0, 5, 5]]", None),
        ("[[1, 2, 3]]", None),
        ("[[9e9, 1, 1, 1]]", None),
        ("x=, y=", None),
        ("[" * 5000 + "1," * 5000, None),
        ("", None),
    ],
)
def test_the_first_place_of_an_answer_is_read(text: str, place: tuple[float, ...] | None) -> None:
    assert read_place(text) == place


SHARES = st.integers(0, 1000)


@given(SHARES, SHARES, SHARES, SHARES)
def test_what_is_written_is_read(left: int, top: int, right: int, bottom: int) -> None:
    box = tuple(
        side / 1000
        for side in (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
    )
    if max(box) > 0.001:  # as a whole number, 1 stands for the far side
        assert read_place(write_box("it", box)) == box
    middle = middle_of(box)
    assert is_inside(middle, box)
    click = read_place(write_click(middle))
    assert click is not None
    assert max(abs(a - b) for a, b in zip(click, middle, strict=True)) <= 0.005001


def test_the_overlap_of_two_boxes_is_intersection_over_union() -> None:
    box = (0.0, 0.0, 0.4, 0.2)
    assert overlap(box, box) == pytest.approx(1)
    assert overlap(box, (0.2, 0.0, 0.6, 0.2)) == pytest.approx(1 / 3)
    assert overlap(box, (0.1, 0.05, 0.3, 0.15)) == pytest.approx(0.25)
    assert overlap(box, (0.4, 0.0, 0.5, 0.2)) == 0
    assert overlap(box, (0.3, 0.1, 0.1, 0.05)) == 0  # ends before it begins
    assert overlap(box, (0.2, 0.1)) == 0
    assert overlap((0.1, 0.1, 0.1, 0.1), (0.1, 0.1, 0.1, 0.1)) == 0
