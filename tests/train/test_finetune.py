"""Whole runs on the embedded checkpoint: what they leave behind, and that nothing gets lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from internvl35.chat import load
from internvl35.data.synthetic import draw
from internvl35.errors import ConfigError, DataError
from internvl35.train.arguments import build_settings
from internvl35.train.checkpoints import list_checkpoints, read_state
from internvl35.train.finetune import finetune
from internvl35.train.run_folder import read_log
from internvl35.train.sft import Trainee

NUM_ROWS = 20


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows in the announcement's form, of one to five tiles and of text alone."""
    folder = tmp_path_factory.mktemp("rows")
    lines = []
    for index in range(NUM_ROWS):
        family = ("counting", "shapes", "reading", "greeting")[index % 4]
        drawing = draw(family, "train", 7_000_000 + index, 1.0)
        turn = drawing.turns[0]
        row = {
            "messages": [
                {"role": "user", "content": turn.question},
                {"role": "assistant", "content": turn.answer * (1 + index % 3)},
            ]
        }
        if drawing.image is not None:
            drawing.image.save(folder / f"{index}.png")
            row["images"] = [f"{index}.png"]
        lines.append(json.dumps(row))
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def _settings(rows: Path, output: Path, **changes):
    values = {
        "dataset": (str(rows),), "output_dir": str(output), "add_version": False,
        "torch_dtype": "float32", "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2, "max_steps": 6, "save_steps": 2, "logging_steps": 1,
        "learning_rate": 1e-3, "report_to": ("none",), "dataloader_num_workers": 0,
    }  # fmt: skip
    return build_settings(values | changes)


def _curve(folder: Path, name: str = "loss") -> list[float]:
    return [line[name] for line in read_log(folder / "logging.jsonl") if name in line]


def _same_weights(one: Path, other: Path, **tolerance: float) -> None:
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], **tolerance)


def test_a_run_leaves_checkpoints_settings_figures_and_curves(rows, tmp_path):
    result = finetune(
        _settings(
            rows, tmp_path, split_dataset_ratio=0.2, save_total_limit=2, report_to=("tensorboard",),
            create_checkpoint_symlink=True,
        )
    )  # fmt: skip
    assert result.run_folder == tmp_path
    assert result.num_steps == 6
    assert len(_curve(tmp_path)) == 6
    assert len(_curve(tmp_path, "eval_loss")) == 3
    kept = list_checkpoints(tmp_path)
    assert result.last_checkpoint == kept[-1] == tmp_path / "checkpoint-6"
    assert result.best_checkpoint in kept
    assert len(kept) <= 2
    assert result.best_metric == pytest.approx(min(_curve(tmp_path, "eval_loss")), rel=1e-6)
    assert read_state(kept[-1])["best_metric"] == result.best_metric
    assert (tmp_path / "last").resolve() == kept[-1].resolve()
    arguments = json.loads((tmp_path / "args.json").read_text())
    assert arguments["learning_rate"] == 1e-3
    assert arguments["resolved"]["num_train_rows"] == NUM_ROWS - 4
    assert len((tmp_path / "val_dataset.jsonl").read_text().splitlines()) == 4
    assert (tmp_path / "images" / "train_loss.png").is_file()
    assert list((tmp_path / "runs").iterdir())
    summary = json.loads((tmp_path / "logging.jsonl").read_text().splitlines()[-1])
    assert summary["last_model_checkpoint"] == str(kept[-1])
    assert {path.name for path in kept[-1].iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "README.md", "args.json",
        "trainer_state.json", "training_state.safetensors",
    }  # fmt: skip


def test_the_loss_falls_on_rows_that_are_seen_again_and_again(rows, tmp_path):
    finetune(_settings(rows, tmp_path, max_steps=20, learning_rate=5e-3, save_steps=100))
    losses = _curve(tmp_path)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


_SCRIPT = """
import json, sys
from internvl35.train.arguments import build_settings
from internvl35.train.finetune import finetune
finetune(build_settings(json.loads(sys.argv[1])))
"""


