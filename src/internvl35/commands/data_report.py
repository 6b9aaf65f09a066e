"""What ``internvl35 data`` says: the report of a check, and a row as the model sees it.

Pure text from figures; they are found out by :mod:`internvl35.data`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from internvl35.commands.terminal import printable
from internvl35.data.check import DataReport, count_in_bins, summarize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from internvl35.data.encoding import RowSize
    from internvl35.data.preview import Stretch
    from internvl35.data.token_writer import Prompt

_BAR = 40


def describe_report(report: DataReport) -> str:
    """Put a report into lines.

    Args:
        report: of a data set.

    Returns:
        Counts, a table of sizes, two histograms, and the first bad rows.
    """
    lines = [
        f"rows    {report.num_rows:,}, of which {report.num_bad:,} bad ({report.bad_share:.1%})",
        f"holds   {report.num_images:,} pictures, {report.num_videos:,} videos",
    ]
    if len(report.good):
        lines += ["", f"{'a row':10}{'min':>10}{'mean':>10}{'median':>10}{'95 %':>10}{'max':>10}"]
        sizes = {"tokens": report.tokens, "targets": report.targets, "tiles": report.tiles}
        lines += [_describe_sizes(name, values) for name, values in sizes.items()]
        for name in ("tokens", "tiles"):
            lines += ["", *draw_bars(name, sizes[name])]
    if report.num_bad:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.bad_kinds.items())
        lines += ["", f"bad rows: {kinds}"]
        lines += [f"  {' '.join(row.reason.split())}" for row in report.first_bad]
        rest = report.num_bad - len(report.first_bad)
        lines += [f"  and {rest:,} more"] if rest else []
    return printable("\n".join(lines), None)


def draw_bars(name: str, values: NDArray[np.int64]) -> list[str]:
    """Draw a histogram of text.

    Args:
        name: what is counted.
        values: whole numbers, at least one.

    Returns:
        A line a bin: its values, its bar, the rows in it.
    """
    bins = count_in_bins(values)
    most = max(item.num_rows for item in bins)
    labels = [
        f"{item.low:,}" if item.high - item.low == 1 else f"{item.low:,}-{item.high - 1:,}"
        for item in bins
    ]
    width = max(map(len, [name, *labels]))
    return [
        f"{name:>{width}}  rows",
        *(
            f"{label:>{width}}  {'█' * -(-_BAR * item.num_rows // most)} {item.num_rows:,}"
            for label, item in zip(labels, bins, strict=True)
        ),
    ]


def mark_loss(stretches: Sequence[Stretch], *, is_colored: bool, encoding: str | None) -> str:
    """Mark what carries loss in the text of a prompt.

    Args:
        stretches: the prompt.
        is_colored: mark by colour; otherwise by double brackets.
        encoding: of the output.

    Returns:
        The text.
    """
    parts = []
    for stretch in stretches:
        text = printable(stretch.text, encoding)
        if not stretch.has_loss:
            parts.append(text)
        elif is_colored:
            parts.append(typer.style(text, fg=typer.colors.GREEN, bold=True))
        else:
            parts.append(f"[[{text}]]")
    return "".join(parts)


def describe_row(origin: str, size: RowSize, prompt: Prompt) -> str:
    """Put what a row takes into a line.

    Args:
        origin: where it comes from.
        size: what it takes.
        prompt: what the model sees.

    Returns:
        Tokens, targets, and tiles by picture.
    """
    tiles = ""
    if prompt.image_spans:
        each = " + ".join(str(span.num_tiles) for span in prompt.image_spans)
        tiles = f", {size.num_tiles} tiles" + (f" ({each})" if len(prompt.image_spans) > 1 else "")
    shown = f"{origin}: " if origin else ""
    return f"{shown}{size.num_tokens:,} tokens, {size.num_targets:,} of them with loss{tiles}"


def count_cpus() -> int:
    """Tell how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _describe_sizes(name: str, values: NDArray[np.int64]) -> str:
    figures = summarize(values)
    shown = [figures[key] for key in ("min", "mean", "median", "p95", "max")]
    return f"{name:10}" + "".join(f"{figure:>10,.0f}" for figure in shown)
