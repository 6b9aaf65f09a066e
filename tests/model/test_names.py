from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl35.errors import CheckpointError
from internvl35.model.names import (
    ROUTER_NAMES,
    Piece,
    canonical_name,
    group_pieces,
    is_recomputed,
    places,
    split_parameters,
    stored_name,
    stored_shape,
)

BLOCK = "vision_tower.encoder.layer.7"
REMOTE_BLOCK = "vision_model.encoder.layers.7"


@pytest.mark.parametrize(
    ("piece", "stored"),
    [
        ("vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
        (
            "vision_tower.embeddings.position_embeddings",
            "vision_model.embeddings.position_embedding",
        ),
        (
            "vision_tower.embeddings.patch_embeddings.projection.bias",
            "vision_model.embeddings.patch_embedding.bias",
        ),
        (f"{BLOCK}.attention.q_proj.weight", f"{REMOTE_BLOCK}.attn.qkv.weight"),
        (f"{BLOCK}.attention.v_proj.bias", f"{REMOTE_BLOCK}.attn.qkv.bias"),
        (f"{BLOCK}.attention.projection_layer.weight", f"{REMOTE_BLOCK}.attn.proj.weight"),
        (f"{BLOCK}.attention.q_norm.weight", f"{REMOTE_BLOCK}.attn.q_norm.weight"),
        (f"{BLOCK}.attention.k_norm.weight", f"{REMOTE_BLOCK}.attn.k_norm.weight"),
        (f"{BLOCK}.layernorm_before.weight", f"{REMOTE_BLOCK}.norm1.weight"),
        (f"{BLOCK}.layernorm_after.bias", f"{REMOTE_BLOCK}.norm2.bias"),
        (f"{BLOCK}.lambda_1", f"{REMOTE_BLOCK}.ls1"),
        (f"{BLOCK}.lambda_2", f"{REMOTE_BLOCK}.ls2"),
        (f"{BLOCK}.mlp.fc1.weight", f"{REMOTE_BLOCK}.mlp.fc1.weight"),
        ("multi_modal_projector.layer_norm.weight", "mlp1.0.weight"),
        ("multi_modal_projector.linear_1.bias", "mlp1.1.bias"),
        ("multi_modal_projector.linear_2.weight", "mlp1.3.weight"),
        ("language_model.model.norm.weight", "language_model.model.norm.weight"),
        ("language_model.lm_head.weight", "language_model.lm_head.weight"),
    ],
)
def test_a_piece_has_the_released_name_in_the_remote_code_layout(piece: str, stored: str) -> None:
    assert stored_name(piece, "remote-code") == stored
    assert stored_name(piece, "hf") == piece


def test_a_weight_without_a_released_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"vision_tower\.layernorm\.weight has no name"):
        stored_name("vision_tower.layernorm.weight", "remote-code")


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("model.vision_tower.embeddings.cls_token", "vision_tower.embeddings.cls_token"),
        ("model.multi_modal_projector.linear_1.bias", "multi_modal_projector.linear_1.bias"),
        ("model.language_model.norm.weight", "language_model.model.norm.weight"),
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("language_model.model.norm.weight", "language_model.model.norm.weight"),
    ],
)
def test_run_time_prefixes_are_undone_in_the_native_layout_only(raw: str, name: str) -> None:
    assert canonical_name(raw, "hf") == name
    assert canonical_name(raw, "remote-code") == raw


def test_query_key_and_value_lie_below_each_other_whatever_their_order_in_memory() -> None:
    pieces = [
        Piece(f"{BLOCK}.attention.{letter}_proj.weight", (4, 4), f"{letter}") for letter in "vqk"
    ]
    groups = group_pieces(pieces, "remote-code")
    assert list(groups) == [f"{REMOTE_BLOCK}.attn.qkv.weight"]
    assert [p.parameter for p in groups[f"{REMOTE_BLOCK}.attn.qkv.weight"]] == ["q", "k", "v"]
    assert stored_shape(groups[f"{REMOTE_BLOCK}.attn.qkv.weight"]) == (12, 4)
    where = places(groups)
    assert where[f"{BLOCK}.attention.k_proj.weight"].index == (slice(4, 8),)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_the_pieces_of_fused_experts_cover_each_element_once(
    experts: int, half: int, width: int
) -> None:
    prefix = "language_model.model.layers.0.mlp.experts"
    shapes = {
        f"{prefix}.gate_up_proj": (experts, 2 * half, width),
        f"{prefix}.down_proj": (experts, width, half),
    }
    pieces = split_parameters(shapes, is_split=True)
    assert len({piece.name for piece in pieces}) == 3 * experts
    covered: list[tuple[str, int, int]] = []
    for piece in pieces:
        rows = piece.index[1] if len(piece.index) > 1 else slice(0, width)
        assert isinstance(piece.index[0], int)
        assert isinstance(rows, slice)
        assert piece.shape[0] == rows.stop - rows.start
        covered += [(piece.parameter, piece.index[0], r) for r in range(rows.start, rows.stop)]
    assert len(covered) == len(set(covered)) == experts * (2 * half + width)


def test_experts_stay_fused_where_the_family_or_the_file_keeps_them_so() -> None:
    name = "language_model.model.layers.0.mlp.experts.gate_up_proj"
    assert [p.name for p in split_parameters({name: (2, 4, 3)}, is_split=False)] == [name]
    kept = split_parameters({name: (2, 4, 3)}, is_split=True, kept_fused={name})
    assert [p.name for p in kept] == [name]


def test_the_router_has_61_tensors() -> None:
    assert len(ROUTER_NAMES) == 61
    counts = dict.fromkeys(("mlp2", "pooling_before_gating", "gating"), 0)
    for name in ROUTER_NAMES:
        counts[name.split(".", 1)[0]] += 1
    assert counts == {"mlp2": 8, "pooling_before_gating": 25, "gating": 28}


def test_buffers_that_the_network_computes_are_known() -> None:
    assert is_recomputed("language_model.model.rotary_emb.inv_freq")
    assert is_recomputed("vision_model.embeddings.position_ids")
    assert not is_recomputed("vision_model.embeddings.position_embedding")
