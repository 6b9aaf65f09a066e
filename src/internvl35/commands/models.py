"""``internvl35 models``: the sizes, their parts, and what it takes to run them.

Everything is computed from :mod:`internvl35.config` and, for embedded checkpoints, from their
config.json; no weights are read. Paper section 2.1, Table 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from internvl35.config import (
    EMBEDDED,
    FLASH_SIZES,
    PRESETS,
    LanguageShape,
    ModelPreset,
    VisionShape,
)
from internvl35.errors import CheckpointError

if TYPE_CHECKING:
    from rich.table import Table

GPU_MEMORY_GIB = 80
"""Memory of the GPU in which the need is counted."""

CAPTION = (
    "Memory is that of the weights alone; GPUs are of 80 GiB, for bf16 weights.\n"
    "Flash: what router and compressed projector add, and the size of its bf16 file.\n"
    f"Hub id: {PRESETS['8B'].hub_id.replace('8B', 'SIZE')}"
)
"""What stands under the table."""


def list_models(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list instead of a table.")
    ] = False,
) -> None:
    """List the sizes: parts, exact parameter counts, memory and GPUs."""
    rows = describe_models(EMBEDDED)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console

    Console().print(draw_table(rows))


def describe_models(embedded: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Describe every released size and the embedded checkpoints.

    Args:
        embedded: folders of embedded checkpoints by name; left out of the list where missing.

    Returns:
        One JSON-ready dict a model, embedded ones first.

    Raises:
        CheckpointError: if a folder exists and its config.json cannot be read.
    """
    found = [read_preset(folder, name) for name, folder in embedded.items() if folder.is_dir()]
    return [describe_model(model) for model in (*found, *PRESETS.values())]


def describe_model(model: ModelPreset) -> dict[str, Any]:
    """Put a size, its parts and its needs into one JSON-ready dict.

    Args:
        model: the size.

    Returns:
        Keys ``name``, ``hub_id`` (None for embedded ones), ``parts``, ``num_parameters``,
        ``num_active_parameters``, ``memory_bytes`` of the weights, ``num_gpus`` of 80 GiB, and
        ``flash``: the same of the released Flash version, None where there is none.
    """
    return {
        "name": model.name,
        "hub_id": None if model.name in EMBEDDED else model.hub_id,
        "parts": {
            "tower": {
                **asdict(model.vision),
                "num_parameters": model.vision.num_parameters,
            },
            "projector": {"num_parameters": model.num_projector_parameters},
            **(_flash_parts(model) if model.is_flash else {}),
            "language": {
                **asdict(model.language),
                "num_parameters": model.language.num_parameters,
                "num_active_parameters": model.language.num_active_parameters,
            },
        },
        "num_parameters": model.num_parameters,
        "num_active_parameters": model.num_active_parameters,
        "memory_bytes": {"bf16": model.memory_bytes(16), "int8": model.memory_bytes(8)},
        "num_gpus": model.num_gpus(GPU_MEMORY_GIB),
        "flash": _describe_flash(model.flash) if model.name in FLASH_SIZES else None,
    }


def _flash_parts(model: ModelPreset) -> dict[str, Any]:
    return {
        "router": {"num_parameters": model.num_router_parameters},
        "compressed_projector": {"num_parameters": model.num_compressed_projector_parameters},
    }


def _describe_flash(model: ModelPreset) -> dict[str, Any]:
    return {
        "name": model.name,
        "hub_id": model.hub_id,
        "parts": _flash_parts(model),
        "num_parameters": model.num_parameters,
        "memory_bytes": {"bf16": model.memory_bytes(16), "int8": model.memory_bytes(8)},
    }


