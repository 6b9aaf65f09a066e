"""From one released layout to the other, shard by shard.

At no time is more in memory than one shard of the target. What names mean is left to
:mod:`internvl35.model.names`. Nothing is lost on the way: the 6B tower's query and key norms are
kept, which the released conversion script drops.
"""

from __future__ import annotations

import copy
import fnmatch
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from internvl35.model.checkpoint import Checkpoint, has_split_experts
from internvl35.model.configuration import Layout
from internvl35.model.hub import DATA_FILES
from internvl35.model.names import HEAD, Piece, group_pieces, split_parameters, stored_shape
from internvl35.model.processor_files import processor_files
from internvl35.model.shards import write_folder
from internvl35.model.weights import config_text


def convert_checkpoint(
    source: str | PathLike[str],
    target: str | PathLike[str],
    layout: Layout,
    *,
    max_shard_size: str | int = "5GB",
) -> None:
    """Write a checkpoint in a layout, whichever layout it is in.

    Tokenizer and other data files are copied along; code and pickles are not. Router and compressed
    projector of a Flash checkpoint come along, whether its config.json switches them on or not.

    Args:
        source: folder to read.
        target: folder to write; the same folder is converted in place.
        layout: the layout to write.
        max_shard_size: most bytes a shard, for example ``"5GB"``.

    Raises:
        CheckpointError: if the source cannot be read or does not fit its config, or the target
            cannot be written.
    """
    checkpoint = Checkpoint(Path(source))
    config = copy.deepcopy(checkpoint.config)
    pieces = [*pieces_to_write(checkpoint), *checkpoint.unused_pieces]
    if checkpoint.has_own_head():
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    groups = group_pieces(pieces, layout)

    def read(name: str) -> Tensor:
        parts = [read_piece(checkpoint, piece) for piece in groups[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    specs = {
        name: torch.empty(
            stored_shape(group), dtype=read_piece(checkpoint, group[0]).dtype, device="meta"
        )
        for name, group in groups.items()
    }
    files: dict[str, str | Path] = files_to_copy(checkpoint.folder)
    for name, text in processor_files(config, layout).items():
        if name not in files or not _suits(checkpoint.folder / name, layout):
            files[name] = text
    files["config.json"] = config_text(config, layout, checkpoint.dtype())
    write_folder(Path(target), specs, read, files, max_shard_size=max_shard_size)


def pieces_to_write(checkpoint: Checkpoint) -> list[Piece]:
    """List what a copy of a checkpoint has to hold.

    Args:
        checkpoint: the checkpoint.

    Returns:
        Its pieces, an output head among them where it differs from a supposedly tied embedding.
    """
    is_split = has_split_experts(checkpoint.config)
    pieces = split_parameters(checkpoint.parameters, is_split=is_split)
    if checkpoint.has_own_head():
        head = tuple(checkpoint.read(HEAD).shape)
        pieces.append(Piece(HEAD, head, HEAD))
    return pieces


def read_piece(checkpoint: Checkpoint, piece: Piece) -> Tensor:
    """Map a piece into memory, whether the files keep it apart or in a larger tensor.

    Args:
        checkpoint: the checkpoint.
        piece: one of :func:`pieces_to_write`.

    Returns:
        The tensor on the CPU.
    """
    if checkpoint.has_piece(piece.name):
        return checkpoint.read(piece.name)
    return checkpoint.read(piece.parameter)[piece.index]  # the source keeps these experts fused


def files_to_copy(folder: Path) -> dict[str, str | Path]:
    """Find the data files of a checkpoint beside its weights: tokenizer, configs, licence.

    Args:
        folder: the checkpoint.

    Returns:
        Name to file; no code and no pickles.
    """
    return {
        path.name: path
        for path in folder.iterdir()
        if path.is_file()
        and any(fnmatch.fnmatch(path.name, pattern) for pattern in (*DATA_FILES, "LICENSE*"))
        and not path.name.endswith((".safetensors", ".safetensors.index.json"))
    }


def _suits(path: Path, layout: Layout) -> bool:
    # released remote-code folders carry a CLIP preprocessor, which misleads software of layout hf
    is_clip = "CLIPFeatureExtractor" in path.read_text(encoding="utf-8", errors="replace")
    return is_clip == (layout == "remote-code" and path.name == "preprocessor_config.json")
