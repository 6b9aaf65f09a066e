from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from internvl35.errors import CheckpointError
from internvl35.model.shards import INDEX_FILE, Shards, write_folder


def specs_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}


def write(folder: Path, tensors: dict[str, torch.Tensor], size: str | int = "5GB") -> None:
    write_folder(
        folder, specs_of(tensors), tensors.__getitem__, {"config.json": "{}"}, max_shard_size=size
    )


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {f"t{i}": torch.full((8, 8), float(i)) for i in range(4)}


def test_what_is_written_is_read_from_one_shard_and_from_several(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    write(tmp_path / "one", tensors)
    write(tmp_path / "several", tensors, 600)
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [
        "config.json", "model.safetensors",
    ]  # fmt: skip
    assert len(list((tmp_path / "several").glob("model-0000?-of-00002.safetensors"))) == 2
    index = json.loads((tmp_path / "several" / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == 4 * 8 * 8 * 4
    for folder in ("one", "several"):
        shards = Shards(tmp_path / folder)
        assert shards.tensors.keys() == tensors.keys()
        assert all(torch.equal(shards.read(name), tensors[name]) for name in tensors)


def test_views_of_one_storage_are_counted_by_their_own_size(tmp_path: Path) -> None:
    storage = torch.arange(64.0).reshape(8, 8)
    write(tmp_path, {f"row{i}": storage[i] for i in range(8)}, 64)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    assert torch.equal(Shards(tmp_path).read("row5"), storage[5])


def test_changing_a_tensor_in_memory_does_not_change_the_file(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    write(tmp_path, tensors)
    before = (tmp_path / "model.safetensors").read_bytes()
    Shards(tmp_path).read("t1").add_(1)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_saving_again_replaces_the_weights_and_keeps_other_files(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    write(tmp_path, tensors, 600)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / ".partial-1").mkdir()  # left by a process that was killed
    mapped = Shards(tmp_path)  # still read from while the folder is written
    write_folder(tmp_path, specs_of({"t1": tensors["t1"]}), mapped.read, {"config.json": "[]"})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert list(Shards(tmp_path).tensors) == ["t1"]
    assert torch.equal(mapped.read("t3"), tensors["t3"])


def test_a_killed_process_leaves_no_folder_that_looks_complete(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    def read(name: str) -> torch.Tensor:
        if name == "t1":
            os.kill(os.getpid(), signal.SIGKILL)
        return tensors[name]

    write(tmp_path / "old", tensors)
    for folder in ("new", "old"):
        child = os.fork()
        if child == 0:
            specs = specs_of(tensors)
            write_folder(tmp_path / folder, specs, read, {"config.json": "{}"}, max_shard_size=300)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert [p.name[:9] for p in (tmp_path / "new").iterdir()] == [".partial-"]
    assert Shards(tmp_path / "old").tensors.keys() == tensors.keys()


def test_a_full_disk_or_a_bad_size_is_said_and_leaves_nothing(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    def read(name: str) -> torch.Tensor:
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint to .* No space left"):
        write_folder(tmp_path / "full", specs_of(tensors), read, {"config.json": "{}"})
    assert list((tmp_path / "full").iterdir()) == []
    with pytest.raises(CheckpointError, match="max_shard_size is '5 apples'"):
        write(tmp_path / "apples", tensors, "5 apples")


def test_a_truncated_shard_is_named_with_its_size(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    write(tmp_path, tensors)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=rf"model\.safetensors \({path.stat().st_size} bytes"):
        Shards(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a tensor", b"\xff" * 64, b"\x10" + b"\0" * 40])
def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        Shards(tmp_path)


def test_a_shard_that_the_index_names_but_the_folder_lacks_is_named(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    write(tmp_path, tensors, 600)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"shard model-00002-of-00002\.safetensors, which is"):
        Shards(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not an index of shards"),
        ("[]", "is not an index of shards"),
        ('{"weight_map": []}', "is not an index of shards"),
        ('{"weight_map": {"t1": 3}}', "is not an index of shards"),
        ('{"weight_map": {}}', "lists no tensor"),
        ('{"weight_map": {"t1": "../other.safetensors"}}', "of the same folder"),
        ('{"weight_map": {"t1": "weights.bin"}}', "of the same folder"),
        ('{"weight_map": {"t9": "model.safetensors"}}', "places t9 in model.safetensors, but it"),
    ],
)
def test_a_malformed_index_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], text: str, message: str
) -> None:
    write(tmp_path, tensors)
    (tmp_path / INDEX_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        Shards(tmp_path)


def test_pickled_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(CheckpointError, match=r"only pickled weights .*can run any code"):
        Shards(tmp_path)


def test_a_folder_without_weights_or_with_an_unclear_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no safetensors file"):
        Shards(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert list(Shards(tmp_path).tensors) == ["a"]
    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="2 safetensors files but no"):
        Shards(tmp_path)
    index = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"a is in a\.safetensors and in b\.safetensors"):
        Shards(tmp_path)
