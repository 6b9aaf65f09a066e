from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from released_flash import FLASH_HF_NAMES, FLASH_NAMES

from internvl35.errors import CheckpointError
from internvl35.model.names import (
    Piece,
    canonical_name,
    group_pieces,
    is_flash_name,
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


@pytest.mark.parametrize(
    ("piece", "remote", "native"),
    [
        ("compressed_projector.layer_norm.bias", "mlp2.0.bias", "mlp2.norm.bias"),
        ("compressed_projector.linear_1.weight", "mlp2.1.weight", "mlp2.dense1.weight"),
        ("compressed_projector.linear_2.weight", "mlp2.4.weight", "mlp2.dense2.weight"),
        ("compressed_projector.linear_3.bias", "mlp2.7.bias", "mlp2.dense3.bias"),
        ("router.pooling.query_token", *["pooling_before_gating.query_token"] * 2),
        (
            "router.pooling.attentions.0.value.weight",
            "pooling_before_gating.attn1.in_proj_weight",
            "pooling_before_gating.attn1.value.weight",
        ),
        (
            "router.pooling.attentions.3.key.bias",
            "pooling_before_gating.attn4.in_proj_bias",
            "pooling_before_gating.attn4.key.bias",
        ),
        (
            "router.pooling.attentions.1.out_proj.bias",
            *["pooling_before_gating.attn2.out_proj.bias"] * 2,
        ),
        ("router.pooling.norms.2.weight", *["pooling_before_gating.norm3.weight"] * 2),
        (
            "router.gating.blocks.0.dense_in.weight",
            "gating.block1.0.weight",
            "gating.block1.dense_in.weight",
        ),
        (
            "router.gating.blocks.3.dense_out.bias",
            "gating.block4.3.bias",
            "gating.block4.dense_out.bias",
        ),
        ("router.gating.blocks.1.norm.bias", "gating.block2.5.bias", "gating.block2.norm.bias"),
        ("router.gating.gate_norm.weight", "gating.gate.0.weight", "gating.gate_norm.weight"),
        ("router.gating.gate_proj.bias", "gating.gate.1.bias", "gating.gate_proj.bias"),
    ],
)
def test_what_flash_models_have_on_top_is_named_as_in_release_and_request(
    piece: str, remote: str, native: str
) -> None:
    assert stored_name(piece, "remote-code") == remote
    assert stored_name(piece, "hf") == native
    assert is_flash_name(remote)
    assert is_flash_name(native)
    assert not is_flash_name(piece)


def test_flash_names_are_read_with_the_prefix_of_run_time_too() -> None:
    for name in FLASH_HF_NAMES:
        assert canonical_name(f"model.{name}", "hf") == canonical_name(name, "hf") == name
    for name in FLASH_NAMES:
        assert canonical_name(name, "remote-code") == name


def test_query_key_and_value_of_the_router_are_fused_in_this_order() -> None:
    step = "router.pooling.attentions.2"
    pieces = [Piece(f"{step}.{part}.bias", (4,), part) for part in ("value", "query", "key")]
    groups = group_pieces(pieces, "remote-code")
    (name,) = groups
    assert name == "pooling_before_gating.attn3.in_proj_bias"
    assert [piece.parameter for piece in groups[name]] == ["query", "key", "value"]
    assert stored_shape(groups[name]) == (12,)
    assert len(group_pieces(pieces, "hf")) == 3


def test_buffers_that_the_network_computes_are_known() -> None:
    assert is_recomputed("language_model.model.rotary_emb.inv_freq")
    assert is_recomputed("vision_model.embeddings.position_ids")
    assert not is_recomputed("vision_model.embeddings.position_embedding")
