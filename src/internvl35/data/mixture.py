"""The rows of a run: data sets chosen, counted, repeated, split and mixed.

Reading a row is left to :mod:`internvl35.data.records`, opening sets to
:mod:`internvl35.data.shares`, measuring rows and putting them in batches to the training room.
Paper section 3.1, data mixture.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from internvl35.data.dataset_names import parse_dataset_name
from internvl35.data.dataset_settings import DatasetSettings, read_columns
from internvl35.data.records import Record, RowDefaults, read_record
from internvl35.data.row_choice import Choice, interleave, split_rows
from internvl35.errors import DataError
from internvl35.hub_choice import is_hugging_face

if TYPE_CHECKING:
    from internvl35.data.hub_tables import HubAccess
    from internvl35.data.meta import Share
    from internvl35.data.tables import Table

_LOGGER = logging.getLogger(__name__)


class RecordSet(Sequence[Record]):
    """Rows of several tables in the order of a run, read when they are asked for.

    Holds eight bytes a row and is cheap to hand to other processes.

    Args:
        tables: rows; they are numbered through.
        row_ids: numbers of the rows in their order; one may stand there several times. By default
            all, once.
    """

    def __init__(self, tables: Sequence[Table], row_ids: ArrayLike | None = None) -> None:
        self._tables = tuple(tables)
        lengths = [len(table) for table in self._tables]
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self.row_ids: NDArray[np.int64] = (
            np.arange(sum(lengths), dtype=np.int64)
            if row_ids is None
            else np.asarray(row_ids, dtype=np.int64)
        )

    def __len__(self) -> int:
        return len(self.row_ids)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> RecordSet: ...

    def __getitem__(self, index: int | slice) -> Record | RecordSet:
        """Read one row, or name a stretch of rows; ``DataError`` for a row that cannot be used."""
        if isinstance(index, slice):
            return RecordSet(self._tables, self.row_ids[index])
        table, row = self._find(index)
        return read_record(
            self.raw(index), origin=table.locate(row), root=table.root, defaults=table.defaults
        )

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def raw(self, index: int) -> Mapping[str, Any]:
        """Read one row as its table has it.

        Args:
            index: place in this set.

        Returns:
            Columns by name.

        Raises:
            DataError: if it cannot be read.
        """
        table, row = self._find(index)
        try:
            return table[row]
        except DataError as error:
            raise DataError(f"{table.locate(row)}: {error}") from error

    def locate(self, index: int) -> str:
        """Say where a row comes from.

        Args:
            index: place in this set.

        Returns:
            For example ``train.jsonl:17``.
        """
        table, row = self._find(index)
        return table.locate(row)

    def take(self, indices: ArrayLike) -> RecordSet:
        """Name some of the rows.

        Args:
            indices: places in this set, in any order, any number of times.

        Returns:
            A set of them.
        """
        return RecordSet(self._tables, self.row_ids[np.asarray(indices, dtype=np.int64)])

    def in_order(self) -> RecordSet:
        """Name the same rows in the order in which they stand in their tables."""
        return RecordSet(self._tables, np.sort(self.row_ids))

    @property
    def fingerprint(self) -> str:
        """A text that changes when a file behind the rows, or the choice of rows, does."""
        digest = sha256("\n".join(table.stamp for table in self._tables).encode())
        digest.update(self.row_ids.tobytes())
        return digest.hexdigest()

    def _find(self, index: int) -> tuple[Table, int]:
        number = int(self.row_ids[index])
        table = int(np.searchsorted(self._ends, number, side="right"))
        return self._tables[table], number - (int(self._ends[table - 1]) if table else 0)


@dataclass(frozen=True)
class _Part:
    """What one name of a data set gives: numbers of rows among all tables of the run."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]


