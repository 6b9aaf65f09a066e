from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from released_flash import FLASH_HF_NAMES, FLASH_NAMES
from safetensors.torch import load_file, save_file

from internvl35.config import PRESETS
from internvl35.errors import CheckpointError
from internvl35.model.checkpoint import (
    Checkpoint,
    expected_keys,
    has_split_experts,
    load_state_dict,
    parameter_shapes,
)
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig, Layout, preset_config
from internvl35.model.names import HEAD
from internvl35.model.weights import save_checkpoint

BuildModel = Callable[..., VisionLanguageModel]
BuildConfig = Callable[..., InternVLChatConfig]

Q = "vision_tower.encoder.layer.0.attention.q_proj.weight"
QKV = "vision_model.encoder.layers.0.attn.qkv.weight"

NUM_TENSORS = {  # size: (remote-code, hf); language, tower and projector counted by hand below
    "1B": (657, 753),
    "2B": (657, 753),
    "4B": (745, 841),
    "8B": (745, 841),
    "14B": (789, 885),
    "38B": (1302, 1392),
    "GPT-OSS-20B-A4B-Preview": (757, 853),
    "30B-A3B": (19213, 19309),
    "241B-A28B": (37540, 37630),
}


@pytest.mark.parametrize("size", PRESETS)
def test_every_released_size_has_the_tensors_of_its_files(size: str) -> None:
    preset, config = PRESETS[size], preset_config(PRESETS[size])
    blocks, tower = preset.language.num_layers, preset.vision.num_layers
    per_block = {
        "qwen3": 11,  # q k v o, q_norm k_norm, gate up down, two norms
        "qwen3_moe": 9 + 3 * preset.language.num_experts,  # router gate, three tensors an expert
        "gpt_oss": 8 + 1 + 2 + 2 + 4,  # four projections and biases, sinks, norms, router, experts
    }[preset.language.family]
    norms = 4 if preset.vision.norm == "layer_norm" else 2
    qkv = 2 if preset.vision.has_qkv_bias else 1
    per_tower_block = norms + 2 + 2 + 4 + (2 if preset.vision.has_qk_norm else 0)
    shared = blocks * per_block + 3 + 6 + 4 + tower * per_tower_block
    for column, layout in enumerate(get_args(Layout)[::-1]):
        keys = expected_keys(config, layout)
        fused = tower * qkv * (3 if layout == "hf" else 1)
        assert len(keys) == NUM_TENSORS[size][column] == shared + fused
        assert sum(math.prod(shape) for shape in keys.values()) == preset.num_parameters


def test_the_six_billion_tower_has_its_query_and_key_norms_in_both_layouts() -> None:
    config = preset_config(PRESETS["38B"])
    remote, native = expected_keys(config, "remote-code"), expected_keys(config, "hf")
    for letter in "qk":
        assert remote[f"vision_model.encoder.layers.44.attn.{letter}_norm.weight"] == (3200,)
        assert native[f"vision_tower.encoder.layer.44.attention.{letter}_norm.weight"] == (3200,)
    assert remote["vision_model.encoder.layers.44.attn.qkv.weight"] == (9600, 3200)
    assert "vision_model.encoder.layers.44.attn.qkv.bias" not in remote


def test_shapes_in_files_are_the_released_ones() -> None:
    remote = expected_keys(preset_config(PRESETS["8B"]), "remote-code")
    assert remote["vision_model.embeddings.class_embedding"] == (1, 1, 1024)
    assert remote["vision_model.embeddings.position_embedding"] == (1, 1025, 1024)
    assert remote["vision_model.encoder.layers.0.attn.qkv.bias"] == (3072,)
    assert remote["mlp1.1.weight"] == (4096, 4096)
    assert remote["language_model.lm_head.weight"] == (151936, 4096)
    moe = expected_keys(preset_config(PRESETS["30B-A3B"]), "hf")
    assert moe["language_model.model.layers.0.mlp.experts.127.up_proj.weight"] == (768, 2048)
    assert moe["language_model.model.layers.0.mlp.experts.0.down_proj.weight"] == (2048, 768)


def test_a_tied_head_is_not_expected_and_an_untied_one_is(build_config: BuildConfig) -> None:
    assert HEAD in parameter_shapes(build_config())
    assert HEAD not in expected_keys(build_config(is_tied=True), "remote-code")


