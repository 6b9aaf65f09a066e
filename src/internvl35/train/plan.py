"""Which rows make which batch of which step: decided for the whole run before its first step.

A plan follows from the sizes of the rows, a seed and a few settings, so a resumed run needs no
more than the number of its last step, and all processes of a run share one plan without talking.
Sizes are measured by :mod:`internvl35.train.measure`; packs by :mod:`internvl35.data.packing`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from internvl35.data.packing import plan_packs
from internvl35.errors import ConfigError, DataError

_LENGTH_WINDOW = 64
"""Micro-batches whose rows are sorted by length together, where rows are grouped by length."""

Rows = tuple[int, ...]
"""Indexes of the rows of one micro-batch; empty for one that only keeps processes in step."""


@dataclass(frozen=True)
class Sizes:
    """What each row of a data set takes."""

    tokens: NDArray[np.int64]
    """Tokens of each row; 0 for a row that cannot be trained on."""
    tiles: NDArray[np.int64]
    """Tiles of each row."""
    targets: NDArray[np.int64]
    """Tokens of each row that carry loss."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def good(self) -> NDArray[np.int64]:
        """Indexes of the rows that can be trained on."""
        return np.flatnonzero(self.tokens > 0)


@dataclass(frozen=True)
class PlanSettings:
    """How rows become batches and batches become steps."""

    num_epochs: float = 1.0
    """Times that every row is used; a fraction uses part of the rows."""
    max_steps: int = -1
    """Steps of the run, whatever the epochs; -1 for as many as the epochs have."""
    batch_size: int = 1
    """Rows, or packs, of a micro-batch."""
    batches_per_step: int = 1
    """Micro-batches of a step on all processes together."""
    is_packed: bool = False
    """Whether rows share packs."""
    pack_tokens: int = 4096
    """Most tokens of a pack."""
    pack_tiles: int = 96
    """Most tiles of a pack."""
    pack_window: int = 1000
    """Rows that are looked at together when packs are filled."""
    is_shuffled: bool = True
    """Whether every epoch has an order of its own; else rows come as they stand."""
    is_grouped: bool = False
    """Whether rows of like length share padded micro-batches."""
    seed: int = 42
    """Seed of the order."""


class Plan:
    """The steps of a run.

    Args:
        sizes: of all rows.
        settings: how they are put together.

    Raises:
        DataError: if no row can be trained on.
        ConfigError: if the settings leave the run without a step.
    """

    def __init__(self, sizes: Sizes, settings: PlanSettings) -> None:
        """Count the steps."""
        self.sizes = sizes
        self.settings = settings
        if len(sizes.good) == 0:
            raise DataError(f"none of {len(sizes)} rows can be trained on; check the data set")
        if settings.batch_size < 1 or settings.batches_per_step < 1:
            raise ConfigError(
                f"{settings.batch_size} rows a batch and {settings.batches_per_step} batches a "
                "step; needed: at least 1 of each"
            )
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)
        self._ends: list[int] = []
        if settings.max_steps > 0:
            self.num_steps = settings.max_steps
        else:
            self.num_steps = self._count_steps(settings.num_epochs)
        if self.num_steps < 1:
            raise ConfigError(
                f"num_train_epochs is {settings.num_epochs}, less than one step; raise it, or "
                "give max_steps"
            )

    def _count_steps(self, num_epochs: float) -> int:
        whole = int(num_epochs)
        steps = sum(self._length(number) for number in range(whole))
        if part := num_epochs - whole:
            # 1.1 epochs of 10 steps are 11 steps, though 0.1 is a little more than a tenth
            steps += math.ceil(round(self._length(whole) * part, 9))
        return steps

    def _length(self, epoch: int) -> int:
        """Steps of an epoch; only packs have to be planned to know."""
        while len(self._ends) <= epoch:
            number = len(self._ends)
            if self.settings.is_packed:
                steps = len(self._epoch(number))
            else:
                num_batches = -(-len(self.sizes.good) // self.settings.batch_size)
                steps = -(-num_batches // self.settings.batches_per_step)
            self._ends.append(steps + (self._ends[-1] if self._ends else 0))
        return self._ends[epoch] - (self._ends[epoch - 1] if epoch else 0)

    def step(self, number: int) -> tuple[Rows, ...]:
        """The micro-batches of a step, on all processes together.

        Args:
            number: counted from 0.

        Returns:
            ``batches_per_step`` micro-batches, large ones first, so that neighbours, which
            different processes compute at the same time, are alike; the last of an epoch may be
            empty.
        """
        epoch, within = self.locate(number)
        return self._epoch(epoch)[within]

    def locate(self, number: int) -> tuple[int, int]:
        """Epoch of a step and its place in it, both counted from 0."""
        while not self._ends or self._ends[-1] <= number:
            self._length(len(self._ends))
        epoch = bisect.bisect_right(self._ends, number)
        return epoch, number - (self._ends[epoch - 1] if epoch else 0)

    def epoch_at(self, num_done: int) -> float:
        """Epochs done after a number of steps, with the part of the current one."""
        if num_done == 0:
            return 0.0
        epoch, within = self.locate(num_done - 1)
        return epoch + (within + 1) / self._length(epoch)

    def is_epoch_end(self, num_done: int) -> bool:
        """Whether an epoch ends with a number of steps done."""
        epoch, within = self.locate(num_done - 1)
        return within + 1 == self._length(epoch)

    def _plan_epoch(self, epoch: int) -> tuple[tuple[Rows, ...], ...]:
        settings = self.settings
        order = self.sizes.good
        rng = np.random.default_rng([settings.seed, epoch])
        if settings.is_shuffled:
            order = rng.permutation(order)
        if settings.is_packed:
            packs = plan_packs(
                self.sizes.tokens, self.sizes.tiles, order.tolist(),
                max_tokens=settings.pack_tokens, max_tiles=settings.pack_tiles,
                window=settings.pack_window,
            )  # fmt: skip
            size = settings.batch_size
            groups = [packs[start : start + size] for start in range(0, len(packs), size)]
            batches = [tuple(row for pack in group for row in pack) for group in groups]
        else:
            batches = self._padded(order, rng)
        count = settings.batches_per_step
        return tuple(
            self._level(batches[start : start + count]) for start in range(0, len(batches), count)
        )

    def _padded(self, order: NDArray[np.int64], rng: np.random.Generator) -> list[Rows]:
        size = self.settings.batch_size
        if self.settings.is_grouped:
            window = size * _LENGTH_WINDOW
            parts = [order[start : start + window] for start in range(0, len(order), window)]
            order = np.concatenate(
                [part[np.argsort(-self.sizes.tokens[part], kind="stable")] for part in parts]
            )
        batches = [
            tuple(order[start : start + size].tolist()) for start in range(0, len(order), size)
        ]
        if self.settings.is_grouped:
            batches = [batches[index] for index in rng.permutation(len(batches))]
        return batches

    def _level(self, batches: Sequence[Rows]) -> tuple[Rows, ...]:
        missing = self.settings.batches_per_step - len(batches)
        by_cost = sorted(batches, key=lambda rows: -int(self.sizes.tokens[list(rows)].sum()))
        return (*by_cost, *([()] * missing))
