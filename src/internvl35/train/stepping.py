"""From losses to changed weights: backward passes, clipping, optimizer steps.

What a process does alone or beside replicas or shards; DeepSpeed, which does all of it itself, is
left to :mod:`internvl35.train.deepspeed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from internvl35.train.distributed import full_tensor


class Stepper:
    """Changes the weights of a module.

    Args:
        module: what is called; its replicas exchange gradients by themselves.
        optimizers: of its weights.
        max_grad_norm: largest norm of the whole gradient; 0 for no limit.
    """

    def __init__(
        self, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], max_grad_norm: float
    ) -> None:
        """Keep the parts."""
        self.module = module
        self.optimizers = list(optimizers)
        self.max_grad_norm = max_grad_norm

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Groups of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @contextmanager
    def accumulate(self, *, is_last: bool) -> Iterator[None]:
        """Hold one micro-batch: replicas exchange gradients once a step, shards every time.

        Args:
            is_last: whether it is the last one of its step.
        """
        no_sync: Any = getattr(self.module, "no_sync", None)
        with nullcontext() if is_last or no_sync is None else no_sync():
            yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to what is there."""
        loss.backward()

    def update(self, check: Callable[[float], None]) -> float:
        """Clip the gradient and change the weights.

        Args:
            check: told the norm before anything is changed; raises to prevent it.

        Returns:
            Norm of the whole gradient before it was clipped.
        """
        trained = [p for group in self.groups for p in group["params"] if p.grad is not None]
        limit = self.max_grad_norm or float("inf")
        norm = float(full_tensor(nn.utils.clip_grad_norm_(trained, limit)))
        check(norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm
