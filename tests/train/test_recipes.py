"""The released training stages: their numbers, and the settings that they make."""

from __future__ import annotations

import json

import pytest

from internvl35.config import PRESETS
from internvl35.errors import ConfigError
from internvl35.train.arguments import build_settings, flatten_settings
from internvl35.train.recipes import find_recipe, list_recipes, warmup
from internvl35.train.resolution import resolve_accumulation

SIZES = ("1B", "2B", "4B", "8B", "14B", "38B", "30B-A3B", "241B-A28B")
GPT_OSS = "GPT-OSS-20B-A4B-Preview"
DROP_PATH = {
    "1B": 0.0, "2B": 0.0, "4B": 0.0, "8B": 0.1, "14B": 0.1, "30B-A3B": 0.1, "38B": 0.4,
    "241B-A28B": 0.4,
}  # fmt: skip
"""Of the released scripts."""


def test_every_size_has_every_stage():
    names = [recipe.name for recipe in list_recipes()]
    assert names == [
        name
        for size in PRESETS
        for name in (
            *([f"{size}-warmup"] if size == GPT_OSS else []),
            f"{size}-pretrain",
            f"{size}-sft",
            f"{size}-lora",
        )
    ]


@pytest.mark.parametrize("recipe", list_recipes(), ids=lambda recipe: recipe.name)
def test_a_recipe_makes_settings_that_differ_from_the_defaults_where_it_says_so(recipe):
    flat = flatten_settings(recipe.build())
    assert {name: flat[name] for name in recipe.settings} == dict(recipe.settings)
    assert build_settings(json.loads(json.dumps(flat))) == recipe.build()
    assert recipe.sentence.endswith(".")


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
@pytest.mark.parametrize("size", [*SIZES, GPT_OSS])
def test_released_stages_train_everything_with_the_scripts_numbers(size, stage):
    settings = find_recipe(f"{size}-{stage}").build()
    chosen = settings.optimization
    assert settings.adapter.tuner_type == "full"
    assert not any((
        settings.freeze.freeze_vit, settings.freeze.freeze_aligner, settings.freeze.freeze_llm,
    ))  # fmt: skip
    assert settings.model.torch_dtype == "bfloat16"
    assert (chosen.adam_beta1, chosen.adam_beta2, chosen.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert (chosen.weight_decay, chosen.warmup_ratio) == (0.05, 0.03)
    assert chosen.lr_scheduler_type == "cosine"
    assert chosen.loss_reduction == "square"
    assert chosen.gradient_checkpointing
    assert chosen.global_batch_size == 512
    assert chosen.drop_path_rate == DROP_PATH.get(size, 0.0)
    assert chosen.seed == 42
    packing = settings.packing
    assert (packing.packing, packing.packing_length, packing.packing_max_tiles) == (
        True, 32_768, 96,
    )  # fmt: skip
    assert settings.encoding.max_dynamic_patch == 12
    assert settings.encoding.share_tiles


@pytest.mark.parametrize(
    ("name", "rate", "steps", "tokens"),
    [
        ("8B-sft", 8e-5, 8000, 134_217_728_000),  # the paper's 130B
        ("1B-sft", 8e-5, 8000, 134_217_728_000),
        ("241B-A28B-sft", 2e-5, 8000, 134_217_728_000),
        ("GPT-OSS-20B-A4B-Preview-sft", 8e-5, 8000, 134_217_728_000),
        ("GPT-OSS-20B-A4B-Preview-pretrain", 2e-5, 15_000, 251_658_240_000),  # the paper's 250B
        ("GPT-OSS-20B-A4B-Preview-warmup", 1e-3, 5000, 41_943_040_000),
    ],
)
def test_rates_and_lengths_are_the_scripts(name, rate, steps, tokens):
    recipe = find_recipe(name)
    chosen = recipe.build().optimization
    assert (chosen.learning_rate, chosen.max_steps) == (rate, steps)
    assert recipe.num_tokens == tokens


def test_the_warm_up_of_gpt_oss_trains_the_projector_alone():
    settings = find_recipe("20B-A4B-warmup").build()
    freeze = settings.freeze
    assert (freeze.freeze_vit, freeze.freeze_aligner, freeze.freeze_llm) == (True, False, True)
    chosen = settings.optimization
    assert (chosen.global_batch_size, chosen.warmup_ratio, chosen.seed) == (256, 0.01, 22_110)
    with pytest.raises(ConfigError, match="8B has no warm-up stage"):
        warmup(PRESETS["8B"])


def test_the_command_of_a_stage_says_what_carries_loss():
    for recipe in list_recipes():
        loss = recipe.build().encoding.loss_scale
        assert (recipe.command, loss) in {("pt", "all"), ("sft", "default")}


def test_adapters_have_the_announcement_s_numbers():
    recipe = find_recipe("8B-lora")
    flat = flatten_settings(recipe.build())
    expected = {
        "model": "OpenGVLab/InternVL3_5-8B", "lora_rank": 8, "lora_alpha": 32,
        "target_modules": ["all-linear"], "freeze_vit": True, "gradient_accumulation_steps": 16,
        "learning_rate": 1e-4, "warmup_ratio": 0.05, "max_length": 4096, "num_train_epochs": 1.0,
        "split_dataset_ratio": 0.01, "save_total_limit": 2, "eval_steps": 50, "save_steps": 50,
    }  # fmt: skip
    assert {name: flat[name] for name in expected} == expected
    assert recipe.num_tokens is None


def test_only_the_script_of_gpt_oss_adds_the_loss_of_routers():
    with_loss = {
        recipe.name
        for recipe in list_recipes()
        if recipe.build().optimization.router_aux_loss_coef == -1
    }
    assert with_loss == {f"{GPT_OSS}-pretrain", f"{GPT_OSS}-sft"}


def test_512_packs_are_shared_by_any_number_of_processes_that_divides_them():
    chosen = find_recipe("8B-sft").build().optimization
    assert [resolve_accumulation(chosen, world) for world in (8, 32, 512)] == [64, 16, 1]
    with pytest.raises(ConfigError, match="48 processes of 1 cannot share evenly"):
        resolve_accumulation(chosen, 48)


def test_sft_begins_where_pre_training_ended():
    assert find_recipe("8B-sft").settings["model"] == "OpenGVLab/InternVL3_5-8B-Pretrained"
    assert find_recipe(f"{GPT_OSS}-sft").settings["model"] == f"OpenGVLab/InternVL3_5-{GPT_OSS}"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("8B-stf", "there is no recipe '8B-stf'; did you mean 8B-sft?"),
        ("x", "internvl35 recipes lists them"),
    ],
)
def test_an_unknown_recipe_is_refused(name, found):
    with pytest.raises(ConfigError, match=found.replace("?", r"\?")):
        find_recipe(name)
