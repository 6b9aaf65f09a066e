"""What a checkpoint holds beside a run's state: weights or adapters, tokenizer, settings, card.

How files are made whole is left to :mod:`internvl35.train.checkpoints`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from internvl35.data.tokenizer import save_tokenizer
from internvl35.model.configuration import Layout
from internvl35.model.weights import save_checkpoint
from internvl35.train.adapter_states import merged_parameters
from internvl35.train.adapters import save_adapters
from internvl35.train.assembly import Assembly, Start
from internvl35.train.card import write_card
from internvl35.train.deepspeed import gather_partitioned
from internvl35.train.distributed import Workers, full_tensor
from internvl35.train.run_folder import ARGUMENTS_FILE, collect_arguments, write_json
from internvl35.train.settings import FinetuneSettings


def write_weights(
    folder: Path,
    start: Start,
    assembly: Assembly,
    settings: FinetuneSettings,
    workers: Workers,
    facts: Mapping[str, Any],
    state: Mapping[str, Any],
    *,
    as_adapters: bool,
) -> None:
    """Write weights or adapters into a checkpoint; every process has to call this.

    Args:
        folder: the checkpoint.
        start: the checkpoint that the run began from.
        assembly: what is trained.
        settings: of the run.
        workers: weights are gathered from all processes and written by the main one.
        facts: what ``args.json`` holds beside the settings.
        state: position and figures, for the card.
        as_adapters: write adapters alone; else all weights, with adapters merged into them.
    """
    gathered = _gather(
        assembly.model, workers,
        only_trained=as_adapters, dtype=None if as_adapters else assembly.compute_dtype,
    )  # fmt: skip
    if not workers.is_main:
        return
    if as_adapters:
        save_adapters(assembly.model, folder, state=gathered)
    else:
        layout: Layout = settings.run.save_layout or start.layout
        save_checkpoint(gathered, folder, config=assembly.model.config, layout=layout)
        save_tokenizer(start.tokenizer, folder)
    arguments = collect_arguments(settings, facts)
    write_json(folder / ARGUMENTS_FILE, arguments)
    write_card(folder, arguments, dict(state))


def _gather(
    model: nn.Module, workers: Workers, *, only_trained: bool, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Whole weights in the main process's memory, gathered one at a time; elsewhere nothing."""
    gathered: dict[str, Tensor] = {}
    parameters = model.named_parameters() if only_trained else merged_parameters(model)
    for name, value in (*parameters, *_persistent_buffers(model)):
        if only_trained and not value.requires_grad:
            continue
        whole = gather_partitioned(full_tensor(value)).detach()
        if workers.is_main:  # cast before it is copied: two formats of all weights may not fit
            gathered[name] = whole.to("cpu", dtype if whole.is_floating_point() else None)
    return gathered


def _persistent_buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    kept = model.state_dict().keys()
    return [(name, value) for name, value in model.named_buffers() if name in kept]
