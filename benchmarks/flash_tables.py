"""The tables that the Flash benchmarks print, and what is called what in them.

What the figures mean, and how they are measured, is left to :mod:`benchmarks.flash`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from benchmarks.flash_answers import ALL, BASE, RANDOM


def threshold_name(threshold: float) -> str:
    """Name the row of a threshold."""
    return f"absolute {threshold:g}"


def policy_table(figures: Mapping[str, Any]) -> Table:
    """Make a line a way of compressing, over all families.

    Args:
        figures: of :func:`benchmarks.flash.measure`.
    """
    title = f"{figures['tiles_a_picture']} tiles a picture, all families"
    table = Table("", "right", "of the base's", "visual tokens", "tiles compressed", title=title)
    for name, found in figures["policies"].items():
        is_chosen = name == threshold_name(figures["threshold"])
        table.add_row(
            f"{name} *" if is_chosen else name, f"{found['accuracy']['value']:.1%}",
            show_interval(found["retention"]), f"{found['visual_token_share']['value']:.1%}",
            f"{found['compressed_share']:.1%}",
        )  # fmt: skip
    return table


def family_table(figures: Mapping[str, Any]) -> Table:
    """Make a line a family.

    Args:
        figures: of :func:`benchmarks.flash.measure`.
    """
    own = threshold_name(figures["threshold"])
    table = Table("family", BASE, own, RANDOM, ALL, "visual tokens", BASE)
    for family, found in figures["families"].items():
        shares = (f"{found[name]['accuracy']['value']:.1%}" for name in (BASE, own, RANDOM, ALL))
        tokens = (f"{found[name]['visual_tokens']:.0f}" for name in (own, BASE))
        table.add_row(family, *shares, *tokens)
    return table


def show_interval(found: Mapping[str, float]) -> str:
    """Write a share and its interval.

    Args:
        found: ``value``, ``low`` and ``high``.

    Returns:
        Percent.
    """
    return f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"
