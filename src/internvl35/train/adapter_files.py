"""The files of adapters, as PEFT writes them: read with care, for they may be a stranger's.

Putting adapters into a network is left to :mod:`internvl35.train.adapters`. No counterpart in the
paper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from internvl35.errors import CheckpointError
from internvl35.train.run_folder import ADAPTER_FILE

WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"

PREFIX = "base_model.model."
"""What names of weights in the files begin with."""

MAX_RANK = 65_536
"""Highest rank of adapters that are loaded; a file that asks for more asks for all memory."""

_OTHER_KINDS = (  # these compute something else, or name a module of Python to be imported
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication",
    "megatron_config", "monteclora_config", "trainable_token_indices", "use_bdlora", "use_qalora",
    "velora_config",
)  # fmt: skip
_RUN_TIME_PREFIXES = (  # how transformers' own InternVL calls the parts in memory
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)


def read_config(peft: Any, folder: Path) -> Any:
    """Read what kind of adapters a folder holds.

    Args:
        peft: the library.
        folder: of adapters.

    Returns:
        ``peft.LoraConfig``.

    Raises:
        CheckpointError: if it cannot be read, or asks for what is not known here.
    """
    path = folder / ADAPTER_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        _check_config(fields, path)
        return peft.LoraConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}; give a folder that holds saved adapters"
        ) from error


def _check_config(fields: Mapping[str, Any], path: Path) -> None:
    """Refuse what somebody else's file may ask of PEFT beyond the adapters known here."""
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path} is of kind {kind}; needed: LORA")
    odd = [name for name in _OTHER_KINDS if fields.get(name)]
    odd += ["bias"] if fields.get("bias", "none") != "none" else []
    odd += ["init_lora_weights"] if not _is_known_beginning(fields) else []
    if odd:
        raise CheckpointError(
            f"{path}: {odd[0]} is {str(fields[odd[0]])[:80]}, which is of no kind of adapters that "
            "are known here; merge them into their checkpoint with the tool that made them"
        )
    rank = fields.get("r", 1)
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise CheckpointError(f"{path}: r is {rank!r}; needed: 1 to {MAX_RANK}")


def _is_known_beginning(fields: Mapping[str, Any]) -> bool:
    """Whether it is known what adapters did to the weights under them when they began."""
    name = fields.get("init_lora_weights", True)
    known = ("gaussian", "orthogonal", "eva", "olora", "pissa")
    return isinstance(name, bool) or name in known or str(name).startswith("pissa_niter_")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of adapters.

    Args:
        folder: of adapters.

    Returns:
        Weights under the names of this package's network, without the prefix of the files.

    Raises:
        CheckpointError: if there are none, or only pickled ones.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        found = f"only {PICKLED_FILE}, which could run code when read" if (
            (folder / PICKLED_FILE).exists()
        ) else "no weights"  # fmt: skip
        raise CheckpointError(f"{folder} holds {found}; needed: {WEIGHTS_FILE}")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; copy it again") from error
    return {_own_name(name): value for name, value in tensors.items()}


def _own_name(name: str) -> str:
    """Name of a saved weight as this network calls it."""
    name = name.removeprefix(PREFIX)
    for theirs, ours in _RUN_TIME_PREFIXES:
        if name.startswith(theirs) and not name.startswith(ours):
            return ours + name.removeprefix(theirs)
    return name
