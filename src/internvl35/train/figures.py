"""What is told about the steps since the last line of figures: means, rates, memory.

Writing lines and drawing curves is left to :mod:`internvl35.train.reports`.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from internvl35.train.loop import StepFigures

_SUMMED = ("loss", "grad_norm", "num_correct", "num_targets", "num_tokens", "num_tiles", "seconds")


@dataclass
class FigureWindow:
    """Sums over the steps since the last line; part of what a checkpoint keeps."""

    sums: dict[str, float]
    """Name to sum over the steps."""
    num_steps: int = 0
    """Steps summed up."""

    @classmethod
    def restore(
        cls, saved: Mapping[str, Any] | None = None, others: Sequence[str] = ()
    ) -> FigureWindow:
        """Begin empty, or with what a checkpoint kept.

        Args:
            saved: what :meth:`keep` gave.
            others: names of further sums over a step that are summed up.
        """
        sums = dict.fromkeys((*_SUMMED, *others), 0.0)
        if saved is None:
            return cls(sums)
        return cls(sums | dict(saved["sums"]), int(saved["num_steps"]))

    def keep(self) -> dict[str, Any]:
        """What :meth:`restore` takes, ready for JSON."""
        return {"sums": dict(self.sums), "num_steps": self.num_steps}

    def add(self, figures: StepFigures, seconds: float) -> None:
        """Add a step.

        Args:
            figures: of the step.
            seconds: it took.
        """
        values = {name: getattr(figures, name) for name in _SUMMED if name != "seconds"}
        values |= {"seconds": seconds} | dict(figures.others)
        for name in self.sums:
            self.sums[name] += values[name]
        self.num_steps += 1

    def close(
        self,
        learning_rate: float,
        device: torch.device,
        describe: Callable[[Mapping[str, float]], Mapping[str, float]] | None = None,
    ) -> dict[str, float]:
        """Turn the sums into a line of figures and begin anew.

        Args:
            learning_rate: of the last step.
            device: whose memory is told.
            describe: from the sums to further figures.

        Returns:
            Figures under the names of ``logging.jsonl``.
        """
        sums, count = self.sums, max(1, self.num_steps)
        seconds = max(sums["seconds"], 1e-9)
        line = {
            "loss": sums["loss"] / count,
            "grad_norm": sums["grad_norm"] / count,
            "learning_rate": learning_rate,
            "token_acc": sums["num_correct"] / max(1.0, sums["num_targets"]),
            "tokens_per_s": sums["num_tokens"] / seconds,
            "tiles_per_s": sums["num_tiles"] / seconds,
            "memory(GiB)": peak_memory_gib(device),
            "train_speed(s/it)": seconds / count,
        }
        if describe is not None:
            line |= describe(sums)
        self.sums, self.num_steps = dict.fromkeys(sums, 0.0), 0
        return line


def peak_memory_gib(device: torch.device) -> float:
    """Largest memory taken so far, on the GPU or by this process, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
