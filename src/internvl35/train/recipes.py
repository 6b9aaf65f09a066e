"""The released training stages of all nine sizes as functions that give settings.

A recipe changes some settings of :mod:`internvl35.train.settings`; which data is trained on is left
to whoever runs it. Numbers are those of the released training scripts; what those do not say is
said in a recipe's sentence. Paper sections 2.2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from internvl35.config import PRESETS, ModelPreset
from internvl35.errors import ConfigError
from internvl35.train.arguments import build_settings, suggest
from internvl35.train.settings import FinetuneSettings

Stage = Literal["warmup", "pretrain", "sft", "lora"]

PACK_TOKENS = 32_768
"""Tokens of a pack in every released stage."""

_GPT_OSS = "gpt_oss"

_RELEASED: dict[str, Any] = {
    "torch_dtype": "bfloat16",
    "tuner_type": "full",
    "freeze_vit": False,
    "freeze_aligner": False,
    "freeze_llm": False,
    "weight_decay": 0.05,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.03,
    "per_device_train_batch_size": 1,
    "global_batch_size": 512,
    "gradient_checkpointing": True,
    "loss_reduction": "square",
    "packing": True,
    "packing_length": PACK_TOKENS,
    "packing_max_tiles": 96,
    "max_length": PACK_TOKENS,
    "max_dynamic_patch": 12,
    "fsdp": "full_shard",
    "seed": 42,
}
"""What all released stages have in common; the scripts spread by DeepSpeed ZeRO-3 where we take
FSDP2, which keeps the same weights and computes the same steps."""


@dataclass(frozen=True)
class Recipe:
    """Settings of one stage for one size."""

    name: str
    """Size and stage, such as 8B-sft."""
    stage: Stage
    """Which stage it is."""
    sentence: str
    """What it does, and where its numbers are from."""
    settings: Mapping[str, Any] = field(repr=False)
    """Flag name to value, of the settings that differ from the defaults."""

    @property
    def command(self) -> Literal["sft", "pt"]:
        """Command that it is meant for."""
        return "pt" if self.stage in {"warmup", "pretrain"} else "sft"

    @property
    def num_tokens(self) -> int | None:
        """Tokens of a whole run if all packs are full; None where rows are not packed."""
        steps, packs = self.settings.get("max_steps"), self.settings.get("global_batch_size")
        length = self.settings.get("packing_length")
        return None if None in (steps, packs, length) else int(steps * packs * length)  # type: ignore[operator]

    def build(self) -> FinetuneSettings:
        """Make the settings of a run that has no data yet.

        Returns:
            The settings, the defaults of everything that the recipe does not name among them.
        """
        return build_settings(self.settings)


def warmup(preset: ModelPreset) -> Recipe:
    """Stage 0 of GPT-OSS: the projector alone learns.

    Args:
        preset: the size; only GPT-OSS has this stage.

    Returns:
        The recipe.

    Raises:
        ConfigError: if the size has no such stage.
    """
    if preset.language.family != _GPT_OSS:
        raise ConfigError(
            f"{preset.name} has no warm-up stage; only the GPT-OSS size begins with one, since its "
            "projector begins from nothing"
        )
    return Recipe(
        name=f"{preset.name}-warmup",
        stage="warmup",
        sentence="The projector learns alone, tower and language model frozen (stage 0).",
        settings=_RELEASED
        | {
            "model": preset.hub_id,
            "freeze_vit": True,
            "freeze_llm": True,
            "learning_rate": 1e-3,
            "warmup_ratio": 0.01,
            "max_steps": 5000,
            "global_batch_size": 256,
            "drop_path_rate": preset.drop_path,
            "seed": 22_110,
            "loss_scale": "all",
        },
    )


def pretrain(preset: ModelPreset) -> Recipe:
    """Native pre-training: everything learns, every token of plain text carries loss.

    Args:
        preset: the size.

    Returns:
        The recipe.
    """
    is_released = preset.language.family == _GPT_OSS
    source = (
        "Numbers of the released script (stage 1)."
        if is_released
        else "No script was released for this size; numbers are those of the GPT-OSS size, whose "
        "15,000 steps are the paper's 250B tokens."
    )
    return Recipe(
        name=f"{preset.name}-pretrain",
        stage="pretrain",
        sentence=f"All weights learn on text and captions. {source}",
        settings=_RELEASED
        | {
            "model": _begun_from(preset),
            "learning_rate": 2e-5,
            "max_steps": 15_000,
            "drop_path_rate": preset.drop_path,
            "loss_scale": "all",
        }
        | _router_loss(preset),
    )


def sft(preset: ModelPreset) -> Recipe:
    """Supervised fine-tuning: everything learns, answers carry loss.

    Args:
        preset: the size.

    Returns:
        The recipe.
    """
    return Recipe(
        name=f"{preset.name}-sft",
        stage="sft",
        sentence="All weights learn on conversations: 8,000 steps of 512 packs, the paper's 130B "
        "tokens.",
        settings=_RELEASED
        | {
            "model": _begun_from(preset),
            "learning_rate": 2e-5 if preset.name == "241B-A28B" else 8e-5,
            "max_steps": 8000,
            "drop_path_rate": preset.drop_path,
        }
        | _router_loss(preset),
    )


def lora(preset: ModelPreset) -> Recipe:
    """Adapters on the language model, with the numbers of the model's announcement.

    Args:
        preset: the size.

    Returns:
        The recipe.
    """
    return Recipe(
        name=f"{preset.name}-lora",
        stage="lora",
        sentence="Adapters learn on a data set of one's own, as in the announcement's command.",
        settings={
            "model": preset.hub_id,
            "tuner_type": "lora",
            "lora_rank": 8,
            "lora_alpha": 32,
            "target_modules": ["all-linear"],
            "freeze_vit": True,
            "torch_dtype": "bfloat16",
            "num_train_epochs": 1.0,
            "per_device_train_batch_size": 1,
            "per_device_eval_batch_size": 1,
            "gradient_accumulation_steps": 16,
            "learning_rate": 1e-4,
            "warmup_ratio": 0.05,
            "max_length": 4096,
            "split_dataset_ratio": 0.01,
            "eval_steps": 50,
            "save_steps": 50,
            "save_total_limit": 2,
            "logging_steps": 5,
            "dataloader_num_workers": 4,
        },
    )


def _router_loss(preset: ModelPreset) -> dict[str, Any]:
    """The script of GPT-OSS adds the loss of its routers; for other mixtures none is known to."""
    return {"router_aux_loss_coef": -1.0} if preset.language.family == _GPT_OSS else {}


def _begun_from(preset: ModelPreset) -> str:
    """The released weights before fine-tuning; of GPT-OSS only the finished ones were released."""
    is_only = preset.language.family == _GPT_OSS
    return preset.hub_id if is_only else f"{preset.hub_id}-Pretrained"


def list_recipes() -> list[Recipe]:
    """Make all recipes.

    Returns:
        Size by size, in the order of the stages.
    """
    found = []
    for preset in PRESETS.values():
        if preset.language.family == _GPT_OSS:
            found.append(warmup(preset))
        found += [pretrain(preset), sft(preset), lora(preset)]
    return found


def find_recipe(name: str) -> Recipe:
    """Find a recipe.

    Args:
        name: such as 8B-sft; 20B-A4B stands for the GPT-OSS size.

    Returns:
        The recipe.

    Raises:
        ConfigError: if there is none of that name.
    """
    recipes = {recipe.name: recipe for recipe in list_recipes()}
    full = name.replace("20B-A4B-", "GPT-OSS-20B-A4B-Preview-") if name[:1] == "2" else name
    if full not in recipes:
        hint = suggest(name, recipes) or "; internvl35 recipes lists them"
        raise ConfigError(f"there is no recipe {name!r}{hint}")
    return recipes[full]
