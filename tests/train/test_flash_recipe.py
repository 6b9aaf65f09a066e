"""The recipe of Flash checkpoints: its stages, where it goes on, and the threshold at its end."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from internvl35 import load
from internvl35.data.drawn_rows import DrawnRows
from internvl35.errors import ConfigError, DataError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.routing import choose_compressed
from internvl35.train import flash_recipe, reports
from internvl35.train.flash_recipe import (
    FlashRecipe,
    judge_drawings,
    make_flash,
    share_threshold,
)

SMALL = FlashRecipe(
    families=("counting", "shapes"), num_rows=6, factors=(2.0,), consistency_steps=1,
    router_steps=1, rows_per_step=2, num_judged=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    monkeypatch.setattr(reports, "plot_figures", lambda *_: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, random_checkpoint):
    folder = tmp_path_factory.mktemp("flash")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reports, "plot_figures", lambda *_: None)
        recipe = replace(SMALL, model=str(random_checkpoint))
        return recipe, folder, make_flash(folder, recipe)


def test_the_checkpoint_compresses_the_share_of_tiles_that_is_asked_for(finished):
    recipe, _, checkpoint = finished
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["flash_mode"] is True
    chat = load(checkpoint, dtype="bfloat16")
    scores = judge_drawings(chat.model, recipe)
    assert len(scores) == 2 * 2 * 5
    compressed = np.array(scores) >= chat.model.config.flash_absolute_threshold
    assert compressed.mean() == pytest.approx(0.72, abs=0.11)


def test_asked_as_released_it_compresses_what_reaches_the_threshold_but_the_lowest(finished):
    recipe, _, checkpoint = finished
    model = load(checkpoint, dtype="bfloat16").model
    scores = torch.tensor(judge_drawings(model, recipe))
    wanted = (scores >= model.config.flash_absolute_threshold) & (scores > scores.min())
    found = choose_compressed(scores, FlashSettings("released"), model.config)
    assert torch.equal(found, wanted)
    everything = choose_compressed(scores, FlashSettings("released", None, 0.0), model.config)
    assert torch.equal(everything, scores > scores.min())


def test_the_second_stage_begins_where_the_first_ended_and_trains_the_router_alone(finished):
    _, folder, checkpoint = finished
    first = folder / "1-consistency" / "checkpoint-1"
    arguments = json.loads((folder / "2-router" / "checkpoint-1" / "args.json").read_text())
    assert arguments["model"] == str(first)
    assert (arguments["stage"], arguments["attribution"]) == ("router", "one_tile")
    before, after = (
        load(place, dtype="bfloat16").model.state_dict() for place in (first, checkpoint)
    )
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed <= {"router"}


def test_what_is_finished_is_not_done_again(finished, monkeypatch):
    recipe, folder, checkpoint = finished

    def refuse(*_, **__):
        raise AssertionError("trained or drawn again")

    monkeypatch.setattr(flash_recipe, "finetune", refuse)
    monkeypatch.setattr(flash_recipe, "write_rows", refuse)
    assert make_flash(folder, replace(recipe, compressed_share=0.2)) == checkpoint
    model = load(checkpoint, dtype="bfloat16").model
    scores = np.array(judge_drawings(model, recipe))
    assert (scores >= model.config.flash_absolute_threshold).mean() == pytest.approx(0.2, abs=0.11)
    make_flash(folder, recipe)
    with pytest.raises(
        ConfigError, match=r"percentile is 30\.0 but the run of .* began with 50\.0"
    ):
        make_flash(folder, replace(recipe, percentile=30.0))


def test_a_stage_that_was_stopped_goes_on_and_one_without_a_checkpoint_begins_anew(
    tmp_path, monkeypatch
):
    seen = []

    def pretend(settings, *, command):
        seen.append((settings.vico.stage, settings.run.resume_from_checkpoint, command))
        raise KeyboardInterrupt

    monkeypatch.setattr(flash_recipe, "finetune", pretend)
    output = tmp_path / "1-consistency"
    (output / "images").mkdir(parents=True)
    recipe = replace(SMALL, consistency_steps=9)
    with pytest.raises(KeyboardInterrupt):
        flash_recipe.run_stage("consistency", "tiny", tmp_path / "rows", tmp_path, recipe)
    assert not output.exists()
    (output / "checkpoint-4").mkdir(parents=True)
    (output / "checkpoint-4" / "trainer_state.json").write_text('{"global_step": 4}')
    with pytest.raises(KeyboardInterrupt):
        flash_recipe.run_stage("consistency", "tiny", tmp_path / "rows", tmp_path, recipe)
    assert seen == [("consistency", None, "vico"), ("consistency", str(output), "vico")]


def test_the_projector_alone_can_be_trained(tmp_path):
    recipe = replace(SMALL, is_only_projector=True)
    settings = recipe.settings("consistency", "tiny", tmp_path / "rows", tmp_path / "run")
    freeze = settings.freeze
    assert (freeze.freeze_vit, freeze.freeze_aligner, freeze.freeze_llm) == (True, True, True)
    assert settings.adapter.tuner_type == "full"


def test_the_divergence_follows_the_model_that_the_run_began_from(tmp_path):
    recipe = replace(SMALL, model="base", ratio_loss="divergence")
    settings = recipe.settings("router", "first", tmp_path / "rows", tmp_path / "run")
    assert (settings.model.model, settings.vico.reference_model) == ("first", "base")


def test_a_share_of_the_scores_reaches_the_threshold():
    scores = np.random.default_rng(0).random(501)
    assert (scores >= share_threshold(scores.tolist(), 0.7)).mean() == pytest.approx(0.7, abs=3e-3)


def test_tiles_that_have_the_very_score_of_the_threshold_reach_it():
    scores = torch.tensor([0.25, 0.53515625, 0.53515625, 0.75], dtype=torch.bfloat16)
    threshold = share_threshold(scores.tolist(), 0.6)
    assert (scores.float() >= threshold).tolist() == [False, True, True, True]


def test_rows_are_drawn_as_the_recipe_says():
    recipe = replace(SMALL, seed=5)
    assert recipe.rows == DrawnRows(6, ("counting", "shapes"), (2.0,), seed=5)


@pytest.mark.parametrize("change", [{"num_rows": -5}, {"factors": (0.0,)}, {"families": ()}])
def test_what_cannot_be_drawn_is_refused(change):
    with pytest.raises(DataError):
        replace(SMALL, **change)


@pytest.mark.parametrize(
    "change",
    [{"router_steps": 0}, {"compressed_share": 1.0}, {"percentile": 150.0}, {"seed": -1}],
)
def test_what_cannot_be_trained_is_refused(change):
    with pytest.raises(ConfigError, match="needed: "):
        FlashRecipe(**change)
