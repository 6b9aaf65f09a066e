"""How near a compressed projector starts to the ordinary tokens that its own stand for.

Drawn pictures of all families, cut into tiles and seen by the embedded checkpoint's tower. The
target of a compressed token is the mean of the four ordinary ones; the distance is its root mean
square in units of how far targets lie from their own mean, so that 1 is what a constant reaches.
Compared: the start that is used, other ways to lay the projector's first layer into a hidden layer
that has room for two of its four blocks, one of the four tokens instead of their mean, and fresh
weights. Writes ``results/compressed_start.json``.
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.record import write_result
from internvl35.config import TINY_FOLDER
from internvl35.data.synthetic import FAMILIES, draw
from internvl35.data.tiles import cut_tiles, normalize_tiles
from internvl35.model.composite import VisionLanguageModel, make_flash_parts
from internvl35.model.flash_parts import start_from_projector
from internvl35.model.projector import CompressedProjector, merge_patches

HALVES: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "upper and lower": ((0, 1), (2, 3)),
    "left and right": ((0, 2), (1, 3)),
    "both diagonals": ((0, 3), (1, 2)),
    "two blocks of four": ((0, 0), (3, 3)),
}
"""Which blocks, numbered row by row, each half of the hidden layer takes the mean of."""


def main() -> None:
    """Measure every start and print the distances."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drawings", type=int, default=4, help="drawings of each family")
    parser.add_argument("--seed", type=int, default=0, help="seed of the fresh weights")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    model = VisionLanguageModel.from_pretrained(TINY_FOLDER, dtype=torch.float32)
    with torch.no_grad():
        patches = model.encode_patches(_draw_tiles(model, arguments.drawings))
        distances = measure(model, patches)
    figures = {"tiles": len(patches), "distance": {k: round(v, 3) for k, v in distances.items()}}
    Console().print(figures)
    Console().print(write_result("compressed_start", figures))


def _draw_tiles(model: VisionLanguageModel, num_drawings: int) -> Tensor:
    pictures = [
        image
        for family in FAMILIES
        for index in range(num_drawings)
        for image in draw(family, "test", index).images
    ]
    settings = model.config.tile_settings
    return normalize_tiles([tile for picture in pictures for tile in cut_tiles(picture, settings)])


def measure(model: VisionLanguageModel, patches: Tensor) -> dict[str, float]:
    """Measure the distance of every start.

    Args:
        model: its projector is what starts are made of.
        patches: ``(N, G, G, C)`` of pictures.

    Returns:
        Start to distance.
    """
    ordinary = model.multi_modal_projector(merge_patches(patches, model.config.merge_factor))
    blocks = ordinary.unflatten(1, (-1, 2)).unflatten(3, (-1, 2))  # (N, G/4, 2, G/4, 2, D)
    target = blocks.mean(dim=(2, 4))
    spread = (target - target.mean(dim=(0, 1, 2))).norm()
    merged = merge_patches(patches, model.config.compressed_merge_factor)

    def distance(tokens: Tensor) -> float:
        return float(((tokens - target).norm() / spread).item())

    fresh = make_flash_parts(model.config)[0].eval()
    distances = {"fresh weights": distance(fresh(merged))}
    distances["one token of four"] = distance(blocks[:, :, 0, :, 0])
    for name, halves in HALVES.items():
        distances[name] = distance(_start(model, halves)(merged))
    used = make_flash_parts(model.config)[0].eval()
    start_from_projector(used, model.multi_modal_projector)
    return distances | {"used": distance(used(merged))}


def _start(
    model: VisionLanguageModel, halves: tuple[tuple[int, int], tuple[int, int]]
) -> CompressedProjector:
    compressed, projector = make_flash_parts(model.config)[0].eval(), model.multi_modal_projector
    start_from_projector(compressed, projector)
    width, language = projector.linear_1.in_features // 4, projector.linear_1.out_features
    first = projector.linear_1.weight.view(language, 2, 2, width)
    hidden = compressed.linear_1.weight.view(2, language, 2, 2, 2, 2, width)  # block row, its rows
    hidden.zero_()
    for half, numbers in enumerate(halves):
        for number in numbers:
            hidden[half, :, number // 2, :, number % 2] += first / 2
    return compressed


if __name__ == "__main__":
    main()
