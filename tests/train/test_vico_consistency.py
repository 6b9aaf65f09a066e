"""The first stage's loss against losses computed sample by sample, and who gets gradients."""

from __future__ import annotations

import pytest
import torch
from vico_samples import (
    IMAGE_TOKEN,
    PAD,
    WHOLE,
    answer_losses,
    make_batch,
    make_examples,
    make_flash,
    stirred,
)

from internvl35.train.adapters import add_adapters
from internvl35.train.settings import AdapterSettings, FreezeSettings
from internvl35.train.sft import Trainee, batch_weight
from internvl35.train.vico_consistency import (
    ConsistencyTrainee,
    draw_compressed,
    images_of_tiles,
)

TILES = 6
IMAGES = [0, 0, 1, 2, 2, 2]
both_forms = pytest.mark.parametrize("is_packed", [False, True], ids=["padded", "packed"])


def make_trainee(policy, reference, **options):
    values = {"compress_unit": "tile", "compress_probability": 0.5, "pad_token_id": PAD}
    trainee = ConsistencyTrainee(Trainee(policy, averaging="token"), reference, **values | options)
    policy.compressed_projector.dropout.p = 0.0
    return trainee


def expected_loss(policy, reference, is_compressed):
    """Mean divergence of all response tokens, sample by sample."""
    losses, first = [], 0
    for example in make_examples():
        choices = is_compressed[first : first + example.num_tiles]
        first += example.num_tiles
        losses.append(answer_losses(policy, example, choices, reference))
    return torch.cat(losses).mean()


@both_forms
def test_tiles_are_sorted_by_the_images_that_they_belong_to(is_packed):
    batch = make_batch(make_examples(), is_packed=is_packed)
    assert images_of_tiles(batch.input_ids, IMAGE_TOKEN, WHOLE).tolist() == IMAGES


def test_images_at_the_ends_of_rows_are_not_taken_for_one():
    ids = torch.full((2, WHOLE), IMAGE_TOKEN)
    assert images_of_tiles(ids, IMAGE_TOKEN, WHOLE).tolist() == [0, 1]
    assert images_of_tiles(torch.ones(2, 3, dtype=torch.long), IMAGE_TOKEN, WHOLE).tolist() == []


