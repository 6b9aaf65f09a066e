"""Patch merging and both projectors against plain loops and plain arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from internvl35.model.projector import CompressedProjector, Projector, merge_patches

Array = NDArray[np.float64]


def merge_in_loops(features: Tensor, factor: int) -> Tensor:
    """Stack the patches of every block, row by row, one on top of the other."""
    num_tiles, grid, _, width = features.shape
    side = grid // factor
    merged = torch.zeros(num_tiles, side, side, factor * factor * width)
    for tile in range(num_tiles):
        for row in range(side):
            for column in range(side):
                vector = [
                    features[tile, row * factor + down, column * factor + right]
                    for down in range(factor)
                    for right in range(factor)
                ]
                merged[tile, row, column] = torch.cat(vector)
    return merged


@pytest.mark.parametrize(("grid", "factor"), [(2, 2), (4, 2), (6, 3), (8, 4), (5, 1)])
def test_patches_are_stacked_block_by_block(grid: int, factor: int) -> None:
    features = torch.randn(3, grid, grid, 5)
    assert torch.equal(merge_patches(features, factor), merge_in_loops(features, factor))


def test_four_numbered_patches_of_a_block_stand_in_reading_order() -> None:
    patches = torch.arange(16.0).reshape(1, 4, 4, 1)
    expected = [[[0, 1, 4, 5], [2, 3, 6, 7]], [[8, 9, 12, 13], [10, 11, 14, 15]]]
    assert merge_patches(patches, 2)[0].tolist() == expected


def test_a_released_tile_of_1024_patches_becomes_256_or_64_vectors() -> None:
    features = torch.empty(2, 32, 32, 1024, device="meta")
    assert merge_patches(features, 2).flatten(1, 2).shape == (2, 256, 4096)
    assert merge_patches(features, 4).flatten(1, 2).shape == (2, 64, 16384)


def test_rows_and_columns_may_differ_in_number() -> None:
    features = torch.randn(1, 2, 6, 3)
    merged = merge_patches(features, 2)
    assert merged.shape == (1, 1, 3, 12)
    assert torch.equal(merged[0, 0, 2], features[0, :, 4:6].reshape(-1))


def test_gradients_come_back_to_the_patch_they_belong_to() -> None:
    features = torch.randn(1, 4, 4, 2, requires_grad=True)
    merge_patches(features, 2)[0, 1, 0].sum().backward()
    expected = torch.zeros(1, 4, 4, 2)
    expected[0, 2:, :2] = 1
    assert features.grad is not None
    assert torch.equal(features.grad, expected)


@pytest.mark.parametrize(("rows", "columns"), [(5, 4), (4, 5)])
def test_a_grid_that_does_not_divide_is_refused_with_its_size(rows: int, columns: int) -> None:
    with pytest.raises(ValueError, match=f"{rows}x{columns} patches cannot be folded 2x2"):
        merge_patches(torch.zeros(1, rows, columns, 3), 2)


def test_the_projector_is_norm_linear_gelu_linear() -> None:
    torch.manual_seed(0)
    projector = Projector(8, 6).double()
    for parameter in projector.parameters():
        torch.nn.init.normal_(parameter)
    merged = torch.randn(2, 3, 8, dtype=torch.float64)
    weights = dict(projector.named_parameters())
    centred = merged - merged.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    normed = normed * weights["layer_norm.weight"] + weights["layer_norm.bias"]
    hidden = normed @ weights["linear_1.weight"].T + weights["linear_1.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    expected = hidden @ weights["linear_2.weight"].T + weights["linear_2.bias"]
    torch.testing.assert_close(projector(merged), expected)


def test_the_projector_of_8b_has_its_released_size() -> None:
    with torch.device("meta"):
        projector = Projector(4096, 4096)
    shapes = {name: tuple(weight.shape) for name, weight in projector.named_parameters()}
    assert shapes == {
        "layer_norm.weight": (4096,), "layer_norm.bias": (4096,),
        "linear_1.weight": (4096, 4096), "linear_1.bias": (4096,),
        "linear_2.weight": (4096, 4096), "linear_2.bias": (4096,),
    }  # fmt: skip


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def test_the_compressed_projector_is_norm_and_three_linear_layers() -> None:
    torch.manual_seed(0)
    projector = CompressedProjector(16, 5).double().eval()
    for parameter in projector.parameters():
        torch.nn.init.normal_(parameter)
    weights = {name: p.detach().numpy() for name, p in projector.named_parameters()}
    merged = torch.randn(2, 3, 16, dtype=torch.float64)
    x = merged.numpy() - merged.numpy().mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
    x = x * weights["layer_norm.weight"] + weights["layer_norm.bias"]
    x = gelu(x @ weights["linear_1.weight"].T + weights["linear_1.bias"])
    x = gelu(x @ weights["linear_2.weight"].T + weights["linear_2.bias"])
    x = x @ weights["linear_3.weight"].T + weights["linear_3.bias"]
    assert x.shape == (2, 3, 5)
    np.testing.assert_allclose(projector(merged).detach().numpy(), x, rtol=1e-10, atol=1e-12)


def test_the_compressed_projector_drops_units_in_training_alone() -> None:
    projector, merged = CompressedProjector(16, 64), torch.randn(1, 2, 16)
    assert not torch.equal(projector(merged), projector(merged))
    projector.eval()
    assert torch.equal(projector(merged), projector(merged))


def test_the_compressed_projector_of_8b_has_its_released_size() -> None:
    with torch.device("meta"):
        projector = CompressedProjector(16_384, 4096)
    shapes = {name: tuple(weight.shape) for name, weight in projector.named_parameters()}
    assert shapes == {
        "layer_norm.weight": (16_384,), "layer_norm.bias": (16_384,),
        "linear_1.weight": (8192, 16_384), "linear_1.bias": (8192,),
        "linear_2.weight": (8192, 8192), "linear_2.bias": (8192,),
        "linear_3.weight": (4096, 8192), "linear_3.bias": (4096,),
    }  # fmt: skip
