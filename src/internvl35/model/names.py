"""Names that released files give to tensors, and how they map to the network in memory.

Three forms exist. In memory: the names of :class:`~internvl35.model.composite.VisionLanguageModel`,
with the experts of Qwen3-MoE fused into two tensors a layer. Layout ``hf`` on disk: the same names,
one tensor an expert, and others for what Flash models have on top. Layout ``remote-code`` on disk:
the released code's names, with query, key and value of tower and router fused. The common measure
is the *piece*, the smallest tensor that any of them stores on its own. Pure functions of names and
shapes; reading and writing files is left to :mod:`internvl35.model.shards`. Paper section 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from internvl35.errors import CheckpointError
from internvl35.model.configuration import Layout

Shape = tuple[int, ...]
Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Piece:
    """The smallest tensor that any layout stores on its own."""

    name: str
    """Name in memory, of an expert's tensor that in layout ``hf``."""
    shape: Shape
    """Its shape."""
    parameter: str
    """Name of the parameter in memory that it is, or is part of."""
    index: Index = ()
    """Where it lies in that parameter; empty for all of it."""


@dataclass(frozen=True)
class Place:
    """Where a file keeps a piece."""

    stored: str
    """Name of the tensor in the file."""
    index: Index = ()
    """Where the piece lies in that tensor; empty for all of it."""


_TOWER_BLOCK = r"^vision_tower\.encoder\.layer\.(\d+)\."
_REMOTE_BLOCK = r"vision_model.encoder.layers.\1."

_TO_REMOTE_CODE: tuple[tuple[str, str], ...] = (
    (r"^language_model\.(?=model\.|lm_head\.weight$)", "language_model."),
    (r"^vision_tower\.embeddings\.cls_token$", "vision_model.embeddings.class_embedding"),
    (
        r"^vision_tower\.embeddings\.position_embeddings$",
        "vision_model.embeddings.position_embedding",
    ),
    (
        r"^vision_tower\.embeddings\.patch_embeddings\.projection\.",
        "vision_model.embeddings.patch_embedding.",
    ),
    (_TOWER_BLOCK + r"attention\.[qkv]_proj\.", _REMOTE_BLOCK + "attn.qkv."),
    (_TOWER_BLOCK + r"attention\.projection_layer\.", _REMOTE_BLOCK + "attn.proj."),
    (_TOWER_BLOCK + r"attention\.([qk])_norm\.", _REMOTE_BLOCK + r"attn.\2_norm."),
    (_TOWER_BLOCK + r"layernorm_before\.", _REMOTE_BLOCK + "norm1."),
    (_TOWER_BLOCK + r"layernorm_after\.", _REMOTE_BLOCK + "norm2."),
    (_TOWER_BLOCK + r"mlp\.fc([12])\.", _REMOTE_BLOCK + r"mlp.fc\2."),
    (_TOWER_BLOCK + r"lambda_([12])$", _REMOTE_BLOCK + r"ls\2"),
    (r"^multi_modal_projector\.layer_norm\.", "mlp1.0."),
    (r"^multi_modal_projector\.linear_1\.", "mlp1.1."),
    (r"^multi_modal_projector\.linear_2\.", "mlp1.3."),
)


def _for_each_step(*renames: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    # the router's attentions, norms and blocks count from 0 in memory and from 1 in files
    return tuple(
        (rf"^router\.{pattern}".replace("INDEX", str(step)), stored.replace("N", str(step + 1)))
        for step in range(4)
        for pattern, stored in renames
    )


_FLASH_TO_REMOTE_CODE: tuple[tuple[str, str], ...] = (
    (r"^compressed_projector\.layer_norm\.", "mlp2.0."),
    (r"^compressed_projector\.linear_1\.", "mlp2.1."),
    (r"^compressed_projector\.linear_2\.", "mlp2.4."),
    (r"^compressed_projector\.linear_3\.", "mlp2.7."),
    (r"^router\.pooling\.query_token$", "pooling_before_gating.query_token"),
    (r"^router\.gating\.gate_norm\.", "gating.gate.0."),
    (r"^router\.gating\.gate_proj\.", "gating.gate.1."),
    *_for_each_step(
        (
            r"pooling\.attentions\.INDEX\.(?:query|key|value)\.",
            "pooling_before_gating.attnN.in_proj_",
        ),
        (r"pooling\.attentions\.INDEX\.out_proj\.", "pooling_before_gating.attnN.out_proj."),
        (r"pooling\.norms\.INDEX\.", "pooling_before_gating.normN."),
        (r"gating\.blocks\.INDEX\.dense_in\.", "gating.blockN.0."),
        (r"gating\.blocks\.INDEX\.dense_out\.", "gating.blockN.3."),
        (r"gating\.blocks\.INDEX\.norm\.", "gating.blockN.5."),
    ),
)

# The open request to transformers (model type internvl_flash) renames the modules so. Its converter
# puts "model." in front, which is how transformers names modules at run time; released files of
# layout hf go without, and no released file of a Flash model in this layout was seen. So they are
# written without, and read with and without.
_FLASH_TO_HF: tuple[tuple[str, str], ...] = (
    (r"^compressed_projector\.layer_norm\.", "mlp2.norm."),
    (r"^compressed_projector\.linear_([123])\.", r"mlp2.dense\1."),
    (r"^router\.pooling\.query_token$", "pooling_before_gating.query_token"),
    (r"^router\.gating\.gate_(norm|proj)\.", r"gating.gate_\1."),
    *_for_each_step(
        (r"pooling\.attentions\.INDEX\.", "pooling_before_gating.attnN."),
        (r"pooling\.norms\.INDEX\.", "pooling_before_gating.normN."),
        (r"gating\.blocks\.INDEX\.", "gating.blockN."),
    ),
)

_RENAMES: dict[Layout, tuple[tuple[re.Pattern[str], str], ...]] = {
    "hf": tuple((re.compile(old), new) for old, new in _FLASH_TO_HF),
    "remote-code": tuple(
        (re.compile(old), new) for old, new in (*_TO_REMOTE_CODE, *_FLASH_TO_REMOTE_CODE)
    ),
}

_FLASH_MODULES = ("mlp2.", "pooling_before_gating.", "gating.")

_RUN_TIME_PREFIXES = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
    *((f"model.{module}", module) for module in _FLASH_MODULES),
)

