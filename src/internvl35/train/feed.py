"""From a plan to the batches of this process, made ahead of time by worker processes.

Which rows make a batch is decided by :mod:`internvl35.train.plan`; what a row becomes by
:mod:`internvl35.data.encoding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Dataset

from internvl35.data.batches import Example, TrainingBatch, collate, collate_packed
from internvl35.errors import InternVLError
from internvl35.train.distributed import Workers
from internvl35.train.plan import Plan, Rows

if TYPE_CHECKING:
    from internvl35.data.encoding import Encoder
    from internvl35.data.records import Record


@dataclass(frozen=True)
class FedBatch:
    """A micro-batch, and the rows that could not become part of it."""

    batch: TrainingBatch
    """What is computed; without any target if no row could be used."""
    failures: tuple[str, ...]
    """Why rows are missing, one text a row."""

    def pin_memory(self) -> FedBatch:
        """Called by torch's loader; copies to a GPU are small beside what is computed there."""
        return self


class MicroBatches(Dataset[FedBatch]):
    """Micro-batches by number.

    Args:
        records: the data set.
        encoder: turns a record into an example.
        pad_token_id: fills padded rows.
        is_packed: whether rows of a batch share one pack.
        find_rows: from the number of a micro-batch to the step it belongs to and its rows.
        seed: of the augmentation; each row has another in every step.
    """

    def __init__(
        self,
        records: Sequence[Record],
        encoder: Encoder,
        pad_token_id: int,
        *,
        is_packed: bool,
        find_rows: Callable[[int], tuple[int, Rows]],
        seed: int,
    ) -> None:
        """Keep what is needed to make any batch."""
        self.records = records
        self.encoder = encoder
        self.pad_token_id = pad_token_id
        self.is_packed = is_packed
        self.find_rows = find_rows
        self.seed = seed

    def __getitem__(self, number: int) -> FedBatch:
        """Make a micro-batch; the same number always gives the same batch."""
        step, rows = self.find_rows(number)
        examples: list[Example] = []
        failures: list[str] = []
        for row in rows:
            seed = hash((self.seed, step, row)) & 0xFFFF_FFFF  # of integers: alike everywhere
            try:
                examples.append(self.encoder.encode(self.records[row], seed=seed))
            except InternVLError as error:
                failures.append(f"{type(error).__name__}: {error}")
        if not examples:  # a text of padding without targets keeps the processes in step
            examples = [Example([self.pad_token_id] * 2, [False] * 2)]
        is_packed = self.is_packed
        batch = collate_packed(examples) if is_packed else collate(examples, self.pad_token_id)
        return FedBatch(batch, tuple(failures))


def feed_steps(
    plan: Plan,
    workers: Workers,
    records: Sequence[Record],
    encoder: Encoder,
    pad_token_id: int,
    *,
    start: int = 0,
    num_processes: int = 0,
) -> Iterator[list[FedBatch]]:
    """Make the micro-batches of this process, step by step.

    Args:
        plan: of the run.
        workers: this process takes every ``world_size``-th micro-batch.
        records: the data set.
        encoder: turns a record into an example.
        pad_token_id: fills padded rows.
        start: the first step wanted.
        num_processes: processes that work ahead; 0 makes batches in this one.

    Yields:
        The micro-batches of one step.
    """
    per_step = plan.settings.batches_per_step
    own = range(workers.rank, per_step, workers.world_size)

    def find_rows(number: int) -> tuple[int, Rows]:
        step, place = divmod(number, per_step)
        return step, plan.step(step)[place]

    dataset = MicroBatches(
        records, encoder, pad_token_id,
        is_packed=plan.settings.is_packed, find_rows=find_rows, seed=plan.settings.seed,
    )  # fmt: skip
    numbers = (step * per_step + place for step in range(start, plan.num_steps) for place in own)
    batches = iter(_load(dataset, numbers, num_processes))
    for _ in range(start, plan.num_steps):
        yield [next(batches) for _ in own]


def feed_once(
    groups: Sequence[Rows],
    workers: Workers,
    records: Sequence[Record],
    encoder: Encoder,
    pad_token_id: int,
    *,
    num_processes: int = 0,
) -> Iterator[FedBatch]:
    """Make given groups of rows into padded batches, as many on every process.

    Args:
        groups: rows of each batch.
        workers: this process takes every ``world_size``-th group.
        records: the data set.
        encoder: turns a record into an example.
        pad_token_id: fills padded rows.
        num_processes: processes that work ahead.

    Yields:
        The batches of this process; the last may be without rows.
    """
    count = -(-len(groups) // workers.world_size)
    own = [rank + workers.world_size * index for index in range(count) for rank in [workers.rank]]
    dataset = MicroBatches(
        records, encoder, pad_token_id,
        is_packed=False,
        find_rows=lambda number: (0, groups[number] if number < len(groups) else ()),
        seed=0,
    )  # fmt: skip
    yield from _load(dataset, iter(own), num_processes)


class _Numbers:
    """A sampler that can be iterated over once, without a list of all its numbers."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers

    def __iter__(self) -> Iterator[int]:
        return self._numbers


def _load(dataset: MicroBatches, numbers: Iterator[int], num_processes: int) -> Iterator[FedBatch]:
    if num_processes == 0:
        return (dataset[number] for number in numbers)
    loader: DataLoader[FedBatch] = DataLoader(
        dataset,
        batch_size=None,
        sampler=_Numbers(numbers),
        num_workers=num_processes,
        prefetch_factor=4,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # a loader must not take from the numbers that dropout uses
    )
    return iter(loader)
