"""The supervised loss against transformers' own: same weights, same batches, token averaging."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration

from internvl35.data.batches import Example, TrainingBatch, collate, collate_packed
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.adapters import add_adapters, load_adapters
from internvl35.train.attention import use_packed_attention
from internvl35.train.settings import AdapterSettings, FreezeSettings
from internvl35.train.sft import Trainee, batch_weight, recompute_activations
from internvl35.train.targets import target_pattern

Pair = tuple[VisionLanguageModel, InternVLForConditionalGeneration]
PairBuilder = Callable[[str, str], Pair]
Rename = Callable[[str], str]
every_family = pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])


def make_examples() -> list[Example]:
    generator = torch.Generator().manual_seed(11)
    examples = []
    for length, num_targets, num_tiles in ((13, 4, 1), (8, 2, 0), (21, 9, 3)):
        ids = torch.randint(1, 290, (length,), generator=generator).tolist()
        ids[1 : 1 + 4 * num_tiles] = [300] * (4 * num_tiles)
        pixels = torch.randn(num_tiles, 3, 56, 56, generator=generator) if num_tiles else None
        mask = [False] * (length - num_targets) + [True] * num_targets
        examples.append(Example(ids, mask, pixels))
    return examples


def stock_inputs(batch: TrainingBatch) -> dict[str, Tensor | None]:
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "labels": batch.labels,
        "pixel_values": batch.pixel_values,
    }


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    module.zero_grad(set_to_none=True)
    loss.backward()
    return {n: w.grad.clone() for n, w in module.named_parameters() if w.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(float(gradient.abs().max()), 1e-3)
        assert float((found[name] - gradient).abs().max()) <= 1e-5 * scale, name


@pytest.mark.parametrize("is_packed", [False, True], ids=["padded", "packed"])
@every_family
def test_loss_and_gradients_with_token_averaging_are_those_of_transformers(
    pair: PairBuilder, rename: Rename, family: str, is_packed: bool
) -> None:
    ours, stock = (copy.deepcopy(model) for model in pair(family, "6B"))
    padded = collate(make_examples(), 0)
    expected = stock(**stock_inputs(padded)).loss
    if is_packed:
        use_packed_attention(ours)
    batch = collate_packed(make_examples()) if is_packed else padded
    trainee = Trainee(ours, averaging="token", ce_chunk_size=4)
    loss = trainee(batch, batch_weight(batch, "token"))["loss"]
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    found = {rename(name): gradient for name, gradient in gradients(ours, loss).items()}
    assert_same(found, gradients(stock, expected))


def test_accumulated_losses_are_those_of_transformers_with_a_common_count(
    pair: PairBuilder,
) -> None:
    ours, stock = pair("qwen3", "300M")
    batches = [collate([example], 0) for example in make_examples()]
    total = sum(batch_weight(batch, "token") for batch in batches)
    trainee = Trainee(ours, averaging="token")
    with torch.no_grad():
        for batch in batches:
            expected = stock(**stock_inputs(batch), num_items_in_batch=torch.tensor(total)).loss
            found = trainee(batch, torch.tensor(total))["loss"]
            assert float(found) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("is_packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_the_loss_of_routers_is_that_of_transformers(
    pair: PairBuilder, family: str, is_packed: bool
) -> None:
    ours = copy.deepcopy(pair(family, "300M")[0]).train()
    language: Any = ours.language_model
    language.router_aux_loss_coef = 0.5
    padded = collate(make_examples(), 0)
    if is_packed:  # a row alone: routers look at all tokens, whichever sample they belong to
        padded = collate(make_examples()[:1], 0)
    assert padded.pixel_values is not None
    embeds = ours.embed_inputs(padded.input_ids, ours.get_image_features(padded.pixel_values))
    expected = language(
        inputs_embeds=embeds, attention_mask=padded.attention_mask, labels=padded.labels,
        output_router_logits=True,
    ).loss  # fmt: skip
    expected_gradients = gradients(ours, expected)
    batch = padded
    if is_packed:
        use_packed_attention(ours)
        batch = collate_packed(make_examples()[:1])
    trainee = Trainee(ours, averaging="token", router_loss_coef=0.5)
    recompute_activations(ours)
    loss = trainee(batch, batch_weight(batch, "token"))["loss"]
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    assert_same(gradients(ours, loss), expected_gradients)
    with torch.no_grad():
        evaluated = trainee.eval()(batch, batch_weight(batch, "token"))["loss"]
    assert float(evaluated) < float(loss.detach()) - 0.1  # it belongs to training alone


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@every_family
def test_gradients_of_adapters_are_those_of_peft_around_transformers(
    pair: PairBuilder, rename: Rename, family: str, use_dora: bool
) -> None:
    ours, stock = (copy.deepcopy(model) for model in pair(family, "300M"))
    freeze = FreezeSettings(freeze_vit=False)
    layers = target_pattern(ours, freeze)
    settings = AdapterSettings(lora_dropout=0.0, init_weights="gaussian", use_dora=use_dora)
    add_adapters(ours, settings, freeze)
    theirs = peft.get_peft_model(
        stock,
        peft.LoraConfig(
            r=8,
            lora_alpha=32,
            use_dora=use_dora,
            target_modules="|".join(rename(part) for part in split_pattern(layers)),
        ),
    )
    torch.manual_seed(2)
    prefix = "base_model.model."
    theirs_by_name = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
                theirs_by_name[prefix + rename(name)].copy_(weight)
    batch = collate(make_examples(), 0)
    expected = theirs(**stock_inputs(batch)).loss
    loss = Trainee(ours, averaging="token")(batch, batch_weight(batch, "token"))["loss"]
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    found = {prefix + rename(name): g for name, g in gradients(ours, loss).items()}
    assert found
    assert_same(found, gradients(theirs, expected))


def split_pattern(pattern: str) -> list[str]:
    """Cut a pattern of layers at the alternatives that are not inside brackets."""
    parts, depth = [""], 0
    for letter in pattern:
        depth += (letter == "(") - (letter == ")")
        if letter == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.replace("\\.", ".") for part in parts]


def test_adapters_trained_on_transformers_own_class_give_the_same_logits_here(
    pair: PairBuilder, tmp_path: Path
) -> None:
    ours, stock = (copy.deepcopy(model) for model in pair("qwen3", "300M"))
    config = peft.LoraConfig(target_modules=["q_proj", "up_proj", "fc2"], init_lora_weights=False)
    theirs = peft.get_peft_model(stock, config).eval()
    theirs.save_pretrained(tmp_path)
    load_adapters(ours, tmp_path)
    batch = collate(make_examples()[:1], 0)
    inputs = stock_inputs(batch) | {"labels": None}
    with torch.no_grad():
        found, expected = ours(**inputs).logits, theirs(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
