"""Which tiles may be compressed, judged by the losses that compressing them costs.

A tile's loss ratio is compared with a percentile of the ratios seen before it, so that labels
follow the model and the data. Where losses come from is left to
:mod:`internvl35.train.vico_router`. Paper section 2.3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from internvl35.train.distributed import Workers

COMPRESS, KEEP = 0, 1
"""Classes of the router, in the order of its logits."""


def loss_ratios(compressed: Tensor, whole: Tensor, floor: float) -> Tensor:
    """How many times the loss grows when a tile is compressed.

        r = (L(1/16) + floor) / (L(1/4) + floor)

    Args:
        compressed: losses with the tile at a sixteenth of its patches, any shape, not negative.
        whole: losses with it at a quarter, of the same shape.
        floor: keeps ratios of losses near zero near one.

    Returns:
        The ratios.
    """
    return (compressed + floor) / (whole + floor)


def class_weights(compress_share: float) -> tuple[float, float]:
    """Weights of the two classes under which both count alike.

    Args:
        compress_share: share of tiles that are labelled compress, 0 to 1.

    Returns:
        Weights of compress and keep, one on average over tiles; both one if a class is empty.
    """
    if not 0 < compress_share < 1:
        return 1.0, 1.0
    return 0.5 / compress_share, 0.5 / (1 - compress_share)


class RatioWindow:
    """The last ratios of a run, from which follows what counts as a small one.

    Ratios of a step join the window when the step is over, those of all processes in one order. So
    labels hang neither on how rows are dealt out to micro-batches nor on the process that sees them
    first.

    Args:
        size: ratios that are kept.
        percentile: share of the kept ratios that count as small, in percent.
        warmup: ratios that are needed before anything is labelled.
    """

    def __init__(self, size: int, percentile: float, warmup: int) -> None:
        """Begin empty."""
        self.percentile = percentile
        self.warmup = warmup
        self._ratios: deque[float] = deque(maxlen=size)
        self._pending: list[float] = []
        self._threshold: float | None = None
        self._compress_share = 0.0

    def __len__(self) -> int:
        """Count the ratios of the steps before."""
        return len(self._ratios)

    @property
    def threshold(self) -> float | None:
        """The ratio below which a tile is labelled compress; None while too few are known."""
        return self._threshold

    @property
    def compress_share(self) -> float:
        """Share of the kept ratios that are below the threshold."""
        return self._compress_share

    def label(self, ratios: Tensor) -> Tensor | None:
        """Label tiles.

        Args:
            ratios: ``(N,)`` of the tiles.

        Returns:
            ``(N,)`` int64, ``COMPRESS`` or ``KEEP``; None while too few ratios are known.
        """
        if self._threshold is None:
            return None
        return torch.where(ratios.double() < self._threshold, COMPRESS, KEEP)

    def note(self, ratios: Tensor) -> None:
        """Remember ratios of the step that is under way.

        Args:
            ratios: ``(N,)`` of its tiles.
        """
        self._pending += ratios.double().tolist()

    def advance(self, workers: Workers) -> None:
        """Take the ratios of a step in; every process has to call this.

        Args:
            workers: whose ratios all join, in the order of ranks.
        """
        self._extend(_join(self._pending, workers))
        self._pending = []

    def _extend(self, ratios: Iterable[float]) -> None:
        self._ratios.extend(ratios)
        if len(self._ratios) < max(1, self.warmup):
            return
        known = np.array(self._ratios)
        self._threshold = float(np.percentile(known, self.percentile))
        self._compress_share = float((known < self._threshold).mean())

    def keep(self) -> dict[str, Any]:
        """What :meth:`restore` takes, ready for JSON."""
        return {"ratios": list(self._ratios)}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on where a checkpoint stood.

        Args:
            saved: what :meth:`keep` gave.
        """
        self._ratios.clear()
        self._pending, self._threshold, self._compress_share = [], None, 0.0
        self._extend(float(ratio) for ratio in saved["ratios"])


def _join(own: list[float], workers: Workers) -> list[float]:
    """Values of all processes, those of the first one first; the same list on each."""
    if workers.world_size == 1:
        return own
    counts = [0.0] * workers.world_size
    counts[workers.rank] = float(len(own))
    numbers = [int(count) for count in workers.sum(counts)]
    before, after = sum(numbers[: workers.rank]), sum(numbers[workers.rank + 1 :])
    return workers.sum([*[0.0] * before, *own, *[0.0] * after])
