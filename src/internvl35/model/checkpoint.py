"""A checkpoint on disk: what its files hold, and whether that fits the network of its config.

Every check reads headers only and comes before the first tensor. Tensor names are left to
:mod:`internvl35.model.names`, files to :mod:`internvl35.model.shards`, the network itself to
:mod:`internvl35.model.weights`. Paper section 2.1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from internvl35.errors import CheckpointError, ConfigError
from internvl35.model.composite import VisionLanguageModel, make_flash_parts
from internvl35.model.configuration import InternVLChatConfig, Layout, read_config
from internvl35.model.layouts import fields_of
from internvl35.model.names import (
    EMBEDDING,
    HEAD,
    LANGUAGE_PREFIX,
    Piece,
    Place,
    Shape,
    canonical_name,
    group_pieces,
    is_flash_name,
    is_recomputed,
    places,
    split_parameters,
    stored_shape,
)
from internvl35.model.part_files import Part, read_whole
from internvl35.model.shards import Shards, TensorInfo

_QUANTISED = (".qweight", ".qzeros", ".scales", "_blocks", "_scales", ".weight_scale", ".SCB")


def parameter_shapes(config: InternVLChatConfig) -> dict[str, Shape]:
    """Shapes of all weights of a network, without allocating any.

    Args:
        config: the network.

    Returns:
        Name in memory to shape; a tied output head is not listed.
    """
    with torch.device("meta"):
        model = VisionLanguageModel(copy.deepcopy(config))
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def expected_keys(config: InternVLChatConfig, layout: Layout) -> dict[str, Shape]:
    """Tensors that the files of a checkpoint hold, without allocating any.

    Args:
        config: the network.
        layout: the layout of the files.

    Returns:
        Name in the file to shape: 745 of them for 8B in ``remote-code``, 841 in ``hf``.

    Raises:
        CheckpointError: if the layout has no name for a weight.
    """
    pieces = split_parameters(parameter_shapes(config), is_split=has_split_experts(config))
    return {name: stored_shape(group) for name, group in group_pieces(pieces, layout).items()}


def _flash_shapes(config: InternVLChatConfig) -> dict[str, Shape]:
    with torch.device("meta"):
        compressed_projector, router = make_flash_parts(config)
    parts = {"compressed_projector": compressed_projector, "router": router}
    return {
        f"{part}.{name}": tuple(parameter.shape)
        for part, module in parts.items()
        for name, parameter in module.named_parameters()
    }


def has_split_experts(config: InternVLChatConfig) -> bool:
    """Whether files hold one tensor an expert where memory holds one for all (Qwen3-MoE)."""
    return bool(config.text_config.model_type == "qwen3_moe")


class Checkpoint:
    """A folder whose weights fit the network that its config.json describes.

    Args:
        folder: the checkpoint.
        config: taken instead of the folder's config.json; then ``layout`` is needed too.
        layout: the layout of the files.
        part: the one that the folder holds of a checkpoint that was split; None for all.

    Raises:
        CheckpointError: if the folder, its config.json or a shard cannot be read, or a weight is
            missing, unexpected or of another shape.
    """

    def __init__(
        self,
        folder: Path,
        config: InternVLChatConfig | None = None,
        layout: Layout | None = None,
        *,
        part: Part | None = None,
    ) -> None:
        """Read config and headers and compare them; no tensor is read."""
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a folder; pass a checkpoint folder")
        if part == "language" and (whole := read_whole(folder)) is not None:
            config, layout = config or InternVLChatConfig(**fields_of(whole.config, "hf")), "hf"
        if config is None or layout is None:
            try:
                found_config, found_layout = read_config(folder)
            except ConfigError as error:
                raise CheckpointError(str(error)) from error
            config, layout = config or found_config, layout or found_layout
        self.folder = folder
        self.config = config
        self.layout = layout
        self._part = part
        self.shards = Shards(folder)
        self._raw_names = self._canonical_names()
        parameters = {
            name: shape
            for name, shape in parameter_shapes(config).items()
            if part is None or name.startswith(LANGUAGE_PREFIX) == (part == "language")
        }
        self.pieces: list[Piece] = split_parameters(
            parameters, is_split=has_split_experts(config), kept_fused=self._raw_names
        )
        """What the network is made of, in the order of its parameters."""
        self.parameters = parameters
        has_flash_names = any(map(is_flash_name, self._raw_names))
        self.unused_pieces: list[Piece] = []
        """Router and compressed projector, where files hold them but config.json says no Flash."""
        if has_flash_names and not config.flash_mode:
            self.unused_pieces = split_parameters(_flash_shapes(config), is_split=False)
        groups = group_pieces([*self.pieces, *self.unused_pieces], layout)
        self._places: dict[str, Place] = places(groups)
        self._check({name: stored_shape(group) for name, group in groups.items()})

    def _canonical_names(self) -> dict[str, str]:
        names: dict[str, str] = {}
        for raw in self.shards.tensors:
            if is_recomputed(raw):
                continue
            name = (
                f"{LANGUAGE_PREFIX}{raw}"
                if self._part == "language"
                else (canonical_name(raw, self.layout))
            )
            if name in names:
                raise CheckpointError(
                    f"{self.folder} holds {name} twice, as {names[name]} and as {raw}; needed: once"
                )
            names[name] = raw
        return names

    def _check(self, expected: Mapping[str, Shape]) -> None:
        found = {name: self.shards.tensors[raw] for name, raw in self._raw_names.items()}
        allowed = {HEAD} if self.config.tie_word_embeddings else set()
        missing = [name for name in expected if name not in found]
        unexpected = [name for name in found if name not in expected and name not in allowed]
        if missing:
            raise CheckpointError(self._describe_missing(missing, expected, unexpected))
        if unexpected:
            raise CheckpointError(self._describe_unexpected(unexpected, found))
        shapes = dict(expected)
        if HEAD in allowed and EMBEDDING in expected:
            shapes.setdefault(HEAD, expected[EMBEDDING])
        for name, shape in shapes.items():
            if name in found and found[name].shape != shape:
                raise CheckpointError(
                    f"{self.folder}: weight {name} has shape {list(found[name].shape)}; "
                    f"config.json asks for {list(shape)}; get the config.json that belongs to "
                    "these weights"
                )

    def _describe_missing(
        self, missing: list[str], expected: Mapping[str, Shape], unexpected: list[str]
    ) -> str:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        if is_flash_name(missing[0]) and all(map(is_flash_name, missing)):
            return (
                f"{self.folder}: config.json sets flash_mode, but weight {missing[0]} of the "
                f"visual resolution router is missing{more}; get the Flash checkpoint, or set "
                "flash_mode to false to run without the router"
            )
        text = (
            f"{self.folder}: weight {missing[0]} of shape {list(expected[missing[0]])} is missing"
            f"{more}, found {len(self.shards.tensors)} tensors, needed {len(expected)}"
        )
        if missing == [HEAD]:
            return f"{text}; if the output head is the embedding, set tie_word_embeddings to true"
        if unexpected:
            return f"{text}; found instead {unexpected[0]}; " + _advice(unexpected)
        return f"{text}; download the checkpoint again"

    def _describe_unexpected(self, unexpected: list[str], found: Mapping[str, TensorInfo]) -> str:
        more = f" (and {len(unexpected) - 1} more)" if len(unexpected) > 1 else ""
        shape = list(found[unexpected[0]].shape)
        return (
            f"{self.folder}: weight {unexpected[0]} of shape {shape} is unexpected{more}, the "
            f"network that config.json describes has no such weight; {_advice(unexpected)}"
        )

    def has_piece(self, name: str) -> bool:
        """Whether the files keep a piece apart, so that :meth:`read` can map it alone."""
        return name in self._places or name in self._raw_names

    def read(self, piece: str) -> Tensor:
        """Map a piece into memory.

        Args:
            piece: name of one of ``pieces`` or ``unused_pieces``, or of a tied head in the files.

        Returns:
            The tensor on the CPU, a view of the file; writing to it never reaches the file.
        """
        place = self._places.get(piece, Place(piece))
        tensor = self.shards.read(self._raw_names[place.stored])
        return tensor[place.index] if place.index else tensor

    def has_own_head(self) -> bool:
        """Whether the files hold an output head that differs from a supposedly tied embedding."""
        if not self.config.tie_word_embeddings or HEAD not in self._raw_names:
            return False
        return not torch.equal(self.read(HEAD), self.read(EMBEDDING))

    def dtype(self) -> torch.dtype:
        """Element type of the weights: what config.json says, else that of the embedding."""
        declared = self.config.dtype
        if isinstance(declared, str):
            declared = getattr(torch, declared, None)
        return declared if isinstance(declared, torch.dtype) else self.read(EMBEDDING).dtype


def _advice(unexpected: list[str]) -> str:
    if any(name.endswith(_QUANTISED) for name in unexpected):
        return "quantised files are not read; get the checkpoint in 16 bits"
    return "get the config.json that belongs to these weights"


def load_state_dict(
    folder: str | PathLike[str],
    config: InternVLChatConfig | None = None,
    layout: Layout | None = None,
) -> dict[str, Tensor]:
    """Read the weights of a checkpoint under their names in memory.

    Args:
        folder: the checkpoint.
        config: taken instead of the folder's config.json; then ``layout`` is needed too.
        layout: the layout of the files.

    Returns:
        Name in memory to tensor. Tensors are views of the memory-mapped files; only experts that
        the files hold one by one are copied, to be put together.

    Raises:
        CheckpointError: as :class:`Checkpoint`.
    """
    checkpoint = Checkpoint(Path(folder), config, layout)
    state: dict[str, Tensor] = {}
    for piece in checkpoint.pieces:
        tensor = checkpoint.read(piece.name)
        if not piece.index:
            state[piece.parameter] = tensor
            continue
        if piece.parameter not in state:
            shape = checkpoint.parameters[piece.parameter]
            state[piece.parameter] = torch.empty(shape, dtype=tensor.dtype)
        state[piece.parameter][piece.index].copy_(tensor)
    return state
