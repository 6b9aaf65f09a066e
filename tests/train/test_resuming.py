"""Runs that were killed, interrupted or ended: going on with them, to the bit or not at all."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from small_runs import RunProcesses, read_curve

from internvl35.errors import ConfigError, DataError
from internvl35.train import checkpoints
from internvl35.train import finetune as module
from internvl35.train.checkpoints import list_checkpoints, write_checkpoint
from internvl35.train.finetune import finetune
from internvl35.train.loop import TrainingLoop
from internvl35.train.run_folder import read_settings


def kill_at(moment, monkeypatch):
    """Let a process end in the middle of something, as kill -9 would end it."""
    owner, name, call = {
        "in a step": (TrainingLoop, "take_step", 4),
        "while weights are written": (module, "write_weights", 1),
        "while a checkpoint gets its name": (checkpoints, "flush", 3),
        "while an old one is removed": (checkpoints.shutil, "rmtree", 2),
    }[moment]
    plain, calls = getattr(owner, name), []

    def die(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGKILL)
        return plain(*arguments, **options)

    monkeypatch.setattr(owner, name, die)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataloader_num_workers": 1, "data_augment": True, "split_dataset_ratio": 0.2,
         "save_total_limit": 1, "eval_steps": 4},
        {"packing": True, "packing_length": 400, "tuner_type": "full", "freeze_vit": False,
         "drop_path_rate": 0.2, "logging_steps": 3, "per_device_train_batch_size": 1,
         "save_total_limit": 1},
    ],
    ids=["adapters", "packed full training"],
)  # fmt: skip
def test_a_run_that_is_killed_again_and_again_equals_one_that_is_not(
    make_settings, tmp_path, monkeypatch, changes
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finetune(make_settings(whole, max_steps=8, **changes))
    again = {}
    for moment in (
        "in a step", "while weights are written", "while a checkpoint gets its name",
        "while an old one is removed", "in a step",
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            kill_at(moment, patch)
            run = RunProcesses(make_settings(killed, max_steps=8, **changes, **again), 1, tmp_path)
        assert run.wait() == [-signal.SIGKILL], (moment, run.read_screens())
        again = {"resume_from_checkpoint": str(killed)}
    assert not (killed / "checkpoint-8").exists()
    finetune(make_settings(killed, max_steps=8, **changes, **again))
    for name in ("loss", "grad_norm", "learning_rate", "token_acc", "eval_loss", "epoch"):
        assert read_curve(killed, name) == read_curve(whole, name)
    one, other = (load_file(folder / "checkpoint-8" / "training_state.safetensors")
                  for folder in (whole, killed))  # fmt: skip
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0)


def test_a_run_is_not_gone_on_with_in_another_way(make_settings, tmp_path):
    finetune(make_settings(tmp_path, max_steps=2))
    again = {"resume_from_checkpoint": str(tmp_path), "max_steps": 4}
    with pytest.raises(ConfigError, match=r"lora_rank is 4 but the run .* began with 8"):
        finetune(make_settings(tmp_path, lora_rank=4, **again))
    with pytest.raises(ConfigError, match=r"a step has 3 batches .* but 2 in the run"):
        finetune(make_settings(tmp_path, gradient_accumulation_steps=3, **again))
    finetune(make_settings(tmp_path, learning_rate=1e-4, **again))
    assert len(read_curve(tmp_path)) == 4


def test_rows_that_have_changed_since_are_refused_and_copies_of_them_are_not(
    make_settings, rows, tmp_path
):
    own = tmp_path / "rows.jsonl"
    pictures = {"media_root": str(rows.parent)}
    own.write_text(rows.read_text())
    data = {"dataset": (str(own),), **pictures}
    finetune(make_settings(tmp_path / "run", max_steps=2, **data))
    again = {"resume_from_checkpoint": str(tmp_path / "run"), **data}
    os.utime(own, (0, 0))  # as another copy has it
    finetune(make_settings(tmp_path / "run", max_steps=3, **again))
    lines = rows.read_text().splitlines()
    own.write_text("\n".join([lines[0].replace("Hello,", "Hello, hello,"), *lines[1:]]))
    with pytest.raises(DataError, match=r"not those that the run began with: 1 of 20 rows have"):
        finetune(make_settings(tmp_path / "run", max_steps=4, **again))
    own.write_text("\n".join(lines[1:]))
    with pytest.raises(DataError, match=r"there are 19 rows now and 20 then; put them back"):
        finetune(make_settings(tmp_path / "run", max_steps=4, **again))


def test_a_run_that_is_done_stays_as_it_is_and_says_so(make_settings, tmp_path, capsys):
    links = {"create_checkpoint_symlink": True}
    first = finetune(make_settings(tmp_path, split_dataset_ratio=0.2, **links))
    curve = read_curve(tmp_path)
    again = make_settings(
        tmp_path, split_dataset_ratio=0.2, resume_from_checkpoint=str(tmp_path / "last")
    )
    assert finetune(again) == first
    assert read_curve(tmp_path) == curve
    assert "the run is done, it has 6 steps behind it; raise max_steps" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"has 6 steps behind it but the run is to have 4; raise"):
        finetune(
            make_settings(
                tmp_path, split_dataset_ratio=0.2, max_steps=4, resume_from_checkpoint=str(tmp_path)
            )
        )


def test_checkpoints_behind_the_one_that_is_resumed_no_longer_count(
    make_settings, tmp_path, capsys
):
    finetune(make_settings(tmp_path))
    earlier = str(tmp_path / "checkpoint-2")
    finetune(
        make_settings(tmp_path, max_steps=3, save_total_limit=1, resume_from_checkpoint=earlier)
    )
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-3"]
    assert (tmp_path / "undone-checkpoint-6").is_dir()
    assert "goes on before checkpoint-6" in capsys.readouterr().err
    assert len(read_curve(tmp_path)) == 3


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(make_settings, tmp_path):
    finetune(make_settings(tmp_path, max_steps=1))
    (checkpoint,) = list_checkpoints(tmp_path)
    checkpoint.rename(tmp_path / ".partial-checkpoint-1")  # as a kill while it is written leaves it
    with pytest.raises(DataError, match=r"holds no checkpoint to resume from.*start anew"):
        finetune(make_settings(tmp_path, resume_from_checkpoint=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"holds the log of a run without a checkpoint; remove"):
        finetune(make_settings(tmp_path, max_steps=1))
    (tmp_path / "logging.jsonl").unlink()
    finetune(make_settings(tmp_path, max_steps=1))


def test_a_checkpoint_of_the_model_alone_cannot_be_resumed(make_settings, tmp_path):
    finetune(make_settings(tmp_path, max_steps=2, save_only_model=True))
    with pytest.raises(DataError, match=r"no training state, which save_only_model.*resume_only"):
        finetune(make_settings(tmp_path, resume_from_checkpoint=str(tmp_path)))


def test_a_new_run_may_begin_with_the_weights_of_another_and_be_resumed_itself(
    make_settings, tmp_path
):
    first = finetune(make_settings(tmp_path / "first", max_steps=2))
    values = {"max_steps": 2, "learning_rate": 1e-12}
    second = finetune(
        make_settings(
            tmp_path / "second", **values, resume_only_model=True,
            resume_from_checkpoint=str(first.last_checkpoint),
        )
    )  # fmt: skip
    assert second.run_folder == tmp_path / "second"
    ours, theirs = (load_file(result.last_checkpoint / "adapter_model.safetensors")
                    for result in (first, second))  # fmt: skip
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-9)
    noted = read_settings(second.last_checkpoint)
    assert not noted.run.resume_only_model
    assert noted.adapter.adapters == (str(first.last_checkpoint),)
    third = finetune(
        make_settings(
            tmp_path / "second", **values | {"max_steps": 3}, adapters=noted.adapter.adapters,
            resume_from_checkpoint=str(second.run_folder),
        )
    )  # fmt: skip
    assert (third.run_folder, third.num_steps) == (second.run_folder, 3)


def test_a_best_checkpoint_that_was_removed_since_is_not_named(make_settings, tmp_path):
    data = {"split_dataset_ratio": 0.2, "learning_rate": 1e-12}
    finetune(make_settings(tmp_path, max_steps=4, **data))
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    best = tmp_path / state["best_model_checkpoint"]
    for path in best.iterdir():
        path.unlink()
    best.rmdir()
    resumed = "checkpoint-2" if best.name == "checkpoint-4" else "checkpoint-4"
    result = finetune(
        make_settings(tmp_path, **data, max_steps=5, resume_from_checkpoint=str(tmp_path / resumed))
    )
    assert result.best_checkpoint is not None
    assert result.best_checkpoint.is_dir()


def test_a_step_that_is_taken_again_never_leaves_half_of_its_old_checkpoint(tmp_path, monkeypatch):
    def fill(folder):
        (folder / "weights.txt").write_text("weights")

    write_checkpoint(tmp_path, 50, fill, {})
    removed = []
    monkeypatch.setattr(
        "internvl35.train.checkpoints.shutil.rmtree",
        lambda path, **_: removed.append(path.name),  # as if killed before the first file goes
    )
    write_checkpoint(tmp_path, 50, fill, {})
    assert "checkpoint-50" not in removed
    assert (tmp_path / "checkpoint-50" / "weights.txt").is_file()
