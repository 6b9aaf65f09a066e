"""The torch resizer against Pillow's: how many times faster, and how far off.

Writes ``results/tiling.json`` and prints the table. Both are measured by turns in one process and
by processor time, so that only their ratio is kept.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.record import write_result
from internvl35.config import TileSettings
from internvl35.data.tiles import IMAGENET_STD, count_tiles, make_pixel_values

SIZES = ((300, 200), (448, 448), (640, 480), (1280, 720), (1920, 1080), (4032, 3024))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each, the best one counts")
    parser.add_argument("--no-write", action="store_true", help="print the table only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {f"{w}x{h}": compare(draw(w, h), arguments.rounds) for w, h in SIZES}
    table = Table("picture", "tiles", "times faster", "values off, %", "most levels off")
    for size, result in results.items():
        table.add_row(size, *(str(value) for value in result.values()))
    Console().print(table)
    if not arguments.no_write:
        Console().print(write_result("tiling", {"threads": 1, "sizes": results}))


def draw(width: int, height: int) -> Image.Image:
    """Draw smooth colours under noise, which no resizer gets away with."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth).astype(np.int16) + random.integers(-12, 13, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def compare(picture: Image.Image, rounds: int) -> dict[str, Any]:
    """Measure one picture."""
    settings = TileSettings()
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "pillow": lambda: make_pixel_values(picture, settings, "pillow"),
        "torch": lambda: make_pixel_values(picture, settings, "torch"),
    }
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            best[name] = min(best[name], time.process_time() - start)
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    levels = ((calls["torch"]() - calls["pillow"]()) * std * 255).round().abs()
    return {
        "tiles": count_tiles(*picture.size, settings),
        "times_faster": round(best["pillow"] / best["torch"], 2),
        "percent_off": round(100 * (levels > 0).float().mean().item(), 2),
        "most_levels_off": int(levels.max().item()),
    }


if __name__ == "__main__":
    main()
