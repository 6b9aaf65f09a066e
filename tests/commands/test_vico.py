"""``internvl35 vico``: from flags to settings; both stages as they are typed."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from types import SimpleNamespace

import pytest
from typer.main import get_command

from internvl35 import cli
from internvl35.commands.finetune import choose_settings
from internvl35.errors import ConfigError
from internvl35.train.vico_settings import VicoRunSettings, VicoSettings

VICO_FLAG_NAMES = """
stage reference_model compress_unit compress_probability attribution background tiles_per_row
ratio_loss ratio_floor percentile window_size window_warmup balance_classes
"""
"""What ``vico`` has beside the flags of ``sft``; whoever adds one adds it here."""

VICO_FLAGS = VICO_FLAG_NAMES.split()


def test_flags_are_those_of_sft_without_recipes_and_a_few_more(run):
    sft, vico = (get_command(cli.app).commands[name] for name in ("sft", "vico"))
    flags, others = (
        {flag for p in command.params if p.param_type_name == "option" for flag in p.opts}
        for command in (vico, sft)
    )
    assert flags == others - {"--recipe"} | {f"--{flag}" for flag in VICO_FLAGS}
    assert [field.name for field in fields(VicoSettings)] == VICO_FLAGS
    code, out, _ = run("vico", "--help")
    assert code == 0
    assert [flag for flag in VICO_FLAGS if f"--{flag}" not in out] == []
    assert all(parameter.help.strip().endswith(".") for parameter in vico.params)


def test_what_is_typed_becomes_settings(run, monkeypatch, tmp_path):
    calls = []

    def pretend(settings, *, command):
        calls.append((settings, command))
        return SimpleNamespace(
            run_folder=tmp_path, last_checkpoint=tmp_path, best_checkpoint=None, best_metric=None
        )

    monkeypatch.setitem(sys.modules, "internvl35.train.finetune", SimpleNamespace(finetune=pretend))
    code, out, err = run(
        "vico", "--stage", "router", "--model", "flash", "--dataset", "a.jsonl", "--percentile",
        "60", "--balance_classes", "false", "--train_type", "full",
    )  # fmt: skip
    assert code == 0, err
    assert out.startswith("run folder: ")
    ((settings, command),) = calls
    assert command == "vico"
    assert isinstance(settings, VicoRunSettings)
    assert settings.vico == VicoSettings(stage="router", percentile=60.0, balance_classes=False)
    assert (settings.adapter.tuner_type, settings.optimization.loss_reduction) == ("full", "token")
    code, _, err = run("vico", "--stage", "routing")
    assert code == 2
    assert "routing" in err


def test_a_run_is_gone_on_with_by_the_command_that_began_it(tmp_path):
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    (folder / "trainer_state.json").write_text("{}")
    for began, other in (("vico", "sft"), ("sft", "vico")):
        own = {"stage": "router"} if began == "vico" else {}
        values = {"seed": 7, "command": began, **own}
        (folder / "args.json").write_text(json.dumps(values))
        given = {"resume_from_checkpoint": str(folder)}
        settings = choose_settings(began, given, None)
        assert settings.optimization.seed == 7
        assert isinstance(settings, VicoRunSettings) == (began == "vico")
        with pytest.raises(ConfigError, match=f"began with internvl35 {began}; go on with that"):
            choose_settings(other, given, None)


def test_both_stages_run_one_after_the_other_and_the_result_answers(
    run, random_checkpoint, tmp_path, wide_picture
):
    row = {
        "messages": [
            {"role": "user", "content": "Hello, who are you?"},
            {"role": "assistant", "content": "user image detail"},
        ],
        "images": [str(wide_picture)],
    }
    (tmp_path / "mine.jsonl").write_text(f"{json.dumps(row)}\n" * 4)
    common = [
        "--dataset", tmp_path / "mine.jsonl", "--max_steps", "2", "--window_warmup", "4",
        "--global_batch_size", "2", "--dataloader_num_workers", "0", "--report_to", "none",
        "--add_version", "false", "--use_cpu", "true",
    ]  # fmt: skip
    model = random_checkpoint
    for stage in ("consistency", "router"):
        output = tmp_path / stage
        code, out, err = run(
            "vico", "--stage", stage, "--model", model, "--output_dir", output, *common
        )
        assert code == 0, err
        model = output / "checkpoint-2"
        assert f"last checkpoint: {model}" in out
    code, out, err = run(
        "chat", "Hello", "--model", model, "--image", wide_picture, "--max-tokens", "3",
        "--flash", "all",
    )  # fmt: skip
    assert code == 0, err


def test_a_base_model_is_no_start_for_the_router(run, random_checkpoint, tmp_path):
    rows = tmp_path / "mine.jsonl"
    message = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "user"}]
    rows.write_text(json.dumps({"messages": message}) + "\n")
    code, _, err = run(
        "vico", "--stage", "router", "--model", random_checkpoint, "--dataset", rows,
        "--use_cpu", "true", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert code == 2
    assert "which is no Flash model; train it with --stage consistency first" in err
    assert not (tmp_path / "run").exists()
