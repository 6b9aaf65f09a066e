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
from internvl35.commands.train import choose_device, describe_round, make_evaluation
from internvl35.data.synthetic import FAMILIES
from internvl35.data.templates import TEMPLATES
from internvl35.data.tokenizer import save_tokenizer, train_tokenizer
from internvl35.errors import ConfigError
from internvl35.train.rounds import METRICS_FILE, STATE_FILE

ROOT = Path(__file__).parents[2]

SMALL = [
    "--threads", "1", "--workers", "0", "--device", "cpu", "--evaluate-every", "0",
    "--set", "samples_per_round=4", "--set", "warmup_rounds=1", "--set", "level_rounds=2",
    "--set", "loop.checkpoint_every=1", "--set", "loop.decay_share=0.0",
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


def metrics(folder):
    path = folder / METRICS_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_leaves_a_checkpoint_a_curve_and_its_settings(run, folder):
    arguments = [*SMALL, "--rounds", "2", "--evaluate-every", "2", "--evaluation-pictures", "1"]
    code, out, err = run("train", "tiny", "--output-dir", folder, *arguments)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("round 1/2  4 samples  ")
    assert lines[1].startswith("round 2/2  8 samples  ")
    assert all(f"  {family} " in lines[1] for family in FAMILIES)
    assert lines[2:] == [f"curve: {folder / 'curve.png'}", f"checkpoint: {folder / 'checkpoint'}"]
    assert {f"eval/{family}" for family in FAMILIES} <= metrics(folder)[-1].keys()
    with Image.open(folder / "curve.png") as picture:
        assert picture.format == "PNG"
    recipe = json.loads((folder / "recipe.json").read_text())
    assert (recipe["samples_per_round"], recipe["loop"]["num_rounds"]) == (4, 2)
    chat = load(folder / "checkpoint")
    assert chat.model.dtype == torch.bfloat16


def test_a_killed_run_goes_on_to_the_weights_of_one_that_was_not(run, folder, tokenizer, tmp_path):
    command = [sys.executable, "-m", "internvl35.cli", "train", "tiny", "--output-dir", str(folder)]
    process = subprocess.Popen(
        [*command, *SMALL, "--rounds", "100000"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while len(metrics(folder)) < 3 or not (folder / STATE_FILE).exists():
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    num_rounds = len(metrics(folder)) + 1
    rounds = ["--rounds", str(num_rounds)]
    code, out, _ = run("train", "tiny", "--output-dir", folder, "--workers", "0", *rounds)
    assert code == 0
    assert out.splitlines()[-3].startswith(f"round {num_rounds}/{num_rounds}  {4 * num_rounds} ")
    assert [line["round"] for line in metrics(folder)] == list(range(1, num_rounds + 1))

    other = tmp_path / "other"
    save_tokenizer(tokenizer, other / "tokenizer")
    assert run("train", "tiny", "--output-dir", other, *SMALL, *rounds)[0] == 0
    resumed = load_file(folder / "checkpoint" / "model.safetensors")
    whole = load_file(other / "checkpoint" / "model.safetensors")
    assert resumed.keys() == whole.keys()
    assert all(resumed[name].equal(whole[name]) for name in whole)


def test_an_interrupt_says_how_to_go_on(run, folder, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("internvl35.train.tiny.train_tiny", interrupt)
    code, out, err = run("train", "tiny", "--output-dir", folder, *SMALL)
    assert (code, out) == (130, "")
    assert err == f"stopped; the same command with --output-dir {folder} goes on\n"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--rounds", "0"], "ConfigError: num_rounds is 0"),
        (["--set", "sead=3"], "ConfigError: there is no setting 'sead'"),
        (["--set", "seed"], "not of the form NAME=VALUE"),
        (["--threads", "0"], "--threads"),
        (["--device", "tpu"], "--device"),
    ],
)
def test_a_mistake_exits_2_and_starts_nothing(run, tmp_path, arguments, found):
    code, out, err = run("train", "tiny", "--output-dir", tmp_path / "run", *arguments)
    assert (code, out) == (2, "")
    assert found in err
    assert not (tmp_path / "run").exists()


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


def test_a_round_is_described_in_a_line():
    line = {"round": 20, "samples": 4800, "samples_per_s": 66.23, "loss": 1.5, "patch_loss": 1.0,
            "answer_loss": 0.25, "patch_accuracy": 0.7, "eval/counting": 0.315}  # fmt: skip
    assert describe_round(line, 2400) == (
        "round 20/2400  4,800 samples  66.2/s  loss 1.500  answer_loss 0.250  patches 70.0%  "
        "counting 31.5%"
    )