@pytest.fixture(params=["hf", "remote-code"])
def layout(request: pytest.FixtureRequest) -> Layout:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("tower", ["300M", "6B"])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_all_weights_come_back_under_their_names_in_memory(
    tmp_path: Path, build_model: BuildModel, layout: Layout, family: str, tower: str
) -> None:
    model = build_model(family, tower)
    save_checkpoint(model, tmp_path, layout=layout, max_shard_size="200KB")
    state = load_state_dict(tmp_path)
    expected = dict(model.named_parameters())
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


def test_query_key_and_value_are_views_of_the_one_tensor_in_the_file(
    tmp_path: Path, build_model: BuildModel
) -> None:
    save_checkpoint(build_model(), tmp_path, layout="remote-code")
    state = load_state_dict(tmp_path)
    query, key = state[Q], state[Q.replace("q_proj", "k_proj")]
    assert key.data_ptr() - query.data_ptr() == query.numel() * query.element_size()


def test_a_given_config_and_layout_stand_in_for_config_json(
    tmp_path: Path, build_model: BuildModel
) -> None:
    model = build_model()
    save_checkpoint(model, tmp_path, layout="remote-code")
    (tmp_path / "config.json").unlink()
    state = load_state_dict(tmp_path, model.config, "remote-code")
    assert len(state) == len(list(model.parameters()))
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        load_state_dict(tmp_path)


def drop(tensors: dict[str, torch.Tensor], *names: str) -> None:
    for name in names:
        del tensors[name]


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of a checkpoint of one file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def checkpoint(tmp_path: Path, build_model: BuildModel, layout: Layout) -> Path:
    save_checkpoint(build_model(), tmp_path, layout=layout)
    return tmp_path


def test_a_missing_weight_is_named_with_its_shape(checkpoint: Path, layout: Layout) -> None:
    name = Q if layout == "hf" else QKV
    edit(checkpoint, lambda tensors: drop(tensors, name))
    rows = 64 if layout == "hf" else 192
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(checkpoint)
    assert f"{name} of shape [{rows}, 64] is missing" in str(caught.value)
    assert "download the checkpoint again" in str(caught.value)


def test_an_unexpected_weight_is_named_with_its_shape(checkpoint: Path) -> None:
    edit(checkpoint, lambda tensors: tensors.update({"adapter.a": torch.zeros(2, 3)}))
    with pytest.raises(CheckpointError, match=r"weight adapter\.a of shape \[2, 3\] is unexpected"):
        Checkpoint(checkpoint)


def test_a_misshapen_weight_is_named_with_both_shapes(checkpoint: Path, layout: Layout) -> None:
    name = Q if layout == "hf" else QKV
    edit(checkpoint, lambda tensors: tensors.update({name: torch.zeros(7, 64)}))
    rows = 64 if layout == "hf" else 192
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(checkpoint)
    assert f"weight {name} has shape [7, 64]; config.json asks for [{rows}, 64]" in str(
        caught.value
    )


