"""What a run needs to go on exactly where it stopped: weights, moments, random state, position.

One safetensors file a process; nothing is pickled. Where and when it is written is left to
:mod:`internvl35.train.checkpoints`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from internvl35.errors import DataError
from internvl35.train.distributed import Workers, like_parameter, local_tensor

_PROGRESS = "progress"
_MOMENT = "optimizer."


def state_file(workers: Workers) -> str:
    """Name of a process's file inside a checkpoint."""
    if workers.world_size == 1:
        return "training_state.safetensors"
    return f"training_state-{workers.rank + 1:05d}-of-{workers.world_size:05d}.safetensors"


def save_state(
    path: Path,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    workers: Workers,
    progress: Mapping[str, Any],
    *,
    max_file_bytes: int | None = None,
) -> None:
    """Write the state of this process.

    Args:
        path: the file; its folder exists.
        module: weights that train are written as they stand in memory, the others are not.
        optimizers: of these weights.
        workers: where weights are replicated, only the main process writes them.
        progress: JSON-ready position of the run.
        max_file_bytes: most bytes of tensors in one file; what does not fit goes into files beside
            ``path``, named after it. None for a single file.

    Raises:
        SafetensorError: if a file cannot be written.
    """
    tensors: dict[str, Tensor] = {"random.cpu": torch.get_rng_state()}
    if workers.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(workers.device)
    trained = trained_parameters(module)
    if workers.is_main or _is_sharded(trained):
        names = {id(parameter): name for name, parameter in trained.items()}
        for name, parameter in trained.items():
            tensors[f"module.{name}"] = local_tensor(parameter.detach())
        for optimizer in optimizers:
            for parameter, moments in optimizer.state.items():
                for key, value in moments.items():
                    part = local_tensor(torch.as_tensor(value))
                    tensors[f"{_MOMENT}{names[id(parameter)]}.{key}"] = part
    plain = {name: value.cpu().contiguous() for name, value in tensors.items()}
    save_parts(plain, path, {_PROGRESS: json.dumps(dict(progress))}, max_file_bytes)


def save_parts(
    tensors: Mapping[str, Tensor],
    path: Path,
    metadata: dict[str, str] | None = None,
    max_file_bytes: int | None = None,
) -> None:
    """Write tensors into one file, or into several that :func:`open_parts` reads as one.

    Args:
        tensors: contiguous, on the CPU.
        path: the file; further ones stand beside it and are named after it. It appears last, and
            as a whole.
        metadata: of the file at ``path``.
        max_file_bytes: most bytes of tensors in one file; None for a single file.

    Raises:
        SafetensorError: if a file cannot be written.
    """
    first, *others = _split(tensors, max_file_bytes)
    for number, part in enumerate(others, 2):
        save_file(part, path.with_suffix(f".part{number}.safetensors"))
    partial = path.with_suffix(".partial")
    save_file(first, partial, metadata)
    partial.replace(path)


def _split(tensors: Mapping[str, Tensor], max_bytes: int | None) -> list[dict[str, Tensor]]:
    """Parts of at most so many bytes, in order; a larger tensor has a part of its own."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in tensors.items():
        if max_bytes is not None and parts[-1] and size + value.nbytes > max_bytes:
            parts.append({})
            size = 0
        parts[-1][name] = value
        size += value.nbytes
    return parts


def load_state(
    folder: Path,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    workers: Workers,
) -> dict[str, Any]:
    """Bring module, optimizers and random state to where a checkpoint left them.

    Args:
        folder: the checkpoint.
        module: built and spread as when it was saved.
        optimizers: fresh ones, built in the same way.
        workers: this process.

    Returns:
        The position of the run.

    Raises:
        DataError: if the folder holds no state, or one of other weights or another number of
            sharded processes.
    """
    trained = trained_parameters(module)
    is_sharded = _is_sharded(trained)
    own = folder / state_file(workers)
    weights = own if is_sharded else _replicated_file(folder, own)
    if not weights.is_file():
        raise DataError(_why_no_state(folder, workers))
    with open_parts(weights) as file:
        progress = _read_progress(file)
        _load_weights(trained, file, weights)
        _load_moments(trained, optimizers, file)
    if own.is_file():  # else the number of replicated processes has changed
        with open_parts(own) as file:
            torch.set_rng_state(file.get_tensor("random.cpu"))
            if workers.device.type == "cuda" and "random.cuda" in list(file.keys()):
                torch.cuda.set_rng_state(file.get_tensor("random.cuda"), workers.device)
    return progress


def _why_no_state(folder: Path, workers: Workers) -> str:
    has_others = any(folder.glob("training_state*.safetensors"))
    if has_others:
        return (
            f"{folder} holds no training state for process {workers.rank + 1} of "
            f"{workers.world_size}; resume with as many processes as before, or pass "
            "resume_only_model true"
        )
    return (
        f"{folder} holds weights but no training state, which save_only_model and deepspeed leave "
        "out; pass resume_only_model true for a new run that begins with these weights"
    )


def trained_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Weights that train, by a name that does not depend on how the module is wrapped."""
    return {
        name.removeprefix("module.").replace("_checkpoint_wrapped_module.", ""): value
        for name, value in module.named_parameters()
        if value.requires_grad
    }


