"""Parts of a checkpoint are made once, found again, and never mistaken for others."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from internvl35.errors import CheckpointError
from internvl35.generate import vllm_parts
from internvl35.generate.vllm_parts import split_once


@pytest.fixture
def resources():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def checkpoint(random_checkpoint, tmp_path):
    return shutil.copytree(random_checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def counted(monkeypatch):
    """Folders that were split, as often as they were."""
    split, found = vllm_parts.split_checkpoint, []

    def count(source, target):
        found.append(source)
        return split(source, target)

    monkeypatch.setattr(vllm_parts, "split_checkpoint", count)
    return found


def test_parts_are_made_once(checkpoint, tmp_path, resources, counted):
    for _ in range(2):
        folder = split_once(checkpoint, tmp_path / "parts", resources)
    assert counted == [checkpoint]
    names = {path.name for path in folder.iterdir()}
    assert names == {".lock", "language", "source.json", "vision"}


def test_servers_that_start_at_once_make_parts_once(checkpoint, tmp_path, counted):
    def split(_):
        with ExitStack() as resources:
            return split_once(checkpoint, tmp_path / "parts", resources)

    with ThreadPoolExecutor(3) as servers:
        assert set(servers.map(split, range(3))) == {tmp_path / "parts"}
    assert counted == [checkpoint]


def test_a_folder_of_parts_is_taken_as_it_is(checkpoint, tmp_path, resources, counted):
    folder = split_once(checkpoint, tmp_path / "parts", resources)
    assert split_once(folder, None, resources) == folder
    assert len(counted) == 1


def test_what_was_interrupted_is_made_anew(checkpoint, tmp_path, resources, counted):
    folder = split_once(checkpoint, tmp_path / "parts", resources)
    (folder / "language" / "config.json").unlink()
    split_once(checkpoint, folder, resources)
    assert len(counted) == 2
    assert (folder / "language" / "config.json").is_file()


def test_parts_of_another_checkpoint_are_never_taken(checkpoint, tmp_path, resources, counted):
    folder = split_once(checkpoint, tmp_path / "parts", resources)
    os.utime(checkpoint / "model.safetensors", ns=(1, 1))
    with pytest.raises(CheckpointError, match="as it was before"):
        split_once(checkpoint, folder, resources)
    (folder / "source.json").unlink()
    with pytest.raises(CheckpointError, match="nobody knows"):
        split_once(checkpoint, folder, resources)
    (folder / "source.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        split_once(checkpoint, folder, resources)
    assert len(counted) == 1


def test_a_temporary_folder_goes_in_the_end(checkpoint):
    with ExitStack() as resources:
        folder = split_once(checkpoint, None, resources)
        assert (folder / "vision" / "config.json").is_file()
    assert not folder.exists()
