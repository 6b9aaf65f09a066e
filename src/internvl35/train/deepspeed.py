"""DeepSpeed in place of torch's own ways to spread a run: ZeRO stages by name or by config file.

DeepSpeed is an optional package. Its optimizer states are saved as pickles, which are never written
or read here, so such a run leaves weights alone and begins anew from them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from internvl35.errors import ConfigError
from internvl35.train.distributed import Workers
from internvl35.train.optimizers import build_optimizers
from internvl35.train.packages import need_package
from internvl35.train.settings import FinetuneSettings
from internvl35.train.stepping import Stepper
from internvl35.train.trainable import parameter_groups


def read_config(name: str) -> dict[str, Any]:
    """Read a DeepSpeed config.

    Args:
        name: ``zero0`` to ``zero3``, or a JSON file.

    Returns:
        The config, with ``auto`` values as they stand.

    Raises:
        ConfigError: if the file cannot be read.
    """
    if name.startswith("zero") and name[4:].isdigit():
        return {"zero_optimization": {"stage": int(name[4:])}}
    try:
        config = json.loads(Path(name).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"deepspeed config {name} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"deepspeed config {name} holds a {type(config).__name__}, no object")
    return config


def settle_config(
    config: dict[str, Any],
    settings: FinetuneSettings,
    *,
    accumulation: int,
    world_size: int,
    compute_dtype: torch.dtype,
) -> dict[str, Any]:
    """Fill in what the run's settings decide, and refuse what contradicts them.

    Args:
        config: as read; ``auto`` stands for the run's own value.
        settings: of the run.
        accumulation: micro-batches of one process a step.
        world_size: processes.
        compute_dtype: dtype of matrix products.

    Returns:
        A config without ``auto``. Optimizer and scheduler are the run's own.

    Raises:
        ConfigError: if a value contradicts a setting.
    """
    chosen = settings.optimization
    size = chosen.per_device_train_batch_size
    own = {
        "train_micro_batch_size_per_gpu": size,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": size * accumulation * world_size,
        "gradient_clipping": chosen.max_grad_norm,
    }
    settled = {
        key: value for key, value in config.items() if key not in ("optimizer", "scheduler", "fp16")
    }
    for key, value in own.items():
        found = settled.get(key, "auto")
        if found not in ("auto", value):
            raise ConfigError(
                f"deepspeed config has {key} {found} but the flags say {value}; write auto there"
            )
        settled[key] = value
    settled["bf16"] = {"enabled": compute_dtype == torch.bfloat16}
    zero = dict(settled.get("zero_optimization", {}))
    settled["zero_optimization"] = {key: value for key, value in zero.items() if value != "auto"}
    settled.setdefault("zero_allow_untested_optimizer", True)
    return settled


class DeepSpeedStepper(Stepper):
    """Leaves backward passes, clipping and steps to a DeepSpeed engine.

    Args:
        engine: what ``deepspeed.initialize`` gave.
    """

    def __init__(self, engine: Any) -> None:
        """Take module and optimizer from the engine."""
        super().__init__(engine, [engine.optimizer], 0.0)
        self.engine = engine

    @contextmanager
    def accumulate(self, *, is_last: bool) -> Iterator[None]:
        """Tell the engine whether a step ends with this micro-batch."""
        self.engine.set_gradient_accumulation_boundary(is_boundary=is_last)
        yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss; it is a share of the step's loss already."""
        self.engine.backward(loss, scale_wrt_gas=False)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()

    def update(self, check: Callable[[float], None]) -> float:
        """Let the engine clip and step; the norm is known only afterwards."""
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm() or 0.0)
        check(norm)
        return norm


def start_deepspeed(
    module: nn.Module,
    settings: FinetuneSettings,
    workers: Workers,
    accumulation: int,
    learning_rate: float,
    compute_dtype: torch.dtype,
) -> DeepSpeedStepper:
    """Hand a module over to DeepSpeed.

    Args:
        module: on its device.
        settings: of the run.
        workers: the processes of the run, joined already.
        accumulation: micro-batches of one process a step.
        learning_rate: peak rate.
        compute_dtype: dtype of matrix products.

    Returns:
        What takes the steps.

    Raises:
        ConfigError: if DeepSpeed is not installed, there is one process only, or the config
            contradicts the settings.
    """
    need_package("deepspeed", f"deepspeed {settings.distributed.deepspeed}")
    import deepspeed

    if workers.world_size == 1:
        raise ConfigError(
            "deepspeed is given but there is one process; set NPROC_PER_NODE, or leave it out"
        )
    assert settings.distributed.deepspeed is not None
    config = settle_config(
        read_config(settings.distributed.deepspeed), settings, accumulation=accumulation,
        world_size=workers.world_size, compute_dtype=compute_dtype,
    )  # fmt: skip
    chosen = settings.optimization
    groups = parameter_groups(module, chosen, learning_rate)
    (optimizer,) = build_optimizers(groups, chosen)
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, config=config, dist_init_required=False
    )
    return DeepSpeedStepper(engine)


def gather_partitioned(parameter: Tensor) -> Tensor:
    """A whole copy of a weight that ZeRO-3 keeps in parts; every process has to call this."""
    if not hasattr(parameter, "ds_id"):
        return parameter
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().cpu().clone()