def _start(values: dict, *, num_processes: int = 1) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-c", _SCRIPT, json.dumps(values)]
    if num_processes > 1:
        script = Path(values["output_dir"]).with_suffix(".py")
        script.write_text(_SCRIPT)
        program = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={num_processes}", str(script), json.dumps(values),
        ]  # fmt: skip
    return subprocess.Popen(program, stderr=subprocess.PIPE)


def _values(rows: Path, output: Path, **changes) -> dict:
    from internvl35.train.arguments import flatten_settings

    return flatten_settings(_settings(rows, output, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"dataloader_num_workers": 1, "data_augment": True, "split_dataset_ratio": 0.2},
        {"packing": True, "packing_length": 400, "tuner_type": "full", "freeze_vit": False,
         "drop_path_rate": 0.2, "logging_steps": 3, "per_device_train_batch_size": 1},
    ],
    ids=["adapters", "packed full training"],
)  # fmt: skip
def test_a_run_that_was_killed_and_resumed_equals_one_that_was_not(rows, tmp_path, changes):
    whole = tmp_path / "whole"
    finetune(_settings(rows, whole, max_steps=8, **changes))
    killed = tmp_path / "killed"
    process = _start(_values(rows, killed, max_steps=8, **changes))
    while process.poll() is None and not (killed / "checkpoint-4").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "checkpoint-8").exists(), "the run was over before it could be killed"
    finetune(_settings(rows, killed, max_steps=8, resume_from_checkpoint=str(killed), **changes))
    for name in ("loss", "grad_norm", "learning_rate", "token_acc", "eval_loss"):
        assert _curve(killed, name) == _curve(whole, name)
    one, other = (load_file(folder / "checkpoint-8" / "training_state.safetensors")
                  for folder in (whole, killed))  # fmt: skip
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "changes",
    [{}, {"fsdp": "full_shard", "tuner_type": "full"}, {"packing": True, "fsdp": "full_shard"}],
    ids=["replicas", "shards, full training", "shards, packed"],
)
def test_two_processes_have_the_curve_of_one(rows, tmp_path, changes):
    common = {"lora_dropout": 0.0, "freeze_vit": False, "split_dataset_ratio": 0.2}
    one = tmp_path / "one"
    finetune(_settings(rows, one, **common, **changes, gradient_accumulation_steps=4))
    two = tmp_path / "two"
    process = _start(_values(rows, two, **common, **changes), num_processes=2)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()[-9000:]
    assert _curve(two) == pytest.approx(_curve(one), rel=1e-5)
    assert _curve(two, "eval_loss") == pytest.approx(_curve(one, "eval_loss"), rel=1e-5)
    file = "model.safetensors" if "tuner_type" in changes else "adapter_model.safetensors"
    ours, theirs = (load_file(folder / "checkpoint-6" / file) for folder in (one, two))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4)


def test_packed_rows_have_the_losses_of_padded_ones(rows, tmp_path):
    common = {"lora_dropout": 0.0, "max_steps": 4, "gradient_accumulation_steps": NUM_ROWS}
    finetune(_settings(rows, tmp_path / "padded", **common, per_device_train_batch_size=1))
    finetune(
        _settings(
            rows, tmp_path / "packed", **common, packing=True, per_device_train_batch_size=1,
            packing_length=512,
        )
    )  # fmt: skip
    assert _curve(tmp_path / "packed") == pytest.approx(_curve(tmp_path / "padded"), abs=1e-5)


def test_a_full_checkpoint_is_a_checkpoint_like_any_other(rows, tmp_path):
    result = finetune(
        _settings(rows, tmp_path, tuner_type="full", freeze_vit=False, max_steps=2,
                  torch_dtype="bfloat16")
    )  # fmt: skip
    chat = load(result.last_checkpoint)
    assert chat.model.dtype == torch.bfloat16
    assert chat.ask("Hello").text
    start = load("tiny", dtype="bfloat16").model.state_dict()
    moved = {name.split(".")[0] for name, value in chat.model.state_dict().items()
             if not torch.equal(value, start[name])}  # fmt: skip
    assert moved == {"vision_tower", "language_model"}


