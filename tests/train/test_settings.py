"""Settings of fine-tuning: ranges, contradictions, one flat object, and what follows from them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl35.errors import ConfigError
from internvl35.train.arguments import (
    build_settings,
    fit_value,
    flatten_settings,
    setting_groups,
    setting_types,
    suggest,
)
from internvl35.train.resolution import (
    resolve_accumulation,
    resolve_learning_rate,
    resolve_output,
)
from internvl35.train.settings import (
    AdapterSettings,
    DistributedSettings,
    FinetuneSettings,
    FreezeSettings,
    ModelSettings,
    OptimizationSettings,
    RunSettings,
)

DEFAULTS = {
    "model": "tiny", "torch_dtype": None, "tuner_type": "lora", "lora_rank": 8, "lora_alpha": 32,
    "lora_dropout": 0.05, "target_modules": ["all-linear"], "freeze_vit": True,
    "freeze_aligner": True, "freeze_llm": False, "num_train_epochs": 3.0, "max_steps": -1,
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": None, "learning_rate": None, "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.0, "weight_decay": 0.1, "adam_beta1": 0.9, "adam_beta2": 0.95,
    "adam_epsilon": 1e-8, "max_grad_norm": 1.0, "gradient_checkpointing": True, "seed": 42,
    "output_dir": None, "add_version": True, "logging_steps": 5, "logging_first_step": True,
    "eval_steps": None, "save_steps": 500, "save_total_limit": None, "save_only_model": False,
    "report_to": ["tensorboard"], "dataloader_num_workers": None, "max_length": None,
    "truncation_strategy": "delete", "packing": False, "loss_reduction": "square",
}  # fmt: skip
"""What people know from ms-swift's reference, and the paper's averaging."""


def test_defaults_are_those_that_people_know():
    flat = flatten_settings(FinetuneSettings())
    assert {name: flat[name] for name in DEFAULTS} == DEFAULTS


def test_no_flag_is_in_two_groups():
    names = [f.name for kind in get_type_hints(FinetuneSettings).values() for f in fields(kind)]
    assert len(names) == len(set(names)) == len(setting_groups())


def test_settings_need_no_heavy_library():
    code = (
        "import sys; from internvl35.train.arguments import flatten_settings;"
        "from internvl35.train.settings import FinetuneSettings;"
        "flatten_settings(FinetuneSettings());"
        "print([n for n in ('torch', 'transformers', 'numpy', 'peft', 'datasets', 'PIL')"
        " if n in sys.modules])"
    )
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(source)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("owner", "values", "found"),
    [
        (ModelSettings, {"model": ""}, "model is ''; needed: a checkpoint"),
        (AdapterSettings, {"lora_rank": 0}, "lora_rank is 0; needed: at least 1"),
        (AdapterSettings, {"lora_alpha": 0}, "lora_alpha"),
        (AdapterSettings, {"lora_dropout": 1.0}, "lora_dropout is 1.0; needed: 0 to below 1"),
        (AdapterSettings, {"target_modules": ()}, "target_modules"),
        (AdapterSettings, {"init_weights": "zero"}, "true, false, gaussian, pissa or olora"),
        (AdapterSettings, {"quant_bits": 4, "tuner_type": "full"}, "quantised weights cannot"),
        (AdapterSettings, {"adapters": ("a",), "tuner_type": "full"}, "merge them first"),
        (OptimizationSettings, {"num_train_epochs": 0.0}, "num_train_epochs is 0.0"),
        (OptimizationSettings, {"max_steps": 0}, "max_steps is 0; needed: at least 1, or -1"),
        (OptimizationSettings, {"max_steps": -2}, "max_steps"),
        (OptimizationSettings, {"per_device_train_batch_size": 0}, "at least 1"),
        (OptimizationSettings, {"per_device_eval_batch_size": 0}, "at least 1"),
        (OptimizationSettings, {"ce_chunk_size": 0}, "ce_chunk_size"),
        (OptimizationSettings, {"gradient_accumulation_steps": 0}, "above 0"),
        (OptimizationSettings, {"global_batch_size": -1}, "global_batch_size"),
        (OptimizationSettings, {"learning_rate": 0.0}, "learning_rate is 0.0; needed: above 0"),
        (OptimizationSettings, {"vit_lr": -1e-5}, "vit_lr"),
        (OptimizationSettings, {"warmup_ratio": 1.0}, "warmup_ratio"),
        (OptimizationSettings, {"warmup_steps": -1}, "warmup_steps is -1; needed: 0 or more"),
        (OptimizationSettings, {"wsd_decay_ratio": 0.0}, "wsd_decay_ratio"),
        (OptimizationSettings, {"adam_beta2": 1.0}, "adam_beta2"),
        (OptimizationSettings, {"adam_epsilon": 0.0}, "adam_epsilon"),
        (OptimizationSettings, {"weight_decay": -0.1}, "weight_decay"),
        (OptimizationSettings, {"max_grad_norm": -1.0}, "max_grad_norm"),
        (OptimizationSettings, {"router_aux_loss_coef": -0.5}, "0 or more, or -1"),
        (OptimizationSettings, {"drop_path_rate": 1.0}, "drop_path_rate"),
        (
            OptimizationSettings,
            {"gradient_accumulation_steps": 4, "global_batch_size": 16},
            "they say the same, give one",
        ),
        (RunSettings, {"logging_steps": 0}, "logging_steps"),
        (RunSettings, {"save_steps": 0}, "save_steps"),
        (RunSettings, {"eval_steps": 0}, "eval_steps"),
        (RunSettings, {"save_total_limit": 0}, "save_total_limit"),
        (RunSettings, {"output_dir": ""}, "output_dir"),
        (RunSettings, {"dataloader_num_workers": -1}, "dataloader_num_workers"),
        (RunSettings, {"report_to": ("wandb",)}, "tensorboard or none"),
        (RunSettings, {"resume_only_model": True}, "resume_from_checkpoint too"),
        (DistributedSettings, {"deepspeed": "zero4"}, "zero3 or a JSON file"),
        (DistributedSettings, {"ddp_timeout": 0}, "ddp_timeout"),
        (DistributedSettings, {"fsdp": "full_shard", "deepspeed": "zero3"}, "drop one of them"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_needed(owner, values, found):
    with pytest.raises(ConfigError, match=found):
        owner(**values)


def finetune(**flags: Any) -> FinetuneSettings:
    return build_settings(flags)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({"vit_lr": 1e-5}, "vit_lr is 1e-05 but freeze_vit is true"),
        ({"aligner_lr": 1e-5}, "aligner_lr is 1e-05 but freeze_aligner is true"),
        ({"freeze_llm": True}, "nothing would be trained"),
        ({"freeze_llm": True, "tuner_type": "full"}, "nothing would be trained"),
        ({"packing": True, "group_by_length": True}, "drop group_by_length"),
    ],
)
def test_groups_that_contradict_each_other_are_refused(flags, found):
    with pytest.raises(ConfigError, match=found):
        finetune(**flags)


def test_rates_of_parts_that_learn_are_taken():
    settings = finetune(vit_lr=1e-5, freeze_vit=False, aligner_lr=2e-5, freeze_aligner=False)
    assert settings.optimization.vit_lr == 1e-5
    assert settings.freeze == FreezeSettings(False, False, False)


def other_value(kind: Any, value: Any) -> Any:
    """Some other value of a setting's type, or the same where its rules leave no other."""
    options = (
        [k for k in get_args(kind) if k is not type(None)]
        if type(None) in get_args(kind)
        else [kind]
    )
    option = options[0]
    if option is bool:
        return not value
    if option in (int, float):
        return option(7 if value is None else abs(value) / 2 + 1 if option is int else value / 2)
    if option is str:
        return "false" if value == "true" else "zero3.json"
    if get_origin(option) is tuple:
        return (get_args(option)[0]("0.5"), get_args(option)[0]("0.25"))
    return next((known for known in get_args(option) if known != value), value)


