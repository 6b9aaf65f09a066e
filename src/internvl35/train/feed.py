"""From a plan to the batches of this process, made ahead of time by worker processes.

Which rows make a batch is decided by :mod:`internvl35.train.plan`; what a row becomes by
:mod:`internvl35.data.encoding`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from internvl35.data.batches import Example, TrainingBatch, collate, collate_packed
from internvl35.errors import InternVLError
from internvl35.train.bad_rows import Failure
from internvl35.train.distributed import Workers
from internvl35.train.plan import Plan, Rows

if TYPE_CHECKING:
    from internvl35.data.encoding import Encoder
    from internvl35.data.records import Record

START_METHOD = "fork" if sys.platform == "linux" else None
"""How processes that prepare rows begin: with all that is in memory where that is safe."""

Asked = TypeVar("Asked")
Made = TypeVar("Made")

Order = tuple[int, Rows]
"""Number of the step that a micro-batch belongs to, and its rows."""


@dataclass(frozen=True)
class FedBatch:
    """A micro-batch, and the rows that could not become part of it."""

    batch: TrainingBatch
    """What is computed; without any target if no row could be used."""
    failures: tuple[Failure, ...] = ()
    """Rows that are missing, and why."""

    def pin_memory(self) -> FedBatch:
        """Called by torch's loader, so that copies to a GPU hold nothing up."""
        pinned = {
            field.name: value.pin_memory()
            for field in fields(self.batch)
            if isinstance(value := getattr(self.batch, field.name), Tensor)
        }
        return replace(self, batch=replace(self.batch, **pinned))


class MicroBatches(Dataset[FedBatch]):
    """Micro-batches by their rows; can be sent to other processes.

    Args:
        records: the data set.
        encoder: turns a record into an example.
        pad_token_id: fills padded rows.
        is_packed: whether rows of a batch share one pack.
        seed: of the augmentation; each row has another in every step.
    """

    def __init__(
        self,
        records: Sequence[Record],
        encoder: Encoder,
        pad_token_id: int,
        *,
        is_packed: bool = False,
        seed: int = 0,
    ) -> None:
        """Keep what is needed to make any batch."""
        self.records = records
        self.encoder = encoder
        self.pad_token_id = pad_token_id
        self.is_packed = is_packed
        self.seed = seed

    def __getitem__(self, order: Order) -> FedBatch:
        """Make a micro-batch; the same order always gives the same batch."""
        step, rows = order
        examples: list[Example] = []
        failures: list[Failure] = []
        for row in rows:
            seed = hash((self.seed, step, row)) & 0xFFFF_FFFF  # of integers: alike everywhere
            try:
                examples.append(self.encoder.encode(self.records[row], seed=seed))
            except InternVLError as error:
                failures.append((row, f"{type(error).__name__}: {error}"))
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
    own = range(workers.rank, plan.settings.batches_per_step, workers.world_size)
    dataset = MicroBatches(
        records, encoder, pad_token_id,
        is_packed=plan.settings.is_packed, seed=plan.settings.seed,
    )  # fmt: skip
    orders = (
        (step, plan.step(step)[place]) for step in range(start, plan.num_steps) for place in own
    )
    batches = load_ahead(dataset, orders, num_processes, workers, _prefetch(dataset))
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
    missing = -len(groups) % workers.world_size
    own = [*groups, *([()] * missing)][workers.rank :: workers.world_size]
    dataset = MicroBatches(records, encoder, pad_token_id)
    orders = ((0, rows) for rows in own)
    yield from load_ahead(dataset, orders, num_processes, workers, _prefetch(dataset))


def _prefetch(dataset: MicroBatches) -> int:
    return 2 if dataset.is_packed else 4  # a pack may have 230 MB of tiles


class _Orders(Generic[Asked]):
    """A sampler that can be iterated over once: what comes is planned as it is needed."""

    def __init__(self, orders: Iterator[Asked]) -> None:
        self._orders = orders

    def __iter__(self) -> Iterator[Asked]:
        return self._orders


def load_ahead(
    dataset: Dataset[Made],
    orders: Iterator[Asked],
    num_processes: int,
    workers: Workers,
    prefetch: int = 4,
) -> Iterator[Made]:
    """Make items in the order asked for, some of them before they are needed.

    Args:
        dataset: makes an item from what is asked.
        orders: what is asked, one item after the other.
        num_processes: processes that work ahead; 0 makes items in this one.
        workers: on a GPU, items are put where copies to it hold nothing up.
        prefetch: items that each process makes ahead.

    Returns:
        The items.
    """
    if num_processes == 0:
        return (dataset[order] for order in orders)
    loader: DataLoader[Made] = DataLoader(
        dataset,
        batch_size=None,
        sampler=_Orders(orders),
        num_workers=num_processes,
        prefetch_factor=prefetch,
        pin_memory=workers.device.type == "cuda",
        multiprocessing_context=START_METHOD,
        generator=torch.Generator(),  # a loader must not take from the numbers that dropout uses
    )
    return iter(loader)
