"""Which layers get adapters, against lists written out by hand and against PEFT."""

from __future__ import annotations

import re
from collections.abc import Callable

import peft
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.adapters import add_adapters
from internvl35.train.settings import AdapterSettings, FreezeSettings
from internvl35.train.targets import pattern_of, target_experts, target_pattern

ModelBuilder = Callable[..., VisionLanguageModel]
PLAIN = AdapterSettings(lora_dropout=0.0)
every_family = pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])

DECODER = {
    f"language_model.model.layers.{layer}.{name}"
    for layer in (0, 1)
    for name in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )
}  # fmt: skip
TOWER = {
    f"vision_tower.encoder.layer.{layer}.{name}"
    for layer in (0, 1)
    for name in (
        "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.projection_layer",
        "mlp.fc1", "mlp.fc2",
    )
}  # fmt: skip
PROJECTOR = {"multi_modal_projector.linear_1", "multi_modal_projector.linear_2"}


def adapted(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if hasattr(module, "lora_A")}


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        (FreezeSettings(), DECODER),
        (FreezeSettings(freeze_vit=False), DECODER | TOWER),
        (FreezeSettings(freeze_aligner=False), DECODER | PROJECTOR),
        (FreezeSettings(freeze_vit=False, freeze_aligner=False), DECODER | TOWER | PROJECTOR),
        (FreezeSettings(freeze_vit=False, freeze_llm=True), TOWER),
    ],
)
def test_all_linear_means_every_linear_layer_of_the_parts_that_are_not_frozen(
    build_model: ModelBuilder, freeze: FreezeSettings, expected: set[str]
) -> None:
    model = add_adapters(build_model(), PLAIN, freeze)
    assert adapted(model) == expected


@every_family
def test_all_linear_is_what_peft_means_by_it(build_model: ModelBuilder, family: str) -> None:
    config = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(build_model(family), config)
    everything = FreezeSettings(freeze_vit=False, freeze_aligner=False)
    ours = add_adapters(build_model(family), PLAIN, everything)
    assert adapted(ours) == {name.removeprefix("base_model.model.") for name in adapted(theirs)}


def test_names_of_layers_are_taken_in_the_parts_that_are_not_frozen(
    build_model: ModelBuilder,
) -> None:
    model = add_adapters(
        build_model(),
        AdapterSettings(target_modules=("q_proj", "layers.1.mlp.up_proj")),
        FreezeSettings(),
    )
    assert adapted(model) == {
        "language_model.model.layers.0.self_attn.q_proj",
        "language_model.model.layers.1.self_attn.q_proj",
        "language_model.model.layers.1.mlp.up_proj",
    }


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("q_prj",), "no linear layer of language_model is called so; .* perhaps q_proj"),
        (("q_proj", "lm_head"), "lm_head, the output head, which gets no adapter"),
        (("fc1",), "names fc1, but no linear layer of language_model"),
    ],
)
def test_a_name_that_fits_nothing_is_refused(
    build_model: ModelBuilder, targets: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        target_pattern(build_model(), FreezeSettings(), targets)


@given(st.sets(st.sampled_from(sorted(DECODER | TOWER | PROJECTOR)), min_size=1))
def test_a_pattern_fits_what_was_chosen_and_nothing_else(chosen: set[str]) -> None:
    known = DECODER | TOWER | PROJECTOR
    pattern = pattern_of(sorted(chosen), known)
    assert {name for name in known if re.fullmatch(pattern, name)} == chosen


# ------------------------------------------------------------------ fused experts


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_fused_experts_get_adapters_only_if_they_are_named(
    build_model: ModelBuilder, family: str
) -> None:
    model = build_model(family)
    both = ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    assert target_experts(model, FreezeSettings(), ("all-linear",)) == []
    assert target_experts(model, FreezeSettings(), ("q_proj", "down_proj")) == both[:1]
    assert target_experts(model, FreezeSettings(), ("experts.gate_up_proj", "down_proj")) == both
    assert target_pattern(model, FreezeSettings(), ("experts.down_proj",)) == ""
    tower = FreezeSettings(freeze_vit=False, freeze_llm=True)
    with pytest.raises(
        ConfigError, match=r"experts.down_proj, but no linear layer of vision_tower"
    ):
        target_pattern(model, tower, ("experts.down_proj",))


def test_adapters_of_experts_drop_nothing(build_model: ModelBuilder) -> None:
    settings = AdapterSettings(target_modules=("down_proj",))
    with pytest.raises(ConfigError, match=r"lora_dropout is 0.05, but .* set lora_dropout to 0"):
        add_adapters(build_model("qwen3_moe"), settings, FreezeSettings())
