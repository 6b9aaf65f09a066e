"""``internvl35 train tiny``: a run from the command line, killed, resumed, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from internvl35 import load
from internvl35.commands.recipe import read_recipe
from internvl35.commands.train import CHANGEABLE, choose_device, make_evaluation
from internvl35.data.synthetic import FAMILIES
from internvl35.data.templates import TEMPLATES
from internvl35.data.tokenizer import save_tokenizer, train_tokenizer
from internvl35.errors import ConfigError
from internvl35.train.tiny.recipe import TinyRecipe
from internvl35.train.tiny.run import read_curve

ROOT = Path(__file__).parents[2]

SMALL = [
    "--threads", "1", "--workers", "0", "--device", "cpu", "--evaluate-every", "0",
    "--set", "samples_per_step=4", "--set", "save_every=1", "--set", "log_every=1",
    "--set", "tower.num_steps=1", "--set", "projector.num_steps=0", "--set", "sft.num_steps=1",
    "--set", "pretrain.num_steps=2", "--set", "pretrain.level_share=0.0",
]  # fmt: skip


@pytest.fixture(autouse=True)
def threads_as_before():
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def tokenizer():
    texts = [template.default_system_prompt for template in TEMPLATES.values()]
    return train_tokenizer([*texts, "How many red circles are there?"] * 20, 600)


@pytest.fixture
def folder(tokenizer, tmp_path):
    """A run folder whose tokenizer is made already: training one takes longer than these runs."""
    save_tokenizer(tokenizer, tmp_path / "run" / "tokenizer")
    return tmp_path / "run"


def figures(folder):
    recipe = folder / "recipe.json"
    return read_curve(folder, read_recipe(recipe, TinyRecipe)) if recipe.exists() else []


def test_a_run_leaves_a_checkpoint_a_curve_and_its_settings(run, folder, monkeypatch):
    monkeypatch.setattr(
        "internvl35.commands.train.make_evaluation", lambda count: lambda *_: {"counting": 0.25}
    )
    code, out, err = run("train", "tiny", "--output-dir", folder, *SMALL, "--evaluate-every", "2")
    assert code == 0
    assert out.splitlines() == [
        f"curve: {folder / 'curve.png'}", f"checkpoint: {folder / 'checkpoint'}",
    ]  # fmt: skip
    for stage in ("tower: step 0 of 1", "pretrain: step 0 of 2", "sft: step 0 of 1"):
        assert f"stage {stage}" in err
    assert [line.get("eval_counting") for line in figures(folder)] == [
        None, None, None, 0.25, None, 0.25,
    ]  # fmt: skip
    with Image.open(folder / "curve.png") as picture:
        assert picture.format == "PNG"
    recipe = json.loads((folder / "recipe.json").read_text())
    assert (recipe["samples_per_step"], recipe["pretrain"]["num_steps"]) == (4, 2)
    assert load(folder / "checkpoint").model.dtype == torch.bfloat16


def test_a_killed_run_goes_on_to_the_weights_of_one_that_was_not(run, folder, tokenizer, tmp_path):
    command = [sys.executable, "-m", "internvl35.cli", "train", "tiny", "--output-dir", str(folder)]
    process = subprocess.Popen(
        [*command, *SMALL, "--set", "tower.num_steps=0", "--set", "pretrain.num_steps=100000"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while len(figures(folder)) < 3 or not list(folder.glob("3-pretrain/checkpoint-*")):
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    num_steps = len(figures(folder)) + 1
    last = ["--set", f"pretrain.num_steps={num_steps}"]
    code, out, err = run("train", "tiny", "--output-dir", folder, "--workers", "0", *last)
    assert code == 0, err
    assert out.splitlines()[-1] == f"checkpoint: {folder / 'checkpoint'}"
    assert [line["step"] for line in figures(folder)] == [*range(1, num_steps + 1), 1]

    other = tmp_path / "other"
    save_tokenizer(tokenizer, other / "tokenizer")
    whole_run = [*SMALL, "--set", "tower.num_steps=0", *last]
    assert run("train", "tiny", "--output-dir", other, *whole_run)[0] == 0
    resumed = load_file(folder / "checkpoint" / "model.safetensors")
    whole = load_file(other / "checkpoint" / "model.safetensors")
    assert resumed.keys() == whole.keys()
    assert all(resumed[name].equal(whole[name]) for name in whole)


def test_a_run_whose_time_is_up_says_how_to_go_on(run, folder):
    code, out, err = run("train", "tiny", "--output-dir", folder, *SMALL, "--stop-after", "0")
    assert code == 0
    assert f"the same command with --output-dir {folder} goes on" in out
    assert "stopped after 1 steps" in err
    assert not (folder / "checkpoint").exists()


def test_an_interrupt_says_how_to_go_on(run, folder, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("internvl35.train.tiny.run.TinyRun.execute", interrupt)
    code, out, err = run("train", "tiny", "--output-dir", folder, *SMALL)
    assert (code, out) == (130, "")
    assert err == f"stopped; the same command with --output-dir {folder} goes on\n"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--set", "tower.num_steps=-1"], "ConfigError: a stage of -1 steps"),
        (["--set", "sead=3"], "ConfigError: there is no setting 'sead'"),
        (["--set", "seed"], "not of the form NAME=VALUE"),
        (["--threads", "0"], "--threads"),
        (["--device", "tpu"], "--device"),
        (["--until", "rl"], "--until"),
    ],
)
def test_a_mistake_exits_2_and_starts_nothing(run, tmp_path, arguments, found):
    code, out, err = run("train", "tiny", "--output-dir", tmp_path / "run", *arguments)
    assert (code, out) == (2, "")
    assert found in err
    assert not (tmp_path / "run").exists()


def test_what_may_change_under_way_is_there():
    recipe = TinyRecipe()
    for path in CHANGEABLE:
        found = recipe
        for name in path.split("."):
            found = getattr(found, name)


def test_another_seed_needs_another_folder(run, folder):
    (folder / "recipe.json").write_text('{"seed": 7}')
    code, _, err = run("train", "tiny", "--output-dir", folder, "--seed", "8")
    assert code == 2
    assert "was started with 7" in err


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device cpu"):
        choose_device("cuda")
    assert choose_device(None) == choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(None) == torch.device("cuda")


def test_the_evaluation_is_the_share_right_in_each_family(random_checkpoint, monkeypatch):
    from internvl35.evals import drawn

    asked = []

    def measure(chat, families, num_pictures, *_, **__):
        asked.append((chat.model, num_pictures))
        return {family: drawn.FamilyResult(1, 4) for family in families}

    monkeypatch.setattr(drawn, "measure", measure)
    chat = load(random_checkpoint)
    found = make_evaluation(4)(chat.model, chat.tokenizer)
    assert found == dict.fromkeys(FAMILIES, 0.25)
    assert asked == [(chat.model, 4)]
