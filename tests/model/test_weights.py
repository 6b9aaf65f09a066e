from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, GenerationConfig, InternVLForConditionalGeneration

from internvl35.errors import CheckpointError
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig, Layout, read_config
from internvl35.model.names import EMBEDDING, HEAD
from internvl35.model.shards import Shards
from internvl35.model.weights import choose_attention, load_model, save_checkpoint

BuildModel = Callable[..., VisionLanguageModel]
BuildConfig = Callable[..., InternVLChatConfig]
Inputs = dict[str, torch.Tensor]

ALL_KINDS = [
    (family, tower) for family in ("qwen3", "qwen3_moe", "gpt_oss") for tower in ("300M", "6B")
]


def load(folder: Path, **options: Any) -> VisionLanguageModel:
    return load_model(VisionLanguageModel, folder, **options)


def logits(model: Any, inputs: Inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits.float()  # type: ignore[no-any-return]


def assert_same_weights(found: VisionLanguageModel, expected: VisionLanguageModel) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("layout", ["hf", "remote-code"])
@pytest.mark.parametrize(("family", "tower"), ALL_KINDS)
def test_a_saved_network_loads_with_equal_weights_and_logits(
    tmp_path: Path, build_model: BuildModel, inputs: Inputs, family: str, tower: str, layout: Layout
) -> None:
    model = build_model(family, tower)
    save_checkpoint(model, tmp_path, layout=layout, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert read_config(tmp_path)[1] == layout
    loaded = load(tmp_path)
    assert not loaded.training
    assert_same_weights(loaded, model)
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


@pytest.mark.parametrize(("family", "tower"), ALL_KINDS)
def test_stock_transformers_loads_the_native_layout_with_equal_logits_and_names(
    tmp_path: Path, build_model: BuildModel, inputs: Inputs, family: str, tower: str
) -> None:
    model = build_model(family, tower)
    save_checkpoint(model, tmp_path / "ours", layout="hf")
    stock, report = InternVLForConditionalGeneration.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert {kind: names for kind, names in report.items() if names} == {}
    assert torch.allclose(logits(stock.eval(), inputs), logits(model, inputs), atol=1e-5, rtol=0)
    stock.save_pretrained(tmp_path / "stock")
    assert Shards(tmp_path / "stock").tensors == Shards(tmp_path / "ours").tensors
    assert_same_weights(load(tmp_path / "stock"), model)


def test_the_query_and_key_norms_of_the_six_billion_tower_reach_stock_transformers(
    tmp_path: Path, build_model: BuildModel
) -> None:
    model = build_model("qwen3", "6B")
    save_checkpoint(model, tmp_path, layout="hf")
    stock = InternVLForConditionalGeneration.from_pretrained(tmp_path)
    for ours, theirs in zip(
        model.vision_tower.encoder.layer, stock.model.vision_tower.encoder.layer, strict=True
    ):
        assert not torch.equal(ours.attention.q_norm.weight, torch.ones(64))
        assert torch.equal(ours.attention.q_norm.weight, theirs.attention.q_norm.weight)
        assert torch.equal(ours.attention.k_norm.weight, theirs.attention.k_norm.weight)


@pytest.mark.parametrize("layout", ["hf", "remote-code"])
def test_a_tied_head_is_not_written_and_is_tied_again(
    tmp_path: Path, build_model: BuildModel, inputs: Inputs, layout: Layout
) -> None:
    model = build_model(is_tied=True)
    save_checkpoint(model, tmp_path, layout=layout)
    assert HEAD not in Shards(tmp_path).tensors
    loaded = load(tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


def add_head(folder: Path, change: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[HEAD] = tensors[EMBEDDING] + change
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_tied_head_in_the_file_must_be_the_embedding_or_is_loaded_untied(
    tmp_path: Path, build_model: BuildModel, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(build_model(is_tied=True), tmp_path)
    add_head(tmp_path, 0.0)
    loaded = load(tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert not caplog.records
    add_head(tmp_path, 1.0)
    loaded = load(tmp_path)
    assert "it is loaded untied" in caplog.text
    assert not loaded.config.tie_word_embeddings
    difference = loaded.get_output_embeddings().weight - loaded.get_input_embeddings().weight
    assert torch.allclose(difference, torch.ones(()))
    save_checkpoint(loaded, tmp_path / "again")
    assert HEAD in Shards(tmp_path / "again").tensors


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_rotary_frequencies_are_computed_not_left_empty(
    tmp_path: Path, build_model: BuildModel, family: str
) -> None:
    model = build_model(family)
    save_checkpoint(model, tmp_path)
    loaded = load(tmp_path)
    buffers, expected = dict(loaded.named_buffers()), dict(model.named_buffers())
    assert buffers.keys() == expected.keys()
    assert any(name.endswith("inv_freq") for name in buffers)
    assert all(torch.equal(buffers[name], expected[name]) for name in buffers)


@pytest.mark.parametrize("option", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", [torch.bfloat16, "bfloat16"])
def test_the_element_type_can_be_chosen_under_both_names(
    tmp_path: Path, build_model: BuildModel, option: str, value: Any
) -> None:
    save_checkpoint(build_model("qwen3_moe"), tmp_path)
    loaded = load(tmp_path, **{option: value})
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert loaded.config.dtype == torch.bfloat16


def test_the_element_type_is_that_of_the_checkpoint_by_default(
    tmp_path: Path, build_model: BuildModel
) -> None:
    save_checkpoint(build_model().to(torch.bfloat16), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    for options in ({}, {"dtype": "auto"}, {"torch_dtype": "auto"}):
        assert load(tmp_path, **options).dtype == torch.bfloat16
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(tmp_path).dtype == torch.bfloat16


def test_training_a_loaded_network_leaves_the_checkpoint_as_it_was(
    tmp_path: Path, build_model: BuildModel
) -> None:
    save_checkpoint(build_model(), tmp_path, layout="remote-code")
    before = (tmp_path / "model.safetensors").read_bytes()
    loaded = load(tmp_path)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1.0)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    save_checkpoint(loaded, tmp_path, layout="hf")  # over the files it was mapped from
    assert_same_weights(load(tmp_path), loaded)


def test_options_of_other_loaders_are_accepted(tmp_path: Path, build_model: BuildModel) -> None:
    model = build_model()
    save_checkpoint(model, tmp_path)
    (tmp_path / "modeling_internvl_chat.py").write_text("raise SystemExit('remote code was run')")
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_internvl_chat.InternVLChatModel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = VisionLanguageModel.from_pretrained(
        str(tmp_path), trust_remote_code=True, low_cpu_mem_usage=True, use_flash_attn=True,
        local_files_only=True, device_map="auto",
    )  # fmt: skip
    assert_same_weights(loaded, model)
    assert loaded.name_or_path == str(tmp_path)


def test_the_auto_classes_of_transformers_do_not_run_remote_code_either(
    tmp_path: Path, build_model: BuildModel
) -> None:
    model = build_model()
    save_checkpoint(model, tmp_path, layout="remote-code")
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "evil.InternVLChatConfig", "AutoModel": "evil.InternVLChatModel",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('remote code was run')")
    loaded = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(loaded) is VisionLanguageModel
    assert_same_weights(loaded, model)


def test_generation_settings_come_and_go_with_the_checkpoint(
    tmp_path: Path, build_model: BuildModel
) -> None:
    model = build_model()
    model.generation_config = GenerationConfig(eos_token_id=[5, 6], max_new_tokens=77)
    save_checkpoint(model, tmp_path)
    loaded = load(tmp_path)
    assert loaded.generation_config.eos_token_id == [5, 6]
    assert loaded.generation_config.max_new_tokens == 77
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("layout", ["hf", "remote-code"])
@pytest.mark.parametrize("tower", ["300M", "6B"])
def test_a_flash_model_comes_back_whole(
    tmp_path: Path, build_model: BuildModel, tower: str, layout: Layout
) -> None:
    model = build_model(
        tower=tower, flash_mode=True, flash_relative_threshold=0.25, flash_absolute_threshold=0.75,
        router_num_heads=4, router_repeats_second_step=False,
    )  # fmt: skip
    save_checkpoint(model, tmp_path, layout=layout, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    loaded = load(tmp_path)
    assert_same_weights(loaded, model)
    assert loaded.config.flash_mode
    assert loaded.config.flash_relative_threshold == 0.25
    assert loaded.config.flash_absolute_threshold == 0.75
    assert loaded.config.router_num_heads == 4
    assert loaded.config.router_repeats_second_step is False
    patches = torch.randn(3, 4, 4, 64)
    assert torch.equal(loaded.score_tiles(patches), model.score_tiles(patches))


def test_a_released_flash_config_has_the_released_router(
    tmp_path: Path, build_model: BuildModel
) -> None:
    save_checkpoint(build_model(flash_mode=True), tmp_path, layout="remote-code")
    fields = json.loads((tmp_path / "config.json").read_text())
    own = {"router_num_heads", "router_repeats_second_step"}
    released = {key: value for key, value in fields.items() if key not in own}
    (tmp_path / "config.json").write_text(json.dumps(released))
    router = load(tmp_path).router
    assert router is not None
    assert router.pooling.repeats_second_step
    assert router.pooling.attentions[0].num_heads == 16


def test_a_router_that_config_json_switches_off_is_named_in_one_warning(
    tmp_path: Path, build_model: BuildModel, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(build_model(flash_mode=True), tmp_path, layout="remote-code")
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"flash_mode": False}))
    assert load(tmp_path).router is None
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "visual resolution router" in warnings[0].getMessage()
    assert "does not set flash_mode" in warnings[0].getMessage()


def test_a_flash_config_without_its_parts_is_not_saved(
    tmp_path: Path, build_model: BuildModel, build_config: BuildConfig
) -> None:
    with pytest.raises(CheckpointError, match=r"compressed_projector\..* has shape None"):
        save_checkpoint(build_model(), tmp_path, config=build_config(flash_mode=True))


def test_eight_bits_without_the_package_names_the_extra(
    tmp_path: Path, build_model: BuildModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(build_model(), tmp_path)
    monkeypatch.setattr("internvl35.model.weights.importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install 'internvl35\[int8\]'"):
        load(tmp_path, load_in_8bit=True)


def test_eight_bits_stay_close_and_cannot_be_saved(
    tmp_path: Path, build_model: BuildModel, inputs: Inputs
) -> None:
    pytest.importorskip("bitsandbytes")
    model = build_model()
    save_checkpoint(model, tmp_path, layout="remote-code")
    loaded = load(tmp_path, load_in_8bit=True)
    assert torch.int8 in {parameter.dtype for parameter in loaded.parameters()}
    expected = logits(model, inputs)
    assert (logits(loaded, inputs) - expected).abs().max() < 0.1 * expected.abs().max()
    with pytest.raises(CheckpointError, match=r"in torch\.int8; needed: floating point"):
        save_checkpoint(loaded, tmp_path / "again")


@pytest.mark.parametrize(
    ("family", "requested", "use_flash", "has_flash", "chosen"),
    [
        ("qwen3", None, False, True, None),
        ("qwen3", None, True, True, "flash_attention_2"),
        ("qwen3", None, True, False, None),
        ("qwen3", "eager", True, True, "eager"),
        ("gpt_oss", None, False, True, None),
        ("gpt_oss", "sdpa", False, True, {"vision_config": "sdpa", "text_config": "eager"}),
        (
            "gpt_oss", None, True, True,
            {"vision_config": "flash_attention_2", "text_config": "eager"},
        ),
        ("gpt_oss", "eager", False, True, "eager"),
        ("gpt_oss", {"text_config": "flex_attention"}, True, True,
         {"text_config": "flex_attention"}),
    ],
)  # fmt: skip
def test_each_part_gets_an_attention_that_it_supports(
    build_config: BuildConfig,
    family: str,
    requested: Any,
    use_flash: bool,
    has_flash: bool,
    chosen: Any,
) -> None:
    config = build_config(family)
    found = choose_attention(config, requested, use_flash_attn=use_flash, has_flash_attn=has_flash)
    assert found == chosen


@pytest.mark.parametrize(
    ("family", "requested", "tower", "language"),
    [
        ("qwen3", None, "sdpa", "sdpa"),
        ("qwen3", "eager", "eager", "eager"),
        ("gpt_oss", None, "sdpa", "eager"),
        ("gpt_oss", "sdpa", "sdpa", "eager"),
        ("qwen3", {"vision_config": "eager", "text_config": "sdpa"}, "eager", "sdpa"),
    ],
)
def test_the_chosen_attention_reaches_both_parts(
    tmp_path: Path, build_model: BuildModel, family: str, requested: Any, tower: str, language: str
) -> None:
    save_checkpoint(build_model(family), tmp_path)
    loaded = load(tmp_path, attn_implementation=requested)
    assert loaded.vision_tower.config._attn_implementation == tower
    assert loaded.language_model.config._attn_implementation == language


def test_parts_can_be_offloaded_to_disk(
    tmp_path: Path, build_model: BuildModel, inputs: Inputs
) -> None:
    model = build_model("qwen3_moe")
    save_checkpoint(model, tmp_path / "saved", layout="remote-code")
    device_map = {
        "vision_tower": "cpu", "multi_modal_projector": "cpu", "language_model.lm_head": "cpu",
        "language_model.model.embed_tokens": "cpu", "language_model.model.norm": "cpu",
        "language_model.model.rotary_emb": "cpu", "language_model.model.layers.0": "cpu",
        "language_model.model.layers.1": "disk",
    }  # fmt: skip
    loaded = load(tmp_path / "saved", device_map=device_map, offload_folder=tmp_path / "offload")
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))
    with pytest.raises(CheckpointError, match="to be saved is offloaded"):
        save_checkpoint(loaded, tmp_path / "again")


def test_a_state_dict_can_be_saved_with_its_config(tmp_path: Path, build_model: BuildModel) -> None:
    model = build_model()
    save_checkpoint(model.state_dict(), tmp_path, config=model.config, layout="remote-code")
    assert_same_weights(load(tmp_path), model)
    with pytest.raises(CheckpointError, match="pass config too"):
        save_checkpoint(model.state_dict(), tmp_path)


def test_weights_that_do_not_fit_their_config_are_not_saved(
    tmp_path: Path, build_model: BuildModel
) -> None:
    model = build_model()
    name = "multi_modal_projector.linear_2.bias"
    changes: list[tuple[dict[str, torch.Tensor], str]] = [
        (
            {name: torch.zeros(3)},
            rf"{name} to be saved has shape \[3\]; its config asks for \[64\]",
        ),
        ({name: torch.zeros(64, dtype=torch.int8)}, r"is in torch\.int8; needed: floating point"),
        ({"adapter": torch.zeros(3)}, "adapter to be saved .* merge adapters first"),
    ]
    for change, message in changes:
        with pytest.raises(CheckpointError, match=message):
            save_checkpoint(model.state_dict() | change, tmp_path, config=model.config)
    assert list(tmp_path.iterdir()) == []


def test_picture_settings_for_other_software_are_written_where_absent(
    tmp_path: Path, build_model: BuildModel
) -> None:
    (tmp_path / "processor_config.json").write_text("mine")
    save_checkpoint(build_model(), tmp_path)
    assert (tmp_path / "processor_config.json").read_text() == "mine"
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert settings["size"] == {"height": 56, "width": 56}


def test_a_report_of_transformers_that_something_did_not_fit_is_an_error(
    tmp_path: Path, build_model: BuildModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(build_model(), tmp_path)
    monkeypatch.setattr(
        "internvl35.model.weights._tensors_for_transformers", lambda *_: {"x": torch.zeros(1)}
    )
    with pytest.raises(CheckpointError, match="transformers reports missing keys"):
        load(tmp_path)
