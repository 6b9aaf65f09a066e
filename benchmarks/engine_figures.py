"""Ratios of the engine's benchmark: how many times as much, or as long, as another side."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.engine_sides import Measured

OURS = "ours"
PERCENTILES = (50, 95, 99)

Runs = Mapping[str, Sequence[Measured]]
"""Measurements of the sides, those of one place side by side."""


def compare_throughput(runs: Runs) -> dict[str, Any]:
    """Compare tokens a second of ours with those of the others.

    Args:
        runs: of the same load in every place.

    Returns:
        For each other side the median of the ratios, the least and the greatest; and the median
        by seconds that processors worked, which tells less of other programs' doings.
    """
    figures = {}
    for name, measured in runs.items():
        if name == OURS:
            continue
        pairs = list(zip(runs[OURS], measured, strict=True))
        ratios = [_rate(our) / _rate(their) for our, their in pairs]
        worked = [their.processor_s / our.processor_s for our, their in pairs]
        figures[f"vs_{_word(name)}"] = {
            "median": _round(statistics.median(ratios)),
            "range": [_round(min(ratios)), _round(max(ratios))],
            "by_processor_seconds": _round(statistics.median(worked)),
        }
    return figures


def compare_waiting(runs: Runs) -> dict[str, Any]:
    """Compare waiting for the first token and for each further one.

    Args:
        runs: streamed ones.

    Returns:
        For each other side by how much longer one waits than with ours, by percentile.
    """
    ours = _waiting(runs[OURS])
    return {
        f"{_word(name)}_over_ours": {
            kind: {key: _round(value / ours[kind][key]) for key, value in values.items()}
            for kind, values in _waiting(measured).items()
        }
        for name, measured in runs.items()
        if name != OURS
    }


def compare_memory(runs: Runs) -> dict[str, float]:
    """Compare the highest memory of the sides' processes."""
    peaks = {name: max(one.peak_memory_mib for one in runs[name]) for name in runs}
    return {
        f"{_word(name)}_over_ours": _round(peak / peaks[OURS])
        for name, peak in peaks.items()
        if name != OURS
    }


def compare_answers(runs: Runs, reference: str) -> dict[str, float]:
    """Compare answers with those of one side.

    Args:
        runs: of greedy answers.
        reference: name of that side.

    Returns:
        For each other side the share of requests whose tokens are the same, all of them.
    """
    expected = [answer for one in runs[reference] for answer in one.answers]
    found = {
        name: [answer for one in measured for answer in one.answers]
        for name, measured in runs.items()
        if name != reference
    }
    return {
        _word(name): _round(
            sum(one == other for one, other in zip(answers, expected, strict=True)) / len(expected)
        )
        for name, answers in found.items()
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """Find the least value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]


def _waiting(measured: Sequence[Measured]) -> dict[str, dict[str, float]]:
    kinds = {
        "first_token": [wait for one in measured for wait in one.waits],
        "further_tokens": [gap for one in measured for gap in one.gaps],
    }
    return {
        kind: {f"p{percent}": percentile(values, percent) for percent in PERCENTILES}
        for kind, values in kinds.items()
    }


def rows_to_print(runs: Runs) -> list[list[str]]:
    """Tell what was measured in absolute numbers, for the reader alone."""
    rows = []
    for name, measured in runs.items():
        rates = ", ".join(f"{_rate(one):.0f}" for one in measured)
        worked = ", ".join(f"{one.num_tokens / one.processor_s:.0f}" for one in measured)
        memory = f"{max(one.peak_memory_mib for one in measured):.0f}"
        waits = ["", ""]
        if measured[0].waits:
            waits = [
                " / ".join(f"{1000 * value:.0f}" for value in values.values())
                for values in _waiting(measured).values()
            ]
        rows.append([name, rates, worked, *waits, memory])
    return rows


def _rate(measured: Measured) -> float:
    return measured.num_tokens / measured.seconds


def _word(name: str) -> str:
    return {"vllm": "vllm_cpu"}.get(name, name)


def _round(value: float) -> float:
    return float(f"{value:.3g}")
