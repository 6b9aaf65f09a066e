"""Measure every row of a data set once, before anything is trained: tokens, tiles, targets, faults.

Pictures are opened, not decoded. What a row takes is decided by :mod:`internvl35.data.encoding`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from internvl35.errors import DataError, InternVLError
from internvl35.train.distributed import Workers
from internvl35.train.plan import Sizes

if TYPE_CHECKING:
    from internvl35.data.encoding import Encoder
    from internvl35.data.records import Record

_CHUNK = 256
"""Rows that a worker process measures at a time."""

Measured = tuple[int, int, int, str]
"""Tokens, tiles, targets, and why the row cannot be used; empty where it can."""


class BadRows:
    """Counts rows that cannot be used, keeps why in a file, and ends a run that has too many.

    Args:
        path: JSON lines are added to this file; None keeps none.
        max_share: largest share of rows that may be bad, 0 to 1.
    """

    def __init__(self, path: Path | None, max_share: float) -> None:
        """Start with none."""
        self.path = path
        self.max_share = max_share
        self.num_bad = 0
        self.first: list[str] = []

    def add(self, reasons: Sequence[str]) -> None:
        """Note rows that cannot be used.

        Args:
            reasons: one a row, beginning with the row's origin.
        """
        self.num_bad += len(reasons)
        self.first = [*self.first, *reasons][:3]
        if self.path is not None and reasons:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(
                    json.dumps({"reason": reason}, ensure_ascii=False) + "\n" for reason in reasons
                )

    def check(self, num_rows: int) -> None:
        """End the run if too many rows are bad.

        Args:
            num_rows: rows looked at.

        Raises:
            DataError: if the share of bad ones is above the limit.
        """
        if self.num_bad > self.max_share * num_rows:
            where = f"; all of them: {self.path}" if self.path else ""
            raise DataError(
                f"{self.num_bad} of {num_rows} rows cannot be used, more than max_bad_share "
                f"({self.max_share:g}) allows; the first: {' | '.join(self.first)}{where}"
            )


class _Chunks(Dataset[list[Measured]]):
    def __init__(self, records: Sequence[Record], encoder: Encoder, rows: range) -> None:
        self.records = records
        self.encoder = encoder
        self.rows = rows

    def __len__(self) -> int:
        return -(-len(self.rows) // _CHUNK)

    def __getitem__(self, chunk: int) -> list[Measured]:
        return [self._measure(row) for row in self.rows[chunk * _CHUNK : (chunk + 1) * _CHUNK]]

    def _measure(self, row: int) -> Measured:
        try:
            size = self.encoder.measure(self.records[row])
        except InternVLError as error:
            return 0, 0, 0, f"{type(error).__name__}: {error}"
        return size.num_tokens, size.num_tiles, size.num_targets, ""


def measure_rows(
    records: Sequence[Record],
    encoder: Encoder,
    bad_rows: BadRows,
    workers: Workers,
    *,
    num_processes: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Sizes:
    """Measure all rows, each process of the run its share of them.

    Args:
        records: the data set.
        encoder: knows what a row takes.
        bad_rows: told about the rows that cannot be used.
        workers: the processes of the run.
        num_processes: further processes that do the work; 0 does it in this one.
        on_progress: called with the number of rows done by this process.

    Returns:
        Sizes of all rows, the same on every process.

    Raises:
        DataError: if too many rows cannot be used.
    """
    sizes = torch.zeros((3, len(records)), dtype=torch.int64)
    share = -(-len(records) // workers.world_size)
    rows = range(share * workers.rank, min(len(records), share * (workers.rank + 1)))
    done = rows.start
    for measured in _run(_Chunks(records, encoder, rows), num_processes):
        numbers = torch.tensor([item[:3] for item in measured], dtype=torch.int64)
        sizes[:, done : done + len(measured)] = numbers.T
        done += len(measured)
        bad_rows.add([item[3] for item in measured if item[3]])
        if on_progress is not None:
            on_progress(done - rows.start)
    workers.add_up(sizes)
    bad_rows.num_bad = int((sizes[0] == 0).sum())
    bad_rows.check(len(records))
    tokens, tiles, targets = sizes.numpy()
    return Sizes(tokens, tiles, targets)


def _run(chunks: _Chunks, num_processes: int) -> Iterator[list[Measured]]:
    if num_processes == 0 or len(chunks) <= 1:
        return (chunks[index] for index in range(len(chunks)))
    loader: DataLoader[list[Measured]] = DataLoader(
        chunks,
        batch_size=None,
        shuffle=False,
        num_workers=num_processes,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # a loader must not take from the numbers that dropout uses
    )
    return iter(loader)


def fingerprint(settings: dict[str, Any]) -> str:
    """Digest of the settings that sizes depend on."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def save_sizes(path: Path, sizes: Sizes, digest: str) -> None:
    """Keep sizes beside a run, so that a resumed one has the same plan and need not measure again.

    Args:
        path: the file; replaced in one step.
        sizes: of all rows.
        digest: of the settings they depend on.
    """
    names = ("tokens", "tiles", "targets")
    tensors = {name: torch.from_numpy(getattr(sizes, name)).contiguous() for name in names}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"digest": digest})
    os.replace(partial, path)


def load_sizes(path: Path, num_rows: int, digest: str) -> Sizes | None:
    """Read sizes that were kept.

    Args:
        path: the file.
        num_rows: rows of the data set now.
        digest: of the settings now.

    Returns:
        The sizes; None if there are none, or they belong to other rows or settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
            is_same = (file.metadata() or {}).get("digest") == digest
        sizes = Sizes(**found)
    except (OSError, SafetensorError, TypeError):
        return None
    return sizes if is_same and len(sizes) == num_rows else None
