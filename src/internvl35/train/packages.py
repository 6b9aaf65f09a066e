"""Packages that are not always there: which settings need which, told before anything is loaded.

Each is imported where it is used.
"""

from __future__ import annotations

import importlib.util

from internvl35.errors import ConfigError
from internvl35.train.settings import FinetuneSettings

INSTALLED_BY = {
    "peft": "'internvl35[train]'",
    "tensorboard": "'internvl35[train]', or set report_to to none",
    "bitsandbytes": "'internvl35[int8]'",
    "deepspeed": "deepspeed, or pass --fsdp full_shard, which needs nothing",
}
"""What pip installs them with."""


def need_package(name: str, purpose: str) -> None:
    """Refuse to go on without a package.

    Args:
        name: of the package.
        purpose: what needs it.

    Raises:
        ConfigError: if it is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"{purpose} needs the package {name}, which is not installed; pip install "
            f"{INSTALLED_BY[name]}"
        )


def check_packages(settings: FinetuneSettings) -> None:
    """Refuse settings whose packages are missing.

    Args:
        settings: of a run.

    Raises:
        ConfigError: if one is not installed.
    """
    if settings.adapter.tuner_type == "lora":
        need_package("peft", "tuner_type lora")
    if settings.adapter.quant_bits is not None:
        need_package("bitsandbytes", f"quant_bits {settings.adapter.quant_bits}")
    if "tensorboard" in settings.run.report_to:
        need_package("tensorboard", "report_to tensorboard")
    if settings.distributed.deepspeed is not None:
        need_package("deepspeed", f"deepspeed {settings.distributed.deepspeed}")
