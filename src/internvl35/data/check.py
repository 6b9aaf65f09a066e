"""Looks at every row of a data set before anything is trained on it: sizes, and what is wrong.

Choosing rows is left to :mod:`internvl35.data.mixture`, what a row takes to
:mod:`internvl35.data.encoding`, pictures of the result to :mod:`internvl35.data.pages`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from internvl35.errors import DataError, InternVLError

if TYPE_CHECKING:
    from internvl35.data.encoding import Encoder
    from internvl35.data.records import Record

_CHUNK = 32
"""Rows that a process looks at in one go."""


class Bin(NamedTuple):
    """A bar of a histogram."""

    low: int
    """Smallest value that counts."""
    high: int
    """First value that no longer does."""
    num_rows: int
    """Rows."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be trained on."""

    number: int
    """Place among the rows that were checked, counted from 1."""
    kind: str
    """Kind of the error, for example ``MediaError``."""
    reason: str
    """What is wrong; begins with where the row comes from."""


@dataclass(frozen=True)
class DataReport:
    """What was found in a data set."""

    num_rows: int
    """Rows looked at."""
    num_bad: int
    """Rows that cannot be trained on."""
    first_bad: tuple[BadRow, ...]
    """The first of them."""
    bad_kinds: Mapping[str, int]
    """Bad rows by kind of error."""
    num_images: int
    """Pictures of good rows."""
    num_videos: int
    """Videos of good rows."""
    good: NDArray[np.int64]
    """``(rows,)`` places of good rows, counted from 0."""
    tokens: NDArray[np.int64]
    """``(rows,)`` tokens of each good row."""
    tiles: NDArray[np.int64]
    """``(rows,)`` tiles of each good row."""
    targets: NDArray[np.int64]
    """``(rows,)`` tokens that carry loss of each good row."""

    @property
    def bad_share(self) -> float:
        """Part of the rows that is bad, 0 to 1."""
        return self.num_bad / self.num_rows if self.num_rows else 0.0

    def to_json(self) -> dict[str, Any]:
        """Put everything but the sizes of single rows into one JSON-ready dict.

        Returns:
            Keys ``rows``, ``bad``, ``bad_share``, ``bad_kinds``, ``bad_rows``, ``images``,
            ``videos``, and ``tokens``, ``tiles`` and ``targets`` with ``total``, ``min``, ``mean``,
            ``median``, ``p95``, ``max`` and ``bins``.
        """
        return {
            "rows": self.num_rows,
            "bad": self.num_bad,
            "bad_share": round(self.bad_share, 6),
            "bad_kinds": dict(self.bad_kinds),
            "bad_rows": [
                {"row": row.number, "kind": row.kind, "reason": row.reason}
                for row in self.first_bad
            ],
            "images": self.num_images,
            "videos": self.num_videos,
            "tokens": summarize(self.tokens),
            "tiles": summarize(self.tiles),
            "targets": summarize(self.targets),
        }


class _Found(NamedTuple):
    """What was found out about a row."""

    num_tokens: int = 0
    num_tiles: int = 0
    num_targets: int = 0
    num_images: int = 0
    num_videos: int = 0
    kind: str = ""
    reason: str = ""


def check_records(
    records: Sequence[Record],
    encoder: Encoder,
    *,
    is_fast: bool = False,
    num_processes: int = 0,
    max_listed: int = 20,
    on_progress: Callable[[int], None] | None = None,
) -> DataReport:
    """Look at every row of a data set.

    Args:
        records: the rows; one that cannot be read raises an error of this package when asked for.
        encoder: knows what a row takes.
        is_fast: read only the headers of pictures; otherwise every picture and every frame that is
            trained on is decoded.
        num_processes: further processes that do the work; 0 does it in this one.
        max_listed: bad rows that are listed.
        on_progress: called with the number of rows done.

    Returns:
        The report.

    Raises:
        DataError: if a process ends before its work is done.
    """
    found: list[_Found] = []
    for chunk in _run(_Chunks(records, encoder, is_fast=is_fast), num_processes):
        found += chunk
        if on_progress is not None:
            on_progress(len(found))
    good = [number for number, row in enumerate(found) if not row.reason]
    bad = [
        BadRow(number, row.kind, row.reason)
        for number, row in enumerate(found, start=1)
        if row.reason
    ]
    sizes = np.array([found[number][:3] for number in good], dtype=np.int64).reshape(-1, 3)
    return DataReport(
        num_rows=len(found),
        num_bad=len(bad),
        first_bad=tuple(bad[:max_listed]),
        bad_kinds=dict(Counter(row.kind for row in bad).most_common()),
        num_images=sum(found[number].num_images for number in good),
        num_videos=sum(found[number].num_videos for number in good),
        good=np.array(good, dtype=np.int64),
        tokens=sizes[:, 0],
        tiles=sizes[:, 1],
        targets=sizes[:, 2],
    )


