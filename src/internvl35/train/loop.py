"""The training loop: steps of several micro-batches, one global normaliser, one schedule.

The loss is a module; what it sees is decided by a plan, when something is saved or measured by
the caller. The same arithmetic on one process and on many: losses of a step are divided by the sum
of weights over all micro-batches of all processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from internvl35.data.batches import TrainingBatch
from internvl35.errors import DataError
from internvl35.train.bad_rows import Failure
from internvl35.train.distributed import Workers, reshard
from internvl35.train.feed import FedBatch
from internvl35.train.schedule import Schedule
from internvl35.train.stepping import Stepper

WeighBatch = Callable[[TrainingBatch], float]
"""From a batch to the sum of the weights of its targets."""

_SUMMED = ("loss", "num_correct", "num_targets")
_TINY = 1e-12
"""What weights are divided by in a step without a single target."""


@dataclass(frozen=True)
class StepFigures:
    """What one step did, over all processes."""

    loss: float
    """Weighted mean of the losses of all targets."""
    grad_norm: float
    """Norm of the whole gradient before it was clipped."""
    learning_rate: float
    """Rate of the group with the highest peak."""
    num_correct: float
    """Targets that were the likeliest token."""
    num_targets: float
    """Tokens that carried loss."""
    num_tokens: float
    """Tokens, padding not counted."""
    num_tiles: float
    """Tiles."""
    num_samples: float
    """Samples."""
    num_failures: float = 0.0
    """Rows that are missing, over all processes."""
    failures: tuple[Failure, ...] = ()
    """Those that are missing from this process's part of the step."""
    others: Mapping[str, float] = field(default_factory=dict[str, float])
    """Sums over the step of what else the module tells."""


class TrainingLoop:
    """Takes optimizer steps.

    Args:
        stepper: its module is called with a batch on its device and the sum of weights of the
            step, and returns the scalars ``loss``, ``num_correct`` and ``num_targets``; its groups
            carry ``peak_lr``.
        schedule: course of the rates.
        workers: the processes of the run.
        weigh: sum of the weights of a batch's targets.
        compute_dtype: dtype of matrix products; float32 for no mixed precision.
        others: names of further scalars that the module returns, which are summed up.
    """

    def __init__(
        self,
        stepper: Stepper,
        schedule: Schedule,
        workers: Workers,
        weigh: WeighBatch,
        *,
        compute_dtype: torch.dtype = torch.float32,
        others: Sequence[str] = (),
    ) -> None:
        """Keep the parts; the first step is number 0."""
        self.stepper = stepper
        self.module = stepper.module
        self.schedule = schedule
        self.workers = workers
        self.weigh = weigh
        self.compute_dtype = compute_dtype
        self.others = tuple(others)
        self.step = 0

    def run(self, steps: Iterable[list[FedBatch]]) -> Iterator[StepFigures]:
        """Train until the schedule ends.

        Args:
            steps: the micro-batches of this process, from step ``self.step`` on.

        Yields:
            Figures after every step; ``self.step`` has been counted on by then.

        Raises:
            DataError: if loss or gradient are not finite; weights are those of the step before.
        """
        for batches in steps:
            self.module.train()
            figures = self.take_step(batches)
            self.step += 1
            yield figures
            if self.step >= self.schedule.num_steps:
                return

    def take_step(self, batches: Sequence[FedBatch]) -> StepFigures:
        """Compute gradients of all micro-batches and change the weights once.

        Args:
            batches: those of this process.

        Returns:
            Figures over all processes.

        Raises:
            DataError: if loss or gradient are not finite.
        """
        own = [fed.batch for fed in batches]
        failures = tuple(failure for fed in batches for failure in fed.failures)
        counts = [sum(values) for values in zip(*(_count(batch) for batch in own), strict=True)]
        (weight,) = self.workers.sum([sum(self.weigh(batch) for batch in own)])
        sums = self._no_sums()
        for index, batch in enumerate(own):
            with self.stepper.accumulate(is_last=index == len(own) - 1):
                output = self._forward(batch, max(weight, _TINY))
                # gradients become means over the processes, and a sum is wanted
                self.stepper.backward(output["loss"] * self.workers.world_size)
            self._add(sums, output)
        loss, correct, targets, *told, tokens, tiles, samples, num_failures = self.workers.sum(
            [*sums.tolist(), *counts, len(failures)]
        )
        self._check(loss, "loss")
        rate = self._set_rates()
        norm = self.stepper.update(lambda norm: self._check(norm, "gradient norm"))
        return StepFigures(
            loss, norm, rate, correct, targets, tokens, tiles, samples, num_failures, failures,
            dict(zip(self.others, told, strict=True)),
        )  # fmt: skip

    @torch.no_grad()
    def evaluate(self, batches: Iterable[FedBatch]) -> tuple[dict[str, float], list[Failure]]:
        """Measure the loss on other rows.

        Args:
            batches: those of this process, as many as on the others.

        Returns:
            ``loss`` and ``token_acc`` over all processes, or nothing if no row could be used; and
            the rows of this process that could not.
        """
        self.module.eval()
        sums, weight, failures = self._no_sums(), 0.0, list[Failure]()
        for fed in batches:
            self._add(sums, self._forward(fed.batch, 1.0))
            weight += self.weigh(fed.batch)
            failures += fed.failures
        reshard(self.module)
        self.module.train()
        loss, correct, targets, *_, weight = self.workers.sum([*sums.tolist(), weight])
        if not targets:
            return {}, failures
        return {"loss": loss / weight, "token_acc": correct / targets}, failures

    def _forward(self, batch: TrainingBatch, total_weight: float) -> dict[str, Tensor]:
        # a plain number, since what shards a module casts tensors that go into it
        device = self.workers.device
        is_mixed = self.compute_dtype != torch.float32
        with torch.autocast(device.type, self.compute_dtype, enabled=is_mixed):
            output: dict[str, Tensor] = self.module(batch.to(device), total_weight)
        return output

    def _no_sums(self) -> Tensor:
        return torch.zeros(
            len(_SUMMED) + len(self.others), dtype=torch.float64, device=self.workers.device
        )

    def _add(self, sums: Tensor, output: dict[str, Tensor]) -> None:
        """Add figures up where they are: reading one would wait until all before it is computed."""
        names = (*_SUMMED, *self.others)
        sums += torch.stack([output[name].detach().to(sums) for name in names])

    def _set_rates(self) -> float:
        share = self.schedule.rate_at(self.step)
        for group in self.stepper.groups:
            group["lr"] = group["peak_lr"] * share
        return max(float(group["lr"]) for group in self.stepper.groups)

    def _check(self, value: float, name: str) -> None:
        if not math.isfinite(value):
            raise DataError(
                f"the {name} is {value} in step {self.step + 1}; lower learning_rate, raise "
                "warmup_ratio, or look at the rows of this step"
            )


def _count(batch: TrainingBatch) -> tuple[float, float, float]:
    is_filler = not bool((batch.labels >= 0).any()) and batch.num_tiles == 0
    return (0.0, 0.0, 0.0) if is_filler else (batch.num_tokens, batch.num_tiles, len(batch))
