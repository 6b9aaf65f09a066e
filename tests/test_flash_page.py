"""The cost model of the page on Flash: its table follows from the shapes of the released sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from internvl35.config import FLASH_SIZES, PRESETS, ModelPreset

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "flash.md"
TILES, COMPRESSED, TEXT = 13, 9, 100
FULL, SHORT = 256, 64


def cache_bytes(preset: ModelPreset, num_tokens: int) -> int:
    """Keys and values of all layers in bfloat16."""
    shape = preset.language
    return num_tokens * shape.num_layers * 2 * shape.num_kv_heads * shape.head_width * 2


def prefill_flop(preset: ModelPreset, num_tokens: int) -> float:
    """Two for every weight and token, embedding and head left out, and causal attention."""
    shape = preset.language
    weights = shape.num_active_parameters - 2 * shape.vocab_size * shape.width
    attention = 2 * num_tokens**2 * shape.num_heads * shape.head_width * shape.num_layers
    return 2 * weights * num_tokens + attention


def seeing_flop(preset: ModelPreset, num_compressed: int, *, is_routed: bool) -> float:
    """Tower, the projector that each tile takes, and the router."""
    shape, width = preset.vision, preset.language.width
    length = shape.grid**2 + 1
    block = 4 * shape.width**2 + 2 * shape.width * shape.mlp_width
    layer = 2 * length * block + 4 * length**2 * shape.width
    long = 2 * FULL * (4 * shape.width * width + width**2)
    short = 2 * SHORT * (16 * shape.width * 2 * width + 4 * width**2 + 2 * width**2)
    # keys and values of all patches in four steps; a single query costs next to nothing
    router = 2 * shape.grid**2 * 4 * 2 * shape.width**2 if is_routed else 0
    tiles = TILES * (shape.num_layers * layer + router)
    return tiles + (TILES - num_compressed) * long + num_compressed * short


def row_of(size: str) -> list[str]:
    """What the page says of a size."""
    preset = PRESETS[size]
    before = TILES * FULL + TEXT
    after = before - COMPRESSED * (FULL - SHORT)
    prefill = [prefill_flop(preset, tokens) / 1e12 for tokens in (before, after)]
    seeing = [
        seeing_flop(preset, 0, is_routed=False) / 1e12,
        seeing_flop(preset, COMPRESSED, is_routed=True) / 1e12,
    ]
    whole = (prefill[0] + seeing[0]) / (prefill[1] + seeing[1])
    cache = [cache_bytes(preset, tokens) / 2**20 for tokens in (before, after)]
    return [
        size,
        f"{cache[0]:.0f} → {cache[1]:.0f}",
        f"{prefill[0]:.1f} → {prefill[1]:.1f}",
        f"{prefill[0] / prefill[1]:.2f}",
        f"{seeing[0]:.1f} → {seeing[1]:.1f}",
        f"{whole:.2f}",
    ]


@pytest.mark.parametrize("size", FLASH_SIZES)
def test_the_cost_of_a_size_is_what_its_shape_says(size: str) -> None:
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    assert row_of(size) in rows


def test_the_page_names_the_tokens_of_its_example() -> None:
    text = PAGE.read_text(encoding="utf-8")
    tokens = (TILES - COMPRESSED) * FULL + COMPRESSED * SHORT
    assert f"{tokens:,} instead of {TILES * FULL:,} visual tokens" in text
