"""Boxes and names of objects in the texts of a row, as the released models write them.

A box is ``<box>[[x1, y1, x2, y2]]</box>`` in thousandths of the picture's sides, a name is
``<ref>name</ref>``. A click is ``pyautogui.click(x=0.42, y=0.12)`` in parts of the sides. Sizes of
pictures are the caller's business. Paper section 2.2, grounding data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from internvl35.data.messages import Message
from internvl35.errors import DataError

BoxUnit: TypeAlias = Literal["real", "norm1"]
"""What coordinates are given in: pixels of the picture as it is, or parts of its sides."""

Box: TypeAlias = tuple[float, ...]
"""``(x1, y1, x2, y2)``, or ``(x, y)`` for a point."""

REF_MARK = "<ref-object>"
"""Stands in a text where the name of an object belongs."""

BOX_MARK = "<bbox>"
"""Stands in a text where a box belongs."""

_MARKS = re.compile(f"{re.escape(REF_MARK)}|{re.escape(BOX_MARK)}")
_SCALE = 1000
_SIDE = r"\s{0,9}(-?\d{1,9}(?:\.\d{1,18})?)\s{0,9}"
_PLACE = re.compile(
    rf"x\s{{0,9}}={_SIDE},\s{{0,9}}y\s{{0,9}}={_SIDE}|\[{_SIDE},{_SIDE}(?:,{_SIDE},{_SIDE})?\]"
)
_FARTHEST = 1e9


@dataclass(frozen=True)
class Objects:
    """What a row says about objects in its pictures, in the order of the marks in its texts."""

    refs: tuple[str, ...] = ()
    """Names, for the ``<ref-object>`` marks."""
    boxes: tuple[tuple[Box, ...], ...] = ()
    """For each ``<bbox>`` mark one box or point, or several that share one pair of tags."""
    unit: BoxUnit = "real"
    """What the coordinates are given in."""
    image_numbers: tuple[int, ...] = ()
    """Picture of each entry of ``boxes``, counted from 0; the first where none is given."""


def read_objects(value: Mapping[str, Any]) -> Objects:
    """Check the ``objects`` column of a row.

    Args:
        value: ``ref``, ``bbox``, ``bbox_type`` and ``image_id``, all of which may be missing.

    Returns:
        The same in one form.

    Raises:
        DataError: if something has another form.
    """
    refs = value.get("ref") or ()
    if not _is_list(refs) or not all(isinstance(ref, str) for ref in refs):
        raise DataError("objects.ref must be a list of texts")
    unit: Any = value.get("bbox_type") or "real"
    if unit not in get_args(BoxUnit):
        raise DataError(f"objects.bbox_type is {unit!r}; known: {', '.join(get_args(BoxUnit))}")
    boxes = value.get("bbox") or ()
    numbers = value.get("image_id") or ()
    if not _is_list(boxes):
        raise DataError("objects.bbox must be a list of boxes [x1, y1, x2, y2] or points [x, y]")
    if not _is_list(numbers) or not all(type(number) is int and number >= 0 for number in numbers):
        raise DataError("objects.image_id must be a list of whole numbers that count from 0")
    return Objects(
        tuple(refs),
        tuple(_read_boxes(entry, number) for number, entry in enumerate(boxes, start=1)),
        unit,
        tuple(numbers),
    )


def has_object_marks(messages: Sequence[Message]) -> bool:
    """Tell whether a text has a place for the name or the box of an object."""
    return any(_MARKS.search(message.text) for message in messages)


def fill_objects(
    messages: Sequence[Message],
    objects: Objects,
    image_size: Callable[[int], tuple[int, int]],
) -> tuple[Message, ...]:
    """Write names and boxes where their marks stand.

    Args:
        messages: turns with ``<ref-object>`` and ``<bbox>`` marks.
        objects: what belongs there.
        image_size: width and height in pixels of the picture with a given number; asked only for
            boxes in pixels.

    Returns:
        The turns without these marks.

    Raises:
        DataError: if there are more marks than objects, or a box does not lie in its picture.
    """
    num_marks = {
        mark: sum(message.text.count(mark) for message in messages) for mark in (REF_MARK, BOX_MARK)
    }
    for mark, given, column in (
        (REF_MARK, len(objects.refs), "objects.ref"),
        (BOX_MARK, len(objects.boxes), "objects.bbox"),
    ):
        if num_marks[mark] != given:
            raise DataError(
                f"{num_marks[mark]} {mark} marks but {given} entries in {column}; "
                "needed: one entry a mark"
            )
    texts = {REF_MARK: iter(objects.refs), BOX_MARK: iter(_write_boxes(objects, image_size))}

    def fill(match: re.Match[str]) -> str:
        text = next(texts[match.group()])
        return f"<ref>{text}</ref>" if match.group() == REF_MARK else text

    return tuple(replace(message, text=_MARKS.sub(fill, message.text)) for message in messages)


def write_box(name: str, box: Box) -> str:
    """Say where something is, as the released models do.

    Args:
        name: what it is called.
        box: a box or a point in parts of the picture's sides, 0 to 1.

    Returns:
        The name and the box in thousandths, in their tags.

    Raises:
        DataError: if the box does not lie in the picture.
    """
    return f"<ref>{name}</ref><box>[{_write_box(box, (1, 1))}]</box>"


def write_click(point: tuple[float, float]) -> str:
    """Say where to click, as the released models do, with two decimals.

    Args:
        point: parts of the picture's sides, 0 to 1.
    """
    x, y = point
    return f"pyautogui.click(x={x:.2f}, y={y:.2f})"


def read_place(text: str) -> Box | None:
    """Find the first click, point or box that an answer gives.

    Numbers up to 1 are parts of the picture's sides, larger ones are thousandths, never pixels.

    Args:
        text: whatever a model said.

    Returns:
        ``(x1, y1, x2, y2)`` or ``(x, y)`` in parts of the sides; None if there is no place or it
        lies outside of the picture.
    """
    found = _PLACE.search(text)
    if found is None:
        return None
    numbers = tuple(float(number) for number in found.groups() if number is not None)
    if max(numbers) > 1:
        numbers = tuple(number / _SCALE for number in numbers)
    return numbers if min(numbers) >= 0 and max(numbers) <= 1 else None


def middle_of(place: Box) -> tuple[float, float]:
    """The point that a place stands for: itself, or the middle of a box."""
    return (place[0] + place[-2]) / 2, (place[1] + place[-1]) / 2


def is_inside(point: tuple[float, float], box: Box) -> bool:
    """Whether a point lies in a box; its border belongs to it."""
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0 to 1; 0 if one is a point or ends before it begins.

    Args:
        one: ``(x1, y1, x2, y2)``.
        other: likewise, in the same unit.
    """
    if len(one) < 4 or len(other) < 4:
        return 0.0
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (one, other)]
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if min(*areas, width, height) <= 0:
        return 0.0
    return width * height / (sum(areas) - width * height)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _read_boxes(entry: Any, number: int) -> tuple[Box, ...]:
    boxes = entry if _is_list(entry) and entry and _is_list(entry[0]) else [entry]
    for box in boxes:
        is_box = _is_list(box) and len(box) in (2, 4)
        if not is_box or not all(_is_number(side) for side in box):
            raise DataError(
                f"entry {number} of objects.bbox is {repr(box)[:80]}; needed: [x1, y1, x2, y2] or "
                "[x, y]"
            )
    return tuple(tuple(float(side) for side in box) for box in boxes)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and type(value) is not bool
    return is_number and -_FARTHEST < value < _FARTHEST  # not-a-number is not


def _write_boxes(objects: Objects, image_size: Callable[[int], tuple[int, int]]) -> list[str]:
    written = []
    for position, boxes in enumerate(objects.boxes):
        number = objects.image_numbers[position] if position < len(objects.image_numbers) else 0
        size = image_size(number) if objects.unit == "real" else (1, 1)
        inner = ", ".join(_write_box(box, size) for box in boxes)
        written.append(f"<box>[{inner}]</box>")
    return written


def _write_box(box: Box, size: tuple[int, int]) -> str:
    scaled = [round(side / size[axis % 2] * _SCALE) for axis, side in enumerate(box)]
    if not all(0 <= side <= _SCALE for side in scaled):
        raise DataError(
            f"box {list(box)} does not lie in its picture of {size[0]} x {size[1]}; check bbox, "
            "bbox_type and image_id"
        )
    if len(box) == 4 and (scaled[0] > scaled[2] or scaled[1] > scaled[3]):
        raise DataError(f"box {list(box)} ends before it begins; needed: [x1, y1, x2, y2]")
    return str(scaled)
