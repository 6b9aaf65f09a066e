"""config.json of both layouts: what released files look like, what comes out, what is refused.

The files in ``configs/`` are written after the public descriptions of the released ones: sizes of
the reference's table, field names of the transformers versions that wrote them, and the defaults
that those versions wrote along.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, InternVLConfig

from internvl35.config import PRESETS, TileSettings
from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import (
    InternVLChatConfig,
    Layout,
    config_to_dict,
    preset_config,
    read_config,
)

ConfigBuilder = Callable[..., InternVLChatConfig]
Change = Callable[[dict[str, Any]], None]

CONFIGS = Path(__file__).parent / "configs"
RELEASED = sorted(path.stem for path in CONFIGS.glob("*.json"))

# gpt-oss-20b: width 2880, 24 layers, 64 query and 8 key heads of 64, 32 experts of 2880, all biased
ATTENTION_20B = 2880 * 4096 + 4096 + 2 * (2880 * 512 + 512) + 4096 * 2880 + 2880 + 64
EXPERTS_20B = 32 * (2880 * 5760 + 5760 + 2880 * 2880 + 2880) + 32 * 2880 + 32
LANGUAGE_20B = 2 * 200_028 * 2880 + 24 * (ATTENTION_20B + EXPERTS_20B + 2 * 2880) + 2880
PROJECTOR_20B = 2 * 4096 + 4096 * 2880 + 2880 + 2880 * 2880 + 2880

# file: layout, parameters of the whole model by the reference's table
SIZES = {
    "remote_code_8b": ("remote-code", 8_528_318_464),
    "remote_code_38b": ("remote-code", 38_390_405_504),
    "remote_code_20b": ("remote-code", 304_012_288 + PROJECTOR_20B + LANGUAGE_20B),
    "hf_8b": ("hf", 8_528_318_464),
    "hf_30b": ("hf", 30_848_730_112),
}


def load(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return data


def write(folder: Path, data: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(data, default=str))
    return folder


def read(folder: Path, name: str) -> InternVLChatConfig:
    return read_config(write(folder, load(name)))[0]


def count_on_meta(config: InternVLChatConfig) -> int:
    with torch.device("meta"):
        model = VisionLanguageModel(config)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_config_gives_a_network_of_the_published_size(tmp_path: Path, name: str) -> None:
    config, layout = read_config(write(tmp_path, load(name)))
    assert (layout, count_on_meta(config)) == SIZES[name]


@pytest.mark.parametrize("name", ["remote_code_8b", "hf_8b"])
def test_8b_is_read_with_its_numbers(tmp_path: Path, name: str) -> None:
    config = read(tmp_path, name)
    text, tower = config.text_config, config.vision_config
    assert (text.model_type, text.hidden_size, text.num_hidden_layers) == ("qwen3", 4096, 36)
    assert (text.num_attention_heads, text.num_key_value_heads, text.head_dim) == (32, 8, 128)
    assert (text.intermediate_size, text.vocab_size) == (12_288, 151_936)
    assert text.rope_parameters == {"rope_type": "default", "rope_theta": 1_000_000.0}
    assert (text.rms_norm_eps, text.max_position_embeddings) == (1e-6, 40_960)
    assert text.sliding_window is None
    assert (tower.hidden_size, tower.num_hidden_layers) == (1024, 24)
    assert (tower.num_attention_heads, tower.intermediate_size) == (16, 4096)
    assert (tower.norm_type, tower.layer_norm_eps) == ("layer_norm", 1e-6)
    assert (tower.attention_bias, tower.use_qk_norm) == (True, False)
    assert (list(tower.image_size), list(tower.patch_size)) == ([448, 448], [14, 14])
    assert (tower.layer_scale_init_value, tower.hidden_act) == (0.1, "gelu")
    assert (tower.hidden_dropout_prob, tower.attention_dropout) == (0.0, 0.0)
    assert config.tie_word_embeddings is False
    assert text.tie_word_embeddings is False
    assert (config.image_token_id, config.template) == (151_671, "internvl2_5")
    assert (config.tokens_per_tile, config.grid, config.merge_factor) == (256, 32, 2)
    assert config.tile_settings == TileSettings(448, 1, 12, True)
    assert config.dtype == torch.bfloat16


def test_the_six_billion_tower_is_read_with_its_norms(tmp_path: Path) -> None:
    tower = read(tmp_path, "remote_code_38b").vision_config
    assert (tower.hidden_size, tower.num_hidden_layers) == (3200, 45)
    assert (tower.num_attention_heads, tower.intermediate_size) == (25, 12_800)
    assert (tower.norm_type, tower.layer_norm_eps) == ("rms_norm", 1e-6)
    assert (tower.attention_bias, tower.use_qk_norm) == (False, True)


def test_gpt_oss_is_read_with_its_long_range_rope_and_its_windows(tmp_path: Path) -> None:
    config = read(tmp_path, "remote_code_20b")
    text = config.text_config
    assert text.rope_parameters == {
        "rope_type": "yarn", "rope_theta": 150_000, "factor": 32.0, "beta_fast": 32.0,
        "beta_slow": 1.0, "original_max_position_embeddings": 4096, "truncate": False,
    }  # fmt: skip
    assert (text.sliding_window, text.max_position_embeddings) == (128, 131_072)
    assert text.layer_types == ["sliding_attention", "full_attention"] * 12
    assert (text.num_local_experts, text.num_experts_per_tok) == (32, 4)
    assert (text.rms_norm_eps, text.attention_bias) == (1e-5, True)
    assert (config.image_token_id, config.template) == (200_021, "internvl3_5_gpt_oss")


def test_experts_are_read_with_their_numbers(tmp_path: Path) -> None:
    config = read(tmp_path, "hf_30b")
    text = config.text_config
    assert (text.num_experts, text.num_experts_per_tok, text.norm_topk_prob) == (128, 8, True)
    assert (text.moe_intermediate_size, text.decoder_sparse_step) == (768, 1)
    assert (text.mlp_only_layers, text.rope_parameters["rope_theta"]) == ([], 1_000_000.0)
    assert (config.dtype, config.tie_word_embeddings) == (torch.bfloat16, False)


@pytest.mark.parametrize("name", RELEASED)
def test_leftovers_of_training_change_nothing(tmp_path: Path, name: str) -> None:
    config = read(tmp_path, name)
    assert config.text_config.use_cache is True
    for part in (config, config.text_config, config.vision_config):
        assert part._attn_implementation is None  # flash attention was the trainer's choice


@pytest.mark.parametrize("layout", ["hf", "remote-code"])
@pytest.mark.parametrize("name", RELEASED)
def test_reading_and_writing_comes_to_rest(tmp_path: Path, name: str, layout: Layout) -> None:
    first = read(tmp_path / "0", name)
    written = config_to_dict(first, layout)
    second, found_layout = read_config(write(tmp_path / "1", written))
    assert found_layout == layout
    assert second.to_dict() == first.to_dict()
    assert config_to_dict(second, layout) == written


@pytest.mark.parametrize("name", RELEASED)
def test_the_dictionary_of_a_config_builds_the_same_config(tmp_path: Path, name: str) -> None:
    config = read(tmp_path, name)
    again = InternVLChatConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert copy.deepcopy(config).to_dict() == config.to_dict()


@pytest.mark.parametrize("name", ["hf_8b", "hf_30b", "remote_code_38b", "remote_code_20b"])
def test_stock_transformers_reads_what_is_written(tmp_path: Path, name: str) -> None:
    config = read(tmp_path / "0", name)
    stock = AutoConfig.from_pretrained(write(tmp_path / "1", config_to_dict(config, "hf")))
    assert isinstance(stock, InternVLConfig)
    assert type(stock.text_config) is type(config.text_config)
    assert stock.text_config.rope_parameters == config.text_config.rope_parameters
    for key in ("hidden_size", "num_hidden_layers", "rms_norm_eps", "vocab_size"):
        assert getattr(stock.text_config, key) == getattr(config.text_config, key)
    for key in ("hidden_size", "norm_type", "attention_bias", "use_qk_norm"):
        assert getattr(stock.vision_config, key) == getattr(config.vision_config, key)
    assert stock.image_token_id == config.image_token_id
    assert (stock.image_seq_length, stock.downsample_ratio) == (256, 0.5)
    assert (stock.vision_feature_layer, stock.tie_word_embeddings) == (-1, False)


@pytest.mark.parametrize(("layout", "part"), [("hf", "text_config"), ("remote-code", "llm_config")])
def test_software_older_than_transformers_5_finds_its_field_names(
    tmp_path: Path, layout: Layout, part: str
) -> None:
    dense = config_to_dict(read(tmp_path / "0", "remote_code_8b"), layout)
    assert (dense[part]["rope_theta"], dense[part]["rope_scaling"]) == (1_000_000.0, None)
    assert dense["torch_dtype"] == dense[part]["torch_dtype"] == "bfloat16"
    scaled = config_to_dict(read(tmp_path / "1", "remote_code_20b"), layout)[part]
    assert scaled["rope_theta"] == 150_000
    assert scaled["rope_scaling"] == load("remote_code_20b")["llm_config"]["rope_scaling"]


def test_the_remote_code_layout_is_written_with_its_field_names(tmp_path: Path) -> None:
    released = load("remote_code_38b")
    written = config_to_dict(read(tmp_path, "remote_code_38b"), "remote-code")
    for key in (
        "architectures", "model_type", "downsample_ratio", "dynamic_image_size", "force_image_size",
        "max_dynamic_patch", "min_dynamic_patch", "ps_version", "select_layer", "template",
        "tie_word_embeddings", "use_backbone_lora", "use_llm_lora", "use_thumbnail",
    ):  # fmt: skip
        assert written[key] == released[key], key
    for key in (
        "architectures", "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "norm_type", "qkv_bias", "qk_normalization", "image_size",
        "patch_size", "layer_norm_eps", "hidden_act", "initializer_factor", "num_channels",
    ):  # fmt: skip
        assert written["vision_config"][key] == released["vision_config"][key], key
    assert written["llm_config"]["architectures"] == ["Qwen3ForCausalLM"]
    assert "auto_map" not in written  # no code comes with what this package writes


@pytest.mark.parametrize("name", ["remote_code_8b", "remote_code_20b"])
def test_auto_config_reads_the_remote_code_layout_without_running_code(
    tmp_path: Path, name: str
) -> None:
    folder = write(tmp_path, load(name))
    for options in ({}, {"trust_remote_code": True}):
        found = AutoConfig.from_pretrained(folder, **options)
        assert type(found) is InternVLChatConfig
        assert found.text_config.to_dict() == read_config(folder)[0].text_config.to_dict()
    found, unused = AutoConfig.from_pretrained(
        folder, template="other", unknown=1, return_unused_kwargs=True
    )
    assert (found.template, unused) == ("other", {"unknown": 1})


def test_a_config_of_the_native_layout_can_be_asked_for_by_class(tmp_path: Path) -> None:
    config = InternVLChatConfig.from_pretrained(write(tmp_path, load("hf_8b")))
    assert config.text_config.hidden_size == 4096
    assert config.vision_config.attention_bias is True


@pytest.mark.parametrize("size", PRESETS)
def test_every_size_on_the_meta_device_has_the_parameters_of_its_arithmetic(size: str) -> None:
    preset = PRESETS[size]
    config = preset_config(preset)
    with torch.device("meta"):
        model = VisionLanguageModel(config)
    counts = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in model.named_children()
    }
    assert counts == {
        "vision_tower": preset.vision.num_parameters,
        "multi_modal_projector": preset.num_projector_parameters,
        "language_model": preset.language.num_parameters,
    }
    assert all(parameter.is_meta for parameter in model.parameters())
    assert config.tokens_per_tile == 256


@pytest.mark.parametrize(
    ("size", "name"),
    [
        ("8B", "remote_code_8b"),
        ("8B", "hf_8b"),
        ("38B", "remote_code_38b"),
        ("GPT-OSS-20B-A4B-Preview", "remote_code_20b"),
        ("30B-A3B", "hf_30b"),
    ],
)
def test_presets_agree_with_released_configs(tmp_path: Path, size: str, name: str) -> None:
    preset, released = preset_config(PRESETS[size]), read(tmp_path, name)
    for part in ("text_config", "vision_config"):
        found, expected = getattr(preset, part).to_dict(), getattr(released, part).to_dict()
        without_effect = {
            "dtype", "architectures", "initializer_range", "eos_token_id", "bos_token_id",
            "pad_token_id", "_name_or_path", "max_window_layers", "router_aux_loss_coef",
        }  # fmt: skip
        compared = found.keys() - without_effect
        assert {k: found[k] for k in compared} == {k: expected[k] for k in compared}
    assert preset.image_token_id == released.image_token_id
    assert preset.template == released.template


@pytest.mark.parametrize(("given", "inherited"), [(None, True), (True, True), (False, False)])
def test_the_tie_at_the_top_wins_over_that_of_the_language_model(
    build_config: ConfigBuilder, given: bool | None, inherited: bool
) -> None:
    config = build_config(is_tied=True, tie_word_embeddings=given)
    assert config.tie_word_embeddings is inherited
    assert config.text_config.tie_word_embeddings is inherited


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"force_image_size": 448}, 256),
        ({"force_image_size": 224}, 64),
        ({"force_image_size": 448, "downsample_ratio": 0.25}, 64),
        ({"force_image_size": 896}, 1024),
        ({}, 4),  # the tower's own tile of 56 pixels
    ],
)
def test_visual_tokens_a_tile_follow_from_its_size(
    build_config: ConfigBuilder, fields: dict[str, Any], tokens: int
) -> None:
    assert build_config(**fields).tokens_per_tile == tokens


def test_tiles_are_cut_as_the_checkpoint_says(build_config: ConfigBuilder) -> None:
    config = build_config(min_dynamic_patch=2, max_dynamic_patch=6, use_thumbnail=False)
    assert config.tile_settings == TileSettings(56, 2, 6, False)


def test_without_dynamic_tiling_a_picture_is_one_tile(build_config: ConfigBuilder) -> None:
    config = build_config(dynamic_image_size=False, min_dynamic_patch=4, max_dynamic_patch=12)
    assert (config.tile_settings.min_tiles, config.tile_settings.max_tiles) == (1, 1)


@pytest.mark.parametrize("layout", ["hf", "remote-code"])
def test_settings_of_the_router_are_kept(
    tmp_path: Path, build_config: ConfigBuilder, layout: Layout
) -> None:
    plain = build_config()
    assert not any(key.startswith("flash") for key in config_to_dict(plain, layout))
    fields = {"flash_mode": True, "flash_relative_threshold": 0.6, "flash_absolute_threshold": 0.4}
    written = config_to_dict(build_config(**fields), layout)
    config, _ = read_config(write(tmp_path, written))
    assert {key: getattr(config, key) for key in fields} == fields
    assert (config.router_num_heads, config.router_repeats_second_step) == (16, True)
    own = {"router_num_heads": 8, "router_repeats_second_step": False}
    written = config_to_dict(build_config(**fields, **own), layout)
    config, _ = read_config(write(tmp_path, written))
    assert {key: getattr(config, key) for key in fields | own} == fields | own


def test_thresholds_outlive_a_flash_mode_that_is_switched_off(
    tmp_path: Path, build_config: ConfigBuilder
) -> None:
    written = config_to_dict(build_config(flash_relative_threshold=0.1), "hf")
    assert written["flash_mode"] is False
    assert read_config(write(tmp_path, written))[0].flash_relative_threshold == 0.1


def test_the_model_type_of_the_open_request_is_a_flash_model(
    tmp_path: Path, build_config: ConfigBuilder
) -> None:
    written = config_to_dict(build_config(flash_relative_threshold=0.1), "hf")
    del written["flash_mode"]
    for model_type, is_flash in (("internvl", False), ("internvl_flash", True)):
        written["model_type"] = model_type
        config, layout = read_config(write(tmp_path, written))
        assert (config.flash_mode, layout) == (is_flash, "hf")


def test_a_compressed_tile_has_a_quarter_of_the_tokens(build_config: ConfigBuilder) -> None:
    config = build_config(force_image_size=448, flash_mode=True)
    assert (config.merge_factor, config.compressed_merge_factor) == (2, 4)
    assert (config.tokens_per_tile, config.compressed_tokens_per_tile) == (256, 64)


@pytest.mark.parametrize("name", ["flash_relative_threshold", "flash_absolute_threshold"])
@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), "0.5", True])
def test_thresholds_that_are_no_probabilities_are_refused(
    build_config: ConfigBuilder, name: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is .*; needed: a number from 0 to 1"):
        build_config(**{name: value})


@pytest.mark.parametrize("value", [0, 0.0, 1, 1.0, None])
def test_the_ends_of_the_range_are_thresholds(build_config: ConfigBuilder, value: Any) -> None:
    assert build_config(flash_absolute_threshold=value).flash_absolute_threshold == value


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"router_num_heads": 5}, "router_num_heads is 5, which cannot share a tower of width 64"),
        ({"router_num_heads": 0}, "router_num_heads is 0"),
        ({"force_image_size": 84}, "a grid of 6 patches cannot be folded 4x4"),
    ],
)
def test_a_router_that_does_not_fit_the_tower_is_refused(
    build_config: ConfigBuilder, fields: dict[str, Any], found: str
) -> None:
    build_config(**fields)
    with pytest.raises(ConfigError, match=found):
        build_config(flash_mode=True, **fields)


def test_each_family_can_be_named_by_its_architecture_alone(build_config: ConfigBuilder) -> None:
    for architecture, family in (
        ("Qwen3ForCausalLM", "qwen3"),
        ("Qwen3MoeForCausalLM", "qwen3_moe"),
        ("GptOssForCausalLM", "gpt_oss"),
    ):
        config = build_config(text={"model_type": None, "architectures": [architecture]})
        assert config.text_config.model_type == family


def change(**fields: Any) -> Change:
    return lambda data: data.update(fields)


def change_part(part: str, **fields: Any) -> Change:
    return lambda data: data[part].update(fields)


def remove(part: str, key: str) -> Change:
    return lambda data: data[part].pop(key)


@pytest.mark.parametrize(
    ("name", "edit", "found", "needed"),
    [
        ("hf_8b", change(model_type="llava"), "'llava'", "'internvl_chat'"),
        ("hf_8b", change(text_config=None), "config is None", "JSON object"),
        ("hf_8b", change_part("text_config", model_type="llama"), "'llama'", "qwen3"),
        ("hf_8b", change(downsample_ratio=0.3), "0.3", "one over a whole number"),
        ("hf_8b", change(downsample_ratio=0), "is 0", "one over a whole number"),
        ("hf_8b", change(vision_feature_layer=-2), "is -2", "only -1"),
        ("hf_8b", change_part("vision_config", norm_type="batch_norm"), "batch_norm", "rms_norm"),
        ("hf_8b", change_part("vision_config", image_size=[448, 336]), "448, 336", "square"),
        ("hf_8b", change_part("vision_config", num_attention_heads=15), "15", "multiple"),
        ("hf_8b", change_part("text_config", hidden_size="wide"), "hidden_size", "expected int"),
        ("remote_code_8b", change(ps_version="v1"), "'v1'", "'v2'"),
        ("remote_code_8b", change(select_layer=-4), "is -4", "only -1"),
        ("remote_code_8b", change(force_image_size=462), "33 patches", "divides the grid"),
        ("remote_code_8b", change(min_dynamic_patch=13), "min_tiles is 13", "<= max_tiles"),
        ("remote_code_8b", change(vision_config=[]), r"vision_config is \[\]", "JSON object"),
        ("remote_code_8b", remove("vision_config", "hidden_size"), "lacks", "'hidden_size'"),
        (
            "remote_code_8b",
            change_part("llm_config", model_type="qwen2", architectures=["Qwen2ForCausalLM"]),
            "'qwen2'",
            "qwen3",
        ),
    ],
)
def test_a_config_that_cannot_be_run_is_refused_with_what_was_found_and_needed(
    tmp_path: Path, name: str, edit: Change, found: str, needed: str
) -> None:
    data = load(name)
    edit(data)
    with pytest.raises(ConfigError, match=f"(?s)config.json.*{found}.*{needed}"):
        read_config(write(tmp_path, data))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no config.json"),
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[]", "holds a list; needed: a JSON object"),
        (b"{}", "model_type None; needed: 'internvl_chat'"),
    ],
)
def test_a_file_that_is_no_config_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path)


def test_a_missing_language_config_is_refused_in_both_layouts(tmp_path: Path) -> None:
    for name, part in (("hf_8b", "text_config"), ("remote_code_8b", "llm_config")):
        data = load(name)
        del data[part]
        with pytest.raises(ConfigError, match="language model config is None; needed: a JSON"):
            read_config(write(tmp_path / name, data))
