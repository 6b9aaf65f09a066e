"""What a run records beside its settings: versions, and what followed from data and machine.

Settings themselves are written by :mod:`internvl35.train.run_folder`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from internvl35.train.assembly import Assembly, Start
from internvl35.train.resolution import resolve_learning_rate
from internvl35.train.rows import PreparedRows
from internvl35.train.settings import FinetuneSettings
from internvl35.train.trainable import count_parameters, describe_counts


def collect_facts(
    settings: FinetuneSettings,
    command: str,
    start: Start,
    rows: PreparedRows,
    assembly: Assembly,
    world_size: int,
) -> dict[str, Any]:
    """Collect what was not set but found, for ``args.json`` and the cards of checkpoints.

    Args:
        settings: of the run.
        command: that began it.
        start: what the run starts from.
        rows: that it learns.
        assembly: the network with what is trained of it.
        world_size: processes that train together.

    Returns:
        Plain values; ``resolved`` holds those that settings left open.
    """
    plan = rows.plan
    return {
        "internvl35_version": _version(),
        "command": command,
        "world_size": world_size,
        "resolved": {
            "learning_rate": resolve_learning_rate(settings),
            "gradient_accumulation_steps": plan.settings.batches_per_step // world_size,
            "max_steps": plan.num_steps,
            "torch_dtype": str(assembly.compute_dtype).removeprefix("torch."),
            "model_folder": str(start.folder),
            "num_train_rows": len(rows.train),
            "num_val_rows": len(rows.val),
            "num_bad_rows": rows.bad_train.num_bad + rows.bad_val.num_bad,
            "parameters": describe_counts(count_parameters(assembly.model)),
        },
    }


def _version() -> str:
    try:
        return version("internvl35")
    except PackageNotFoundError:
        return "not installed"