def read_preset(folder: Path, name: str) -> ModelPreset:
    """Read the shapes of a checkpoint from its config.json, in either released layout.

    Only the fields that sizes depend on are read, so that no library has to be loaded.

    Args:
        folder: a checkpoint.
        name: what to call it.

    Returns:
        Its shapes.

    Raises:
        CheckpointError: if config.json is missing, is no JSON, or lacks a field.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        text = config["text_config"] if "text_config" in config else config["llm_config"]
        is_tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
        language = _read_language(text, is_tied)
        is_flash = bool(config.get("flash_mode", False))
        vision = _read_vision(config["vision_config"])
        return ModelPreset(name, vision, language, is_flash=is_flash)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the field {error}") from error


def _read_vision(config: dict[str, Any]) -> VisionShape:
    return VisionShape(
        width=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        mlp_width=config["intermediate_size"],
        norm=config["norm_type"],
        has_qkv_bias=_first(config, "attention_bias", "qkv_bias"),
        has_qk_norm=_first(config, "use_qk_norm", "qk_normalization"),
        tile_size=_side(config["image_size"]),
        patch_size=_side(config["patch_size"]),
    )


def _read_language(config: dict[str, Any], is_tied: bool) -> LanguageShape:
    num_experts = config.get("num_local_experts", config.get("num_experts", 0))
    return LanguageShape(
        family=config["model_type"],
        width=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_width=config["head_dim"],
        mlp_width=_first(config, "moe_intermediate_size", "intermediate_size"),
        num_experts=num_experts,
        num_active_experts=config["num_experts_per_tok"] if num_experts else 0,
        vocab_size=config["vocab_size"],
        is_tied=is_tied,
    )


def _first(config: dict[str, Any], name: str, other_name: str) -> Any:
    return config[name] if name in config else config[other_name]


def _side(size: int | list[int]) -> int:
    return size if isinstance(size, int) else size[0]


def draw_table(rows: list[dict[str, Any]]) -> Table:
    """Lay the sizes out for a terminal of 80 columns.

    Args:
        rows: what :func:`describe_models` returned.

    Returns:
        A table with one line a part and a rule between two sizes.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=CAPTION, caption_justify="left")
    table.add_column("size", no_wrap=True)
    table.add_column("part", no_wrap=True)
    table.add_column("layers x width", no_wrap=True)
    table.add_column("parameters", no_wrap=True, justify="right")
    for row in rows:
        lines = _part_lines(row)
        needs = [f"[bold]{row['name']}[/bold]", *_needs(row)]
        needs += [""] * (len(lines) - len(needs))
        for need, line in zip(needs, lines, strict=True):
            table.add_row(need, *line)
        table.add_section()
    return table


def _part_lines(row: dict[str, Any]) -> list[tuple[str, str, str]]:
    parts = row["parts"]
    tower, language = parts["tower"], parts["language"]
    lines = [
        ("tower", f"ViT {tower['num_layers']} x {tower['width']}", tower),
        ("projector", f"{4 * tower['width']} to {language['width']}", parts["projector"]),
        (
            "language",
            f"{language['family']} {language['num_layers']} x {language['width']}",
            language,
        ),
        ("total", "", row),
    ]
    if "router" in parts:
        lines[2:2] = [
            ("router", "", parts["router"]),
            (
                "projector",
                f"{16 * tower['width']} to {language['width']}",
                parts["compressed_projector"],
            ),
        ]
    printed = [(name, shape, f"{part['num_parameters']:,}") for name, shape, part in lines]
    if row["num_active_parameters"] < row["num_parameters"]:
        printed.append(("active", "", f"{row['num_active_parameters']:,}"))
    if row["flash"] is not None:
        added = row["flash"]["num_parameters"] - row["num_parameters"]
        size = row["flash"]["memory_bytes"]["bf16"] / 1e9
        printed.append(("Flash", f"{size:.3f} GB", f"+{added:,}"))
    return printed


def _needs(row: dict[str, Any]) -> list[str]:
    memory, num_gpus = row["memory_bytes"], row["num_gpus"]
    return [
        f"bf16 {_memory(memory['bf16'])}",
        f"int8 {_memory(memory['int8'])}",
        f"{num_gpus} GPU{'s' if num_gpus > 1 else ''}",
    ]


def _memory(size: int) -> str:
    gib = size / 2**30
    return f"{gib:.1f} GiB" if gib >= 0.1 else f"{size / 2**20:.1f} MiB"
