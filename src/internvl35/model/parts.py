"""The two halves of a checkpoint, each in a folder of its own: what sees, and what speaks.

``vision/`` holds tower and projector, and what a Flash model has on top; ``language/`` a plain
decoder that any software for language models reads. Each says what it was cut from. Serving the
halves apart is left to :mod:`internvl35.serve`.
Paper section 2.3, decoupled vision-language deployment.
"""

from __future__ import annotations

import fnmatch
import json
import logging
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from internvl35.errors import CheckpointError, ConfigError
from internvl35.model.checkpoint import Checkpoint
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import config_to_dict, read_config
from internvl35.model.conversion import files_to_copy, pieces_to_write, read_piece
from internvl35.model.names import LANGUAGE_PREFIX, Piece, stored_name
from internvl35.model.part_files import WHOLE_FILE, Part, Whole, digest_content
from internvl35.model.processor_files import processor_files
from internvl35.model.shards import Shards, write_folder
from internvl35.model.weights import config_text

logger = logging.getLogger(__name__)

_LANGUAGE_FILES = (
    "tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "added_tokens.json",
    "chat_template*", "generation_config.json", "*.tiktoken", "*.model", "LICENSE*",
)  # fmt: skip


def split_checkpoint(
    source: str | PathLike[str],
    target: str | PathLike[str],
    *,
    max_shard_size: str | int = "5GB",
) -> dict[Part, Path]:
    """Write what sees and what speaks of a checkpoint into two folders.

    Names of ``vision`` are those of layout ``hf``; ``language`` is what transformers writes for the
    decoder alone, tokenizer included. At no time is more than one file of weights in memory.

    Args:
        source: folder of a checkpoint of either layout.
        target: folder in which the two are made; each is written whole or not at all.
        max_shard_size: most bytes a file of weights, for example ``"5GB"``.

    Returns:
        Part to its folder.

    Raises:
        CheckpointError: if the source cannot be read or a folder cannot be written.
    """
    checkpoint = Checkpoint(Path(source))
    if checkpoint.unused_pieces:
        logger.warning(
            "%s: its visual resolution router is left out, config.json does not set flash_mode",
            checkpoint.folder,
        )
    pieces: dict[Part, dict[str, Piece]] = {"vision": {}, "language": {}}
    for piece in pieces_to_write(checkpoint):
        if piece.name.startswith(LANGUAGE_PREFIX):
            pieces["language"][piece.name.removeprefix(LANGUAGE_PREFIX)] = piece
        else:
            pieces["vision"][stored_name(piece.name, "hf")] = piece
    files: dict[Part, dict[str, str | Path]]
    files = {"vision": _vision_files(checkpoint), "language": _language_files(checkpoint)}
    content = digest_content(
        checkpoint.folder, {info.file for info in checkpoint.shards.tensors.values()}
    )
    config = json.loads(config_text(checkpoint.config, "hf", checkpoint.dtype()))
    for name, own in files.items():
        own[WHOLE_FILE] = Whole(name, content, config).as_text()
    folders: dict[Part, Path] = {}
    for part, named in pieces.items():
        folders[part] = Path(target) / part
        specs = {
            name: torch.empty_like(read_piece(checkpoint, piece), device="meta")
            for name, piece in named.items()
        }
        write_folder(
            folders[part],
            specs,
            lambda name, named=named: read_piece(checkpoint, named[name]),  # type: ignore[misc]
            files[part],
            max_shard_size=max_shard_size,
        )
    return folders


def _vision_files(checkpoint: Checkpoint) -> dict[str, str | Path]:
    config = json.loads(config_text(checkpoint.config, "hf", checkpoint.dtype()))
    config["architectures"] = ["InternVLVisionPart"]
    files: dict[str, str | Path] = dict(processor_files(checkpoint.config, "hf"))
    return files | {"config.json": _as_json(config)}


def _language_files(checkpoint: Checkpoint) -> dict[str, str | Path]:
    config = config_to_dict(checkpoint.config, "remote-code")["llm_config"]
    dtype = str(checkpoint.dtype()).removeprefix("torch.")
    is_tied = checkpoint.config.tie_word_embeddings and not checkpoint.has_own_head()
    config |= {"dtype": dtype, "torch_dtype": dtype, "tie_word_embeddings": is_tied}
    files = {
        name: path
        for name, path in files_to_copy(checkpoint.folder).items()
        if any(fnmatch.fnmatch(name, pattern) for pattern in _LANGUAGE_FILES)
    }
    return files | {"config.json": _as_json(config)}


def _as_json(fields: object) -> str:
    return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def load_vision_part(
    folder: str | PathLike[str], *, dtype: torch.dtype | None = None
) -> VisionLanguageModel:
    """Load what sees of a checkpoint, and nothing of what speaks.

    Args:
        folder: the folder ``vision`` that :func:`split_checkpoint` wrote, or a whole checkpoint of
            either layout, of which no other tensor is read.
        dtype: element type of the weights, by default that of the files.

    Returns:
        A network without a language model, in evaluation mode: ``encode_patches``, ``score_tiles``,
        ``project_tiles`` and ``get_image_features`` work, nothing else does.

    Raises:
        CheckpointError: if the folder is neither.
    """
    try:
        config, _ = read_config(Path(folder))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    with torch.device("meta"):
        model = VisionLanguageModel(config)
    del model.language_model
    names = [name for name, _ in model.named_parameters()]
    model.load_state_dict(_read_vision(Path(folder), names, model), assign=True)
    return (model if dtype is None else model.to(dtype)).eval().requires_grad_(False)


def _read_vision(folder: Path, names: list[str], model: VisionLanguageModel) -> dict[str, Tensor]:
    shards = Shards(folder)
    if any("language_model." in name or "lm_head." in name for name in shards.tensors):
        checkpoint = Checkpoint(folder)
        return {name: checkpoint.read(name) for name in names}
    in_memory = {stored_name(name, "hf"): name for name in names}
    shapes = {stored: model.get_parameter(name).shape for stored, name in in_memory.items()}
    for name in [*shapes, *shards.tensors]:
        found, needed = shards.tensors.get(name), shapes.get(name)
        if found is None or found.shape != needed:
            raise CheckpointError(
                f"{folder} does not hold tower and projector of its config.json: weight {name} has "
                f"shape {None if found is None else list(found.shape)}, needed "
                f"{None if needed is None else list(needed)}; pass the folder vision of a split "
                "checkpoint, or a whole one"
            )
    return {name: shards.read(stored) for stored, name in in_memory.items()}
