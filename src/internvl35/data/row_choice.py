"""Which rows of a data set are used, how often and in which order, as arrays of row numbers.

Pure arithmetic on numbers: what a row holds is left to :mod:`internvl35.data.mixture`. Everything
follows from the arguments, so any number of processes comes to the same choice. No counterpart in
the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from internvl35.data.dataset_settings import StoppingStrategy
from internvl35.errors import ConfigError, DataError

Rows: TypeAlias = NDArray[np.int64]
"""Numbers of rows."""

_MAX_ROWS = 2**31
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Choice:
    """How the rows of one set are chosen."""

    count: int | None = None
    """Rows for training and validation together; None for all, as often as they are repeated."""
    val_ratio: float = 0.0
    """Part of them that is set aside for validation."""
    is_random: bool = True
    """Whether rows are drawn at random; else they are taken as they stand."""


def split_rows(
    lengths: Sequence[int],
    repeats: Sequence[float],
    choice: Choice,
    rng: np.random.Generator,
) -> tuple[Rows, Rows]:
    """Choose the rows of a set of one or several tables, and set some aside for validation.

    Rows are set aside before any is repeated, so none is in both parts, and none of them is
    repeated. A count beyond the rows there are is met by whole repeats and a part of another one.

    Args:
        lengths: rows of each table; the rows are numbered through.
        repeats: how often each table is used; below 1 a part of it.
        choice: how rows are chosen.
        rng: source of chance.

    Returns:
        Numbers of rows to train on and to validate on.

    Raises:
        DataError: if there are too few rows to set some aside.
    """
    starts = np.concatenate(([0], np.cumsum(lengths)))
    pool = np.concatenate(
        [
            starts[table] + _thin(length, repeat, choice, rng)
            for table, (length, repeat) in enumerate(zip(lengths, repeats, strict=True))
        ]
    )
    total = sum(_times(length, repeat) for length, repeat in zip(lengths, repeats, strict=True))
    count = total if choice.count is None else choice.count
    order = rng.permutation(pool) if choice.is_random else pool[: max(1, count)]
    num_val = _count_val(len(order), count, choice.val_ratio)
    if choice.is_random:
        val, rest = order[:num_val], order[num_val:]
    else:
        val, rest = order[len(order) - num_val :], order[: len(order) - num_val]
    wanted = count - max(num_val, _part(count, choice.val_ratio))
    if wanted <= 0 or len(rest) == 0:
        return np.empty(0, dtype=np.int64), val
    if count <= len(order):  # no row is needed twice
        return rest[:wanted], val
    expanded = _repeat(rest, starts, repeats, choice, rng)
    return _fill(expanded, wanted, choice, rng), val


def interleave(
    lengths: Sequence[int],
    weights: Sequence[float],
    stopping: StoppingStrategy,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw rows of several sets by turns, each turn from a set drawn by its weight.

    Args:
        lengths: rows of each set, at least 1.
        weights: how likely each set is drawn, above 0; their sum does not matter.
        stopping: when to end. A set that has no row left begins again.
        rng: source of chance.

    Returns:
        For each turn the set, and which of its rows.

    Raises:
        ConfigError: if so uneven weights would take more than 2**31 rows.
    """
    shares = np.asarray(weights, dtype=np.float64) / sum(weights)
    limits = np.asarray(lengths, dtype=np.int64)
    if stopping == "all_exhausted" and float((limits / shares).max()) > _MAX_ROWS:
        raise ConfigError(
            f"interleave_prob {tuple(weights)} needs more than {_MAX_ROWS} rows until every set "
            "is used up; make it more even, or take first_exhausted"
        )
    blocks: list[NDArray[np.int64]] = []
    drawn = np.zeros(len(limits), dtype=np.int64)
    while not _is_over(drawn, limits, stopping):
        block = rng.choice(len(limits), size=_BLOCK, p=shares).astype(np.int64)
        blocks.append(block)
        drawn += np.bincount(block, minlength=len(limits))
    sets = np.concatenate(blocks)
    ends = [
        np.flatnonzero(sets == number)[limit - 1] if drawn[number] >= limit else len(sets)
        for number, limit in enumerate(limits)
    ]
    sets = sets[: int(min(ends) if stopping == "first_exhausted" else max(ends)) + 1]
    rows = np.empty(len(sets), dtype=np.int64)
    for number, limit in enumerate(limits):
        places = np.flatnonzero(sets == number)
        rows[places] = np.arange(len(places)) % limit
    return sets, rows


def _is_over(
    drawn: NDArray[np.int64], limits: NDArray[np.int64], stopping: StoppingStrategy
) -> bool:
    is_exhausted = drawn >= limits
    return bool(is_exhausted.any() if stopping == "first_exhausted" else is_exhausted.all())


def _times(length: int, repeat: float) -> int:
    return max(1, round(length * repeat))


def _part(count: int, ratio: float) -> int:
    """Round down, but not below what floating point lost: 0.29 of 100 is 29."""
    return int(count * ratio + 1e-9)


def _count_val(num_rows: int, count: int, ratio: float) -> int:
    if ratio == 0:
        return 0
    if ratio == 1:
        return min(count, num_rows)
    if min(count, num_rows) < 2:
        raise DataError(
            f"{min(count, num_rows)} row cannot be split into rows to train on and to validate "
            "on; needed: at least 2, or split_dataset_ratio 0"
        )
    distinct = min(count, num_rows)
    return min(max(1, min(_part(count, ratio), _part(num_rows, ratio))), distinct - 1)


def _thin(length: int, repeat: float, choice: Choice, rng: np.random.Generator) -> Rows:
    """Numbers of the rows of a table that are used at all, in rising order."""
    wanted = min(length, _times(length, repeat))
    if wanted == length or not choice.is_random:
        return np.arange(wanted, dtype=np.int64)
    return np.sort(rng.permutation(length)[:wanted]).astype(np.int64)


def _repeat(
    rows: Rows,
    starts: NDArray[np.int64],
    repeats: Sequence[float],
    choice: Choice,
    rng: np.random.Generator,
) -> Rows:
    """Repeat each table's rows as often as the table is to be used."""
    if all(repeat <= 1 for repeat in repeats):
        return rows
    owners = np.searchsorted(starts, rows, side="right") - 1
    parts = []
    for table, repeat in enumerate(repeats):
        own = rows[owners == table]
        if len(own):
            wanted = _times(len(own), repeat) if repeat > 1 else len(own)
            parts.append(_fill(own, wanted, choice, rng))
    expanded = np.concatenate(parts)
    return rng.permutation(expanded) if choice.is_random else expanded


def _fill(rows: Rows, wanted: int, choice: Choice, rng: np.random.Generator) -> Rows:
    """Take so many rows: a random part, or whole repeats and a random part."""
    whole, rest = divmod(wanted, len(rows))
    part = rng.permutation(rows)[:rest] if choice.is_random else rows[:rest]
    return np.concatenate([np.tile(rows, whole), part])