CANNOT_STAND_ALONE = {
    "freeze_llm", "vit_lr", "aligner_lr", "resume_only_model", "report_to", "columns",
    "interleave_prob",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(setting_groups()) - CANNOT_STAND_ALONE))
def test_every_setting_survives_a_json_file(name):
    before = flatten_settings(FinetuneSettings())[name]
    value = other_value(
        setting_types()[name], tuple(before) if isinstance(before, list) else before
    )
    settings = build_settings({name: value})
    assert getattr(getattr(settings, setting_groups()[name]), name) == value
    if name != "hub_token":
        written = json.loads(json.dumps(flatten_settings(settings)))
        assert build_settings(written) == settings


def test_a_token_is_never_written():
    flat = flatten_settings(finetune(hub_token="hf_secret"))
    assert flat["hub_token"] is None
    assert "hf_secret" not in json.dumps(flat)


def test_what_is_not_named_stays_as_it_was():
    base = finetune(lora_rank=16, seed=7)
    changed = build_settings({"seed": 8}, base)
    assert changed == replace(base, optimization=replace(base.optimization, seed=8))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"lora_rnk": 8}, "there is no setting 'lora_rnk'; did you mean lora_rank?"),
        ({"xyzzy": 8}, "there is no setting 'xyzzy'$"),
        ({"lora_rank": "8"}, "lora_rank is '8'; needed: a whole number"),
        ({"lora_rank": True}, "lora_rank is True; needed: a whole number"),
        ({"lora_rank": 8.0}, "needed: a whole number"),
        ({"freeze_vit": 1}, "freeze_vit is 1; needed: true or false"),
        ({"learning_rate": "1e-4"}, "learning_rate is '1e-4'; needed: a number or null"),
        ({"target_modules": "q"}, "target_modules is 'q'; needed: a list of a text"),
        ({"target_modules": [1]}, "target_modules is 1; needed: a text"),
        ({"tuner_type": "adalora"}, "tuner_type is 'adalora'; needed: 'lora' or 'full'"),
        ({"quant_bits": 2}, "quant_bits is 2; needed: 4 or 8 or null"),
        ({"quant_bits": 4.0}, "quant_bits is 4.0"),
        ({"model": None}, "model is None; needed: a text"),
    ],
)
def test_a_flat_object_of_other_names_or_types_is_refused(values, found):
    with pytest.raises(ConfigError, match=found.replace("?", r"\?")):
        build_settings(values)