def test_a_new_run_may_begin_with_the_weights_of_another(rows, tmp_path):
    first = finetune(_settings(rows, tmp_path / "first", max_steps=2))
    second = finetune(
        _settings(
            rows, tmp_path / "second", max_steps=2, learning_rate=1e-12,
            resume_from_checkpoint=str(first.last_checkpoint), resume_only_model=True,
        )
    )  # fmt: skip
    assert second.run_folder == tmp_path / "second"
    _same_weights(first.last_checkpoint, second.last_checkpoint, rtol=0, atol=1e-9)


def test_bad_rows_are_counted_kept_with_their_reason_and_end_a_run_that_has_too_many(
    rows, tmp_path
):
    path = rows.parent / "some_bad.jsonl"
    bad = json.loads(rows.read_text().splitlines()[0]) | {"images": ["absent.png"]}
    path.write_text(rows.read_text() + json.dumps(bad) + "\n{broken\n")
    with pytest.raises(DataError, match=r"2 of 22 rows cannot be used.*some_bad\.jsonl:21"):
        finetune(_settings(path, tmp_path / "strict"))
    result = finetune(_settings(path, tmp_path / "mild", max_bad_share=0.2, max_steps=1))
    noted = (tmp_path / "mild" / "bad_rows.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["reason"] for line in noted]
    assert ["absent.png" in reasons[0], "some_bad.jsonl:22" in reasons[1]] == [True, True]
    arguments = json.loads((result.last_checkpoint / "args.json").read_text())
    assert arguments["resolved"]["num_bad_rows"] == 2


def test_a_picture_that_is_damaged_inside_is_left_out_and_noted(rows, tmp_path):
    whole = (rows.parent / "0.png").read_bytes()
    (rows.parent / "damaged.png").write_bytes(whole[: len(whole) // 2])
    path = rows.parent / "damaged.jsonl"
    row = json.loads(rows.read_text().splitlines()[0]) | {"images": ["damaged.png"]}
    path.write_text(rows.read_text() + json.dumps(row) + "\n")
    changes = {"max_bad_share": 0.1, "max_steps": -1, "num_train_epochs": 1.0}
    finetune(_settings(path, tmp_path, **changes))
    (line,) = (tmp_path / "bad_rows.jsonl").read_text().splitlines()
    assert "damaged.jsonl:21" in line


def test_memory_that_does_not_suffice_is_a_clear_message_and_the_last_checkpoint_stays(
    rows, tmp_path, monkeypatch
):
    forward = Trainee.forward
    calls = []

    def fail(self, batch, total_weight):
        calls.append(batch)
        if len(calls) > 9:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, batch, total_weight)

    monkeypatch.setattr(Trainee, "forward", fail)
    with pytest.raises(ConfigError, match=r"memory does not suffice.*2 GiB.*batch_size"):
        finetune(_settings(rows, tmp_path))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-4"]


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_checkpoint(rows, tmp_path):
    settings = _settings(
        rows, tmp_path, learning_rate=1e30, max_grad_norm=0, tuner_type="full", save_steps=1
    )
    with pytest.raises(DataError, match=r"is (nan|inf) in step \d; lower learning_rate"):
        finetune(settings)
    assert list_checkpoints(tmp_path)


def test_a_run_without_data_says_what_to_pass(tmp_path):
    with pytest.raises(ConfigError, match="no data set is given; pass --dataset"):
        finetune(_settings(tmp_path, tmp_path, dataset=()))


def test_half_precision_without_loss_scaling_is_refused(rows, tmp_path):
    with pytest.raises(ConfigError, match="use bfloat16"):
        finetune(_settings(rows, tmp_path, torch_dtype="float16"))


def test_a_run_is_not_gone_on_with_in_another_way(rows, tmp_path):
    finetune(_settings(rows, tmp_path, max_steps=2))
    again = {"resume_from_checkpoint": str(tmp_path), "max_steps": 4}
    with pytest.raises(ConfigError, match=r"lora_rank is 4 but the run .* began with 8"):
        finetune(_settings(rows, tmp_path, lora_rank=4, **again))
    with pytest.raises(ConfigError, match=r"a step has 3 batches .* but 2 in the run"):
        finetune(_settings(rows, tmp_path, gradient_accumulation_steps=3, **again))
    finetune(_settings(rows, tmp_path, learning_rate=1e-4, **again))
    assert len(_curve(tmp_path)) == 4
