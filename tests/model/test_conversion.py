from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from released_flash import FLASH_HF_NAMES, FLASH_NAMES
from safetensors.torch import load_file, save_file

from internvl35.errors import CheckpointError
from internvl35.model.checkpoint import Checkpoint, load_state_dict
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import Layout, read_config
from internvl35.model.conversion import convert_checkpoint
from internvl35.model.names import EMBEDDING, HEAD
from internvl35.model.shards import Shards
from internvl35.model.weights import save_checkpoint

BuildModel = Callable[..., VisionLanguageModel]


def assert_holds(folder: Path, model: VisionLanguageModel) -> None:
    state = load_state_dict(folder)
    assert all(torch.equal(state[name], value) for name, value in model.named_parameters())


@pytest.mark.parametrize("tower", ["300M", "6B"])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_there_and_back_again_gives_the_same_files(
    tmp_path: Path, build_model: BuildModel, family: str, tower: str
) -> None:
    model = build_model(family, tower)
    save_checkpoint(model, tmp_path / "a", layout="remote-code", max_shard_size="200KB")
    convert_checkpoint(tmp_path / "a", tmp_path / "b", "hf", max_shard_size="200KB")
    convert_checkpoint(tmp_path / "b", tmp_path / "c", "remote-code", max_shard_size="200KB")
    assert read_config(tmp_path / "b")[1] == "hf"
    assert_holds(tmp_path / "b", model)
    names = sorted(p.name for p in (tmp_path / "a").glob("model*"))
    assert sorted(p.name for p in (tmp_path / "c").glob("model*")) == names
    for name in (*names, "config.json", "preprocessor_config.json"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_a_folder_can_be_converted_in_place(tmp_path: Path, build_model: BuildModel) -> None:
    model = build_model("qwen3", "6B")
    save_checkpoint(model, tmp_path, layout="remote-code", max_shard_size="200KB")
    convert_checkpoint(tmp_path, tmp_path, "hf")
    assert read_config(tmp_path)[1] == "hf"
    assert [p.name for p in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    assert_holds(tmp_path, model)


def test_data_files_come_along_and_code_does_not(tmp_path: Path, build_model: BuildModel) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    save_checkpoint(build_model(), source, layout="remote-code")
    for name in ("tokenizer.json", "merges.txt", "chat_template.jinja", "LICENSE"):
        (source / name).write_text(name)
    for name in ("modeling_internvl_chat.py", "pytorch_model.bin"):
        (source / name).write_text(name)
    convert_checkpoint(source, target, "hf")
    assert sorted(p.name for p in target.iterdir()) == [
        "LICENSE", "chat_template.jinja", "config.json", "generation_config.json", "merges.txt",
        "model.safetensors", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
        "video_preprocessor_config.json",
    ]  # fmt: skip
    assert (target / "tokenizer.json").read_text() == "tokenizer.json"
    settings = json.loads((target / "preprocessor_config.json").read_text())
    assert settings["image_processor_type"] == "GotOcr2ImageProcessorFast"  # not the CLIP one


def test_own_picture_settings_survive(tmp_path: Path, build_model: BuildModel) -> None:
    save_checkpoint(build_model(), tmp_path / "a", layout="hf")
    own = {"image_processor_type": "GotOcr2ImageProcessorFast", "max_patches": 6}
    (tmp_path / "a" / "preprocessor_config.json").write_text(json.dumps(own))
    convert_checkpoint(tmp_path / "a", tmp_path / "b", "hf")
    assert json.loads((tmp_path / "b" / "preprocessor_config.json").read_text()) == own


@pytest.mark.parametrize("layout", ["hf", "remote-code"])
def test_experts_that_a_file_keeps_fused_are_written_one_by_one(
    tmp_path: Path, build_model: BuildModel, layout: Layout
) -> None:
    model = build_model("qwen3_moe")
    save_checkpoint(model, tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    tensors = {name: tensor for name, tensor in tensors.items() if ".mlp.experts." not in name}
    tensors |= {name: p.detach() for name, p in model.named_parameters() if ".experts." in name}
    save_file(tensors, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    convert_checkpoint(tmp_path / "a", tmp_path / "b", layout)
    assert "language_model.model.layers.1.mlp.experts.3.up_proj.weight" in (
        Shards(tmp_path / "b").tensors
    )
    assert_holds(tmp_path / "b", model)


@pytest.mark.parametrize("is_on", [True, False])
def test_a_router_goes_there_and_back_again_switched_on_or_off(
    tmp_path: Path, build_model: BuildModel, caplog: pytest.LogCaptureFixture, is_on: bool
) -> None:
    model = build_model(flash_mode=True, flash_relative_threshold=0.1, flash_absolute_threshold=0.5)
    save_checkpoint(model, tmp_path / "a", layout="remote-code", max_shard_size="100KB")
    fields = json.loads((tmp_path / "a" / "config.json").read_text())
    fields["flash_mode"] = is_on
    (tmp_path / "a" / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    convert_checkpoint(tmp_path / "a", tmp_path / "b", "hf", max_shard_size="100KB")
    convert_checkpoint(tmp_path / "b", tmp_path / "c", "remote-code", max_shard_size="100KB")
    assert not caplog.records
    assert Shards(tmp_path / "b").tensors.keys() >= FLASH_HF_NAMES
    assert Shards(tmp_path / "c").tensors.keys() >= FLASH_NAMES
    first, last = Shards(tmp_path / "a"), Shards(tmp_path / "c")
    assert first.tensors.keys() == last.tensors.keys()
    assert all(torch.equal(first.read(name), last.read(name)) for name in first.tensors)
    config = (tmp_path / "a" / "config.json").read_bytes()
    assert (tmp_path / "c" / "config.json").read_bytes() == config
    converted = Checkpoint(tmp_path / "b")
    assert converted.config.flash_mode is is_on
    assert converted.config.flash_relative_threshold == 0.1
    for name, value in model.named_parameters():
        assert torch.equal(converted.read(name), value)


def test_files_as_the_open_request_names_them_become_released_ones(
    tmp_path: Path, build_model: BuildModel
) -> None:
    model = build_model(flash_mode=True)
    save_checkpoint(model, tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    run_time = {f"model.{name}": tensors.pop(name) for name in FLASH_HF_NAMES}
    save_file(tensors | run_time, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    fields = json.loads((tmp_path / "a" / "config.json").read_text())
    del fields["flash_mode"]
    fields |= {"model_type": "internvl_flash"}
    fields["vision_config"] |= {"model_type": "internvl_flash_vision"}
    (tmp_path / "a" / "config.json").write_text(json.dumps(fields))
    convert_checkpoint(tmp_path / "a", tmp_path / "b", "remote-code")
    assert Shards(tmp_path / "b").tensors.keys() >= FLASH_NAMES
    assert Checkpoint(tmp_path / "b").config.flash_mode
    assert_holds(tmp_path / "b", model)


def test_a_head_that_config_json_wrongly_calls_tied_is_kept(
    tmp_path: Path, build_model: BuildModel
) -> None:
    save_checkpoint(build_model(is_tied=True), tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    tensors[HEAD] = tensors[EMBEDDING] + 1
    save_file(tensors, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    convert_checkpoint(tmp_path / "a", tmp_path / "b", "remote-code")
    converted = Checkpoint(tmp_path / "b")
    assert not converted.config.tie_word_embeddings
    assert torch.equal(converted.read(HEAD), tensors[HEAD])


def test_a_source_that_does_not_fit_its_config_leaves_the_target_alone(
    tmp_path: Path, build_model: BuildModel
) -> None:
    save_checkpoint(build_model(), tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    del tensors[EMBEDDING]
    save_file(tensors, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=EMBEDDING):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", "remote-code")
    assert not (tmp_path / "b").exists()