def test_a_rate_is_drawn_for_an_image_or_for_a_tile():
    torch.manual_seed(0)
    images = torch.arange(3000).repeat_interleave(2)
    together = draw_compressed(images, "image", 0.25).view(-1, 2)
    assert torch.equal(together[:, 0], together[:, 1])
    assert float(together.float().mean()) == pytest.approx(0.25, abs=0.04)
    alone = draw_compressed(images, "tile", 0.25).view(-1, 2)
    assert float(alone.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float((alone[:, 0] & alone[:, 1]).float().mean()) == pytest.approx(1 / 16, abs=0.02)
    assert bool(draw_compressed(images, "image", 1.0).all())
    assert len(draw_compressed(images[:0], "image", 0.5)) == 0


@both_forms
@pytest.mark.parametrize("unit", ["image", "tile"])
def test_the_loss_is_the_mean_divergence_of_response_tokens_at_the_rates_drawn(
    build_model, is_packed, unit
):
    policy = make_flash(build_model)
    reference = stirred(policy).requires_grad_(False)
    trainee = make_trainee(policy, reference, compress_unit=unit).train()
    batch = make_batch(make_examples(), is_packed=is_packed)
    torch.manual_seed(11)
    drawn = draw_compressed(torch.tensor(IMAGES), unit, 0.5)
    assert 0 < int(drawn.sum()) < TILES
    torch.manual_seed(11)
    output = trainee(batch, batch_weight(batch, "token"))
    expected = expected_loss(policy, reference, drawn.tolist())
    torch.testing.assert_close(output["loss"], expected, rtol=1e-4, atol=1e-5)
    assert int(output["num_compressed"]) == int(drawn.sum())
    assert int(output["num_targets"]) == 10


def test_an_evaluation_compresses_every_tile_and_draws_nothing(build_model):
    policy = make_flash(build_model)
    reference = stirred(policy).requires_grad_(False)
    trainee = make_trainee(policy, reference).eval()
    batch = make_batch(make_examples())
    state = torch.get_rng_state()
    output = trainee(batch, batch_weight(batch, "token"))
    assert torch.equal(torch.get_rng_state(), state)
    expected = expected_loss(policy, reference, [True] * TILES)
    torch.testing.assert_close(output["loss"], expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_plain_computation_and_the_reference_gets_none(build_model):
    policy = make_flash(build_model)
    reference = stirred(policy)
    policy.router.requires_grad_(False)
    policy.vision_tower.requires_grad_(False)
    reference.requires_grad_(False)
    trainee = make_trainee(policy, reference).eval()
    batch = make_batch(make_examples())
    trainee(batch, batch_weight(batch, "token"))["loss"].backward()
    found = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    expected_loss(policy, reference, [True] * TILES).backward()
    parts = {name.split(".")[0] for name in found}
    assert parts == {"language_model", "compressed_projector"}
    for name, gradient in found.items():
        expected = policy.get_parameter(name).grad
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_with_adapters_the_reference_is_the_network_without_them(build_model):
    policy = make_flash(build_model)
    before = stirred(policy, 0.0)
    add_adapters(policy, AdapterSettings(lora_dropout=0.5), FreezeSettings(freeze_vit=False))
    policy.compressed_projector.requires_grad_(True)
    trainee = make_trainee(policy, None, compress_probability=1e-9).train()
    batch = make_batch(make_examples())
    weight = batch_weight(batch, "token")
    assert float(trainee(batch, weight)["loss"].detach()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    found = trainee.eval()(batch, weight)["loss"]
    expected = expected_loss(policy, before, [True] * TILES)
    assert float(expected) > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.backward()
    trained = {name for name, p in policy.named_parameters() if p.grad is not None}
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == trained
    assert all("lora_" in name or "compressed_projector" in name for name in trained)
    assert any(name.startswith("vision_tower") for name in trained)


def test_a_pass_of_the_reference_leaves_modes_as_they_were(build_model):
    policy = make_flash(build_model)
    trainee = make_trainee(policy, stirred(policy).requires_grad_(False))
    batch = make_batch(make_examples())
    for mode in (True, False):
        trainee.train(mode)
        trainee(batch, 1.0)
        assert {module.training for module in policy.modules()} == {mode}


@pytest.mark.parametrize("rows", [[0, 1, 2], [1]], ids=["pictures", "text alone"])
def test_empty_tiles_reach_every_part_and_change_no_loss(build_model, rows):
    policy = make_flash(build_model)
    reference = stirred(policy).requires_grad_(False)
    policy.language_model.requires_grad_(False)
    policy.router.requires_grad_(False)
    batch = make_batch([make_examples()[row] for row in rows])
    options = {"compress_probability": 1e-9}
    with_dummies = make_trainee(policy, reference, keep_dummy_tile=True, **options).train()
    without = make_trainee(policy, reference, **options).train()
    loss = with_dummies(batch, 3.0)["loss"]
    torch.testing.assert_close(loss, without(batch, 3.0)["loss"])
    loss.backward()
    for part in (policy.compressed_projector, policy.multi_modal_projector):
        assert all(parameter.grad is not None for parameter in part.parameters())
    assert all(not p.grad.any() for p in policy.compressed_projector.parameters())


def test_experts_are_spread_by_their_own_loss(build_model):
    policy = make_flash(build_model, "qwen3_moe")
    reference = stirred(policy).requires_grad_(False)
    batch = make_batch(make_examples())
    losses = []
    for coefficient in (0.0, 0.5):
        trainee = make_trainee(policy, reference, compress_probability=1e-9).train()
        trainee.policy.router_loss_coef = coefficient
        losses.append(float(trainee(batch, batch_weight(batch, "token"))["loss"].detach()))
    assert losses[1] > losses[0] + 0.4  # the loss of even spreading is about one
