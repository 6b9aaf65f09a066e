"""From drawn tasks to examples and steps."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

from internvl35.config import TileSettings
from internvl35.data.batches import IGNORED
from internvl35.data.synthetic import FAMILIES
from internvl35.data.synthetic.listing import WORDINGS
from internvl35.train.tiny.examples import DrawnExamples, Steps
from internvl35.train.tiny.recipe import ASKED, LOOKED_AT, Stage, TinyRecipe


def _same(one, other):
    return one is other is None or torch.equal(one, other)


def _steps(recipe, stage, tokenizer, config):
    return Steps(DrawnExamples(recipe, stage, tokenizer, config), recipe, 3, 0)


def test_a_step_is_the_same_however_often_it_is_drawn(recipe, tokenizer, config):
    recipe = dataclasses.replace(recipe, samples_per_step=16)
    first = _steps(recipe, "pretrain", tokenizer, config)[2]
    again = _steps(recipe, "pretrain", tokenizer, config)[2]
    assert len(first) == len(again)
    for one, other in zip(first, again, strict=True):
        for field in dataclasses.fields(one.batch):
            assert _same(getattr(one.batch, field.name), getattr(other.batch, field.name))


def test_stages_and_seeds_draw_different_pictures(recipe, tokenizer, config):
    def first_tiles(recipe, stage):
        return DrawnExamples(recipe, stage, tokenizer, config)[0]

    shares = (("counting", 1.0),)
    recipe = dataclasses.replace(
        recipe, pretrain=Stage(3, shares=shares), sft=Stage(3, shares=shares)
    )
    one = first_tiles(recipe, "pretrain").pixel_values
    others = [
        first_tiles(recipe, "sft").pixel_values,
        first_tiles(dataclasses.replace(recipe, seed=1), "pretrain").pixel_values,
    ]
    for other in others:
        assert one.shape != other.shape or not torch.equal(one, other)


def test_the_tower_learns_from_pictures_alone(recipe, tokenizer, config):
    for fed in _steps(recipe, "tower", tokenizer, config)[0]:
        assert fed.batch.input_ids.shape[1] == 0
        assert fed.batch.patch_labels is not None


def test_every_conversation_carries_loss_and_every_tile_its_places(recipe, tokenizer, config):
    recipe = dataclasses.replace(recipe, samples_per_step=40)
    batches = [fed.batch for fed in _steps(recipe, "sft", tokenizer, config)[1]]
    assert sum(len(batch) for batch in batches) == 40
    for batch in batches:
        assert (batch.labels != IGNORED).sum(dim=1).min() >= 2  # an answer and its end
        places = int((batch.input_ids == config.image_token_id).sum())
        assert places == batch.num_tiles * config.tokens_per_tile
        assert not (batch.labels == config.image_token_id).any()


def test_reasoning_is_asked_for_by_the_thinking_prompt_alone(recipe, tokenizer, config):
    recipe = dataclasses.replace(recipe, sft=Stage(3, shares=(("sums", 1.0),)))
    examples = DrawnExamples(recipe, "sft", tokenizer, config)
    texts = [tokenizer.decode(examples[index].token_ids) for index in range(60)]
    thoughtful = [text for text in texts if "</think>\n\n" in text.rpartition("assistant\n")[2]]
    assert 10 < len(thoughtful) < 50
    for text in texts:
        head, _, tail = text.partition("<|im_start|>user")
        assert ("<think>" in head) == ("<think>" in tail)
        assert tail.count("<think>") <= 1


def test_long_conversations_are_cut_after_whole_turns(tokenizer, config):
    recipe = TinyRecipe(
        sft=Stage(3, shares=(("svg", 1.0),)),
        max_answer_letters=1,
        system_share=0.0,
        listing_share=0.0,
    )
    examples = DrawnExamples(recipe, "sft", tokenizer, config)
    for index in range(10):
        assert tokenizer.decode(examples[index].token_ids).count("<|im_start|>user") == 1


def test_everything_in_the_picture_is_asked_for_as_often_as_the_recipe_says(tokenizer, config):
    stage = Stage(3, shares=(("counting", 1.0),))
    for share, least, most in ((0.0, 0, 0), (0.5, 8, 32), (1.0, 40, 40)):
        recipe = TinyRecipe(sft=stage, listing_share=share)
        examples = DrawnExamples(recipe, "sft", tokenizer, config)
        texts = [tokenizer.decode(examples[index].token_ids) for index in range(40)]
        asked = [any(ask in text for ask in WORDINGS.seen) for text in texts]
        assert least <= sum(asked) <= most


def test_some_pictures_are_enlarged_and_fill_several_tiles(tokenizer, config):
    stage = Stage(3, shares=(("counting", 1.0),), first_level=0.0, level_share=1.0)
    for share, least, most in ((0.0, 0, 0), (0.5, 4, 16), (1.0, 20, 20)):
        recipe = TinyRecipe(sft=stage, enlarged_share=share)
        examples = DrawnExamples(recipe, "sft", tokenizer, config)
        examples.tiles = TileSettings(tile_size=192, max_tiles=4)
        assert least <= sum(examples[index].num_tiles > 1 for index in range(20)) <= most


def test_families_are_drawn_as_often_as_their_shares_say(recipe, tokenizer, config):
    shares = (("counting", 3.0), ("arithmetic", 1.0), ("no such family", 9.0))
    recipe = dataclasses.replace(recipe, pretrain=Stage(100, shares=shares))
    examples = DrawnExamples(recipe, "pretrain", tokenizer, config)
    kinds = Counter(examples[index].pixel_values is None for index in range(200))
    assert kinds[True] == pytest.approx(50, abs=22)  # four standard deviations


def test_every_family_is_part_of_the_recipe():
    assert {name for name, _ in ASKED} == set(FAMILIES)
    assert {name for name, _ in LOOKED_AT} <= {*FAMILIES, "page"}


def test_drawings_get_as_hard_as_those_of_the_test():
    stage = Stage(100, first_level=0.2, level_share=0.5)
    assert [stage.level_at(step) for step in (0, 25, 50, 99)] == pytest.approx([0.2, 0.6, 1, 1])
    assert Stage(100).level_at(0) == 1.0
