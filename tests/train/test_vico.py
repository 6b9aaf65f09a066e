"""Whole runs of both stages: what they learn, and the Flash checkpoints that they leave."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from small_runs import read_curve

from internvl35.chat import load
from internvl35.errors import ConfigError
from internvl35.model.configuration import read_config
from internvl35.train.finetune import finetune

STILL = {"lora_dropout": 0.0, "lr_scheduler_type": "constant"}


def read_weights(folder):
    return load_file(folder / "model.safetensors")


# ------------------------------------------------------------------ stage consistency


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 2e-3, **STILL},
        {"tuner_type": "full", "packing": True, "packing_length": 400},
    ],
    ids=["adapters", "packed full training"],
)
def test_the_first_stage_brings_compressed_answers_nearer(make_run, rows, tmp_path, changes):
    result = finetune(
        make_run(
            tmp_path, max_steps=12, val_dataset=(str(rows),), eval_steps=2, save_steps=12,
            compress_probability=1.0, **changes,
        ),
        command="vico",
    )  # fmt: skip
    losses = read_curve(tmp_path, "eval_loss")
    assert losses[-1] < 0.7 * losses[0]
    assert result.best_metric == pytest.approx(losses[-1], rel=1e-6)
    assert set(read_curve(tmp_path, "compressed_share")) == {1.0}
    arguments = json.loads((result.last_checkpoint / "args.json").read_text())
    assert (arguments["command"], arguments["stage"]) == ("vico", "consistency")
    card = (result.last_checkpoint / "README.md").read_text()
    assert "Trained by ViCO (stage consistency)" in card


@pytest.mark.parametrize("layout", ["hf", "remote-code"])
def test_a_flash_checkpoint_of_either_layout_is_left_and_loads(
    make_run, random_checkpoint, tmp_path, layout
):
    result = finetune(make_run(tmp_path, max_steps=2, save_layout=layout))
    assert not (result.last_checkpoint / "adapter_config.json").exists()
    config, found = read_config(result.last_checkpoint)
    assert (config.flash_mode, config.router_repeats_second_step, found) == (True, False, layout)
    trained = load(result.last_checkpoint).model
    start = load(random_checkpoint).model.state_dict()
    now = trained.state_dict()
    moved = {name for name in start if not torch.equal(now[name], start[name])}
    assert moved
    assert all("layers" in name and name.endswith("proj.weight") for name in moved)
    assert {name.split(".")[0] for name in now.keys() - start.keys()} == {
        "router", "compressed_projector",
    }  # fmt: skip


def test_full_training_moves_every_part_but_the_router(make_run, random_checkpoint, tmp_path):
    thawed = {"freeze_vit": False, "freeze_aligner": False, "tuner_type": "full"}
    last = [
        finetune(make_run(tmp_path / str(steps), max_steps=steps, **thawed)).last_checkpoint
        for steps in (1, 2)
    ]
    one, two = (load(folder).model.state_dict() for folder in last)
    moved = {name.split(".")[0] for name in one if not torch.equal(one[name], two[name])}
    assert moved == {
        "vision_tower", "multi_modal_projector", "language_model", "compressed_projector",
    }  # fmt: skip


def test_another_reference_may_be_named_and_has_to_fit(
    make_run, flash_checkpoint, random_checkpoint, build_model, tmp_path
):
    again = {"model": flash_checkpoint, "max_steps": 1, "learning_rate": 1e-12, **STILL}
    always = {"compress_probability": 1.0}
    finetune(make_run(tmp_path / "own", **again, **always))
    finetune(make_run(tmp_path / "other", reference_model=str(random_checkpoint), **again,
                      **always))  # fmt: skip
    own, other = (read_curve(tmp_path / name) for name in ("own", "other"))
    assert own != pytest.approx(other, rel=1e-3)
    build_model().save_pretrained(tmp_path / "small")
    with pytest.raises(ConfigError, match=r"reference_model .*small has vocabulary.*\(320, 4, 300"):
        finetune(make_run(tmp_path / "wrong", reference_model=str(tmp_path / "small"), **again))


# ------------------------------------------------------------------ stage router


@pytest.mark.parametrize("attribution", ["one_tile", "all_tiles"])
def test_the_second_stage_teaches_the_router_and_nothing_else(
    make_run, flash_checkpoint, tmp_path, attribution
):
    result = finetune(
        make_run(
            tmp_path, model=flash_checkpoint, stage="router", attribution=attribution,
            max_steps=40, learning_rate=3e-3, logging_steps=1, save_steps=40, **STILL,
        ),
        command="vico",
    )  # fmt: skip
    losses = read_curve(tmp_path)
    assert losses[0] == 0  # nothing is known yet
    assert sum(losses[-8:]) < 0.8 * sum(losses[2:10])
    accuracy = read_curve(tmp_path, "tile_acc")
    assert sum(accuracy[-8:]) / 8 > max(0.6, sum(accuracy[2:10]) / 8)
    assert read_curve(tmp_path, "token_acc") == []
    shares = read_curve(tmp_path, "compress_share")
    assert 0.2 < sum(shares[2:]) / len(shares[2:]) < 0.8
    assert len(read_curve(tmp_path, "tau")) in (38, 39)
    start, trained = read_weights(flash_checkpoint), read_weights(result.last_checkpoint)
    moved = {name for name, value in start.items() if not torch.equal(value, trained[name])}
    assert moved
    assert all(name.startswith(("gating", "pooling_before_gating")) for name in moved)


def test_the_second_stage_needs_the_first(make_run, tmp_path):
    with pytest.raises(ConfigError, match=r"is no Flash model; train it with --stage consistency"):
        finetune(make_run(tmp_path, stage="router"))
