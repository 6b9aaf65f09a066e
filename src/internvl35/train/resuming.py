"""A run that is gone on with: where it stood, and what may not have changed since.

Reading checkpoints is left to :mod:`internvl35.train.checkpoints`, bringing weights and moments
back to :mod:`internvl35.train.state`.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from internvl35.errors import ConfigError
from internvl35.train.arguments import flatten_settings
from internvl35.train.checkpoints import find_checkpoint
from internvl35.train.run_folder import ADAPTER_FILE, read_settings
from internvl35.train.settings import FinetuneSettings
from internvl35.train.vico_settings import VicoSettings

FIXED = (
    "model", "model_revision", "adapters", "quant_bits", "dataset", "dataset_revision",
    "val_dataset", "split_dataset_ratio", "data_seed", "dataset_shuffle", "interleave_prob",
    "stopping_strategy", "columns", "template", "system", "max_length", "truncation_strategy",
    "max_dynamic_patch", "share_tiles", "video_segments", "video_max_num", "frame_label",
    "loss_scale", "packing", "packing_length", "packing_max_tiles", "packing_window", "tuner_type",
    "lora_rank", "lora_alpha", "target_modules", "modules_to_save", "use_dora", "use_rslora",
    "freeze_vit", "freeze_aligner", "freeze_llm", "per_device_train_batch_size", "optim",
    "loss_reduction", "group_by_length", "seed",
)  # fmt: skip
"""Settings that a run keeps when it is resumed, since rows, weights or moments hang on them."""

FIXED_IN_VICO = tuple(field.name for field in fields(VicoSettings))
"""The same of a run of ViCO."""


def settle_beginning(settings: FinetuneSettings) -> tuple[FinetuneSettings, Path | None]:
    """Find out where a run begins.

    Args:
        settings: as given.

    Returns:
        The settings, in which a run that only takes the weights of a checkpoint begins from them
        as any new run does; and the checkpoint of a run that is gone on with, None of a new one.

    Raises:
        ConfigError: if a run would be gone on with in another way than it began.
        DataError: if there is no checkpoint.
    """
    if settings.run.resume_from_checkpoint is None:
        return settings, None
    # its own name, where a link such as last leads to it
    checkpoint = find_checkpoint(Path(settings.run.resume_from_checkpoint).expanduser()).resolve()
    if settings.run.resume_only_model:
        return begin_from(settings, checkpoint), None
    check_resumed(settings, checkpoint)
    return settings, checkpoint


def begin_from(settings: FinetuneSettings, checkpoint: Path) -> FinetuneSettings:
    """Let a new run begin with the weights of a checkpoint.

    Args:
        settings: of the new run.
        checkpoint: of another run.

    Returns:
        Settings under which nothing is resumed, so that the new run can be.
    """
    run = replace(settings.run, resume_from_checkpoint=None, resume_only_model=False)
    settings = replace(settings, run=run)
    if settings.adapter.tuner_type == "lora" and (checkpoint / ADAPTER_FILE).is_file():
        return replace(settings, adapter=replace(settings.adapter, adapters=(str(checkpoint),)))
    return replace(settings, model=replace(settings.model, model=str(checkpoint)))


def check_resumed(settings: FinetuneSettings, checkpoint: Path) -> None:
    """Refuse to go on with a run in another way than it began.

    Args:
        settings: of the run now.
        checkpoint: holds those that it began with.

    Raises:
        ConfigError: if one of :data:`FIXED` differs.
    """
    now = flatten_settings(settings)
    before = flatten_settings(read_settings(checkpoint, settings))
    for name in (*FIXED, *(name for name in FIXED_IN_VICO if name in now)):
        if now[name] != before[name]:
            raise ConfigError(
                f"{name} is {now[name]!r} but the run of {checkpoint} began with "
                f"{before[name]!r}; leave it out, or pass resume_only_model true for a new run "
                "that begins with these weights"
            )


def check_progress(checkpoint: Path, step: int, num_steps: int) -> None:
    """Refuse to go on with a run that is to be shorter than it is already.

    Args:
        checkpoint: where it stands.
        step: steps behind it.
        num_steps: steps that the run is to have.

    Raises:
        ConfigError: if there are more steps behind it.
    """
    if step > num_steps:
        raise ConfigError(
            f"{checkpoint} has {step} steps behind it but the run is to have {num_steps}; raise "
            "max_steps or num_train_epochs, or resume from an earlier checkpoint"
        )
