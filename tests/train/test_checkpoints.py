"""Checkpoints appear whole or not at all, and the right ones stay."""

import errno
import json

import pytest
from safetensors import SafetensorError

from internvl35.errors import CheckpointError, DataError
from internvl35.train.checkpoints import (
    STATE_NAME,
    find_checkpoint,
    list_checkpoints,
    read_state,
    remove_old,
    write_checkpoint,
)


def _write(run_folder, step, **state):
    def fill(folder):
        (folder / "weights.txt").write_text(f"weights of {step}")

    return write_checkpoint(run_folder, step, fill, {"global_step": step, **state})


def test_a_checkpoint_holds_what_was_written_and_its_state(tmp_path):
    path = _write(tmp_path, 50, epoch=0.5)
    assert path == tmp_path / "checkpoint-50"
    assert (path / "weights.txt").read_text() == "weights of 50"
    assert read_state(path) == {"global_step": 50, "epoch": 0.5}


def test_a_write_that_fails_leaves_the_earlier_ones_and_says_what_to_do(tmp_path):
    _write(tmp_path, 50)

    def fail(folder):
        (folder / "weights.txt").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"No space left.*free space"):
        write_checkpoint(tmp_path, 100, fail, {})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-50"]
    assert find_checkpoint(tmp_path).name == "checkpoint-50"


@pytest.mark.parametrize(
    "error", [SafetensorError("I/O error: No space left"), CheckpointError("it; free disk space")]
)
def test_every_way_in_which_a_disk_can_be_full_is_told_once(tmp_path, error):
    def fail(folder):
        (folder / "weights.txt").write_text("half")
        raise error from OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match="No space left") as caught:
        write_checkpoint(tmp_path, 100, fail, {})
    assert str(caught.value).count("free") == 1
    assert not list(tmp_path.iterdir())


def test_what_a_kill_left_half_written_is_no_checkpoint_and_goes_with_the_next(tmp_path):
    _write(tmp_path, 50)
    (tmp_path / ".partial-checkpoint-100").mkdir()
    (tmp_path / "checkpoint-75").mkdir()  # no state: not whole
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-50"]
    _write(tmp_path, 100)
    assert not (tmp_path / ".partial-checkpoint-100").exists()
    assert find_checkpoint(tmp_path).name == "checkpoint-100"


def test_a_step_that_is_taken_again_replaces_its_checkpoint(tmp_path):
    _write(tmp_path, 50, epoch=1)
    _write(tmp_path, 50, epoch=2)
    assert read_state(tmp_path / "checkpoint-50")["epoch"] == 2


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [
        (None, 10, [10, 20, 30, 100]), (2, 10, [10, 100]), (2, 100, [30, 100]),
        (1, 20, [20, 100]), (1, None, [100]), (3, None, [20, 30, 100]), (9, 10, [10, 20, 30, 100]),
    ],
)  # fmt: skip
def test_the_best_and_the_newest_stay(tmp_path, limit, best, kept):
    for step in (10, 20, 30, 100):
        _write(tmp_path, step)
    remove_old(tmp_path, limit, None if best is None else tmp_path / f"checkpoint-{best}")
    assert [json.loads((path / STATE_NAME).read_text())["global_step"]
            for path in list_checkpoints(tmp_path)] == kept  # fmt: skip
    assert not list(tmp_path.glob(".partial-*"))


def test_a_place_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        find_checkpoint(tmp_path / "absent")
    (tmp_path / STATE_NAME).write_text("[]")
    with pytest.raises(DataError, match="holds a list"):
        read_state(tmp_path)
