"""A second pair of eyes: which coloured shapes a drawn picture holds, found in its pixels alone.

It knows neither marks nor the code that draws, only what the shapes look like.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LOOKS = {
    "red": (214, 38, 38), "orange": (247, 136, 24), "yellow": (244, 218, 40),
    "green": (34, 150, 62), "blue": (38, 84, 214), "purple": (124, 44, 164),
    "pink": (248, 134, 190), "brown": (124, 68, 28), "black": (14, 14, 14),
    "white": (246, 246, 246), "grey": (134, 134, 134),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "rectangle", "heart")
_MENTION = re.compile(
    rf"\b(?:({'|'.join(LOOKS)})\s+)?({'|'.join(SHAPES)}|object|thing|shape)(?:e?s)?\b"
)

_NAME = (
    rf"(?:an? )?(?:(?:{'|'.join(LOOKS)}) )?(?:{'|'.join(SHAPES)}|object|thing|shape)"
    r"|(?:picture|image) \d|the \w+ (?:picture|image)"
)
_INSIDES = {
    "one": _NAME,
    "two": _NAME,
    "name": _NAME,
    "more": r"(?:the )?\w+",
    "do": r"move(?: \w+)?",
}

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """A coloured shape in a picture."""

    colour: str
    shape: str
    box: tuple[int, int, int, int]
    """Left, top, right, bottom of its ink; right and bottom exclusive."""
    num_pixels: int
    """Pixels inside its outline."""

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def middle(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


def find_ink(image: Image.Image) -> Mask:
    """Pixels that are not background; the corner always is."""
    pixels = np.asarray(image).astype(np.int16)
    return np.abs(pixels - pixels[0, 0]).max(axis=2) > 36


def see(image: Image.Image) -> list[Seen]:
    """Name every shape in a picture."""
    pixels = np.asarray(image).astype(np.int16)
    background = pixels[0, 0]
    seen = []
    for group in _groups(find_ink(image)):
        rows, columns = np.flatnonzero(group.any(axis=1)), np.flatnonzero(group.any(axis=0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        part = group[top:bottom, left:right]
        shades = pixels[group]
        contrast = np.abs(shades - background).sum(axis=1)
        shade = np.median(shades[contrast >= np.quantile(contrast, 0.6)], axis=0)
        colour = min(LOOKS, key=lambda name: np.abs(shade - LOOKS[name]).sum())
        whole = _fill_holes(part)
        box = (int(left), int(top), int(right), int(bottom))
        seen.append(Seen(colour, _name_shape(whole), box, int(whole.sum())))
    return seen


def mentioned(text: str, things: list[Seen]) -> list[list[Seen]]:
    """For each thing or group that a text names, what of the things it means."""
    return [
        [
            thing
            for thing in things
            if colour in ("", thing.colour) and (shape not in SHAPES or shape == thing.shape)
        ]
        for colour, shape in _MENTION.findall(text)
        if colour or shape in SHAPES
    ]


def _groups(ink: Mask) -> list[Mask]:
    """Each group of pixels that touch, found by joining the runs of neighbouring rows."""
    labels = np.zeros(ink.shape, dtype=np.int32)
    parents = [0]

    def root(label: int) -> int:
        while parents[label] != label:
            label = parents[label]
        return label

    runs: dict[int, list[tuple[int, int]]] = {}
    rows, edges = np.nonzero(np.diff(np.pad(ink.view(np.int8), ((0, 0), (1, 1)))))
    for y, start, stop in zip(
        rows[::2].tolist(), edges[::2].tolist(), edges[1::2].tolist(), strict=True
    ):
        runs.setdefault(y, []).append((start, stop))
    before: list[tuple[int, int, int]] = []
    for y in range(len(ink)):
        now = []
        for start, stop in runs.get(y, []):
            parents.append(len(parents))
            label = len(parents) - 1
            for other_start, other_stop, other in before:
                if start <= other_stop and other_start <= stop:
                    parents[root(label)] = root(other)
            labels[y, start:stop] = label
            now.append((start, stop, label))
        before = now
    roots = np.array([root(label) for label in range(len(parents))])[labels]
    return [roots == label for label in np.unique(roots) if label]


def _fill_holes(part: Mask) -> Mask:
    if part[tuple(round(float(where.mean())) for where in np.nonzero(part))]:
        return part
    outside = np.zeros(np.add(part.shape, 2), dtype=bool)
    for group in _groups(~np.pad(part, 1)):
        if group[0, 0]:
            outside = group
    return ~outside[1:-1, 1:-1]


def _name_shape(part: Mask) -> str:
    height, width = part.shape
    share = part.mean()
    high, low, lowest = (part[int(at * height)].mean() for at in (0.2, 0.62, 0.92))
    if share > 0.9:
        return "rectangle" if width > 1.5 * height else "square"
    if high > 0.75 and lowest < 0.38:
        return "heart"
    if share > 0.71:
        return "circle"
    if not part[int(0.95 * height), width // 2 - 1 : width // 2 + 1].any():  # between the feet
        return "star"
    if lowest > 0.75:
        return "triangle"
    return "cross" if low > 0.88 else "diamond"


def parts_of(asked: Sequence[str], question: str) -> dict[str, str]:
    """What stands for the ``{names}`` of the wording that a question has.

    Args:
        asked: all wordings it may have.
        question: the question.

    Returns:
        Empty if it has none of them.
    """
    for wording in asked:
        pieces = re.split(r"\{(\w+)\}", wording)
        names, pattern = set(), ""
        for place, piece in enumerate(pieces):
            if place % 2 == 0:
                pattern += re.escape(piece)
            else:
                inside = _INSIDES.get(piece, ".*")
                pattern += f"(?P={piece})" if piece in names else f"(?P<{piece}>{inside})"
                names.add(piece)
        found = re.fullmatch(pattern, question)
        if found:
            return found.groupdict()
    return {}
