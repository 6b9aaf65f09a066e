"""Losses of right answers under compression: against the network itself, and by what they cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.flash_answers import Asking
from benchmarks.flash_losses import (
    FamilyLosses,
    compare_losses,
    encode_drawings,
    loss_figures,
    picture_losses,
)
from flash_models import make_flash_model

from internvl35 import AutoTokenizer
from internvl35.chat import Chat

ASKING = Asking(("counting", "shapes"), num_pictures=5)


@pytest.fixture(scope="module")
def tokenizer(random_checkpoint):
    return AutoTokenizer.from_pretrained(random_checkpoint)


def make_chat(tokenizer, **changes):
    return Chat(make_flash_model(**changes), tokenizer)


def loss_alone(model, example, is_compressed=False):
    """Losses of the answers' tokens of one example, from transformers' own loss and from logits."""
    config = model.config
    patches = model.encode_patches(example.pixel_values)
    chosen = torch.full((len(patches),), is_compressed)
    ids, labels = [], []
    num_kept = config.compressed_tokens_per_tile if is_compressed else config.tokens_per_tile
    place = 0
    for token_id, has_loss in zip(example.token_ids, example.loss_mask, strict=True):
        if token_id == config.image_token_id:
            place += 1
            if (place - 1) % config.tokens_per_tile >= num_kept:
                continue
        ids.append(token_id)
        labels.append(token_id if has_loss else -100)
    features = model.project_tiles(patches, chosen)
    logits = model(input_ids=torch.tensor([ids]), image_features=features).logits[0]
    wanted = torch.tensor(labels)[1:]
    logprobs = logits[:-1].log_softmax(-1)
    return -logprobs[wanted >= 0].gather(1, wanted[wanted >= 0, None])[:, 0]


@pytest.mark.parametrize("is_compressed", [False, True], ids=["whole", "compressed"])
def test_the_loss_is_that_of_every_answer_alone(tokenizer, is_compressed):
    chat = make_chat(tokenizer)
    examples = encode_drawings(chat, ASKING, "counting")
    assert len(examples) == 5
    with torch.inference_mode():
        alone = [loss_alone(chat.model, one, is_compressed) for one in examples]
    ways = {"way": lambda patches: torch.full((len(patches),), is_compressed)}
    found = picture_losses(chat.model, examples, ways)
    assert found.sums["way"].tolist() == pytest.approx(
        [float(one.sum()) for one in alone], rel=1e-4
    )
    assert found.tokens.tolist() == [len(one) for one in alone]
    assert sum(found.tokens) > 10
    assert found.mean("way") == pytest.approx(float(torch.cat(alone).mean()), rel=1e-4)


def test_ways_are_compared_on_the_same_pictures(tokenizer):
    base, flash = make_chat(tokenizer, flash_mode=False), make_chat(tokenizer)
    routers = {"none": flash, "all of them": flash}
    thresholds = {"none": 2.0, "all of them": 0.0}
    found = compare_losses(base, routers, thresholds, ASKING, share=0.5)
    assert set(found) == {"counting", "shapes"}
    for losses in found.values():
        mean = {way: losses.mean(way) for way in losses.sums}
        assert mean["none"] == mean["off"]
        assert mean["all of them"] == mean["all"]
        assert len({mean["off"], mean["random"], mean["all"]}) == 3
    again = compare_losses(base, routers, thresholds, replace(ASKING, families=("shapes",)), 0.5)
    assert again["shapes"].mean("random") == found["shapes"].mean("random")


def test_differences_are_those_of_pairs_and_families_count_alike():
    rng = np.random.default_rng(0)
    easy, hard = rng.exponential(size=(2, 400)) * [[1.0], [50.0]]
    families = {
        "easy": FamilyLosses({"a": easy, "b": easy + 0.2}, np.full(400, 2.0)),
        "hard": FamilyLosses({"a": hard, "b": hard + rng.normal(0.4, 0.1, 400)}, np.ones(400)),
    }
    found = loss_figures(families, "b", "a")
    wanted = (families["easy"].mean("b") + families["hard"].mean("b")) / 2
    assert found["nats_a_token"] == pytest.approx(wanted, abs=1e-4)
    more = found["more_than_default"]
    # the noise of one family's pairs, halved: 0.1 / 20 / 2
    assert more["value"] == pytest.approx(0.25, abs=3 * 0.0025)
    assert more["high"] - more["low"] == pytest.approx(2 * 1.96 * 0.0025, rel=0.15)
    nothing = loss_figures(families, "a", "a")["more_than_default"]
    assert nothing == {"value": 0.0, "low": 0.0, "high": 0.0}
