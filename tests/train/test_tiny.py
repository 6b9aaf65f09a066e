"""The recipe of the embedded checkpoint: its stream, its loss, and a run from end to end."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from internvl35.chat import load
from internvl35.data.batches import IGNORED
from internvl35.data.synthetic import MARK_LABELS
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.rounds import METRICS_FILE, RoundSettings
from internvl35.train.tiny import (
    LANGUAGE,
    VISION,
    TinyRecipe,
    TinyRounds,
    Trainee,
    patch_accuracy,
    patch_label_loss,
    tiny_config,
    tiny_tokenizer,
    train_tiny,
)

LOOP = RoundSettings(num_rounds=3, warmup_rounds=1, checkpoint_every=1, evaluate_every=0)
RECIPE = TinyRecipe(loop=LOOP, samples_per_round=8, warmup_rounds=1, level_rounds=2)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def config(tokenizer):
    names = ("<IMG_CONTEXT>", "<|endoftext|>", "<|im_end|>")
    return tiny_config(*(tokenizer.convert_tokens_to_ids(name) for name in names))


def _same(one, other):
    return one is other is None or torch.equal(one, other)


def test_a_round_is_the_same_however_often_it_is_drawn(tokenizer, config):
    recipe = dataclasses.replace(RECIPE, samples_per_round=24)
    first = TinyRounds(recipe, tokenizer, config)[2]
    again = TinyRounds(recipe, tokenizer, config)[2]
    assert len(first) == len(again)
    for one, other in zip(first, again, strict=True):
        for field in dataclasses.fields(one):
            assert _same(getattr(one, field.name), getattr(other, field.name)), field.name


def test_the_tower_learns_alone_before_the_whole_model_does(tokenizer, config):
    rounds = TinyRounds(RECIPE, tokenizer, config)
    assert all(batch.input_ids.shape[1] == 0 for batch in rounds[0])
    assert any(batch.input_ids.shape[1] > 0 for batch in rounds[1])


def test_every_conversation_carries_loss_and_every_tile_its_places(tokenizer, config):
    recipe = dataclasses.replace(RECIPE, samples_per_round=40, page_share=0.0)
    for batch in TinyRounds(recipe, tokenizer, config)[2]:
        assert (batch.labels != IGNORED).sum(dim=1).min() >= 2  # an answer and its end
        places = int((batch.input_ids == config.image_token_id).sum())
        tiles = 0 if batch.pixel_values is None else batch.pixel_values.shape[0]
        assert places == tiles * config.tokens_per_tile
        assert not (batch.labels == config.image_token_id).any()


def test_the_checkpoints_sizes_are_those_of_its_shapes(config):
    with torch.device("meta"):
        model = VisionLanguageModel(config)
    tower = sum(p.numel() for p in model.vision_tower.parameters())
    language = sum(p.numel() for p in model.language_model.parameters())
    assert (tower, language) == (VISION.num_parameters, LANGUAGE.num_parameters)
    assert config.tokens_per_tile == 16


def test_dense_labels_cost_their_mean_binary_cross_entropy():
    scores = torch.zeros(1, 2, 2, 3)
    labels = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    assert float(patch_label_loss(scores, labels)) == pytest.approx(3 * 0.693147, rel=1e-5)
    scores[0, 0, 0, 1], labels[0, 0, 0, 1] = 20.0, 1
    expected = (3 * 4 - 1) * 0.693147 / 4
    assert float(patch_label_loss(scores, labels)) == pytest.approx(expected, rel=1e-5)


def test_patch_accuracy_counts_only_patches_in_which_something_stands():
    labels = torch.zeros(1, 1, 4, 3, dtype=torch.uint8)
    labels[0, 0, 0, 1] = labels[0, 0, 1, 2] = 1
    scores = torch.zeros(1, 1, 4, 3)
    scores[..., 1] = 1.0
    assert patch_accuracy(scores, labels) == 0.5
    assert patch_accuracy(scores, torch.zeros_like(labels)) == 0.0


def test_gradients_reach_every_part_once_there_are_conversations(tokenizer, config):
    torch.manual_seed(0)
    trainee = Trainee(VisionLanguageModel(config))
    batch = next(
        b
        for b in TinyRounds(RECIPE, tokenizer, config)[1]
        if b.input_ids.shape[1] and b.pixel_values is not None
    )
    loss, figures = trainee.loss(batch, 0.3)
    loss.backward()
    parts = (
        trainee.patch_head,
        trainee.model.vision_tower,
        trainee.model.multi_modal_projector,
        trainee.model.language_model,
    )
    for part in parts:
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    together = figures["answer_loss"] + 0.3 * figures["patch_loss"]
    assert float(loss.detach()) == pytest.approx(together, rel=1e-4)
    assert trainee.patch_head.out_features == len(MARK_LABELS)


def test_a_short_run_leaves_a_checkpoint_that_can_be_chatted_with(tmp_path):
    seen = []

    def evaluate(model, tokenizer):
        seen.append(type(model).__name__)
        return {"accuracy": 0.25}

    recipe = dataclasses.replace(RECIPE, loop=dataclasses.replace(LOOP, evaluate_every=2))
    train_tiny(tmp_path, recipe, num_workers=0, evaluate=evaluate)
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert [line.get("eval/accuracy") for line in lines] == [None, 0.25, 0.25]
    assert len(seen) == 2
    reply = load(tmp_path / "checkpoint").ask("Hello")
    assert reply.num_new_tokens >= 1
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoint").iterdir())
    assert size < 24_000_000


def test_a_run_may_start_from_a_checkpoint(tmp_path):
    first = dataclasses.replace(RECIPE, loop=dataclasses.replace(LOOP, num_rounds=1))
    train_tiny(tmp_path / "one", first, num_workers=0)
    source = tmp_path / "one" / "checkpoint"
    still = dataclasses.replace(first.loop, learning_rate=0.0)
    second = dataclasses.replace(first, loop=still, start_from=str(source))
    train_tiny(tmp_path / "two", second, num_workers=0)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "two" / "checkpoint" / name).read_bytes() == (source / name).read_bytes()
