"""The second stage: ratios against losses computed sample by sample, labels, who gets gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
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

from internvl35.train.distributed import Workers
from internvl35.train.ratio_window import RatioWindow
from internvl35.train.vico_router import (
    RouterTrainee,
    count_judged,
    samples_of_tiles,
    turns_of_tiles,
)
from internvl35.train.vico_settings import VicoSettings

SAMPLES = [0, 0, 0, 2, 2, 2]
FLOOR = 0.01
both_forms = pytest.mark.parametrize("is_packed", [False, True], ids=["padded", "packed"])


def make_router(model, reference=None, known=(), **changes):
    """A trainee in training mode that drops nothing, with a window of ratios known before."""
    values = {"stage": "router", "ratio_floor": FLOOR, "window_warmup": 2, "tiles_per_row": 3}
    if reference is not None:
        values |= {"ratio_loss": "divergence", "reference_model": "given"}
    settings = VicoSettings(**values | changes)
    window = RatioWindow(64, settings.percentile, settings.window_warmup)
    window.note(torch.tensor(known))
    window.advance(Workers())
    model.requires_grad_(False)
    model.router.requires_grad_(True)
    trainee = RouterTrainee(model, reference, window, settings, pad_token_id=PAD, chunk_size=3)
    for module in model.router.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return trainee.train()


def expected_ratios(model, reference, attribution, background=(False,) * 6):
    """Ratios of all tiles, computed one by one."""
    ratios, others = [], list(background)
    for example in make_examples():
        count = example.num_tiles
        own, others = others[:count], others[count:]
        for tile in range(count):
            pair = []
            for is_compressed in (True, False):
                choices = [*own[:tile], is_compressed, *own[tile + 1 :]]
                if attribution == "all_tiles":
                    choices = [is_compressed] * count
                pair.append(answer_losses(model, example, choices, reference).mean() + FLOOR)
            ratios.append(float(pair[0] / pair[1]))
    return ratios


@both_forms
def test_tiles_are_sorted_by_the_samples_that_they_belong_to(is_packed):
    batch = make_batch(make_examples(), is_packed=is_packed)
    assert samples_of_tiles(batch, IMAGE_TOKEN, WHOLE).tolist() == SAMPLES


def test_every_sample_has_one_tile_a_turn_and_not_more_turns_than_allowed():
    samples = torch.tensor([0, 0, 0, 0, 0, 2, 2, 3])
    assert sorted(turns_of_tiles(samples, None)[:5].tolist()) == [0, 1, 2, 3, 4]
    same = [turns_of_tiles(samples, 2, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*same)
    torch.manual_seed(0)
    chosen = set()
    for _ in range(40):
        turns = turns_of_tiles(samples, 2)
        for sample in (0, 2, 3):
            own = turns[samples == sample]
            assert sorted(own[own >= 0].tolist()) == list(range(min(2, len(own))))
        assert int((turns >= 0).sum()) == count_judged(samples, 2) == 5
        chosen |= {(place, turn) for place, turn in enumerate(turns[:5].tolist()) if turn >= 0}
    assert chosen == {(place, turn) for place in range(5) for turn in (0, 1)}
    assert count_judged(samples, None) == 8


@both_forms
@pytest.mark.parametrize("attribution", ["one_tile", "all_tiles"])
@pytest.mark.parametrize("has_reference", [False, True], ids=["cross-entropy", "divergence"])
def test_ratios_are_those_of_losses_computed_one_by_one(
    build_model, is_packed, attribution, has_reference
):
    model = make_flash(build_model)
    reference = stirred(model).requires_grad_(False) if has_reference else None
    trainee = make_router(model, reference, attribution=attribution)
    batch = make_batch(make_examples(), is_packed=is_packed)
    output = trainee(batch, 6.0)
    assert float(output["loss"].detach()) == 0  # nothing is known to compare with
    assert int(output["num_targets"]) == 0
    trainee.window.advance(Workers())
    with torch.no_grad():
        expected = expected_ratios(model, reference, attribution)
    assert max(expected) - min(expected) > 1e-3
    assert trainee.window.keep()["ratios"] == pytest.approx(expected, rel=1e-3)


@both_forms
@pytest.mark.parametrize("drawn", [(True, False, True, False, False, True), (True,) * 6])
def test_a_tile_is_judged_among_others_of_which_some_are_compressed(build_model, is_packed, drawn):
    model = make_flash(build_model)
    trainee = make_router(model, background=0.5 if False in drawn else 1.0)
    if False in drawn:
        trainee._background = lambda num_tiles: torch.tensor(drawn)
    trainee(make_batch(make_examples(), is_packed=is_packed), 6.0)
    trainee.window.advance(Workers())
    with torch.no_grad():
        expected = expected_ratios(model, None, "one_tile", drawn)
        alone = expected_ratios(model, None, "one_tile")
    assert max(abs(a - b) for a, b in zip(expected, alone, strict=True)) > 1e-3
    assert trainee.window.keep()["ratios"] == pytest.approx(expected, rel=1e-3)


def test_backgrounds_are_drawn_anew_in_training_and_the_same_in_evaluations(build_model):
    trainee = make_router(make_flash(build_model), background=0.25)
    drawn = torch.stack([trainee._background(500) for _ in range(20)])
    assert float(drawn.float().mean()) == pytest.approx(0.25, abs=0.02)
    assert len({tuple(row.tolist()) for row in drawn}) == 20
    trainee.eval()
    state = torch.get_rng_state()
    assert torch.equal(trainee._background(500), trainee._background(500))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("balance_classes", [False, True])
def test_the_loss_is_the_cross_entropy_of_labels_that_weigh_alike(build_model, balance_classes):
    model = make_flash(build_model)
    with torch.no_grad():
        ratios = torch.tensor(expected_ratios(model, None, "one_tile"))
    tau = float(ratios.sort().values[1:3].mean())  # two tiles of six are below it
    known = [tau - 1, tau, tau, tau + 1, tau + 2]
    trainee = make_router(model, None, known, percentile=50.0, balance_classes=balance_classes)
    assert trainee.window.threshold == pytest.approx(tau)
    batch = make_batch(make_examples())
    output = trainee(batch, 6.0)
    labels = (ratios >= tau).long()
    assert labels.sum() == 4
    logits = model.router.logits(model.encode_patches(batch.pixel_values))
    losses = functional.cross_entropy(logits, labels, reduction="none")
    compress, keep = (0.5 / 0.2, 0.5 / 0.8) if balance_classes else (1.0, 1.0)
    weights = torch.where(labels == 0, compress, keep)
    torch.testing.assert_close(output["loss"], (losses * weights).sum() / 6)
    assert int(output["num_compress"]) == 2
    assert int(output["num_correct"]) == int((logits.argmax(-1) == labels).sum())
    assert int(output["num_targets"]) == 6


def test_only_the_router_gets_gradients_and_all_of_it(build_model):
    model = make_flash(build_model)
    trainee = make_router(model, None, [0.5, 1.0, 1.5])
    trainee(make_batch(make_examples()), 6.0)["loss"].backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {f"router.{name}" for name, _ in model.router.named_parameters()}
    moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    # a key's bias moves all scores of a query alike, which softmax does not see
    assert {name for name in with_gradient - set(moved) if "key.bias" not in name} == set()


def test_only_the_router_is_in_training_mode(build_model):
    model = make_flash(build_model)
    trainee = make_router(model)
    assert {module.training for module in model.router.modules()} == {True}
    others = (model.vision_tower, model.compressed_projector, model.language_model)
    assert {m.training for part in others for m in part.modules()} == {False}
    trainee.eval()
    assert {module.training for module in model.modules()} == {False}


@pytest.mark.parametrize("known", [(), (0.5, 1.0, 1.5)], ids=["warm-up", "known ratios"])
def test_text_alone_teaches_nothing_but_reaches_every_weight(build_model, known):
    model = make_flash(build_model)
    trainee = make_router(model, None, known)
    output = trainee(make_batch(make_examples()[1:2]), 1e-12)
    output["loss"].backward()
    assert float(output["loss"].detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.router.parameters())


def test_an_evaluation_leaves_window_and_random_numbers_alone(build_model):
    model = make_flash(build_model)
    trainee = make_router(model, None, [0.5, 1.0, 1.5], tiles_per_row=1).eval()
    state, before = torch.get_rng_state(), trainee.window.keep()
    output = trainee(make_batch(make_examples()), 2.0)
    assert int(output["num_targets"]) == 2
    trainee.window.advance(Workers())
    assert trainee.window.keep() == before
    assert torch.equal(torch.get_rng_state(), state)
