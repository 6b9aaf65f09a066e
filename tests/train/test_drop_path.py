"""Stochastic depth against plain formulas, and nothing of it outside training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.drop_path import add_drop_path, drop_branch
from internvl35.train.sft import recompute_activations

ModelBuilder = Callable[..., VisionLanguageModel]


def test_a_tile_loses_all_of_a_branch_or_nothing_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    branch = torch.randn(20_000, 3, 2)
    kept = drop_branch(branch, 0.3)
    is_kept = kept.flatten(1).abs().sum(dim=1) > 0
    torch.testing.assert_close(kept[is_kept], branch[is_kept] / 0.7)
    assert not kept[~is_kept].any()
    share = float(is_kept.float().mean())
    assert share == pytest.approx(0.7, abs=4 * (0.3 * 0.7 / 20_000) ** 0.5)


def test_16_bit_branches_stay_16_bit() -> None:
    assert drop_branch(torch.ones(4, 2, dtype=torch.bfloat16), 0.5).dtype == torch.bfloat16


def tower_by_hand(model: VisionLanguageModel, pixels: Tensor, factors: Tensor) -> Tensor:
    """The tower's layers, branch ``b`` of layer ``l`` times ``factors[l, b, tile]``."""
    hidden = model.vision_tower.embeddings(pixels)
    for layer, (to_attention, to_mlp) in zip(
        model.vision_tower.encoder.layer, factors[..., None, None], strict=True
    ):
        attention = layer.attention(layer.layernorm_before(hidden))[0]
        hidden = hidden + layer.lambda_1 * attention * to_attention
        hidden = hidden + layer.lambda_2 * layer.mlp(layer.layernorm_after(hidden)) * to_mlp
    return model.vision_tower.layernorm(hidden)


def test_branches_are_dropped_tile_by_tile_and_more_often_in_later_layers(
    build_model: ModelBuilder,
) -> None:
    model = build_model(vision={"num_hidden_layers": 3})
    pixels = torch.randn(5, 3, 56, 56)
    torch.manual_seed(4)
    drawn = torch.stack([torch.rand(5) for _ in range(4)]).reshape(2, 2, 5)  # in order of use
    rates = torch.tensor([0.2, 0.4]).reshape(2, 1, 1)
    factors = torch.cat([torch.ones(1, 2, 5), (drawn >= rates) / (1 - rates)])
    assert 0 < int((factors == 0).sum()) < 20
    expected = tower_by_hand(model, pixels, factors)
    add_drop_path(model, 0.4)
    model.train()
    torch.manual_seed(4)
    found = model.vision_tower(pixels).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_recomputed_activations_drop_the_same_branches(build_model: ModelBuilder) -> None:
    pixels = torch.randn(6, 3, 56, 56)
    gradients = []
    for is_recomputed in (False, True):
        model = build_model().train()
        add_drop_path(model, 0.5)
        if is_recomputed:
            recompute_activations(model)
        torch.manual_seed(1)
        model.get_image_features(pixels).square().mean().backward()
        gradients.append([weight.grad for weight in model.vision_tower.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_evaluation_names_and_removal_leave_the_tower_as_it_was(build_model: ModelBuilder) -> None:
    model = build_model()
    pixels = torch.randn(4, 3, 56, 56)
    names = list(model.state_dict())
    with torch.no_grad():
        expected = model.encode_patches(pixels)
        remove = add_drop_path(model, 0.9)
        assert torch.equal(model.encode_patches(pixels), expected)
        model.train()
        assert not torch.allclose(model.encode_patches(pixels), expected)
        remove()
        assert torch.equal(model.encode_patches(pixels), expected)
    assert list(model.state_dict()) == names


def test_a_rate_of_zero_changes_nothing(build_model: ModelBuilder) -> None:
    model = build_model().train()
    pixels = torch.randn(4, 3, 56, 56)
    expected = model.encode_patches(pixels)
    add_drop_path(model, 0.0)
    assert torch.equal(model.encode_patches(pixels), expected)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_an_impossible_rate_is_refused(build_model: ModelBuilder, rate: float) -> None:
    with pytest.raises(ConfigError, match=rf"drop_path_rate is {rate}; needed: 0 to below 1"):
        add_drop_path(build_model(), rate)
