"""Whole runs: what they leave behind, and what they say when something is wrong."""

from __future__ import annotations

import json
import math
import shutil
import signal

import pytest
import torch
from small_runs import NUM_ROWS, read_curve

from internvl35.chat import load
from internvl35.errors import ConfigError, DataError
from internvl35.generate.sampling import SamplingSettings
from internvl35.train import finetune as module
from internvl35.train import packages
from internvl35.train.checkpoints import list_checkpoints, read_state
from internvl35.train.finetune import finetune
from internvl35.train.loop import TrainingLoop
from internvl35.train.sft import Trainee


@pytest.mark.usefixtures("curves")
def test_a_run_leaves_checkpoints_settings_figures_and_curves(make_settings, tmp_path):
    result = finetune(
        make_settings(
            tmp_path, split_dataset_ratio=0.2, save_total_limit=2, report_to=("tensorboard",),
            create_checkpoint_symlink=True,
        )
    )  # fmt: skip
    assert result.run_folder == tmp_path
    assert result.num_steps == 6
    assert len(read_curve(tmp_path)) == 6
    assert len(read_curve(tmp_path, "eval_loss")) == 3
    kept = list_checkpoints(tmp_path)
    assert result.last_checkpoint == kept[-1] == tmp_path / "checkpoint-6"
    assert result.best_checkpoint in kept
    assert len(kept) <= 2
    assert result.best_metric == pytest.approx(min(read_curve(tmp_path, "eval_loss")), rel=1e-6)
    state = read_state(kept[-1])
    assert state["best_metric"] == result.best_metric
    assert [line["loss"] for line in state["log_history"] if "loss" in line] == read_curve(tmp_path)
    assert (tmp_path / "last").resolve() == kept[-1].resolve()
    arguments = json.loads((tmp_path / "args.json").read_text())
    assert arguments["learning_rate"] == 1e-3
    assert arguments["resolved"]["num_train_rows"] == NUM_ROWS - 4
    assert len((tmp_path / "val_dataset.jsonl").read_text().splitlines()) == 4
    assert (tmp_path / "images" / "train_loss.png").is_file()
    assert "](train_loss.png)" in (kept[-1] / "README.md").read_text()
    assert list((tmp_path / "runs").iterdir())
    summary = json.loads((tmp_path / "logging.jsonl").read_text().splitlines()[-1])
    assert summary["last_model_checkpoint"] == str(kept[-1])
    assert {path.name for path in kept[-1].iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "README.md", "args.json",
        "trainer_state.json", "training_state.safetensors", "train_loss.png",
    }  # fmt: skip


def test_the_loss_falls_on_rows_that_are_seen_again_and_again(make_settings, tmp_path):
    changes = {"max_steps": 30, "learning_rate": 1e-2, "save_steps": 100}
    finetune(make_settings(tmp_path, tuner_type="full", **changes))
    losses = read_curve(tmp_path)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_figures_are_logged_after_the_first_step_every_fifth_and_the_last(make_settings, tmp_path):
    settings = make_settings(
        tmp_path, max_steps=7, save_steps=7, logging_steps=5, gradient_accumulation_steps=1
    )
    finetune(settings)
    lines = [json.loads(line) for line in (tmp_path / "logging.jsonl").read_text().splitlines()]
    positions = [line["global_step/max_steps"] for line in lines if "loss" in line]
    assert positions == ["1/7", "5/7", "7/7"]


def test_epochs_in_the_log_are_those_of_the_plan(make_settings, tmp_path):
    changes = {"max_steps": -1, "num_train_epochs": 2.5, "save_strategy": "no"}
    result = finetune(make_settings(tmp_path, **changes))
    assert result.num_steps == 13  # 5 steps of 4 rows an epoch
    assert read_curve(tmp_path, "epoch")[:-1] == pytest.approx([n / 5 for n in range(1, 13)])
    assert read_state(result.last_checkpoint)["epoch"] == pytest.approx(2.6)


def test_a_step_may_ask_for_more_rows_than_there_are(make_settings, tmp_path):
    changes = {"gradient_accumulation_steps": 3 * NUM_ROWS, "per_device_train_batch_size": 1}
    result = finetune(make_settings(tmp_path, max_steps=-1, num_train_epochs=0.5, **changes))
    assert result.num_steps == 1
    (loss,) = read_curve(tmp_path)
    assert 0 < loss < 20


def test_packed_rows_have_the_losses_of_padded_ones(make_settings, tmp_path):
    common = {"lora_dropout": 0.0, "max_steps": 2, "gradient_accumulation_steps": NUM_ROWS,
              "per_device_train_batch_size": 1}  # fmt: skip
    finetune(make_settings(tmp_path / "padded", **common))
    finetune(make_settings(tmp_path / "packed", **common, packing=True, packing_length=512))
    packed, padded = (read_curve(tmp_path / name) for name in ("packed", "padded"))
    assert packed == pytest.approx(padded, abs=1e-5)


