"""The processes of a run: who they are, how they add up figures, how a network is spread over them.

All of it is torch.distributed: started by torchrun, replicated by DistributedDataParallel, or
sharded by FSDP2. DeepSpeed is left to :mod:`internvl35.train.deepspeed`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from internvl35.errors import ConfigError
from internvl35.train.trainable import use_float32_masters


@dataclass(frozen=True)
class Workers:
    """One process of a run and its place among the others."""

    rank: int = 0
    """Number of this process, from 0."""
    world_size: int = 1
    """Processes in all."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this process computes."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add figures up over all processes.

        Args:
            values: as many on every process.

        Returns:
            The sums, in float64.
        """
        if self.world_size == 1:
            return [float(value) for value in values]
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        tensor = torch.tensor(list(values), dtype=kind, device=self.device)
        distributed.all_reduce(tensor)
        found: list[float] = tensor.tolist()
        return found

    def add_up(self, tensor: Tensor) -> Tensor:
        """Add an integer tensor on the CPU up over all processes, in place."""
        if self.world_size > 1:
            moved = tensor.to(self.device)
            distributed.all_reduce(moved)
            tensor.copy_(moved)
        return tensor

    def tell(self, text: str) -> str:
        """Tell all processes a text that the main one knows; the others' own is not looked at."""
        if self.world_size == 1:
            return text
        letters = text.encode() if self.is_main else b""
        count = torch.tensor([len(letters)], dtype=torch.int64, device=self.device)
        distributed.broadcast(count, src=0)
        content = torch.zeros(int(count.item()), dtype=torch.uint8, device=self.device)
        if self.is_main:
            content.copy_(torch.tensor(list(letters), dtype=torch.uint8))
        distributed.broadcast(content, src=0)
        return bytes(content.tolist()).decode()

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.world_size > 1:
            distributed.barrier()


@contextmanager
def start_workers(*, timeout_s: int = 1800, device: str | None = None) -> Iterator[Workers]:
    """Join the processes that torchrun started, or be the only one.

    Args:
        timeout_s: longest wait for the others, in seconds.
        device: ``cpu`` to leave GPUs alone.

    Yields:
        This process's place.

    Raises:
        ConfigError: if there are fewer GPUs than processes on this machine.
    """
    rank, world_size = (int(os.environ.get(name, default)) for name, default in _PLACE)
    has_gpu = torch.cuda.is_available() and device != "cpu"
    if world_size == 1:
        yield Workers(device=torch.device("cuda" if has_gpu else "cpu"))
        return
    place = torch.device("cpu")
    if has_gpu:
        local = int(os.environ.get("LOCAL_RANK", 0))
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} of this machine finds {torch.cuda.device_count()} GPUs; start at "
                "most one process a GPU (NPROC_PER_NODE)"
            )
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    distributed.init_process_group(
        "nccl" if has_gpu else "gloo",
        timeout=timedelta(seconds=timeout_s),
        device_id=place if has_gpu else None,
    )
    yield Workers(rank, world_size, place)
    # only after success: NCCL would wait here for processes that have failed
    distributed.destroy_process_group()


_PLACE = (("RANK", "0"), ("WORLD_SIZE", "1"))


def spread_module(
    module: nn.Module,
    workers: Workers,
    *,
    is_sharded: bool,
    compute_dtype: torch.dtype,
    unit_classes: Sequence[str],
) -> nn.Module:
    """Replicate or shard a module over the processes of a run, what trains in float32.

    Args:
        module: on its device; one that is to be sharded may be on the CPU still, and is cast and
            brought to the device one unit at a time.
        workers: this process.
        is_sharded: whether weights, gradients and moments are split (FSDP2); else every process
            holds all of them.
        compute_dtype: dtype in which sharded weights are gathered.
        unit_classes: class names of the submodules that are gathered one at a time.

    Returns:
        What to call instead of the module.
    """
    if is_sharded:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(workers.device.type, (workers.world_size,))
        policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
        units = [part for part in module.modules() if type(part).__name__ in unit_classes]
        for part in [*units, module]:
            use_float32_masters(part)
            fully_shard(part, mesh=mesh, mp_policy=policy)
        return module
    use_float32_masters(module)
    if workers.world_size > 1:
        is_gpu = workers.device.type == "cuda"
        return nn.parallel.DistributedDataParallel(
            module,
            device_ids=[workers.device.index] if is_gpu else None,
            gradient_as_bucket_view=True,  # else every gradient is in memory twice
        )
    return module


def reshard(module: nn.Module) -> None:
    """Split weights again that a forward pass without a backward pass left gathered."""
    from torch.distributed.fsdp import FSDPModule

    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@torch.no_grad()
def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor; every process has to call this for the same tensors in order."""
    from torch.distributed._functional_collectives import AsyncCollectiveTensor
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        return tensor
    whole = tensor.full_tensor()
    return whole.wait() if isinstance(whole, AsyncCollectiveTensor) else whole


def local_tensor(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this process holds; all of any other tensor."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like_parameter(local: Tensor, parameter: Tensor) -> Tensor:
    """Make a sharded tensor of a local part, spread as a parameter is."""
    from torch.distributed.tensor import DTensor

    if not isinstance(parameter, DTensor) or local.ndim == 0:
        return local
    return DTensor.from_local(
        local, parameter.device_mesh, parameter.placements, run_check=False,
        shape=parameter.shape, stride=parameter.stride(),
    )  # fmt: skip
