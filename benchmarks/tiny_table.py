"""Tables of the embedded checkpoint's figures, in Markdown, for the README and the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import record

BEGIN, END = "<!-- tiny.json: begin -->", "<!-- tiny.json: end -->"
"""What stands around the README's table."""


def read_figures(name: str = "tiny") -> dict[str, Any]:
    """Read the figures of a benchmark.

    Args:
        name: of the file, without ending.

    Returns:
        Its content; empty if it has not been measured.
    """
    path = record.RESULTS / f"{name}.json"
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def percent(value: float) -> str:
    """Write a share, such as ``91.4 %``."""
    return f"{value:.1%}".replace("%", " %")


def family_table(figures: dict[str, Any]) -> str:
    """Write a line a family: right answers, their interval, what else is known.

    Args:
        figures: content of ``results/tiny.json``.

    Returns:
        A Markdown table without a line break at its end.
    """
    lines = [
        "| task, fresh pictures | right | 95 % interval | further figures | pictures |",
        "|---|---:|---|---|---:|",
    ]
    for family, found in figures["families"].items():
        right = found["direct"]["figures"]["right"]
        interval = f"{percent(right['low'])} to {percent(right['high'])}"
        also = ", ".join(_also(found))
        lines.append(
            f"| {family} | {percent(right['value'])} | {interval} | {also} | {right['n']} |"
        )
    return "\n".join(lines)


def _also(found: dict[str, Any]) -> list[str]:
    direct = found["direct"]
    parts = [
        f"unseen {name} {percent(split['unseen']['value'])}"
        for name, split in direct["unseen"].items()
        if "unseen" in split
    ]
    parts += [
        f"{name} {percent(part['value'])}"
        for name, part in direct["figures"].items()
        if name != "right"
    ]
    if "thinking" in found:
        parts.append(f"thinking {percent(found['thinking']['figures']['right']['value'])}")
    return parts


def sampling_table(figures: dict[str, Any]) -> str:
    """Write a line a family: drawn answers, and what probabilities tell.

    Args:
        figures: content of ``results/tiny.json``.

    Returns:
        A Markdown table without a line break at its end.
    """
    k = figures["samples"]
    lines = [
        f"| task | pass@1 | pass@{k} | calibration error | AUROC |",
        "|---|---:|---:|---:|---:|",
    ]
    for family, found in figures["families"].items():
        drawn = found.get("sampled", {}).get("direct")
        passes = [
            percent(drawn[name]["value"]) if drawn else "" for name in ("pass@1", f"pass@{k}")
        ]
        calibration = found["direct"]["calibration"]
        area = calibration["auroc"]
        lines.append(
            f"| {family} | {passes[0]} | {passes[1]} | {calibration['calibration_error']:.3f} | "
            f"{'' if area is None else f'{area:.3f}'} |"
        )
    return "\n".join(lines)


def replace_table(page: str, table: str) -> str:
    """Put a table where a page has one.

    Args:
        page: Markdown with the two marks.
        table: what comes between them.

    Returns:
        The page with the new table.

    Raises:
        ValueError: if the page lacks the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN} and {END}; put them where the table belongs")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def write_table(page: Path, figures: dict[str, Any]) -> None:
    """Bring the table of a page up to date.

    Args:
        page: a Markdown file with the two marks.
        figures: content of ``results/tiny.json``.
    """
    text = page.read_text(encoding="utf-8")
    page.write_text(replace_table(text, family_table(figures)), encoding="utf-8")
