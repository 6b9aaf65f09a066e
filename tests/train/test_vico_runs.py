"""Runs of ViCO as runs: resumed to the bit, in several processes, with settings that cannot be."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from small_runs import RunProcesses, read_curve

from internvl35.chat import load
from internvl35.errors import ConfigError, DataError
from internvl35.train.arguments import build_settings
from internvl35.train.finetune import finetune
from internvl35.train.settings import FinetuneSettings
from internvl35.train.vico_settings import VicoRunSettings


def read_weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"split_dataset_ratio": 0.2},
        {"tuner_type": "full", "packing": True, "packing_length": 400, "compress_unit": "tile"},
        {"stage": "router", "window_size": 24, "tiles_per_row": 1, "split_dataset_ratio": 0.2},
    ],
    ids=["adapters", "packed full training", "router"],
)
def test_a_run_that_is_resumed_equals_one_that_is_not(
    make_run, flash_checkpoint, tmp_path, changes
):
    if "stage" in changes:
        changes = {"model": flash_checkpoint, **changes}
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    changes = {"lr_scheduler_type": "constant", "logging_steps": 2, **changes}
    finetune(make_run(whole, max_steps=6, save_steps=3, **changes))
    finetune(make_run(halves, max_steps=3, save_steps=3, **changes))
    finetune(
        make_run(
            halves, max_steps=6, save_steps=3, resume_from_checkpoint=str(halves), **changes
        )
    )  # fmt: skip
    names = ("tau", "compress_share", "compressed_share", "grad_norm")
    for name in ("loss", "eval_loss", *names):
        ours, theirs = (read_curve(folder, name)[-1:] for folder in (halves, whole))
        assert ours == theirs, name
    for file in ("model.safetensors", "training_state.safetensors"):
        one, other = (load_file(folder / "checkpoint-6" / file) for folder in (whole, halves))
        assert one.keys() == other.keys()
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=0, atol=0)


def test_a_router_compresses_nothing_until_it_was_trained(make_run, flash_checkpoint, tmp_path):
    assert load(flash_checkpoint).model.config.flash_absolute_threshold == 1.0
    changes = {"model": flash_checkpoint, "stage": "router", "max_steps": 1}
    trained = finetune(make_run(tmp_path, **changes)).last_checkpoint
    assert load(trained).model.config.flash_absolute_threshold == 0.5


def test_a_router_that_learnt_nothing_is_told_of(make_run, flash_checkpoint, tmp_path, capsys):
    changes = {"model": flash_checkpoint, "stage": "router", "max_steps": 1}
    finetune(make_run(tmp_path / "few", window_warmup=500, window_size=500, **changes))
    assert "the router has learnt nothing: labels need 500 tiles" in capsys.readouterr().err
    finetune(make_run(tmp_path / "enough", window_warmup=1, **changes))
    assert "learnt nothing" not in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["consistency", "router"])
def test_rows_without_pictures_are_refused(make_run, flash_checkpoint, tmp_path, stage):
    rows = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello back"}]
    rows.write_text((json.dumps({"messages": turns}) + "\n") * 4)
    chosen = {"model": flash_checkpoint, "dataset": (str(rows),), "stage": stage}
    with pytest.raises(DataError, match="none of the 4 rows has a picture or a video"):
        finetune(make_run(tmp_path / "run", **chosen))


def test_two_processes_label_by_the_ratios_of_both(make_run, flash_checkpoint, tmp_path):
    changes = {"model": flash_checkpoint, "stage": "router", "tiles_per_row": 99, "max_steps": 3}
    changes |= {"split_dataset_ratio": 0.2, "window_warmup": 1}
    one, two = tmp_path / "one", tmp_path / "two"
    finetune(make_run(one, **changes, gradient_accumulation_steps=4))
    run = RunProcesses(make_run(two, **changes), 2, tmp_path)
    assert run.wait() == [0, 0], run.read_screens()
    for name in ("tau", "compress_share"):
        assert read_curve(two, name) == pytest.approx(read_curve(one, name), rel=1e-6)
        assert len(read_curve(two, name)) >= 2


def test_a_run_is_not_gone_on_with_under_other_settings_of_vico(make_run, tmp_path):
    finetune(make_run(tmp_path, max_steps=2))
    again = {"max_steps": 4, "resume_from_checkpoint": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"compress_unit is 'tile' but the run .* with 'image'"):
        finetune(make_run(tmp_path, compress_unit="tile", **again))


def test_a_new_run_may_begin_with_the_merged_weights_of_another(make_run, tmp_path):
    first = finetune(make_run(tmp_path / "first", max_steps=2))
    second = finetune(
        make_run(
            tmp_path / "second", max_steps=1, learning_rate=1e-12, resume_only_model=True,
            resume_from_checkpoint=str(first.last_checkpoint),
        )
    )  # fmt: skip
    ours, theirs = (read_weights(result.last_checkpoint) for result in (first, second))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-7)


def test_bfloat16_trains_in_both_stages(make_run, tmp_path):
    half = {"torch_dtype": "bfloat16", "max_steps": 3, "freeze_vit": False}
    first = finetune(make_run(tmp_path / "first", **half))
    assert all(loss >= 0 for loss in read_curve(tmp_path / "first"))
    model = first.last_checkpoint
    finetune(make_run(tmp_path / "second", model=model, stage="router", **half))
    assert read_curve(tmp_path / "second")[-1] > 0


@pytest.mark.parametrize(
    "changes",
    [{}, {"tuner_type": "full", "fsdp": "full_shard", "freeze_vit": False}, {"stage": "router"}],
    ids=["replicas with adapters", "shards, full training", "router"],
)
def test_two_processes_train_together(make_run, flash_checkpoint, tmp_path, changes):
    if "stage" in changes:
        changes = {"model": flash_checkpoint, **changes}
    settings = make_run(tmp_path / "run", max_steps=3, split_dataset_ratio=0.2, **changes)
    run = RunProcesses(settings, 2, tmp_path)
    assert run.wait() == [0, 0], run.read_screens()
    assert read_curve(tmp_path / "run")[-1] > 0
    assert load(tmp_path / "run" / "checkpoint-3").model.router is not None


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"compress_probability": 0.0}, "compress_probability is 0.0; needed: above 0, at most 1"),
        ({"percentile": 100.0}, "percentile is 100.0; needed: above 0 and below 100"),
        ({"window_warmup": 9, "window_size": 8}, "needed: 1 to window_size, which is 8"),
        ({"ratio_floor": 0.0}, "ratio_floor is 0.0; needed: above 0"),
        ({"tiles_per_row": 0}, "tiles_per_row is 0; needed: at least 1"),
        ({"background": 1.5}, "background is 1.5; needed: 0 to 1"),
        ({"background": 0.5, "attribution": "all_tiles"}, "pass --attribution one_tile"),
        ({"stage": "router", "ratio_loss": "divergence"}, "but reference_model is not given"),
        ({"stage": "router", "reference_model": "8B"}, "give both or neither"),
        ({"adapters": ["a"]}, "merge them first with internvl35 export"),
        ({"quant_bits": 4}, "quant_bits is 4, but vico ends in a checkpoint with all weights"),
        ({"deepspeed": "zero2"}, "which vico does not know; use fsdp full_shard"),
        ({"fsdp": "full_shard"}, "pass --tuner_type full"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, found):
    with pytest.raises(ConfigError, match=found):
        build_settings(values, VicoRunSettings())


def test_by_default_the_loss_is_the_mean_over_response_tokens():
    assert VicoRunSettings().optimization.loss_reduction == "token"
    assert FinetuneSettings().optimization.loss_reduction == "square"
    assert build_settings({"fsdp": "full_shard", "stage": "router"}, VicoRunSettings())
