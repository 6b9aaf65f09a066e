"""``internvl35 convert``: what it writes, what it refuses, what it shows."""

from __future__ import annotations

import shutil
import sys

import pytest
from safetensors.torch import load_file

from internvl35.commands.convert import show_written


def weights(folder):
    [path] = folder.glob("*.safetensors")
    return load_file(path)


def test_there_and_back_is_where_it_began(run, random_checkpoint, tmp_path):
    there, back = tmp_path / "hf", tmp_path / "back"
    code, out, err = run("convert", random_checkpoint, there, "--layout", "hf")
    assert (code, err) == (0, "")
    num_bytes = (there / "model.safetensors").stat().st_size
    assert out == f"{there}: layout hf, {len(weights(there))} tensors, {num_bytes:,} bytes\n"
    assert "vision_tower.embeddings.cls_token" in weights(there)
    assert run("convert", there, back, "--layout", "remote-code")[0] == 0
    before, after = weights(random_checkpoint), weights(back)
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
    assert (back / "tokenizer.json").read_text() == (
        random_checkpoint / "tokenizer.json"
    ).read_text()


def test_shards_are_no_larger_than_asked_for(run, random_checkpoint, tmp_path):
    whole = sum(path.stat().st_size for path in random_checkpoint.glob("*.safetensors"))
    code, out, _ = run(
        "convert", random_checkpoint, tmp_path / "x", "--layout", "hf", "--max-shard-size", "200KB"
    )
    assert code == 0
    assert len(list((tmp_path / "x").glob("*.safetensors"))) >= whole // 200_000
    single = run("convert", random_checkpoint, tmp_path / "y", "--layout", "hf")[1]
    assert out.split(", ")[1] == single.split(", ")[1]  # as many tensors


def test_a_folder_that_is_not_empty_is_replaced_only_if_asked(run, random_checkpoint, tmp_path):
    target = shutil.copytree(random_checkpoint, tmp_path / "target")
    (target / "notes.txt").write_text("mine")
    before = weights(target)
    code, out, err = run("convert", random_checkpoint, target, "--layout", "hf")
    assert (code, out) == (2, "")
    assert err.startswith(f"CheckpointError: {target} is not empty")
    assert weights(target).keys() == before.keys()
    assert run("convert", random_checkpoint, target, "--layout", "hf", "--overwrite")[0] == 0
    assert weights(target).keys() != before.keys()
    assert (target / "notes.txt").read_text() == "mine"


def test_a_checkpoint_is_converted_in_place_if_asked(run, random_checkpoint, tmp_path):
    folder = shutil.copytree(random_checkpoint, tmp_path / "folder")
    assert run("convert", folder, folder, "--layout", "hf", "--overwrite")[0] == 0
    assert "multi_modal_projector.linear_1.weight" in weights(folder)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["{none}", "{new}", "--layout", "hf"], "CheckpointError: no checkpoint"),
        (["{source}", "{file}", "--layout", "hf"], "is a file"),
        (["{source}", "{new}", "--layout", "hf", "--max-shard-size", "big"], "max_shard_size"),
        (["{source}", "{new}", "--layout", "gguf"], "--layout"),
        (["{source}", "{new}"], "--layout"),
    ],
)
def test_a_mistake_exits_2_and_writes_nothing(run, random_checkpoint, tmp_path, arguments, found):
    (tmp_path / "file").write_text("x")
    places = {"source": random_checkpoint} | {
        name: tmp_path / name for name in ("none", "new", "file")
    }
    code, out, err = run("convert", *(text.format(**places) for text in arguments))
    assert (code, out) == (2, "")
    assert found in err
    assert not list((tmp_path / "new").glob("*"))


def test_a_bar_is_drawn_on_a_terminal(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with show_written(tmp_path, 100):
        (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    assert capsys.readouterr().out == ""


def test_an_interrupt_leaves_no_half_checkpoint(run, random_checkpoint, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("internvl35.model.conversion.read_piece", interrupt)
    code, out, _ = run("convert", random_checkpoint, tmp_path / "x", "--layout", "hf")
    assert (code, out) == (130, "")
    assert not list((tmp_path / "x").glob("*"))
