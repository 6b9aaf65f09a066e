"""The run of the embedded checkpoint: stages, resuming, what it leaves behind."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from safetensors.torch import load_file

from internvl35 import SamplingSettings
from internvl35.chat import load
from internvl35.errors import DataError
from internvl35.train.tiny import run
from internvl35.train.tiny.run import CHECKPOINT, RunPlace, TinyRun, read_curve
from internvl35.train.tiny.shards import ShardSet

HERE = RunPlace(num_workers=0)


def _weights(folder):
    return load_file(folder / CHECKPOINT / "model.safetensors")


def _equal(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tokenizer, recipe, tmp_path_factory):
    from internvl35.data.tokenizer import save_tokenizer

    folder = tmp_path_factory.mktemp("whole") / "run"
    save_tokenizer(tokenizer, folder / "tokenizer")
    assert TinyRun(folder, recipe, HERE).execute()
    return folder


def test_a_run_leaves_a_checkpoint_that_can_be_chatted_with(whole):
    chat = load(whole / CHECKPOINT)
    assert chat.model.dtype == torch.bfloat16
    assert chat.ask("Hello", sampling=SamplingSettings(max_tokens=3)).num_new_tokens >= 1
    assert sum(path.stat().st_size for path in (whole / CHECKPOINT).iterdir()) < 24_000_000


def test_the_curve_goes_through_all_stages(whole, recipe):
    lines = read_curve(whole, recipe)
    stages = [(line["stage"], line["step"]) for line in lines]
    lengths = {"tower": 2, "projector": 2, "pretrain": 3, "sft": 2}
    assert stages == [(name, step + 1) for name, num in lengths.items() for step in range(num)]
    assert [line["samples"] for line in lines] == [6 * step for step in range(1, 10)]
    assert "patch_acc" in lines[0]
    assert "patch_acc" not in lines[2]  # the tower is frozen then
    assert lines[-1]["learning_rate"] == pytest.approx(recipe.sft.learning_rate / 2)


def test_the_projectors_stage_leaves_the_tower_as_it_was(whole):
    before = load_file(whole / "1-tower" / "weights.safetensors")
    after = load_file(whole / "2-projector" / "weights.safetensors")
    tower = [name for name in before if "vision_tower" in name or "patch_head" in name]
    assert tower
    assert all(before[name].equal(after[name]) for name in tower)
    others = set(before) - set(tower)
    assert any(not before[name].equal(after[name]) for name in others)


def test_a_run_that_was_stopped_again_and_again_has_the_weights_of_one_that_was_not(
    folder, recipe, whole
):
    place = RunPlace(num_workers=0, stop_after_s=0.0)
    calls = 0
    while not TinyRun(folder, recipe, place).execute():
        calls += 1
        assert calls < 20
    assert calls >= 4
    assert _equal(_weights(folder), _weights(whole))
    one, other = (
        [(line["stage"], line["step"], line["loss"]) for line in read_curve(path, recipe)]
        for path in (folder, whole)
    )
    assert one == other


def test_a_run_may_end_behind_a_stage_and_go_on_later(folder, recipe, whole):
    assert TinyRun(folder, recipe, HERE).execute("tower")
    assert not (folder / CHECKPOINT).exists()
    assert not (folder / "2-projector").exists()
    assert TinyRun(folder, recipe, HERE).execute()
    assert _equal(_weights(folder), _weights(whole))


def test_a_run_on_shards_can_be_stopped_while_they_are_drawn(folder, recipe, monkeypatch):
    monkeypatch.setattr(run, "ShardSet", functools.partial(ShardSet, shard_size=6))
    place = RunPlace(num_workers=1, stop_after_s=0.0, num_shards=2)
    calls = 0
    while not TinyRun(folder, recipe, place).execute("projector"):
        calls += 1
        assert calls < 20
    assert calls >= 4
    assert len(list(folder.glob("shards/*/*.safetensors"))) == 4
    assert [line["step"] for line in read_curve(folder, recipe)] == [1, 2, 1, 2]


def test_evaluations_are_logged_beside_the_losses(folder, recipe):
    seen = []

    def evaluate(model, tokenizer):
        seen.append((type(model).__name__, model.training))
        return {"counting": 0.25}

    recipe = dataclasses.replace(recipe, evaluate_every=2)
    TinyRun(folder, recipe, HERE, evaluate).execute("projector")
    assert seen == [("VisionLanguageModel", False)]
    assert [line.get("eval_counting") for line in read_curve(folder, recipe)][-1] == 0.25


def test_the_state_of_a_run_may_be_split_into_small_files(folder, recipe, whole):
    place = RunPlace(num_workers=0, stop_after_s=0.0, max_file_bytes=100_000)
    while not TinyRun(folder, recipe, place).execute():
        last = max(folder.glob("*/checkpoint-*"), key=lambda path: path.stat().st_mtime_ns)
        assert len(list(last.glob("*.safetensors"))) > 2
    for path in folder.glob("[1-4]-*/**/*.safetensors"):
        assert path.stat().st_size < 330_000  # the largest matrix, and heads
    assert _equal(_weights(folder), _weights(whole))


def test_without_its_last_stage_a_run_ends_with_what_it_has(folder, recipe):
    recipe = dataclasses.replace(recipe, sft=dataclasses.replace(recipe.sft, num_steps=0))
    assert TinyRun(folder, recipe, HERE).execute()
    kept = load_file(folder / "3-pretrain" / "weights.safetensors")
    written = _weights(folder)
    for name, tensor in written.items():
        assert tensor.equal(kept[f"model.{name}"].to(tensor.dtype)), name


def test_weights_of_another_network_are_refused(folder, recipe):
    from safetensors.torch import save_file

    TinyRun(folder, recipe, HERE).execute("tower")
    save_file({"model.weight": torch.zeros(1)}, folder / "1-tower" / "weights.safetensors")
    with pytest.raises(DataError, match="another network"):
        TinyRun(folder, recipe, HERE).execute()
