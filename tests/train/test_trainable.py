"""What trains, at which rate, with which decay, and how many numbers that is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import nn

from internvl35.errors import ConfigError
from internvl35.model.composite import VisionLanguageModel
from internvl35.train.adapters import add_adapters
from internvl35.train.settings import AdapterSettings, FreezeSettings, OptimizationSettings
from internvl35.train.trainable import (
    PARTS,
    count_parameters,
    describe_counts,
    freeze_parts,
    parameter_groups,
)

ModelBuilder = Callable[..., VisionLanguageModel]
EVERYTHING = FreezeSettings(freeze_vit=False, freeze_aligner=False)


@pytest.mark.parametrize(
    "frozen", [flags for flags in product([False, True], repeat=3) if not all(flags)]
)
def test_frozen_parts_keep_their_weights_and_all_others_train(
    build_model: ModelBuilder, frozen: tuple[bool, bool, bool]
) -> None:
    model = build_model()
    freeze_parts(model, FreezeSettings(*frozen))
    for part, is_frozen in zip(PARTS, frozen, strict=True):
        flags = {weight.requires_grad for weight in model.get_submodule(part).parameters()}
        assert flags == {not is_frozen}, part
    assert sum(len(list(model.get_submodule(part).parameters())) for part in PARTS) == len(
        list(model.parameters())
    )


def test_a_run_in_which_all_parts_are_frozen_is_refused(build_model: ModelBuilder) -> None:
    with pytest.raises(ConfigError, match="all true, so nothing would be trained"):
        freeze_parts(build_model(), FreezeSettings(True, True, True))


def groups_by_name(
    module: nn.Module, settings: OptimizationSettings
) -> dict[str, dict[str, object]]:
    names = {id(weight): name for name, weight in module.named_parameters()}
    found: dict[str, dict[str, object]] = {}
    for group in parameter_groups(module, settings, 1e-3):
        for weight in group["params"]:
            assert names[id(weight)] not in found
            found[names[id(weight)]] = group
    return found


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_every_weight_has_the_rate_and_decay_of_its_kind(
    build_model: ModelBuilder, family: str
) -> None:
    model = build_model(family, "6B")
    freeze_parts(model, EVERYTHING)
    settings = OptimizationSettings(vit_lr=1e-4, aligner_lr=2e-4, weight_decay=0.3)
    groups = groups_by_name(nn.ModuleDict({"model": model}), settings)
    rates = {"vision_tower": 1e-4, "multi_modal_projector": 2e-4, "language_model": 1e-3}
    for name, weight in model.named_parameters():
        group = groups.pop(f"model.{name}")
        assert group["peak_lr"] == rates[name.split(".")[0]], name
        is_decayed = weight.squeeze().ndim >= 2 and not name.endswith("bias")
        assert group["weight_decay"] == (0.3 if is_decayed else 0.0), name
    assert not groups


def test_embeddings_heads_and_tables_are_no_hidden_matrices(build_model: ModelBuilder) -> None:
    model = build_model()
    freeze_parts(model, EVERYTHING)
    groups = groups_by_name(model, OptimizationSettings())
    not_hidden = {name for name, group in groups.items() if not group["is_hidden"]}
    assert {name for name in not_hidden if model.get_parameter(name).ndim >= 2} == {
        "vision_tower.embeddings.cls_token",
        "vision_tower.embeddings.position_embeddings",
        "vision_tower.embeddings.patch_embeddings.projection.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
    }


def test_without_rates_of_their_own_tower_and_projector_learn_at_the_common_one(
    build_model: ModelBuilder,
) -> None:
    model = build_model()
    freeze_parts(model, EVERYTHING)
    assert {g["peak_lr"] for g in parameter_groups(model, OptimizationSettings(), 7e-5)} == {7e-5}


def test_frozen_weights_are_in_no_group(build_model: ModelBuilder) -> None:
    model = build_model()
    freeze_parts(model, FreezeSettings(freeze_aligner=False, freeze_llm=True))
    groups = groups_by_name(model, OptimizationSettings())
    assert {name.split(".")[0] for name in groups} == {"multi_modal_projector"}


def test_adapters_are_hidden_matrices_with_the_rate_of_their_part(
    build_model: ModelBuilder,
) -> None:
    model = add_adapters(
        build_model(), AdapterSettings(lora_rank=1, use_dora=True), FreezeSettings(freeze_vit=False)
    )
    groups = groups_by_name(model, OptimizationSettings(vit_lr=1e-5, weight_decay=0.1))
    assert groups
    for name, group in groups.items():
        assert group["peak_lr"] == (1e-5 if name.startswith("vision_tower.") else 1e-3)
        is_matrix = "lora_A" in name or "lora_B" in name
        assert (group["is_hidden"], group["weight_decay"]) == (is_matrix, 0.1 * is_matrix), name


def test_nothing_to_train_is_refused(build_model: ModelBuilder) -> None:
    model = build_model().requires_grad_(False)
    with pytest.raises(ConfigError, match="no weight is trainable"):
        parameter_groups(model, OptimizationSettings(), 1e-3)


def test_counts_say_how_much_of_each_part_trains(build_model: ModelBuilder) -> None:
    model = build_model()
    freeze_parts(model, FreezeSettings())
    counts = {count.part: count for count in count_parameters(model)}
    for part in PARTS:
        total = sum(weight.numel() for weight in model.get_submodule(part).parameters())
        assert counts[part].num_parameters == total
        assert counts[part].num_trainable == (total if part == "language_model" else 0)
    trained, total = counts["language_model"].num_parameters, model.num_parameters()
    line = describe_counts(list(counts.values()))
    assert line.startswith(f"{trained:,} of {total:,} parameters train ({trained / total:.2%}): ")
    assert "vision_tower 0 of" in line


def test_a_step_moves_what_trains_and_nothing_else(build_model: ModelBuilder) -> None:
    model = build_model()
    freeze_parts(model, FreezeSettings(freeze_aligner=False, freeze_llm=True))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    groups = parameter_groups(model, OptimizationSettings(), 1e-3)
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    ids = torch.tensor([[1, *[300] * 4, 5, 6]])
    model(input_ids=ids, pixel_values=torch.randn(1, 3, 56, 56), labels=ids).loss.backward()
    optimizer.step()
    moved = {name for name, weight in model.named_parameters() if not weight.equal(before[name])}
    assert moved == {name for name in before if name.startswith("multi_modal_projector.")}
