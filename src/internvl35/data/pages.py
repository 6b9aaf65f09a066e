"""Pictures of a data set: histograms of its rows, a page of samples, the tiles of one row.

What is drawn is found out by :mod:`internvl35.data.check` and :mod:`internvl35.data.encoding`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from internvl35.data.check import DataReport, count_in_bins
from internvl35.data.tiles import IMAGENET_MEAN, IMAGENET_STD
from internvl35.errors import DataError, InternVLError

if TYPE_CHECKING:
    from torch import Tensor

    from internvl35.data.encoding import Encoder
    from internvl35.data.records import Record

_FONTS = (
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC",
    "Microsoft YaHei", "SimHei", "Arial Unicode MS",
)  # fmt: skip
"""Fonts in order of preference; those that a machine has are used, character by character."""

_TILES_ACROSS = 8
_SAMPLES_ACROSS = 4
_LINE = 42
_LINES = 10
_MAX_CHARACTERS = 300
_DPI = 100
_ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Sample:
    """One row as a page of samples shows it."""

    title: str
    """Where the row comes from."""
    image: Image.Image | None
    """Its first picture or frame; None without any."""
    num_images: int
    """How many pictures and frames it has."""
    question: str
    """First question."""
    answer: str
    """First answer."""


def take_samples(
    records: Sequence[Record], encoder: Encoder, rows: Sequence[int], count: int = 12
) -> list[Sample]:
    """Read evenly spread rows for a page of samples.

    Args:
        records: the data set.
        encoder: opens pictures as training does.
        rows: places of rows to choose from, counted from 0.
        count: most samples.

    Returns:
        Samples; a row that cannot be read after all is left out.
    """
    spread = (
        np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int)) if len(rows) else ()
    )
    samples = []
    for place in spread:
        try:
            record = records[int(rows[place])]
            images = encoder.decode(record)
        except InternVLError:
            continue  # was good when it was checked; the report is made of what was found then
        texts = {role: [m.text for m in record.messages if m.role == role] for role in _ROLES}
        samples.append(
            Sample(
                title=record.origin,
                image=images[0] if images else None,
                num_images=len(images),
                question=texts["user"][0] if texts["user"] else "",
                answer=texts["assistant"][0] if texts["assistant"] else "",
            )
        )
    return samples


def draw_samples(samples: Sequence[Sample], target: Path) -> None:
    """Draw a page of samples: pictures with their questions and answers.

    Args:
        samples: at least one.
        target: PNG file to write.

    Raises:
        DataError: if the file cannot be written.
    """
    num_rows = -(-len(samples) // _SAMPLES_ACROSS)
    figure = Figure(figsize=(4.2 * _SAMPLES_ACROSS, 3.7 * num_rows), layout="constrained")
    grid = figure.subplots(
        2 * num_rows, _SAMPLES_ACROSS, height_ratios=[3, 1.5] * num_rows, squeeze=False
    )
    for axes in grid.flat:
        axes.set_axis_off()
    options = _text_options()
    for place, sample in enumerate(samples):
        row, column = divmod(place, _SAMPLES_ACROSS)
        _draw_sample(grid[2 * row][column], grid[2 * row + 1][column], sample, options)
    _save(figure, target)


def draw_histograms(report: DataReport, target: Path) -> None:
    """Draw how many rows have how many tokens and tiles.

    Args:
        report: of a data set.
        target: PNG file to write.

    Raises:
        DataError: if no row is good, or the file cannot be written.
    """
    if not len(report.good):
        raise DataError("no row can be trained on, so there is nothing to draw")
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, name, values in zip(
        figure.subplots(1, 2), ("tokens", "tiles"), (report.tokens, report.tiles), strict=True
    ):
        bins = count_in_bins(values, max_bins=40)
        width = bins[0].high - bins[0].low
        lows = [item.low for item in bins]
        # a bar of whole numbers from 0 to 1 stands at 0
        offset = (width - 1) / 2
        axes.bar([low + offset for low in lows], [item.num_rows for item in bins], 0.92 * width)
        axes.set(xlabel=f"{name} of a row", ylabel="rows", title=f"{values.sum():,} {name}")
        axes.grid(axis="y", alpha=0.3)
    _save(figure, target)


def draw_tiles(
    pixel_values: Tensor, tiles_per_image: Sequence[int], target: Path, *, has_thumbnails: bool
) -> None:
    """Draw tiles as the network gets them, numbered, each picture on lines of its own.

    Args:
        pixel_values: ``(N, 3, tile, tile)`` normalised tiles.
        tiles_per_image: tiles of each picture in order.
        has_thumbnails: whether the last of several tiles shows the whole picture.
        target: PNG file to write.

    Raises:
        DataError: if the file cannot be written.
    """
    levels = restore_levels(pixel_values)
    lines = [-(-count // _TILES_ACROSS) for count in tiles_per_image]
    across = min(_TILES_ACROSS, max(tiles_per_image))
    figure = Figure(figsize=(max(3.0, 1.7 * across), 2.0 * sum(lines)), layout="constrained")
    grid = figure.subplots(sum(lines), across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    line = start = 0
    for number, count in enumerate(tiles_per_image, start=1):
        for place in range(count):
            axes = grid[line + place // _TILES_ACROSS][place % _TILES_ACROSS]
            axes.imshow(levels[start + place])
            picture = f"{number}: " if len(tiles_per_image) > 1 else ""
            is_whole = has_thumbnails and 1 < count == place + 1
            name = "thumbnail" if is_whole else f"{place + 1} of {count}"
            axes.set_title(f"{picture}{name}", fontsize=8)
        line, start = line + lines[number - 1], start + count
    _save(figure, target)


def restore_levels(pixel_values: Tensor) -> NDArray[np.uint8]:
    """Turn normalised tiles back into pictures.

    Args:
        pixel_values: ``(N, 3, tile, tile)``.

    Returns:
        ``(N, tile, tile, 3)`` levels from 0 to 255.
    """
    values = pixel_values.float().numpy().transpose(0, 2, 3, 1)
    levels = values * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)
    restored: NDArray[np.uint8] = (levels * 255).round().clip(0, 255).astype(np.uint8)
    return restored


def _draw_sample(top: Axes, bottom: Axes, sample: Sample, options: dict[str, Any]) -> None:
    more = f" (1 of {sample.num_images} pictures)" if sample.num_images > 1 else ""
    top.set_title(_shorten(f"{sample.title}{more}", _LINE), **options)
    if sample.image is not None:
        top.imshow(sample.image)
    else:
        top.text(0.5, 0.5, "no picture", ha="center", color="tab:gray", fontsize=8)
    question = _wrap(sample.question.replace("<image>\n", "").replace("<video>\n", ""))
    options = {"va": "top", "transform": bottom.transAxes, **options}
    bottom.text(0, 1, question, **options)
    height = (question.count("\n") + 1.6) / _LINES
    bottom.text(0, 1 - height, _wrap(sample.answer), color="tab:blue", **options)


def _text_options() -> dict[str, Any]:
    known = set(font_manager.get_font_names())
    fonts = [name for name in _FONTS if name in known]
    return {"parse_math": False, "family": fonts or ["sans-serif"], "fontsize": 8}


def _wrap(text: str) -> str:
    lines = [
        line
        for part in _shorten(text, _MAX_CHARACTERS).splitlines()
        for line in textwrap.wrap(part, _LINE) or [""]
    ]
    return "\n".join(lines[:6] if len(lines) <= 6 else [*lines[:5], "..."])


def _shorten(text: str, length: int) -> str:
    # characters that a font has no shape for, such as line breaks of a terminal, are left out
    shown = "".join(c for c in text if c.isprintable() or c == "\n")
    return shown if len(shown) <= length else f"{shown[: length - 3]}..."


def _save(figure: Figure, target: Path) -> None:
    try:
        figure.savefig(target, format="png", dpi=_DPI)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror or error}") from error
