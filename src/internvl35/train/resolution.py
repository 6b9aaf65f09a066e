"""What follows from settings once the number of processes is known.

Pure functions; the plan of batches is left to :mod:`internvl35.train.plan`, the course of the
learning rate to :mod:`internvl35.train.schedule`. Paper section 2.2.
"""

from __future__ import annotations

import math
from pathlib import Path

from internvl35.errors import ConfigError
from internvl35.train.settings import FinetuneSettings, OptimizationSettings

USUAL_BATCH = 16
"""Rows a step where neither gradient_accumulation_steps nor global_batch_size is given."""

ADAPTER_RATE = 1e-4
"""Peak learning rate of adapters where none is given."""

FULL_RATE = 1e-5
"""Peak learning rate of full training where none is given."""


def resolve_accumulation(settings: OptimizationSettings, world_size: int) -> int:
    """Find how many forward passes of one process make a step.

    Args:
        settings: batch size on a device, and accumulation or global batch if given.
        world_size: processes that train together.

    Returns:
        As given, or what the global batch needs, or as many as bring 16 rows together.

    Raises:
        ConfigError: if the global batch is not a multiple of what one pass of all processes takes.
    """
    at_once = settings.per_device_train_batch_size * world_size
    if settings.gradient_accumulation_steps is not None:
        return settings.gradient_accumulation_steps
    if settings.global_batch_size is None:
        return max(1, math.ceil(USUAL_BATCH / at_once))
    if settings.global_batch_size % at_once:
        raise ConfigError(
            f"global_batch_size is {settings.global_batch_size}, which {world_size} processes of "
            f"{settings.per_device_train_batch_size} cannot share evenly; needed: a multiple of "
            f"{at_once}, or give gradient_accumulation_steps instead"
        )
    return settings.global_batch_size // at_once


def resolve_learning_rate(settings: FinetuneSettings) -> float:
    """Find the peak learning rate.

    Args:
        settings: of the run.

    Returns:
        As given, else 1e-4 for adapters and 1e-5 for full training.
    """
    rate = settings.optimization.learning_rate
    if rate is not None:
        return rate
    return FULL_RATE if settings.adapter.tuner_type == "full" else ADAPTER_RATE


def resolve_output(settings: FinetuneSettings) -> Path:
    """Find the folder in which run folders are made.

    Args:
        settings: of the run.

    Returns:
        As given, else ``output`` and the last part of the model's name.
    """
    if settings.run.output_dir is not None:
        return Path(settings.run.output_dir).expanduser()
    return Path("output") / (Path(settings.model.model).resolve().name or "model")
