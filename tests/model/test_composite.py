"""The network as a whole: how it is built, fed, run, trained, placed and found by Auto classes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)

from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig
from internvl35.model.projector import merge_patches

ModelBuilder = Callable[..., VisionLanguageModel]
ConfigBuilder = Callable[..., InternVLChatConfig]
Inputs = dict[str, Tensor]

FAMILIES = ("qwen3", "qwen3_moe", "gpt_oss")
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}

every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def two_rows() -> Inputs:
    """Two rows of two and three tiles, the first padded on the left."""
    generator = torch.Generator().manual_seed(3)
    rows = [[0] * 6 + [5, 6, *[300] * 8, 7], [8, 9, *[300] * 4, 10, *[300] * 8, 11, 12]]
    return {
        "input_ids": torch.tensor(rows),
        "attention_mask": torch.tensor([[0] * 6 + [1] * 11, [1] * 17]),
        "pixel_values": torch.randn(5, 3, 56, 56, generator=generator),
    }


def count_calls(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


# ------------------------------------------------------------------ inputs


def test_pixels_features_and_embeddings_are_three_forms_of_the_same_pictures(
    build_model: ModelBuilder, two_rows: Inputs
) -> None:
    model = build_model()
    ids, mask, pixels = two_rows.values()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits
        features = model.get_image_features(pixels)
        flat = features.flatten(0, 1)
        embeds = model.embed_inputs(ids, features)
        for pictures in (
            {"input_ids": ids, "image_features": features},
            {"input_ids": ids, "image_features": flat},
            {"inputs_embeds": embeds},
        ):
            assert torch.equal(model(attention_mask=mask, **pictures).logits, expected)


def test_visual_tokens_take_the_places_in_order_and_nothing_else_changes(
    build_model: ModelBuilder,
) -> None:
    model = build_model()
    ids = torch.tensor([[1, 300, 300, 2], [300, 3, 4, 300]])
    features = torch.arange(4.0)[:, None].expand(4, 64)
    embeds = model.embed_inputs(ids, features)
    assert embeds[ids == 300][:, 0].tolist() == [0, 1, 2, 3]
    words = model.get_input_embeddings()(ids)
    assert torch.equal(embeds[ids != 300], words[ids != 300])


@pytest.mark.parametrize(("num_tiles", "found"), [(1, 4), (3, 12)])
def test_tiles_and_places_that_differ_are_refused_with_both_numbers(
    build_model: ModelBuilder, num_tiles: int, found: int
) -> None:
    ids = torch.tensor([[1, *[300] * 8, 2]])
    with pytest.raises(ValueError, match=f"8 <IMG_CONTEXT> tokens but {found} visual tokens"):
        build_model()(input_ids=ids, pixel_values=torch.zeros(num_tiles, 3, 56, 56))


def test_no_tiles_at_all_are_a_text_without_pictures(build_model: ModelBuilder) -> None:
    model = build_model()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        found = model(input_ids=ids, pixel_values=torch.zeros(0, 3, 56, 56)).logits
        assert torch.equal(found, model(input_ids=ids).logits)
    with pytest.raises(ValueError, match="2 <IMG_CONTEXT> tokens but 0 visual tokens"):
        model(input_ids=torch.tensor([[300, 300]]), pixel_values=torch.zeros(0, 3, 56, 56))


def test_a_text_without_pictures_is_what_the_language_model_alone_makes_of_it(
    build_model: ModelBuilder,
) -> None:
    model = build_model()
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, model.language_model(ids).logits)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"input_ids": torch.tensor([[1]]), "inputs_embeds": torch.zeros(1, 1, 64)},
    ],
)
def test_token_ids_and_embeddings_exclude_each_other(
    build_model: ModelBuilder, fields: dict[str, Tensor]
) -> None:
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        build_model()(**fields)


@pytest.mark.parametrize("words", ["input_ids", "inputs_embeds"])
def test_pictures_in_two_forms_are_refused(build_model: ModelBuilder, words: str) -> None:
    given = torch.tensor([[300] * 4]) if words == "input_ids" else torch.zeros(1, 4, 64)
    pictures = {"pixel_values": torch.zeros(1, 3, 56, 56)}
    if words == "input_ids":
        pictures["image_features"] = torch.zeros(1, 4, 64)
    with pytest.raises(ValueError, match="pass one of pixel_values, image_features and"):
        build_model()(**{words: given}, **pictures)


def test_patches_come_in_rows_and_columns_without_the_class_token(
    build_model: ModelBuilder,
) -> None:
    model = build_model()
    pixels = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        patches = model.encode_patches(pixels)
        tokens = model.vision_tower(pixels).last_hidden_state
    assert patches.shape == (2, 4, 4, 64)
    assert torch.equal(patches[1, 2, 3], tokens[1, 1 + 2 * 4 + 3])


def test_tiles_of_another_size_are_encoded_with_positions_in_between(
    build_model: ModelBuilder,
) -> None:
    model = build_model()
    pixels = torch.randn(1, 3, 84, 112)
    assert model.encode_patches(pixels).shape == (1, 6, 8, 64)
    assert model.get_image_features(pixels).shape == (1, 12, 64)


def test_the_loss_is_the_mean_over_all_labelled_next_tokens(
    build_model: ModelBuilder, two_rows: Inputs
) -> None:
    labels = two_rows["input_ids"].masked_fill(two_rows["input_ids"] == 300, -100)
    labels[two_rows["attention_mask"] == 0] = -100
    with torch.no_grad():
        output = build_model()(**two_rows, labels=labels)
    logprobs = output.logits[:, :-1].log_softmax(-1)
    losses = [
        -logprobs[row, position, label]
        for row, targets in enumerate(labels[:, 1:].tolist())
        for position, label in enumerate(targets)
        if label >= 0
    ]
    assert len(losses) == 7
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())


# ------------------------------------------------------------------ generation


@every_family
def test_the_cache_changes_no_answer(
    build_model: ModelBuilder, two_rows: Inputs, family: str
) -> None:
    model = build_model(family)
    expected = model.generate(**two_rows, **GREEDY)
    assert expected.shape == (2, 17 + 6)
    assert torch.equal(model.generate(**two_rows, **GREEDY, use_cache=False), expected)


@every_family
def test_answers_follow_step_by_step_from_the_logits(
    build_model: ModelBuilder, two_rows: Inputs, family: str
) -> None:
    model = build_model(family)
    batch = {key: value[1:] for key, value in two_rows.items() if key != "pixel_values"}
    batch["pixel_values"] = two_rows["pixel_values"][2:]
    expected = model.generate(**batch, **GREEDY)[0].tolist()
    ids = batch["input_ids"]
    for _ in range(6):
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=batch["pixel_values"]).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert ids[0].tolist() == expected


def test_generation_starts_from_any_form_of_pictures(
    build_model: ModelBuilder, two_rows: Inputs
) -> None:
    model = build_model()
    ids, mask, pixels = two_rows.values()
    expected = model.generate(**two_rows, **GREEDY)
    with torch.no_grad():
        features = model.get_image_features(pixels)
        embeds = model.embed_inputs(ids, features)
    settings = GREEDY | {"attention_mask": mask}
    from_features = model.generate(input_ids=ids, image_features=features, **settings)
    from_embeds = model.generate(inputs_embeds=embeds, **settings)
    assert torch.equal(from_features, expected)
    assert torch.equal(from_embeds, expected[:, 17:])


@every_family
def test_beams_see_the_tiles_of_their_own_row(
    build_model: ModelBuilder, two_rows: Inputs, family: str
) -> None:
    model = build_model(family)
    ids, mask, pixels = two_rows.values()
    with torch.no_grad():
        features = model.get_image_features(pixels)
        embeds = model.embed_inputs(ids, features)
    settings = GREEDY | {"num_beams": 3, "num_return_sequences": 2, "attention_mask": mask}
    expected = model.generate(inputs_embeds=embeds, **settings)
    for pictures in ({"pixel_values": pixels}, {"image_features": features}):
        found = model.generate(input_ids=ids, **pictures, **settings)
        assert torch.equal(found[:, 17:], expected)


def test_several_answers_to_a_prompt_all_see_its_pictures(
    build_model: ModelBuilder, two_rows: Inputs
) -> None:
    model = build_model()
    expected = model.generate(**two_rows, **GREEDY)
    settings = GREEDY | {"do_sample": True, "top_k": 1}  # leaves the likeliest token alone
    found = model.generate(**two_rows, **settings, num_return_sequences=3)
    assert torch.equal(found, expected.repeat_interleave(3, dim=0))


def test_beams_of_mismatched_tiles_are_refused_with_both_numbers(
    build_model: ModelBuilder, inputs: Inputs
) -> None:
    inputs["pixel_values"] = torch.zeros(2, 3, 56, 56)
    with pytest.raises(ValueError, match="4 <IMG_CONTEXT> tokens but 8 visual tokens"):
        build_model().generate(**inputs, **GREEDY, num_beams=2)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"use_cache": False, "num_beams": 2}])
def test_pictures_are_encoded_once_a_generation(
    build_model: ModelBuilder, two_rows: Inputs, settings: dict[str, Any]
) -> None:
    model = build_model()
    calls = count_calls(model.vision_tower)
    model.generate(**two_rows, **GREEDY, **settings)
    assert len(calls) == 1


def test_generation_computes_logits_of_the_last_position_only(
    build_model: ModelBuilder, two_rows: Inputs
) -> None:
    model = build_model()
    lengths: list[int] = []
    model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: lengths.append(args[0].shape[1])
    )
    model.generate(**two_rows, **GREEDY)
    assert lengths == [1] * 6


# ------------------------------------------------------------------ attention, precision, compile


@pytest.mark.parametrize("tower", ["300M", "6B"])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_attention_implementations_agree(
    build_model: ModelBuilder, two_rows: Inputs, family: str, tower: str
) -> None:
    model = build_model(family, tower)
    seen = two_rows["attention_mask"].bool()
    logits = {}
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        parts = (model.vision_tower, model.language_model)
        assert {part.config._attn_implementation for part in parts} == {implementation}
        with torch.no_grad():
            logits[implementation] = model(**two_rows).logits[seen]
    torch.testing.assert_close(logits["sdpa"], logits["eager"], rtol=0, atol=1e-5)


def test_gpt_oss_keeps_to_what_its_sinks_allow(build_model: ModelBuilder) -> None:
    model = build_model("gpt_oss")
    assert model.vision_tower.config._attn_implementation == "sdpa"
    assert model.language_model.config._attn_implementation == "eager"


@every_family
def test_bfloat16_reaches_every_part_and_stays_close(
    tmp_path: Path, build_model: ModelBuilder, two_rows: Inputs, family: str
) -> None:
    model = build_model(family, "6B")
    model.save_pretrained(tmp_path)
    half = VisionLanguageModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    seen = two_rows["attention_mask"].bool()
    with torch.no_grad():
        expected, found = model(**two_rows).logits[seen], half(**two_rows).logits[seen]
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_a_config_of_a_half_precision_checkpoint_builds_parts_of_one_precision(
    build_config: ConfigBuilder,
) -> None:
    config = build_config(dtype="bfloat16", text={"dtype": "bfloat16"})
    for build, dtype in ((VisionLanguageModel, torch.float32), (from_config, torch.bfloat16)):
        model = build(copy.deepcopy(config))
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def from_config(config: InternVLChatConfig) -> VisionLanguageModel:
    return AutoModel.from_config(config)


@pytest.mark.parametrize(
    "family",
    [
        "qwen3",
        pytest.param("qwen3_moe", marks=pytest.mark.slow),
        pytest.param("gpt_oss", marks=pytest.mark.slow),
    ],
)
def test_a_compiled_network_gives_the_same_logits(
    build_model: ModelBuilder, two_rows: Inputs, family: str
) -> None:
    model = build_model(family)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**two_rows).logits, model(**two_rows).logits)


@pytest.mark.slow
def test_inductor_compiles_the_network(build_model: ModelBuilder, two_rows: Inputs) -> None:
    model = build_model()
    compiled = torch.compile(model, backend="inductor")
    seen = two_rows["attention_mask"].bool()
    with torch.no_grad():
        found, expected = compiled(**two_rows).logits[seen], model(**two_rows).logits[seen]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


# ------------------------------------------------------------------ training


@every_family
def test_gradient_checkpointing_computes_twice_and_changes_no_gradient(
    build_model: ModelBuilder, two_rows: Inputs, family: str
) -> None:
    gradients = []
    for is_checkpointed in (False, True):
        model = build_model(family).train()
        if is_checkpointed:
            model.gradient_checkpointing_enable()
        calls = [
            count_calls(model.vision_tower.encoder.layer[0].mlp),
            count_calls(model.language_model.model.layers[0].mlp),
        ]
        model(**two_rows, labels=two_rows["input_ids"], use_cache=False).loss.backward()
        assert [len(counted) for counted in calls] == [1 + is_checkpointed] * 2
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    plain, checkpointed = gradients
    for name, gradient in plain.items():
        assert gradient is not None, name
        torch.testing.assert_close(checkpointed[name], gradient, rtol=0, atol=1e-7)


def test_a_tied_head_is_the_embedding_and_stays_it(
    tmp_path: Path, build_model: ModelBuilder, inputs: Inputs
) -> None:
    model = build_model(is_tied=True)
    model.save_pretrained(tmp_path)
    for network in (model, model.to(torch.bfloat16), VisionLanguageModel.from_pretrained(tmp_path)):
        assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
        assert "language_model.lm_head.weight" not in dict(network.named_parameters())
    untied = build_model()
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight


def test_more_tokens_get_rows_in_embedding_and_head(
    build_model: ModelBuilder, inputs: Inputs
) -> None:
    model = build_model()
    model.resize_token_embeddings(330, mean_resizing=False)
    assert model.get_input_embeddings().weight.shape == (330, 64)
    assert model(**inputs).logits.shape[-1] == 330
    assert model.config.text_config.vocab_size == 330


# ------------------------------------------------------------------ placement


@every_family
@pytest.mark.parametrize(
    "places",
    [
        {"": "cpu"},
        {"vision_tower": "disk", "multi_modal_projector": "cpu", "language_model": "cpu"},
        {"vision_tower": "cpu", "multi_modal_projector": "cpu", "language_model": "disk"},
        {"": "disk"},
    ],
    ids=["all in memory", "tower on disk", "language model on disk", "all on disk"],
)
def test_parts_may_lie_apart(
    tmp_path: Path,
    build_model: ModelBuilder,
    inputs: Inputs,
    family: str,
    places: dict[str, str],
) -> None:
    model = build_model(family)
    model.save_pretrained(tmp_path / "checkpoint")
    split = VisionLanguageModel.from_pretrained(
        tmp_path / "checkpoint", device_map=places, offload_folder=tmp_path / "offload"
    )
    assert split.input_device == torch.device("cpu")
    with torch.no_grad():
        torch.testing.assert_close(split(**inputs).logits, model(**inputs).logits)
    assert torch.equal(split.generate(**inputs, **GREEDY), model.generate(**inputs, **GREEDY))


@every_family
def test_an_automatic_map_fills_memory_and_offloads_the_rest(
    tmp_path: Path, build_model: ModelBuilder, inputs: Inputs, family: str
) -> None:
    model = build_model(family)
    model.save_pretrained(tmp_path / "checkpoint")
    automatic = VisionLanguageModel.from_pretrained(tmp_path / "checkpoint", device_map="auto")
    limited = VisionLanguageModel.from_pretrained(
        tmp_path / "checkpoint",
        device_map="auto",
        max_memory={"cpu": 400_000},
        offload_folder=tmp_path / "offload",
    )
    assert "disk" in limited.hf_device_map.values()
    with torch.no_grad():
        expected = model(**inputs).logits
        for network in (automatic, limited):
            torch.testing.assert_close(network(**inputs).logits, expected)


@every_family
def test_blocks_that_must_stay_together_are_blocks_of_the_network(
    build_model: ModelBuilder, family: str
) -> None:
    model = build_model(family, flash_mode=True)
    found = {type(module).__name__ for module in model.modules()}
    decoder = {"qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe", "gpt_oss": "GptOss"}[family]
    needed = {"InternVLVisionLayer", "Projector", f"{decoder}DecoderLayer"}
    needed |= {"CompressedProjector", "Router"}
    assert needed <= found
    assert needed <= set(VisionLanguageModel._no_split_modules)


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_router_and_compressed_projector_may_lie_apart(
    tmp_path: Path, build_model: ModelBuilder, inputs: Inputs, place: str
) -> None:
    model = build_model(flash_mode=True)
    model.save_pretrained(tmp_path / "checkpoint")
    places = dict.fromkeys(("vision_tower", "multi_modal_projector", "language_model"), "cpu")
    split = VisionLanguageModel.from_pretrained(
        tmp_path / "checkpoint",
        device_map=places | {"router": place, "compressed_projector": place},
        offload_folder=tmp_path / "offload",
    )
    with torch.no_grad():
        patches = model.encode_patches(inputs["pixel_values"].repeat(2, 1, 1, 1))
        is_compressed = torch.tensor([True, False])
        torch.testing.assert_close(split.score_tiles(patches), model.score_tiles(patches))
        torch.testing.assert_close(
            split.project_tiles(patches, is_compressed), model.project_tiles(patches, is_compressed)
        )


# ------------------------------------------------------------------ tiles of Flash models


def test_each_tile_takes_its_own_projector_and_tokens_stay_in_order(
    build_model: ModelBuilder,
) -> None:
    model = build_model(vision={"image_size": [112, 112]}, flash_mode=True)
    projector, compressed = model.multi_modal_projector, model.compressed_projector
    assert compressed is not None
    patches = torch.randn(4, 8, 8, 64)
    expected = []
    for tile, is_short in zip(patches, (True, False, False, True), strict=True):
        factor, part = (4, compressed) if is_short else (2, projector)
        expected.append(part(merge_patches(tile[None], factor)).reshape(-1, 64))
    found = model.project_tiles(patches, torch.tensor([True, False, False, True]))
    assert [len(tokens) for tokens in expected] == [4, 16, 16, 4]
    torch.testing.assert_close(found, torch.cat(expected))


@pytest.mark.parametrize(("num_short", "calls"), [(0, (1, 0)), (2, (1, 1)), (3, (0, 1))])
def test_only_the_branch_that_a_tile_takes_is_computed(
    build_model: ModelBuilder, num_short: int, calls: tuple[int, int]
) -> None:
    model = build_model(flash_mode=True)
    assert model.compressed_projector is not None
    seen: list[tuple[str, int]] = []
    for name in ("multi_modal_projector", "compressed_projector"):
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: seen.append((name, len(given[0])))
        )
    model.project_tiles(torch.randn(3, 4, 4, 64), torch.arange(3) < num_short)
    tiles = dict(seen)
    assert len(seen) == sum(calls)
    assert tiles.get("multi_modal_projector", 0) == 3 - num_short
    assert tiles.get("compressed_projector", 0) == num_short


def test_gradients_reach_each_projector_from_its_own_tiles(build_model: ModelBuilder) -> None:
    model = build_model(flash_mode=True)
    assert model.compressed_projector is not None
    patches = torch.randn(3, 4, 4, 64)
    tokens = model.project_tiles(patches, torch.tensor([False, True, False]))
    assert tokens.shape == (4 + 1 + 4, 64)
    (gradient,) = torch.autograd.grad(
        tokens[4].sum(), model.compressed_projector.linear_3.bias, retain_graph=True
    )
    assert torch.equal(gradient, torch.ones(64))
    (gradient,) = torch.autograd.grad(tokens[:4].sum(), model.multi_modal_projector.linear_2.bias)
    assert torch.equal(gradient, torch.full((64,), 4.0))


def test_shortened_prompts_take_the_flat_tokens_of_their_tiles(build_model: ModelBuilder) -> None:
    model = build_model(flash_mode=True)
    pixels = torch.randn(3, 3, 56, 56)
    ids = torch.tensor([[1, *[300] * 4, 2, 300, 3, *[300] * 4, 5]])
    with torch.no_grad():
        tokens = model.project_tiles(
            model.encode_patches(pixels), torch.tensor([False, True, False])
        )
        embeds = model.embed_inputs(ids, tokens)
        assert torch.equal(embeds[ids == 300], tokens)
        assert model(input_ids=ids, image_features=tokens).logits.shape == (1, 13, 320)


def test_a_base_model_scores_no_tile_and_compresses_none(build_model: ModelBuilder) -> None:
    model = build_model()
    patches = torch.randn(2, 4, 4, 64)
    with pytest.raises(ConfigError, match=r"has no visual resolution router; take a Flash"):
        model.score_tiles(patches)
    with pytest.raises(ConfigError, match="tiles cannot be compressed"):
        model.project_tiles(patches, torch.tensor([False, True]))
    whole = model.project_tiles(patches, torch.tensor([False, False]))
    assert torch.equal(whole, model.project_patches(patches).flatten(0, 1))
    assert not [name for name in model.state_dict() if "router" in name or "compressed" in name]


def test_no_tile_at_all_has_no_tokens(build_model: ModelBuilder) -> None:
    model = build_model(flash_mode=True)
    none = torch.zeros(0, dtype=torch.bool)
    assert model.project_tiles(torch.randn(0, 4, 4, 64), none).shape == (0, 64)


# ------------------------------------------------------------------ Auto classes


@every_family
@pytest.mark.parametrize(
    "auto_class", [AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText]
)
def test_auto_classes_load_the_remote_code_layout(
    tmp_path: Path, build_model: ModelBuilder, inputs: Inputs, family: str, auto_class: Any
) -> None:
    model = build_model(family, "6B")
    model.save_pretrained(tmp_path, layout="remote-code")
    loaded = auto_class.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(loaded) is VisionLanguageModel
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
