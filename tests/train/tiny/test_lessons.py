"""What the embedded checkpoint learns from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from internvl35.data.synthetic import MARK_LABELS
from internvl35.data.tiles import normalize_tiles
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.sft import Trainee, batch_weight
from internvl35.train.tiny.examples import DrawnExamples, Steps
from internvl35.train.tiny.lessons import (
    TinyTrainee,
    count_right_patches,
    level_pixels,
    patch_label_loss,
    vary_light,
)
from internvl35.train.tiny.run import choose_trained


@pytest.fixture(scope="module")
def batches(recipe, tokenizer, config):
    recipe = dataclasses.replace(recipe, samples_per_step=12)
    steps = Steps(DrawnExamples(recipe, "sft", tokenizer, config), recipe, 3, 0)
    return [fed.batch for fed in steps[0]]


def test_dense_labels_cost_their_mean_binary_cross_entropy():
    scores = torch.zeros(1, 2, 2, 3)
    labels = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    assert float(patch_label_loss(scores, labels)) == pytest.approx(3 * 0.693147, rel=1e-5)
    scores[0, 0, 0, 1], labels[0, 0, 0, 1] = 20.0, 1
    expected = (3 * 4 - 1) * 0.693147 / 4
    assert float(patch_label_loss(scores, labels)) == pytest.approx(expected, rel=1e-5)


def test_only_patches_in_which_something_stands_can_be_right():
    labels = torch.zeros(1, 1, 4, 3, dtype=torch.uint8)
    labels[0, 0, 0, 1] = labels[0, 0, 1, 2] = 1
    scores = torch.zeros(1, 1, 4, 3)
    scores[..., 1] = 1.0
    assert [int(count) for count in count_right_patches(scores, labels)] == [1, 2]


def test_levels_become_the_pixel_values_of_any_picture():
    levels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    expected = normalize_tiles([Image.fromarray(levels)])
    found = level_pixels(torch.from_numpy(levels.transpose(2, 0, 1).copy())[None])
    assert torch.allclose(found, expected, atol=1e-6)


def test_light_varies_tile_by_tile_within_its_bounds():
    torch.manual_seed(0)
    levels = torch.full((200, 3, 2, 2), 128.0)
    shifts = (vary_light(levels, 0.1) - 128)[:, 0, 0, 0] / 255
    assert shifts.abs().max() <= 0.1
    assert shifts.std() == pytest.approx(0.1 / 3**0.5, rel=0.2)  # of an even spread
    full = vary_light(torch.tensor([0.0, 255.0]).expand(200, 3, 1, 2), 0.1)
    assert full.min() == 0.0
    assert full.max() == 255.0


def test_the_loss_is_that_of_answers_and_of_dense_labels(batches, config):
    torch.manual_seed(0)
    trainee = TinyTrainee(VisionLanguageModel(config), patch_loss_weight=0.3)
    plain = Trainee(trainee.model)
    batch = next(batch for batch in batches if batch.pixel_values is not None)
    total = 2 * trainee.weigh(batch)
    found = trainee(batch, total)
    pixels = level_pixels(batch.pixel_values)
    answers = plain(dataclasses.replace(batch, pixel_values=pixels), total)["loss"]
    scores = trainee.patch_head(trainee.model.encode_patches(pixels))
    expected = answers + 0.3 / 2 * patch_label_loss(scores, batch.patch_labels)
    assert float(found["loss"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert trainee.weigh(batch) == batch_weight(batch, "square")
    assert trainee.patch_head.out_features == len(MARK_LABELS)


def test_gradients_reach_every_part_that_a_stage_trains_and_no_other(batches, config):
    torch.manual_seed(0)
    trainee = TinyTrainee(VisionLanguageModel(config))
    model = trainee.model
    parts = {
        "tower": model.vision_tower,
        "head": trainee.patch_head,
        "projector": model.multi_modal_projector,
        "language": model.language_model,
    }
    trained = {"pretrain": set(parts), "projector": {"projector", "language"}}
    batch = next(batch for batch in batches if batch.pixel_values is not None)
    for stage, wanted in trained.items():
        choose_trained(trainee, stage)
        trainee.has_frozen_tower = stage == "projector"
        trainee.zero_grad()
        trainee(batch, trainee.weigh(batch))["loss"].backward()
        reached = {
            name
            for name, part in parts.items()
            if any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
        }
        assert reached == wanted


def test_pictures_alone_are_weighed_by_their_tiles(recipe, tokenizer, config):
    steps = Steps(DrawnExamples(recipe, "tower", tokenizer, config), recipe, 3, 0)
    batch = steps[0][0].batch
    trainee = TinyTrainee(VisionLanguageModel(config))
    found = trainee(batch, trainee.weigh(batch))
    mean = float(found["patch_loss"]) / float(found["num_tiles_seen"])
    assert float(found["loss"].detach()) == pytest.approx(mean, rel=1e-5)
    assert float(found["num_targets"]) == 0