def test_whole_numbers_stand_for_numbers():
    assert type(fit_value("x", 1, float)) is float
    assert fit_value("x", [1, 0.5], tuple[float, ...]) == (1.0, 0.5)
    assert fit_value("x", None, float | None) is None


def test_only_near_names_are_suggested():
    assert (
        suggest("save_step", ["save_steps", "eval_steps"], "--") == "; did you mean --save_steps?"
    )
    assert suggest("zzz", ["save_steps"]) == ""


@given(batch=st.integers(1, 64), world=st.integers(1, 64))
def test_by_default_a_step_brings_16_rows_together_or_as_few_more_as_it_can(batch, world):
    steps = resolve_accumulation(OptimizationSettings(per_device_train_batch_size=batch), world)
    assert steps >= 1
    assert steps * batch * world >= 16
    assert steps == 1 or (steps - 1) * batch * world < 16


@given(batch=st.integers(1, 8), world=st.integers(1, 64), whole=st.integers(1, 64))
def test_a_global_batch_is_shared_evenly_or_refused(batch, world, whole):
    settings = OptimizationSettings(per_device_train_batch_size=batch, global_batch_size=whole)
    if whole % (batch * world):
        with pytest.raises(ConfigError, match=f"needed: a multiple of {batch * world}"):
            resolve_accumulation(settings, world)
    else:
        assert resolve_accumulation(settings, world) * batch * world == whole


def test_a_given_accumulation_is_taken():
    settings = OptimizationSettings(gradient_accumulation_steps=3)
    assert resolve_accumulation(settings, 8) == 3


@pytest.mark.parametrize(
    ("flags", "rate"),
    [
        ({}, 1e-4),
        ({"tuner_type": "full"}, 1e-5),
        ({"tuner_type": "full", "learning_rate": 3e-4}, 3e-4),
    ],
)
def test_the_rate_follows_from_what_is_trained(flags, rate):
    assert math.isclose(resolve_learning_rate(finetune(**flags)), rate)


@pytest.mark.parametrize(
    ("flags", "folder"),
    [
        ({}, "output/tiny"),
        ({"model": "OpenGVLab/InternVL3_5-8B"}, "output/InternVL3_5-8B"),
        ({"model": "weights/mine/"}, "output/mine"),
        ({"model": "8B", "output_dir": "runs/a"}, "runs/a"),
    ],
)
def test_runs_go_under_the_model_s_name(flags, folder):
    assert resolve_output(finetune(**flags)) == Path(folder)