def select_records(
    settings: DatasetSettings, *, token: str | None = None, media_root: Path | None = None
) -> tuple[RecordSet, RecordSet]:
    """Open the data sets of a run and choose their rows.

    The choice follows from the settings and the sets alone, so every process of a run, and a later
    run with the same settings, comes to the same rows in the same order.

    Args:
        settings: which rows.
        token: access token of the hub, by default the one logged in with.
        media_root: folder that relative paths in local rows start from; by default the folder of
            their file, or the root that a list of data sets names.

    Returns:
        Rows to train on, and rows to evaluate on in the order of their files; either may be
        empty.

    Raises:
        ConfigError: if a name does not follow the grammar or a package is missing.
        DataError: if a set cannot be read or fetched, or has too few rows.
    """
    from internvl35.data.hub_tables import HubAccess

    is_hf, _ = is_hugging_face(settings.use_hf, token)
    access = HubAccess("hf" if is_hf else "ms", settings.dataset_revision, token)
    ratio = settings.split_dataset_ratio
    if settings.val_dataset and ratio:
        _LOGGER.warning("split_dataset_ratio is not used: rows of val_dataset are evaluated on")
        ratio = 0.0
    opened = _Opened(settings, access, media_root)
    parts = [
        opened.choose(text, ratio, [settings.data_seed, 0, place])
        for place, text in enumerate(settings.dataset)
    ]
    val = [part.val for part in parts] + [
        opened.choose(text, 0.0, [settings.data_seed, 1, place]).train
        for place, text in enumerate(settings.val_dataset)
    ]
    train = _mix([part.train for part in parts], settings)
    if ratio and len(parts) > 1:  # a set that is named twice is split twice
        held_out = np.concatenate(val)
        train = train[~np.isin(train, held_out)]
    return RecordSet(opened.tables, train), RecordSet(opened.tables, _join(val)).in_order()


class _Opened:
    """Tables of a run, each opened once however often it is named."""

    def __init__(
        self, settings: DatasetSettings, access: HubAccess, media_root: Path | None
    ) -> None:
        self.tables: list[Table] = []
        self._settings = settings
        self._access = access
        self._media_root = media_root
        self._defaults = RowDefaults(columns=read_columns(settings.columns))
        self._shares: dict[str, tuple[int, list[Share]]] = {}

    def choose(self, text: str, ratio: float, seed: list[int]) -> _Part:
        """Choose rows of the set with a name; their numbers count through all tables."""
        from internvl35.data.shares import open_shares

        name = parse_dataset_name(text)
        key = f"{name.hub} {name.place} {name.subsets}"
        if key not in self._shares:
            start = sum(map(len, self.tables))
            shares = open_shares(name, self._access, root=self._media_root, defaults=self._defaults)
            self.tables += [share.table for share in shares]
            self._shares[key] = (start, shares)
        start, shares = self._shares[key]
        choice = Choice(name.count, ratio, self._settings.dataset_shuffle)
        try:
            train, val = split_rows(
                [len(share.table) for share in shares],
                [share.repeat for share in shares],
                choice,
                np.random.default_rng(seed),
            )
        except DataError as error:
            raise DataError(f"data set {text!r}: {error}") from error
        return _Part(train + start, val + start)


def _mix(parts: list[NDArray[np.int64]], settings: DatasetSettings) -> NDArray[np.int64]:
    rng = np.random.default_rng([settings.data_seed, 2])
    if not settings.interleave_prob:
        joined = _join(parts)
        is_mixed = settings.dataset_shuffle and len(parts) > 1
        return rng.permutation(joined) if is_mixed else joined
    empty = [name for name, part in zip(settings.dataset, parts, strict=True) if not len(part)]
    if empty:
        raise DataError(f"no rows to train on in {', '.join(empty)}; needed: some in each set")
    sets, rows = interleave(
        [len(part) for part in parts], settings.interleave_prob, settings.stopping_strategy, rng
    )
    mixed = np.empty(len(sets), dtype=np.int64)
    for number, part in enumerate(parts):
        mixed[sets == number] = part[rows[sets == number]]
    return mixed


def _join(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
