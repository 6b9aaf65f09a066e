"""The command line: start-up, exit codes, and ``models``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from internvl35 import cli
from internvl35.commands import models
from internvl35.commands.terminal import note
from internvl35.config import EMBEDDED, PRESETS, LanguageShape, ModelPreset, VisionShape
from internvl35.errors import CheckpointError, ConfigError, DataError

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch", "transformers", "numpy", "PIL", "av", "matplotlib", "huggingface_hub", "rich", "yaml",
    "peft", "datasets", "rapidfuzz", "fastapi", "uvicorn",
)  # fmt: skip


def run_python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout


def run_main(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ending:
        cli.main(arguments)
    code = ending.value.code
    assert isinstance(code, int)
    return code


def fake_app(monkeypatch: pytest.MonkeyPatch, command: Callable[[], None]) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("fail")(command)
    app.callback()(lambda: None)
    monkeypatch.setattr(cli, "app", app)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], ["models", "--help"], ["models", "--json"], ["sft", "--help"], ["pt", "--help"],
        ["infer", "--help"], ["export", "--help"], ["data", "--help"], ["recipes"],
        ["serve", "--help"],
    ],
)  # fmt: skip
def test_help_and_sizes_load_no_heavy_library(arguments: list[str]) -> None:
    code = f"""
import sys
from internvl35 import cli
try:
    cli.main({arguments!r})
except SystemExit as ending:
    assert not ending.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print("LOADED", loaded)
"""
    assert run_python(code).splitlines()[-1] == "LOADED []"


def test_help_of_every_command_names_it_and_loads_no_torch() -> None:
    code = """
import contextlib, io, sys
from typer.main import get_command
from internvl35 import cli

def walk(command, path):
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, [*path, name])

paths = list(walk(get_command(cli.app), []))
assert ["models"] in paths
for path in paths:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            cli.main([*path, "--help"])
        except SystemExit as ending:
            assert not ending.code, path
    assert " ".join(["internvl35", *path]) in text.getvalue(), text.getvalue()