def _is_sharded(trained: Mapping[str, Tensor]) -> bool:
    return any(local_tensor(value) is not value for value in trained.values())


def _replicated_file(folder: Path, own: Path) -> Path:
    found = sorted(
        path for path in folder.glob("training_state*.safetensors") if ".part" not in path.name
    )
    return found[0] if found else own  # the main process's comes first


@contextmanager
def open_parts(path: Path) -> Iterator[Any]:
    """Open what :func:`save_parts` wrote; tensors are read one at a time, as safetensors does.

    Args:
        path: the file; those beside it that are named after it belong to it.

    Yields:
        ``keys``, ``get_tensor`` and ``metadata`` of all files together.

    Raises:
        DataError: if a file cannot be read.
    """
    others = sorted(path.parent.glob(f"{path.stem}.part*.safetensors"))
    try:
        with ExitStack() as stack:
            opened = (safe_open(file, framework="pt") for file in (path, *others))
            yield _Parts([stack.enter_context(file) for file in opened])
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} is not a training state: {error}; use another checkpoint"
        ) from error


class _Parts:
    """The files of one state, read as one."""

    def __init__(self, files: Sequence[Any]) -> None:
        self._files = files
        self._places = {key: file for file in files for key in list(file.keys())}

    def keys(self) -> list[str]:
        return list(self._places)

    def metadata(self) -> dict[str, str] | None:
        found: dict[str, str] | None = self._files[0].metadata()
        return found

    def get_tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._places[name].get_tensor(name)
        return tensor


def _read_progress(file: Any) -> dict[str, Any]:
    text = (file.metadata() or {}).get(_PROGRESS)
    if text is None:
        raise SafetensorError(f"it has no {_PROGRESS}")
    progress: dict[str, Any] = json.loads(text)
    return progress


def _load_weights(trained: Mapping[str, Tensor], file: Any, path: Path) -> None:
    keys: list[str] = list(file.keys())
    saved = {key.removeprefix("module.") for key in keys if key.startswith("module.")}
    if saved != trained.keys():
        other = sorted(saved ^ trained.keys())
        raise DataError(
            f"{path} was saved while other weights trained ({len(other)} differ, among them "
            f"{other[0]}); resume with the settings of that run, or pass resume_only_model true"
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            target, value = local_tensor(parameter), file.get_tensor(f"module.{name}")
            if target.shape != value.shape:
                raise DataError(
                    f"{path}: {name} has shape {list(value.shape)} but the run needs "
                    f"{list(target.shape)}; resume with the settings and processes of that run"
                )
            target.copy_(value)


def _load_moments(
    trained: Mapping[str, Tensor], optimizers: Sequence[torch.optim.Optimizer], file: Any
) -> None:
    saved: dict[str, list[str]] = {}
    for key in list(file.keys()):
        if key.startswith(_MOMENT):
            name, _, moment = key.removeprefix(_MOMENT).rpartition(".")
            saved.setdefault(name, []).append(moment)
    names = {id(parameter): name for name, parameter in trained.items()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names[id(parameter)]
                for moment in saved.get(name, ()):
                    value = file.get_tensor(f"{_MOMENT}{name}.{moment}")
                    if value.ndim or group.get("fused"):  # else counts of steps stay on the CPU
                        value = value.to(local_tensor(parameter).device)
                    optimizer.state[parameter][moment] = like_parameter(value, parameter)
