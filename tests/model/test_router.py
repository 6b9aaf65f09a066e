"""The router against NumPy, PyTorch's own attention, and the sizes of the released weights."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from internvl35.model.router import CrossAttentionPooling, Gating, QueryAttention, Router

Array = NDArray[np.float64]

WIDTH, HEADS = 12, 3


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Give every weight a value of its own: fresh norms are ones and zeros, which hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.7


def weights_of(module: nn.Module) -> dict[str, Array]:
    return {name: cast(Array, p.detach().numpy()) for name, p in module.named_parameters()}


def linear(weights: dict[str, Array], name: str, x: Array) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(weights: dict[str, Array], name: str, x: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return normed * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attend(weights: dict[str, Array], name: str, query: Array, patches: Array) -> Array:
    """One tile, head by head and patch by patch."""
    asked = linear(weights, f"{name}.query", query)
    keys = linear(weights, f"{name}.key", patches)
    values = linear(weights, f"{name}.value", patches)
    width = WIDTH // HEADS
    read = np.zeros(WIDTH)
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        strength = np.array([math.exp(asked[part] @ key[part] / math.sqrt(width)) for key in keys])
        strength /= strength.sum()
        for share, value in zip(strength, values, strict=True):
            read[part] += share * value[part]
    return linear(weights, f"{name}.out_proj", read)


def pool(weights: dict[str, Array], patches: Array, steps: tuple[int, ...]) -> Array:
    query = weights["query_token"][0]
    for step in steps:
        query = attend(weights, f"attentions.{step}", query, patches)
        query = layer_norm(weights, f"norms.{step}", query)
    return query


def gate(weights: dict[str, Array], pooled: Array) -> Array:
    for block in range(4):
        hidden = gelu(linear(weights, f"blocks.{block}.dense_in", pooled))
        changed = linear(weights, f"blocks.{block}.dense_out", hidden)
        pooled = pooled + layer_norm(weights, f"blocks.{block}.norm", changed)
    return linear(weights, "gate_proj", layer_norm(weights, "gate_norm", pooled))


def build_router(*, repeats_second_step: bool = False) -> Router:
    router = Router(WIDTH, HEADS, repeats_second_step=repeats_second_step).double().eval()
    randomise(router)
    return router


def make_patches(num_tiles: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(num_tiles, 4, 4, WIDTH, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("repeats_second_step", "steps"), [(True, (0, 1, 1, 1)), (False, (0, 1, 2, 3))]
)
def test_pooling_is_four_steps_of_attention_and_norm(
    repeats_second_step: bool, steps: tuple[int, ...]
) -> None:
    pooling = CrossAttentionPooling(WIDTH, HEADS, repeats_second_step=repeats_second_step).double()
    randomise(pooling)
    patches = make_patches(3).flatten(1, 2)
    found = pooling(patches).detach().numpy()
    expected = [pool(weights_of(pooling), tile, steps) for tile in patches.numpy()]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_released_pooling_leaves_its_third_and_fourth_weights_unused() -> None:
    for repeats_second_step in (True, False):
        pooling = CrossAttentionPooling(WIDTH, HEADS, repeats_second_step=repeats_second_step)
        randomise(pooling)
        pooling(torch.randn(2, 5, WIDTH)).square().sum().backward()
        used = {name for name, p in pooling.named_parameters() if p.grad is not None}
        unused = {name for name, _ in pooling.named_parameters()} - used
        assert len(unused) == (20 if repeats_second_step else 0)
        assert all(name.split(".")[1] in "23" for name in unused)


def test_an_attention_step_is_that_of_pytorch_with_fused_weights() -> None:
    attention = QueryAttention(WIDTH, HEADS)
    randomise(attention)
    stock = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    parts = (attention.query, attention.key, attention.value)
    stock.in_proj_weight.data = torch.cat([part.weight for part in parts])
    stock.in_proj_bias.data = torch.cat([part.bias for part in parts])
    stock.out_proj.load_state_dict(attention.out_proj.state_dict())
    query, patches = torch.randn(4, WIDTH), torch.randn(4, 7, WIDTH)
    expected, _ = stock(query[:, None], patches, patches)
    torch.testing.assert_close(attention(query, patches), expected[:, 0])


def test_gating_is_four_residual_blocks_and_a_gate() -> None:
    gating = Gating(WIDTH).double().eval()
    randomise(gating)
    pooled = torch.randn(5, WIDTH, dtype=torch.float64)
    expected = gate(weights_of(gating), pooled.numpy())
    np.testing.assert_allclose(gating(pooled).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_a_score_is_the_first_of_two_probabilities() -> None:
    router, patches = build_router(repeats_second_step=True), make_patches(3)
    pooling, gating = weights_of(router.pooling), weights_of(router.gating)
    for tile, score in zip(patches.numpy(), router.scores(patches), strict=True):
        compress, keep = gate(gating, pool(pooling, tile.reshape(16, WIDTH), (0, 1, 1, 1)))
        assert score.item() == pytest.approx(1 / (1 + math.exp(keep - compress)), abs=1e-6)


def test_a_tile_is_judged_alone_whatever_lies_beside_it() -> None:
    router, patches = build_router(), make_patches(6)
    together = router.logits(patches)
    for index in range(6):
        torch.testing.assert_close(router.logits(patches[index : index + 1])[0], together[index])
    torch.testing.assert_close(router.logits(patches.flip(0)).flip(0), together)
    assert len({round(score, 4) for score in router.scores(patches).tolist()}) > 1


def test_logits_and_scores_are_float32_and_agree() -> None:
    router, patches = build_router(), make_patches(4)
    logits, scores = router.logits(patches), router.scores(patches)
    assert logits.dtype == scores.dtype == torch.float32
    assert (logits.shape, scores.shape) == ((4, 2), (4,))
    torch.testing.assert_close(logits.softmax(dim=-1)[:, 0], scores)


def test_scores_of_bf16_weights_are_the_numbers_that_released_code_compares() -> None:
    router = build_router().to(torch.bfloat16)
    patches = make_patches(8).float()
    scores = router.scores(patches)
    expected = router(patches.bfloat16()).softmax(dim=-1)[:, 0]
    assert expected.dtype == torch.bfloat16
    assert torch.equal(scores.to(torch.bfloat16), expected)
    assert torch.equal(scores.to(torch.bfloat16).float(), scores)


def test_no_tile_has_no_score() -> None:
    assert build_router().scores(make_patches(0)).shape == (0,)


def test_units_are_dropped_in_training_alone() -> None:
    router, patches = build_router(), make_patches(2)
    assert torch.equal(router.logits(patches), router.logits(patches))
    router.train()
    assert not torch.equal(router.logits(patches), router.logits(patches))


@pytest.mark.parametrize(
    ("width", "num_pooling", "num_gating"),
    [(1024, 16_802_816, 33_587_202), (3200, 163_920_000, 327_782_402)],
)
def test_both_parts_have_their_released_sizes(
    width: int, num_pooling: int, num_gating: int
) -> None:
    with torch.device("meta"):
        router = Router(width, repeats_second_step=True)
    counts = [sum(p.numel() for p in part.parameters()) for part in (router.pooling, router.gating)]
    assert counts == [num_pooling, num_gating]