def summarize(values: ArrayLike) -> dict[str, Any]:
    """Describe sizes of rows by a few figures.

    Args:
        values: whole numbers, possibly none.

    Returns:
        Total, smallest, mean, median, 95th percentile, largest, and a histogram.
    """
    sizes = np.asarray(values, dtype=np.int64)
    if not len(sizes):
        return {"total": 0, "bins": []}
    return {
        "total": int(sizes.sum()),
        "min": int(sizes.min()),
        "mean": round(float(sizes.mean()), 1),
        "median": float(np.median(sizes)),
        "p95": float(np.percentile(sizes, 95)),
        "max": int(sizes.max()),
        "bins": [list(item) for item in count_in_bins(sizes)],
    }


def count_in_bins(values: ArrayLike, max_bins: int = 12) -> list[Bin]:
    """Count whole numbers in bins whose edges are round.

    Args:
        values: whole numbers of at least 0, at least one.
        max_bins: most bins.

    Returns:
        Bins of one width, which is 1, 2 or 5 times a power of ten, from the one that holds the
        smallest value to the one that holds the largest.
    """
    sizes = np.asarray(values, dtype=np.int64)
    low, high = int(sizes.min()), int(sizes.max())
    width = next(step for step in _round_widths() if high // step - low // step < max_bins)
    counts = np.bincount(sizes // width - low // width)
    first = low // width * width
    return [
        Bin(first + place * width, first + (place + 1) * width, int(count))
        for place, count in enumerate(counts)
    ]


def _round_widths() -> Iterator[int]:
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


class _Chunks:
    """Rows in chunks, each looked at when it is asked for; can be sent to another process."""

    def __init__(self, records: Sequence[Record], encoder: Encoder, *, is_fast: bool) -> None:
        self.records = records
        self.encoder = encoder
        self.is_fast = is_fast

    def __len__(self) -> int:
        return -(-len(self.records) // _CHUNK)

    def __getitem__(self, chunk: int) -> list[_Found]:
        rows = range(chunk * _CHUNK, min(len(self.records), (chunk + 1) * _CHUNK))
        return [self._check(row) for row in rows]

    def _check(self, row: int) -> _Found:
        try:
            record = self.records[row]
            size = self.encoder.measure(record)
            if not self.is_fast:
                self.encoder.decode(record)
        except InternVLError as error:
            return _Found(kind=type(error).__name__, reason=str(error))
        return _Found(
            size.num_tokens,
            size.num_tiles,
            size.num_targets,
            len(record.images),
            len(record.videos),
        )


def _run(chunks: _Chunks, num_processes: int) -> Iterator[list[_Found]]:
    if num_processes < 1 or len(chunks) < 2:
        yield from (chunks[number] for number in range(len(chunks)))
        return
    from torch.utils.data import DataLoader

    loader = DataLoader[Any](
        chunks,  # type: ignore[arg-type]  # whatever has a length and items will do
        batch_size=None,
        num_workers=min(num_processes, len(chunks)),
    )
    try:
        yield from loader
    except RuntimeError as error:
        raise DataError(
            f"a process that was checking rows has ended ({error}), perhaps for lack of memory; "
            "use fewer workers, or 0 to check in one process"
        ) from error
