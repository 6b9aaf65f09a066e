"""Processes that train together: the curve of one, and nobody waits for one that has failed."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from small_runs import RunProcesses, read_curve

from internvl35.train.finetune import finetune

COMMON = {"lora_dropout": 0.0, "freeze_vit": False, "split_dataset_ratio": 0.2, "max_steps": 3}


@pytest.mark.parametrize(
    "changes",
    [{}, {"fsdp": "full_shard", "tuner_type": "full"}, {"packing": True, "fsdp": "full_shard"}],
    ids=["replicas", "shards, full training", "shards, packed"],
)
def test_two_processes_have_the_curve_of_one(make_settings, tmp_path, changes):
    one, two = tmp_path / "one", tmp_path / "two"
    finetune(make_settings(one, **COMMON, **changes, gradient_accumulation_steps=4))
    run = RunProcesses(make_settings(two, **COMMON, **changes), 2, tmp_path)
    assert run.wait() == [0, 0], run.read_screens()
    assert read_curve(two) == pytest.approx(read_curve(one), rel=1e-5)
    assert read_curve(two, "eval_loss") == pytest.approx(read_curve(one, "eval_loss"), rel=1e-5)
    file = "model.safetensors" if "tuner_type" in changes else "adapter_model.safetensors"
    ours, theirs = (load_file(folder / "checkpoint-3" / file) for folder in (one, two))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4)


def test_shards_in_16_bits_stay_close_and_are_resumed(make_settings, tmp_path):
    changes = COMMON | {
        "fsdp": "full_shard", "torch_dtype": "bfloat16", "lr_scheduler_type": "constant",
    }  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    finetune(make_settings(one, **changes, gradient_accumulation_steps=4))
    run = RunProcesses(make_settings(two, **changes | {"max_steps": 2}), 2, tmp_path)
    assert run.wait() == [0, 0], run.read_screens()
    again = changes | {"resume_from_checkpoint": str(two)}
    run = RunProcesses(make_settings(two, **again), 2, tmp_path)
    assert run.wait() == [0, 0], run.read_screens()
    assert read_curve(two) == pytest.approx(read_curve(one), rel=2e-3)


def test_rows_that_one_process_cannot_use_end_all_of_them_alike(make_settings, rows, tmp_path):
    whole = (rows.parent / "0.png").read_bytes()
    (rows.parent / "half.png").write_bytes(whole[: len(whole) // 2])
    path = rows.parent / "half.jsonl"
    row = json.loads(rows.read_text().splitlines()[0]) | {"images": ["half.png"]}
    path.write_text(json.dumps(row) + "\n")
    settings = make_settings(tmp_path / "run", dataset=(str(rows), str(path)), max_bad_share=0.04)
    run = RunProcesses(settings, 2, tmp_path)
    assert run.wait() == [1, 1]
    for screen in run.read_screens():
        assert "1 of 21 rows cannot be used, more than max_bad_share (0.04) allows" in screen
    (line,) = (tmp_path / "run" / "bad_rows.jsonl").read_text().splitlines()
    assert "half.jsonl:1" in line


def test_two_processes_have_the_curve_of_one_with_experts_and_their_loss(
    make_settings, make_mixture, tmp_path
):
    changes = COMMON | {
        "model": str(make_mixture("gpt_oss")), "fsdp": "full_shard", "tuner_type": "full",
        "packing": True, "router_aux_loss_coef": 0.5, "split_dataset_ratio": 0.0,
    }  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    finetune(make_settings(one, **changes, gradient_accumulation_steps=4))
    run = RunProcesses(make_settings(two, **changes), 2, tmp_path)
    assert run.wait() == [0, 0], run.read_screens()
    assert read_curve(two) == pytest.approx(read_curve(one), rel=1e-5)