def test_a_full_checkpoint_is_a_checkpoint_like_any_other(
    make_settings, random_checkpoint, tmp_path
):
    settings = make_settings(
        tmp_path, tuner_type="full", freeze_vit=False, max_steps=2, torch_dtype="bfloat16"
    )
    result = finetune(settings)
    chat = load(result.last_checkpoint)
    assert chat.model.dtype == torch.bfloat16
    assert isinstance(chat.ask("Hello", sampling=SamplingSettings(max_tokens=2)).text, str)
    start = load(random_checkpoint, dtype="bfloat16").model.state_dict()
    moved = {name.split(".")[0] for name, value in chat.model.state_dict().items()
             if not torch.equal(value, start[name])}  # fmt: skip
    assert moved == {"vision_tower", "language_model"}


@pytest.mark.parametrize("tuner_type", ["lora", "full"])
def test_the_projector_may_train_alone_though_some_rows_have_no_picture(
    make_settings, tmp_path, tuner_type
):
    frozen = {"freeze_llm": True, "freeze_aligner": False, "per_device_train_batch_size": 1}
    finetune(make_settings(tmp_path, tuner_type=tuner_type, max_steps=2, **frozen))
    assert all(math.isfinite(loss) for loss in read_curve(tmp_path))


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"tuner_type": "full", "packing": True, "router_aux_loss_coef": -1.0}],
    ids=["adapters", "packed full training"],
)
def test_mixtures_of_experts_train_with_the_defaults(
    make_settings, make_mixture, tmp_path, family, changes
):
    common = {"model": str(make_mixture(family)), "torch_dtype": "bfloat16", "max_steps": 2}
    result = finetune(make_settings(tmp_path, **common, **changes))
    assert all(math.isfinite(loss) for loss in read_curve(tmp_path))
    resolved = json.loads((result.last_checkpoint / "args.json").read_text())["resolved"]
    assert "language_model 0 of" not in resolved["parameters"]


def test_a_network_without_experts_has_no_loss_of_routers(make_settings, tmp_path):
    with pytest.raises(ConfigError, match="but this network has no experts; leave it out"):
        finetune(make_settings(tmp_path, router_aux_loss_coef=0.01))
    finetune(make_settings(tmp_path, router_aux_loss_coef=-1.0, max_steps=1))


# ------------------------------------------------------------------ rows that cannot be used


def test_bad_rows_are_counted_kept_with_their_reason_and_end_a_run_that_has_too_many(
    make_settings, rows, tmp_path
):
    path = rows.parent / "some_bad.jsonl"
    bad = json.loads(rows.read_text().splitlines()[0]) | {"images": ["absent.png"]}
    path.write_text(rows.read_text() + json.dumps(bad) + "\n{broken\n")
    data = {"dataset": (str(path),)}
    with pytest.raises(DataError, match=r"2 of 22 rows cannot be used.*some_bad\.jsonl:2"):
        finetune(make_settings(tmp_path / "strict", **data))
    result = finetune(make_settings(tmp_path / "mild", max_bad_share=0.2, max_steps=1, **data))
    noted = (tmp_path / "mild" / "bad_rows.jsonl").read_text().splitlines()
    reasons = sorted(json.loads(line)["reason"] for line in noted)
    assert "some_bad.jsonl:22" in reasons[0]
    assert "absent.png" in reasons[1]
    arguments = json.loads((result.last_checkpoint / "args.json").read_text())
    assert arguments["resolved"]["num_bad_rows"] == 2