_FUSED_EXPERTS = re.compile(r"^(.+\.mlp\.experts)\.(gate_up_proj|down_proj)$")
_RECOMPUTED_BUFFERS = re.compile(r"(^|\.)(rotary_emb\.(original_)?inv_freq|position_ids)$")

LANGUAGE_PREFIX = "language_model."
"""Of the names of what speaks; all others belong to what sees."""

HEAD = "language_model.lm_head.weight"
"""The output head, under the one name that memory and both layouts share."""

EMBEDDING = "language_model.model.embed_tokens.weight"
"""The token embedding, which a tied output head shares."""


def split_parameters(
    parameters: Mapping[str, Shape], *, is_split: bool, kept_fused: Collection[str] = ()
) -> list[Piece]:
    """Cut parameters into the pieces that files hold.

    Args:
        parameters: name in memory to shape.
        is_split: whether files hold one tensor an expert (Qwen3-MoE does, GPT-OSS does not).
        kept_fused: names of fused expert tensors that this file nevertheless holds whole.

    Returns:
        The pieces in the order of the parameters, experts counting up.
    """
    pieces: list[Piece] = []
    for name, shape in parameters.items():
        experts = _FUSED_EXPERTS.match(name) if is_split and name not in kept_fused else None
        if experts is None:
            pieces.append(Piece(name, shape, name))
        elif experts[2] == "down_proj":
            count, *rest = shape
            pieces += [
                Piece(f"{experts[1]}.{e}.down_proj.weight", tuple(rest), name, (e,))
                for e in range(count)
            ]
        else:
            count, rows, width = shape
            half = rows // 2
            for e in range(count):
                gate, up = f"{experts[1]}.{e}.gate_proj.weight", f"{experts[1]}.{e}.up_proj.weight"
                pieces.append(Piece(gate, (half, width), name, (e, slice(0, half))))
                pieces.append(Piece(up, (half, width), name, (e, slice(half, rows))))
    return pieces


def stored_name(piece: str, layout: Layout) -> str:
    """Name of the tensor in which a layout keeps a piece.

    Args:
        piece: a piece's name.
        layout: the layout of the file.

    Returns:
        The tensor's name; query, key and value of an attention share one in ``remote-code``, but
        for those of the language model.

    Raises:
        CheckpointError: if the layout has no place for the piece.
    """
    for pattern, replacement in _RENAMES[layout]:
        stored, count = pattern.subn(replacement, piece)
        if count:
            return stored
    if layout == "hf":
        return piece
    raise CheckpointError(f"weight {piece} has no name in the remote-code layout; use layout 'hf'")


def group_pieces(pieces: Iterable[Piece], layout: Layout) -> dict[str, list[Piece]]:
    """List what each tensor of a file is made of.

    Args:
        pieces: all pieces of a network.
        layout: the layout of the file.

    Returns:
        Stored name to its pieces, which lie one below the other along the first dimension.
    """
    groups: dict[str, list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(stored_name(piece.name, layout), []).append(piece)
    for group in groups.values():
        if len(group) > 1:  # files hold q, k, v in this order, whatever the order in memory
            group.sort(key=lambda piece: "qkv".index(piece.name.rsplit(".", 2)[1][0]))
    return groups


def stored_shape(group: list[Piece]) -> Shape:
    """Shape of the tensor that holds a group of pieces."""
    first = group[0].shape
    return first if len(group) == 1 else (sum(piece.shape[0] for piece in group), *first[1:])


def places(groups: Mapping[str, list[Piece]]) -> dict[str, Place]:
    """Say for each piece where a file keeps it.

    Args:
        groups: from :func:`group_pieces`.

    Returns:
        Name of the piece to its place.
    """
    found: dict[str, Place] = {}
    for stored, group in groups.items():
        row = 0
        for piece in group:
            end = row + piece.shape[0] if piece.shape else 0
            found[piece.name] = Place(stored, () if len(group) == 1 else (slice(row, end),))
            row = end
    return found


def canonical_name(name: str, layout: Layout) -> str:
    """Undo the prefixes that transformers gives tensors at run time, which some files keep.

    Args:
        name: a tensor's name in a file.
        layout: the layout of the file.

    Returns:
        The name that the layout gives it.
    """
    if layout == "hf":
        for prefix, released in _RUN_TIME_PREFIXES:
            if name.startswith(prefix):
                return released + name[len(prefix) :]
    return name


def is_recomputed(name: str) -> bool:
    """Whether a tensor is a buffer that the network computes itself, so files need not hold it."""
    return _RECOMPUTED_BUFFERS.search(name) is not None


def is_flash_name(name: str) -> bool:
    """Whether a tensor belongs to what a Flash model has on top, by its name in a file."""
    return name.startswith(_FLASH_MODULES)


def is_fused_experts(name: str) -> bool:
    """Whether a tensor holds all experts of a layer."""
    return _FUSED_EXPERTS.match(name) is not None
