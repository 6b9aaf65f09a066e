"""Folders of safetensors files: read without copies, written whole or not at all.

Knows nothing of what the tensors mean: names are left to :mod:`internvl35.model.names`, their fit
to a network to :mod:`internvl35.model.checkpoint`. Released checkpoints are such folders
(section 2.1).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from internvl35.errors import CheckpointError
from internvl35.model.flushing import flush
from internvl35.model.names import Shape

INDEX_FILE = "model.safetensors.index.json"
"""Says which shard holds which tensor, where there are several."""

_SINGLE_FILE = "model.safetensors"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class TensorInfo:
    """What a shard's header says about a tensor."""

    shape: Shape
    """Its shape."""
    dtype: str
    """Its element type as safetensors spells it, for example ``BF16``."""
    file: str
    """Name of the shard that holds it."""


class Shards:
    """The safetensors files of a folder, opened and memory-mapped.

    Args:
        folder: where the files are.

    Raises:
        CheckpointError: if there is none, only pickled weights, a broken or absent shard, or an
            index that does not fit its shards.
    """

    def __init__(self, folder: Path) -> None:
        """Open every shard and read its header; no tensor is read."""
        self.folder = folder
        self.tensors: dict[str, TensorInfo] = {}
        self._files: dict[str, Any] = {}
        index = _read_index(folder)
        names = sorted(set(index.values())) if index else [_only_file(folder)]
        for name in names:
            self._open(name)
        for tensor, name in index.items():
            info = self.tensors.get(tensor)
            if info is None or info.file != name:
                where = f"is in {info.file}" if info else "is in no shard"
                raise CheckpointError(
                    f"{folder / INDEX_FILE} places {tensor} in {name}, but it {where}; "
                    "download the checkpoint again"
                )

    def _open(self, name: str) -> None:
        path = self.folder / name
        if not path.is_file():
            raise CheckpointError(
                f"{self.folder / INDEX_FILE} names the shard {name}, which is missing; "
                "download the checkpoint again"
            )
        try:
            shard = safe_open(path, framework="pt")
            names = list(shard.keys())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} ({path.stat().st_size} bytes) is truncated or not a safetensors file "
                f"({error}); download it again"
            ) from error
        self._files[name] = shard
        for tensor in names:
            if tensor in self.tensors:
                raise CheckpointError(
                    f"{self.folder}: {tensor} is in {self.tensors[tensor].file} and in {name}; "
                    "needed: in one of them"
                )
            header = shard.get_slice(tensor)
            self.tensors[tensor] = TensorInfo(tuple(header.get_shape()), header.get_dtype(), name)

    def read(self, name: str) -> Tensor:
        """Map a tensor into memory.

        Args:
            name: one of ``tensors``.

        Returns:
            The tensor on the CPU; pages are read when touched, and writing to it never reaches the
            file.
        """
        tensor: Tensor = self._files[self.tensors[name].file].get_tensor(name)
        return tensor


def _read_index(folder: Path) -> dict[str, str]:
    path = folder / INDEX_FILE
    if not path.exists():
        return {}
    try:
        index = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        pairs = {str(tensor): Path(name) for tensor, name in index.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not an index of shards ({type(error).__name__}: {error}); download it again"
        ) from error
    for name in pairs.values():
        if name.name != str(name) or name.suffix != ".safetensors":
            raise CheckpointError(
                f"{path} names {str(name)!r}; needed: safetensors files of the same folder"
            )
    if not pairs:
        raise CheckpointError(f"{path} lists no tensor; download it again")
    return {tensor: str(name) for tensor, name in pairs.items()}


def _only_file(folder: Path) -> str:
    if (folder / _SINGLE_FILE).is_file():
        return _SINGLE_FILE
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files[0].name
    if files:
        raise CheckpointError(
            f"{folder} holds {len(files)} safetensors files but no {INDEX_FILE}; "
            "download the index too"
        )
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"{folder} holds only pickled weights ({pickles[0]}); unpickling can run any code, so "
            "they are never read; get the safetensors files of the checkpoint"
        )
    raise CheckpointError(f"{folder} holds no safetensors file; pass a checkpoint folder")


def write_folder(
    folder: Path,
    specs: Mapping[str, Tensor],
    read: Callable[[str], Tensor],
    files: Mapping[str, str | Path],
    *,
    max_shard_size: str | int = "5GB",
) -> None:
    """Write tensors and text files so that the folder is never half a checkpoint.

    Everything is written under a temporary name inside the folder first. Then the old config.json
    goes, the files move in, and the new config.json comes last: a process killed at any time leaves
    the old checkpoint, the new one, or a folder that no software takes for a checkpoint. Other
    files of the folder stay.

    Args:
        folder: made if absent.
        specs: name to a tensor on the meta device that has the shape and dtype to write.
        read: gives the tensor of a name; called once a name, a shard at a time.
        files: name of any other file, ``config.json`` among them, to its text or to the file to
            copy.
        max_shard_size: most bytes a shard, for example ``"5GB"``.

    Raises:
        CheckpointError: if the shard size is not understood or the disk does not take the files.
    """
    try:
        split = split_torch_state_dict_into_shards(dict(specs), max_shard_size=max_shard_size)
    except ValueError as error:
        raise CheckpointError(f"max_shard_size is {max_shard_size!r}: {error}") from error
    with _partial_folder(folder) as partial:
        for file, names in split.filename_to_tensors.items():
            shard = {name: read(name).detach().cpu().contiguous() for name in names}
            save_file(shard, partial / file, metadata={"format": "pt"})
            flush(partial / file)
            del shard  # before the next one is read
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            _write_text(partial / INDEX_FILE, json.dumps(index, indent=2, sort_keys=True) + "\n")
        for file, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, partial / file)
            else:
                _write_text(partial / file, content)
        _publish(partial, folder)


@contextmanager
def _partial_folder(folder: Path) -> Iterator[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(f"{_PARTIAL}*"):  # of a process that was killed
            shutil.rmtree(left_over)
        partial = folder / f"{_PARTIAL}{os.getpid()}"
        partial.mkdir()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write the checkpoint to {folder}: {error}") from error


def _publish(partial: Path, folder: Path) -> None:
    (folder / "config.json").unlink(missing_ok=True)
    for old in [*folder.glob("model*.safetensors"), folder / INDEX_FILE]:
        old.unlink(missing_ok=True)
    for path in sorted(partial.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(folder / path.name)
    flush(folder)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    flush(path)