@pytest.fixture
def damaged(rows, tmp_path):
    """A row whose picture begins well and ends too early."""
    whole = (rows.parent / "0.png").read_bytes()
    (rows.parent / "damaged.png").write_bytes(whole[: len(whole) // 2])
    row = json.loads(rows.read_text().splitlines()[0])
    path = rows.parent / "damaged.jsonl"
    path.write_text(json.dumps(row | {"images": ["damaged.png"]}) + "\n")
    return path


def test_a_picture_that_is_damaged_inside_is_left_out_and_counts_once_in_all_epochs(
    make_settings, rows, damaged, tmp_path
):
    changes = {"dataset": (str(rows), str(damaged)), "max_steps": -1, "num_train_epochs": 3.0}
    result = finetune(make_settings(tmp_path, max_bad_share=0.05, **changes))
    (line,) = (tmp_path / "bad_rows.jsonl").read_text().splitlines()
    assert "damaged.jsonl:1" in line
    with pytest.raises(DataError, match=r"1 of 21 rows cannot be used, more than max_bad_share"):
        finetune(make_settings(tmp_path / "strict", max_bad_share=0.04, **changes))
    assert result.num_steps == 18


def test_an_evaluation_without_a_row_that_can_be_used_has_no_loss(
    make_settings, damaged, tmp_path, capsys
):
    result = finetune(make_settings(tmp_path, val_dataset=(str(damaged),), max_steps=2))
    assert (result.best_metric, result.best_checkpoint) == (None, None)
    assert read_curve(tmp_path, "eval_loss") == []
    assert "no row to evaluate on can be used" in capsys.readouterr().err
    assert len((tmp_path / "bad_rows.jsonl").read_text().splitlines()) == 1


def test_validation_rows_that_are_all_bad_end_the_run_before_it_begins(
    make_settings, rows, tmp_path
):
    path = rows.parent / "absent.jsonl"
    row = json.loads(rows.read_text().splitlines()[0]) | {"images": ["absent.png"]}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"1 of 1 rows cannot be used.*absent\.png"):
        finetune(make_settings(tmp_path, val_dataset=(str(path),)))


def test_a_share_that_sets_no_row_aside_is_said(make_settings, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("internvl35.data.row_choice._count_val", lambda *_: 0)
    finetune(make_settings(tmp_path, split_dataset_ratio=0.001, max_steps=1))
    assert "no row is set aside to evaluate on" in capsys.readouterr().err


# ------------------------------------------------------------------ what goes wrong on the way


def test_a_data_set_that_is_not_there_is_told_before_weights_are_loaded(
    make_settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "assemble", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(DataError, match="absent"):
        finetune(make_settings(tmp_path / "run", dataset=(str(tmp_path / "absent.jsonl"),)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, r"tuner_type lora needs the package peft.*'internvl35\[train\]'"),
        ({"tuner_type": "full", "report_to": ("tensorboard",)}, "or set report_to to none"),
        ({"tuner_type": "full", "deepspeed": "zero3"}, "deepspeed zero3 needs the package"),
    ],
)
def test_packages_that_are_missing_are_told_before_anything_is_looked_for(
    make_settings, tmp_path, monkeypatch, changes, found
):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=found):
        finetune(make_settings(tmp_path, dataset=("absent.jsonl",), **changes))


def fail_after(num_calls, error, monkeypatch, owner=Trainee, name="forward"):
    """Let a method raise an error once it was called so often."""
    plain, calls = getattr(owner, name), []

    def fail(self, *arguments):
        calls.append(arguments)
        if len(calls) > num_calls:
            raise error
        return plain(self, *arguments)

    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 GiB"),
    ],
)
def test_memory_that_does_not_suffice_is_a_clear_message_and_the_last_checkpoint_stays(
    make_settings, tmp_path, monkeypatch, error
):
    fail_after(9, error, monkeypatch)
    with pytest.raises(ConfigError, match=r"memory does not suffice.*2 GiB.*batch_size") as caught:
        finetune(make_settings(tmp_path))
    assert str(caught.value).endswith(
        f"internvl35 sft --resume_from_checkpoint {tmp_path}/checkpoint-4"
    )
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.usefixtures("curves")
def test_an_interrupt_says_how_to_go_on(make_settings, tmp_path, monkeypatch, capsys):
    fail_after(2, KeyboardInterrupt(), monkeypatch, TrainingLoop, "take_step")
    with pytest.raises(KeyboardInterrupt):
        finetune(make_settings(tmp_path), command="pt")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        "interrupted; go on from the last checkpoint by internvl35 pt --resume_from_checkpoint "
        f"{tmp_path}/checkpoint-2"
    )
    assert (tmp_path / "images" / "train_loss.png").is_file()


def test_a_process_that_prepares_rows_and_is_killed_is_a_clear_message(
    make_settings, tmp_path, monkeypatch
):
    from internvl35.data.encoding import Encoder

    def die(self, record, seed=0):
        signal.raise_signal(signal.SIGKILL)

    monkeypatch.setattr(Encoder, "encode", die)
    with pytest.raises(ConfigError, match=r"a process that prepares rows has ended .*anew"):
        finetune(make_settings(tmp_path, dataloader_num_workers=1))


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_checkpoint(
    make_settings, tmp_path
):
    settings = make_settings(
        tmp_path, learning_rate=1e30, max_grad_norm=0.0, tuner_type="full", save_steps=1
    )
    with pytest.raises(DataError, match=r"is (nan|inf) in step \d; lower learning_rate"):
        finetune(settings)
    assert list_checkpoints(tmp_path)


def test_a_run_without_data_says_what_to_pass(make_settings, tmp_path):
    with pytest.raises(ConfigError, match="no data set is given; pass --dataset"):
        finetune(make_settings(tmp_path, dataset=()))


def test_half_precision_without_loss_scaling_is_refused(make_settings, random_checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="use bfloat16"):
        finetune(make_settings(tmp_path, torch_dtype="float16"))
    model = load(random_checkpoint, dtype="float16").model
    shutil.copytree(random_checkpoint, tmp_path / "half")
    model.save_pretrained(tmp_path / "half", layout="remote-code")
    changes = {"model": str(tmp_path / "half"), "torch_dtype": None}
    with pytest.raises(ConfigError, match="use bfloat16"):
        finetune(make_settings(tmp_path / "run", **changes))