print("torch" in sys.modules, "transformers" in sys.modules)
"""
    assert run_python(code).split() == ["False", "False"]


def test_a_user_mistake_is_one_line_on_stderr_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ConfigError("tile_size is 0;\n  it must be at least 1 pixel")

    fake_app(monkeypatch, fail)
    assert run_main("fail") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "ConfigError: tile_size is 0; it must be at least 1 pixel\n"


def test_a_fault_is_one_line_with_a_hint_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise KeyError("weights")

    fake_app(monkeypatch, fail)
    assert run_main("fail") == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("KeyError: 'weights'")
    assert "--debug" in printed.err


def test_what_others_wrote_does_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        note("row \x1b[2J\x9b1A one")
        raise DataError("the role is \x1b]0;owned\x07 here")

    fake_app(monkeypatch, fail)
    assert run_main("fail") == 2
    err = capsys.readouterr().err
    assert "row [2J1A one" in err
    assert err.splitlines()[1] == "DataError: the role is ]0;owned here"


@pytest.mark.parametrize("arguments", [("--debug", "fail"), ("fail", "--debug")])
@pytest.mark.parametrize("error", [ConfigError("wrong"), KeyError("weights")])
def test_debug_lets_the_trace_through_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], error: Exception
) -> None:
    def fail() -> None:
        raise error

    fake_app(monkeypatch, fail)
    with pytest.raises(type(error)):
        cli.main(arguments)


def test_debug_after_two_dashes_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    app = typer.Typer()

    @app.command()
    def ask(words: list[str]) -> None:
        given.append(words)

    monkeypatch.setattr(cli, "app", app)
    assert run_main("--", "why", "--debug") == 0
    assert given == [["why", "--debug"]]


def test_an_interrupt_is_quiet_and_exits_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    fake_app(monkeypatch, fail)
    assert run_main("fail") == 130
    assert capsys.readouterr().err.strip() == ""


def test_an_unknown_command_or_option_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("modells") == 2
    assert run_main("models", "--yaml") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_version_names_the_package_and_what_it_stands_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_main("--version") == 0
    words = capsys.readouterr().out
    assert words.startswith("internvl35 ")
    assert "torch" in words
    assert "transformers" in words


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "internvl35", "models", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "8B" in done.stdout


def test_models_json_holds_the_nine_sizes_with_exact_counts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_main("models", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(PRESETS) <= set(rows)
    row = rows["8B"]
    assert row["num_parameters"] == 8_528_318_464
    assert row["parts"]["tower"]["num_parameters"] == 304_012_288
    assert row["parts"]["projector"]["num_parameters"] == 33_570_816
    assert row["parts"]["language"]["num_parameters"] == 8_190_735_360
    assert row["memory_bytes"]["bf16"] == 17_056_636_928
    assert row["num_gpus"] == 1
    assert row["hub_id"] == "OpenGVLab/InternVL3_5-8B"
    assert rows["241B-A28B"]["num_gpus"] == 8


def test_models_json_holds_the_released_flash_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("models", "--json") == 0
    rows = {row["name"]: row["flash"] for row in json.loads(capsys.readouterr().out)}
    assert [name for name in PRESETS if rows[name] is None] == [
        "GPT-OSS-20B-A4B-Preview", "241B-A28B",
    ]  # fmt: skip
    assert rows["2B"]["memory_bytes"]["bf16"] == 4_982_110_212
    assert rows["2B"]["hub_id"] == "OpenGVLab/InternVL3_5-2B-Flash"
    assert rows["2B"]["parts"] == {
        "router": {"num_parameters": 50_390_018},
        "compressed_projector": {"num_parameters": 92_317_696},
    }


def test_models_prints_every_size_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("models") == 0
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines()) <= 80
    for preset in PRESETS.values():
        assert preset.name in printed
        assert f"{preset.num_parameters:,}" in printed
    assert "27,796,499,328" in printed  # active in 241B-A28B
    assert "448.3 GiB" in printed
    assert "4.982 GB" in printed  # the file of 2B-Flash
    assert "+142,707,714" in printed


def test_a_flash_checkpoint_lists_its_own_parts() -> None:
    rows = [models.describe_model(PRESETS["2B"].flash)]
    parts = {part: row["num_parameters"] for part, row in rows[0]["parts"].items()}
    assert sum(parts.values()) == rows[0]["num_parameters"] == 2_491_055_106
    lines = [" ".join(cells) for cells in models._part_lines(rows[0])]
    assert any(line.startswith("router") and "50,390,018" in line for line in lines)
    assert any("16384 to 2048" in line and "92,317,696" in line for line in lines)


VISION = VisionShape(
    width=32, num_layers=2, num_heads=2, mlp_width=64, norm="rms_norm",
    has_qkv_bias=False, has_qk_norm=True, tile_size=56,
)  # fmt: skip
DENSE = LanguageShape("qwen3", 16, 2, 4, 2, 8, 48, vocab_size=200)
MIXED = LanguageShape("qwen3_moe", 16, 2, 4, 2, 8, 24, 4, 2, vocab_size=200)
GPT_OSS = LanguageShape("gpt_oss", 16, 2, 4, 2, 8, 24, 4, 2, vocab_size=200)


@pytest.mark.parametrize("layout", ["hf", "remote-code"])
@pytest.mark.parametrize(
    "language", [DENSE, replace(DENSE, is_tied=True), MIXED, GPT_OSS], ids=lambda x: x.family
)
@pytest.mark.parametrize("is_flash", [True, False])
def test_shapes_are_read_from_the_config_of_both_layouts(
    tmp_path: Path, layout: Any, language: LanguageShape, is_flash: bool
) -> None:
    from internvl35.model.configuration import config_to_dict, preset_config

    written = ModelPreset("tiny", VISION, language, is_flash=is_flash)
    config = config_to_dict(preset_config(written), layout)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert models.read_preset(tmp_path, "tiny") == written


def test_embedded_checkpoints_come_first_and_have_no_hub_id(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = ModelPreset("tiny", VISION, DENSE)
    read = {"tiny": tiny, "tiny-flash": replace(tiny, name="tiny-flash", is_flash=True)}
    monkeypatch.setattr(models, "read_preset", lambda folder, name: read[name])
    rows = models.describe_models(dict.fromkeys(read, tmp_path))
    assert [row["name"] for row in rows] == [*read, *PRESETS]
    assert [row["hub_id"] for row in rows[:2]] == [None, None]
    assert [row["num_parameters"] for row in rows[:2]] == [
        preset.num_parameters for preset in read.values()
    ]


def test_sizes_are_listed_where_an_embedded_checkpoint_is_missing(tmp_path: Path) -> None:
    rows = models.describe_models({"tiny": tmp_path / "none"})
    assert [row["name"] for row in rows] == list(PRESETS)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "cannot be read"),
        ('{"vision_config": {}}', "lacks the field 'llm_config'"),
        ('{"vision_config": {}, "text_config": {}}', "lacks the field"),
    ],
)
def test_a_broken_config_is_named(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=found):
        models.read_preset(tmp_path, "tiny")


@pytest.mark.parametrize("name", EMBEDDED)
def test_counts_of_an_embedded_checkpoint_are_those_of_its_tensors(name: str) -> None:
    from safetensors import safe_open

    num_parameters = 0
    for shard in EMBEDDED[name].glob("*.safetensors"):
        with safe_open(shard, framework="np") as file:
            for tensor in file.keys():  # noqa: SIM118 - the handle is no mapping
                size = 1
                for side in file.get_slice(tensor).get_shape():
                    size *= side
                num_parameters += size
    assert models.read_preset(EMBEDDED[name], name).num_parameters == num_parameters