def test_a_config_of_another_size_is_noticed_before_any_tensor_is_read(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config" if layout == "hf" else "llm_config"]["vocab_size"] = 400
    (checkpoint / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("internvl35.model.shards.Shards.read", lambda *_: pytest.fail("read"))
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight has shape \[320, 64\].*400"):
        Checkpoint(checkpoint)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "llava"}', "null"])
def test_a_malformed_config_is_refused(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Checkpoint(checkpoint)


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        Checkpoint(tmp_path / "nowhere")


def test_quantised_files_are_refused_with_the_reason(checkpoint: Path, layout: Layout) -> None:
    name = Q if layout == "hf" else QKV

    def quantise(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name.removesuffix("weight") + "qweight"] = tensors.pop(name).to(torch.int8)

    edit(checkpoint, quantise)
    with pytest.raises(CheckpointError, match="quantised files are not read"):
        Checkpoint(checkpoint)


def test_buffers_in_files_are_ignored(checkpoint: Path) -> None:
    buffer = {"language_model.model.rotary_emb.inv_freq": torch.zeros(8)}
    edit(checkpoint, lambda tensors: tensors.update(buffer))
    assert not buffer.keys() & load_state_dict(checkpoint).keys()


def test_an_untied_head_that_is_missing_is_explained(checkpoint: Path) -> None:
    edit(checkpoint, lambda tensors: drop(tensors, HEAD))
    with pytest.raises(CheckpointError, match="set tie_word_embeddings to true"):
        Checkpoint(checkpoint)


def test_run_time_prefixes_are_accepted(tmp_path: Path, build_model: BuildModel) -> None:
    model = build_model("qwen3_moe")
    save_checkpoint(model, tmp_path)
    released_to_run_time = {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    }

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            released = next(p for p in released_to_run_time if name.startswith(p))
            run_time = released_to_run_time[released] + name.removeprefix(released)
            tensors[run_time] = tensors.pop(name)

    edit(tmp_path, rename)
    state = load_state_dict(tmp_path)
    assert all(torch.equal(state[name], value) for name, value in model.named_parameters())
    edit(tmp_path, lambda tensors: tensors.update({HEAD: tensors["lm_head.weight"].clone()}))
    with pytest.raises(CheckpointError, match=rf"holds {HEAD} twice"):
        Checkpoint(tmp_path)


def test_experts_that_a_file_keeps_fused_are_accepted(
    tmp_path: Path, build_model: BuildModel, layout: Layout
) -> None:
    model = build_model("qwen3_moe")
    assert has_split_experts(model.config)
    save_checkpoint(model, tmp_path, layout=layout)
    fused = {name: p.detach() for name, p in model.named_parameters() if ".mlp.experts." in name}

    def fuse(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".mlp.experts." in name]:
            del tensors[name]
        tensors.update(fused)

    edit(tmp_path, fuse)
    state = load_state_dict(tmp_path)
    assert all(torch.equal(state[name], value) for name, value in model.named_parameters())


@pytest.mark.parametrize(
    ("size", "num_remote", "num_native"), [("2B", 718, 830), ("38B", 1363, 1469)]
)
def test_flash_files_hold_61_tensors_more(size: str, num_remote: int, num_native: int) -> None:
    preset = PRESETS[size]
    base, flash = preset_config(preset), preset_config(preset.flash)
    remote, native = expected_keys(flash, "remote-code"), expected_keys(flash, "hf")
    assert remote.keys() - expected_keys(base, "remote-code").keys() == FLASH_NAMES
    assert native.keys() - expected_keys(base, "hf").keys() == FLASH_HF_NAMES
    assert (len(remote), len(native)) == (num_remote, num_native)
    width = preset.vision.width
    assert remote["pooling_before_gating.attn4.in_proj_weight"] == (3 * width, width)
    assert remote["pooling_before_gating.query_token"] == (1, width)
    assert remote["gating.block1.0.weight"] == (4 * width, width)
    assert remote["gating.gate.1.weight"] == (2, width)
    for keys in (remote, native):
        assert sum(math.prod(shape) for shape in keys.values()) == preset.flash.num_parameters


@pytest.fixture
def flash_checkpoint(tmp_path: Path, build_model: BuildModel, layout: Layout) -> Path:
    save_checkpoint(build_model(flash_mode=True), tmp_path, layout=layout)
    return tmp_path


def switch_off(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"flash_mode": False}))


def test_flash_mode_without_router_weights_is_an_error(
    flash_checkpoint: Path, layout: Layout
) -> None:
    names = FLASH_HF_NAMES if layout == "hf" else FLASH_NAMES
    edit(flash_checkpoint, lambda tensors: drop(tensors, *names))
    with pytest.raises(
        CheckpointError,
        match=rf"config.json sets flash_mode, but weight .* is missing \(and {len(names) - 1} more",
    ):
        Checkpoint(flash_checkpoint)
    switch_off(flash_checkpoint)
    assert not Checkpoint(flash_checkpoint).config.flash_mode


def test_a_single_missing_router_weight_is_named(flash_checkpoint: Path) -> None:
    edit(flash_checkpoint, lambda tensors: drop(tensors, "pooling_before_gating.norm3.bias"))
    with pytest.raises(CheckpointError, match=r"norm3\.bias of the visual resolution .* missing;"):
        Checkpoint(flash_checkpoint)


def test_router_weights_of_another_shape_are_refused(flash_checkpoint: Path) -> None:
    name = "pooling_before_gating.query_token"
    edit(flash_checkpoint, lambda tensors: tensors.update({name: torch.zeros(1, 32)}))
    with pytest.raises(CheckpointError, match=rf"{name} has shape \[1, 32\]; .* \[1, 64\]"):
        Checkpoint(flash_checkpoint)


def test_a_router_that_config_json_switches_off_is_told_apart(flash_checkpoint: Path) -> None:
    switch_off(flash_checkpoint)
    checkpoint = Checkpoint(flash_checkpoint)
    assert len(checkpoint.unused_pieces) == len(FLASH_HF_NAMES)
    assert checkpoint.read("router.gating.gate_proj.bias").shape == (2,)
    assert not any(name.startswith("router.") for name in load_state_dict(flash_checkpoint))
    edit(flash_checkpoint, lambda tensors: drop(tensors, "pooling_before_gating.norm3.bias"))
    with pytest.raises(CheckpointError, match=r"norm3\.bias .* is missing"):
        Checkpoint(flash_checkpoint)
