"""A network with adapters as if it had none."""

from __future__ import annotations

import copy

import pytest
import torch

from internvl35.model.composite import VisionLanguageModel
from internvl35.train.adapter_states import adapters_off, merged_parameters
from internvl35.train.adapters import add_adapters
from internvl35.train.settings import AdapterSettings, FreezeSettings

KINDS = {
    "lora": AdapterSettings(lora_dropout=0.0),
    "dora": AdapterSettings(lora_dropout=0.0, use_dora=True),
    "whole modules": AdapterSettings(lora_dropout=0.0, modules_to_save=("lm_head",)),
    "experts": AdapterSettings(
        lora_dropout=0.0, target_modules=("all-linear", "experts.down_proj")
    ),
}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(build_model, kind):
    model = build_model("qwen3_moe" if kind == "experts" else "qwen3")
    plain = copy.deepcopy(model)
    add_adapters(model, KINDS[kind], FreezeSettings(freeze_vit=False))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model, plain


@every_kind
def test_switched_off_they_change_nothing_and_are_back_afterwards(build_model, inputs, kind):
    model, plain = make(build_model, kind)
    before = model(**inputs).logits
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    with adapters_off(model), torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, plain(**inputs).logits)
    after = model(**inputs).logits
    assert float((after - plain(**inputs).logits).abs().max()) > 0.01
    assert torch.equal(before, after)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trained


@every_kind
def test_merged_weights_are_those_of_a_plain_network_that_answers_alike(build_model, inputs, kind):
    model, plain = make(build_model, kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merged = dict(merged_parameters(model))
    assert merged.keys() == dict(plain.named_parameters()).keys()
    fresh = VisionLanguageModel(plain.config).eval()
    fresh.load_state_dict(merged, strict=False)
    torch.testing.assert_close(fresh(**inputs).logits, model(**inputs).logits, rtol=1e-4, atol=1e-4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_without_adapters_nothing_is_switched_or_merged(build_model, inputs):
    model = build_model()
    merged = dict(merged_parameters(model))
    assert all(merged[name] is value for name, value in model.named_parameters())
    with adapters_off(model):
        assert all(parameter.requires_grad for parameter in model.parameters())
