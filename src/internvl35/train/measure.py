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
from internvl35.train.bad_rows import BadRows
from internvl35.train.distributed import Workers
from internvl35.train.feed import START_METHOD
from internvl35.train.plan import Sizes

if TYPE_CHECKING:
    from internvl35.data.encoding import Encoder
    from internvl35.data.records import Record

_CHUNK = 256
"""Rows that a worker process measures at a time."""

Measured = tuple[int, int, int, str]
"""Tokens, tiles, targets, and why the row cannot be used; empty where it can."""


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
        on_progress: called with about how many rows are done by all processes.

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
        bad_rows.note([(done + place, item[3]) for place, item in enumerate(measured) if item[3]])
        done += len(measured)
        if on_progress is not None:
            on_progress(min(len(records), (done - rows.start) * workers.world_size))
    workers.add_up(sizes)
    bad_rows.share(workers)
    bad_rows.check()
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
        multiprocessing_context=START_METHOD,
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

    Raises:
        DataError: if the file cannot be written.
    """
    names = ("tokens", "tiles", "targets")
    tensors = {name: torch.from_numpy(getattr(sizes, name)).contiguous() for name in names}
    partial = path.with_suffix(".partial")
    try:
        save_file(tensors, partial, {"digest": digest})
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be written: {error}; free space or choose another output_dir"
        ) from error


def load_sizes(path: Path) -> tuple[Sizes, str] | None:
    """Read sizes that were kept.

    Args:
        path: the file.

    Returns:
        The sizes and the digest of the settings and rows that they belong to; None without any.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
            digest = str((file.metadata() or {}).get("digest"))
        return Sizes(**found), digest
    except (OSError, SafetensorError, TypeError):
        return None
