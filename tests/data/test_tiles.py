"""Tiling against a second formulation of its rule, recorded cases and transformers' processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl35.config import TileSettings
from internvl35.data.tiles import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    choose_grid,
    count_tiles,
    cut_tiles,
    list_grids,
    make_pixel_values,
    normalize_tiles,
)
from internvl35.errors import MediaError

RELEASED = TileSettings()
SIDES = np.arange(32, 2049, 8)


def draw_noise(width, height, seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def find_nearest_exactly(widths, heights, max_tiles=12):
    """Tell for each picture and grid, in whole numbers, whether no grid is nearer in aspect."""
    grids = np.array(
        [(c, r) for c in range(1, 13) for r in range(1, 13) if c * r <= max_tiles], dtype=np.int64
    )
    scale = np.lcm.reduce(np.arange(1, max_tiles + 1))
    columns, rows = grids[:, :1], grids[:, 1:]
    # |W/H - c/r| times H times the least common multiple of all r
    distance = np.abs(widths * rows - heights * columns) * (scale // rows)
    return grids, distance == distance.min(axis=0)


@pytest.fixture(scope="module")
def all_sizes():
    widths, heights = (side.ravel() for side in np.meshgrid(SIDES, SIDES))
    sizes = np.stack([widths, heights], axis=1).tolist()
    chosen = [choose_grid(width, height, RELEASED) for width, height in sizes]
    return widths, heights, np.array(chosen)


def test_on_all_sizes_the_grid_is_the_nearest_and_of_equals_the_largest_with_under_twice_the_pixels(
    all_sizes,
):
    widths, heights, chosen = all_sizes
    grids, is_nearest = find_nearest_exactly(widths, heights)
    areas = grids.prod(axis=1)[:, None]
    fits = is_nearest & (448**2 * areas < 2 * widths * heights)
    largest = np.where(fits, areas, 0).argmax(axis=0)
    smallest = np.where(is_nearest, areas, 99).argmin(axis=0)
    expected = grids[np.where(fits.any(axis=0), largest, smallest)]
    agrees = (expected == chosen).all(axis=1)

    is_chosen = (grids[:, None, :] == chosen[None]).all(axis=2)
    assert (is_chosen & is_nearest).any(axis=0).all()
    # Exactly half-way between two aspect ratios, the rounding of floats decides, as in training.
    reduced = grids[:, 0] / grids[:, 1]
    is_half_way = np.array([len(set(reduced[column])) > 1 for column in is_nearest.T])
    assert agrees[~is_half_way].all()
    assert (~agrees).sum() == 60


def test_all_sizes_give_as_many_tiles_as_recorded(all_sizes):
    _, _, chosen = all_sizes
    tiles = chosen.prod(axis=1)
    total = int((tiles + (tiles > 1)).sum())
    assert len(tiles) == 64_009
    assert total == 557_498  # 8.71 a picture


@pytest.mark.parametrize(
    ("width", "height", "grid", "num_tiles"),
    [
        (224, 224, (1, 1), 1),
        (336, 336, (1, 1), 1),
        (448, 448, (1, 1), 1),
        (512, 512, (1, 1), 1),
        (640, 640, (2, 2), 5),
        (300, 150, (2, 1), 3),
        (640, 480, (4, 3), 13),
        (1280, 720, (4, 2), 9),
        (1920, 1080, (4, 2), 9),
        (3840, 2160, (4, 2), 9),
        (1024, 1024, (3, 3), 10),
        (3000, 1000, (6, 2), 13),
        (1, 1, (1, 1), 1),
        (20_000, 3, (12, 1), 13),
        (3, 20_000, (1, 12), 13),
        (56, 48, (4, 3), 13),  # half-way between 1 and 4/3
    ],
)
def test_recorded_sizes_get_the_grid_of_the_released_code(width, height, grid, num_tiles):
    assert choose_grid(width, height, RELEASED) == grid
    assert count_tiles(width, height, RELEASED) == num_tiles


def test_a_square_takes_the_larger_grid_only_above_half_of_its_pixels():
    # 2x2 tiles have 802,816 pixels, half of which is 633.6 squared
    assert choose_grid(633, 633, RELEASED) == (1, 1)
    assert choose_grid(634, 634, RELEASED) == (2, 2)
    small = TileSettings(tile_size=100)  # half of the pixels of 2x4 tiles is 141.4 x 282.8
    assert choose_grid(141, 282, small) == (1, 2)
    assert choose_grid(142, 284, small) == (2, 4)


def test_grids_come_by_area_and_then_by_columns():
    assert list_grids(1, 4) == ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 4), (2, 2), (4, 1))
    assert list_grids(6, 6) == ((1, 6), (2, 3), (3, 2), (6, 1))
    assert len(list_grids(1, 12)) == 35


def test_without_several_tiles_or_without_the_switch_there_is_no_thumbnail():
    assert count_tiles(640, 480, TileSettings(max_tiles=1)) == 1
    assert count_tiles(640, 480, TileSettings(use_thumbnail=False)) == 12
    assert count_tiles(448, 448, RELEASED) == 1


tile_settings = st.builds(
    lambda low, more, side, thumbnail: TileSettings(side, low, low + more, thumbnail),
    st.integers(1, 4),
    st.integers(0, 12),
    st.integers(1, 40),
    st.booleans(),
)
sides = st.integers(1, 3000)


@given(sides, sides, tile_settings)
def test_the_grid_keeps_the_limits_and_counts_add_up(width, height, chosen):
    columns, rows = choose_grid(width, height, chosen)
    assert chosen.min_tiles <= columns * rows <= chosen.max_tiles
    has_thumbnail = chosen.use_thumbnail and columns * rows > 1
    assert count_tiles(width, height, chosen) == columns * rows + has_thumbnail


@given(sides, sides, st.integers(1, 9))
def test_a_larger_picture_of_the_same_shape_never_gets_fewer_tiles(width, height, factor):
    larger = count_tiles(width * factor, height * factor, RELEASED)
    assert larger >= count_tiles(width, height, RELEASED)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), tile_settings)
def test_cutting_gives_square_tiles_of_the_number_counted(width, height, chosen):
    tiles = cut_tiles(Image.new("RGB", (width, height), "red"), chosen)
    assert len(tiles) == count_tiles(width, height, chosen)
    assert {tile.size for tile in tiles} == {(chosen.tile_size, chosen.tile_size)}
    values = normalize_tiles(tiles)
    assert values.shape == (len(tiles), 3, chosen.tile_size, chosen.tile_size)


def test_tiles_go_row_by_row_and_the_thumbnail_shows_the_original_last():
    side = 16
    levels = np.zeros((2 * side, 3 * side, 3), dtype=np.uint8)
    for place in range(6):
        row, column = divmod(place, 3)
        block = (slice(row * side, row * side + side), slice(column * side, column * side + side))
        levels[block] = 40 * place
    levels[::3, ::5] = 255  # so that a thumbnail made from anything but the original differs
    picture = Image.fromarray(levels).resize((90, 60), Image.Resampling.NEAREST)
    tiles = cut_tiles(picture, TileSettings(tile_size=side, max_tiles=6))
    assert len(tiles) == 7
    medians = [float(np.median(np.asarray(tile))) for tile in tiles[:-1]]
    assert medians == pytest.approx([0, 40, 80, 120, 160, 200], abs=12)
    thumbnail = picture.resize((side, side), Image.Resampling.BICUBIC)
    assert tiles[-1].tobytes() == thumbnail.tobytes()


def test_pixel_values_equal_the_two_steps_of_torchvision_to_the_last_bit():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(np.stack([ramp, ramp.T, 255 - ramp], axis=-1))
    levels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    mean = torch.as_tensor(IMAGENET_MEAN, dtype=torch.float32)[:, None, None]
    std = torch.as_tensor(IMAGENET_STD, dtype=torch.float32)[:, None, None]
    expected = levels.to(torch.float32).div(255).sub(mean).div(std)
    values = normalize_tiles([picture])
    assert values.dtype == torch.float32
    assert values.is_contiguous()
    assert torch.equal(values, expected[None])


@pytest.mark.parametrize(
    ("width", "height", "side", "max_tiles"),
    [(97, 61, 56, 12), (61, 97, 56, 6), (56, 56, 56, 12), (300, 20, 28, 12), (640, 480, 448, 2)],
)
def test_pixels_are_those_of_the_processor_in_transformers(width, height, side, max_tiles):
    got_ocr2 = pytest.importorskip(
        "transformers.models.got_ocr2.image_processing_pil_got_ocr2", reason="needs transformers 5"
    )
    processor = got_ocr2.GotOcr2ImageProcessorPil(
        size={"height": side, "width": side},
        crop_to_patches=True,
        max_patches=max_tiles,
        image_mean=list(IMAGENET_MEAN),
        image_std=list(IMAGENET_STD),
    )
    picture = draw_noise(width, height)
    expected = processor(picture, return_tensors="pt")["pixel_values"]
    values = make_pixel_values(picture, TileSettings(side, 1, max_tiles))
    assert values.shape == expected.shape
    assert (values - expected).abs().max() < 1e-5  # a hundredth of one of 255 levels is 2e-4


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 64), (700, 90)])
def test_the_torch_resizer_stays_within_two_levels_of_pillow(size):
    chosen = TileSettings(tile_size=64)
    picture = draw_noise(*size)
    exact = make_pixel_values(picture, chosen)
    fast = make_pixel_values(picture, chosen, "torch")
    assert fast.shape == exact.shape
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    levels = ((fast - exact) * std * 255).round().abs()
    assert levels.max() <= 2
    assert (levels > 0).float().mean() < 0.01


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(MediaError, match="0x5 pixels; needed: at least 1x1"):
        cut_tiles(Image.new("RGB", (0, 5)), RELEASED)


def test_only_rgb_pictures_are_cut_and_only_equal_tiles_normalized():
    with pytest.raises(ValueError, match="mode P; needed: RGB"):
        cut_tiles(Image.new("P", (5, 5)), RELEASED)
    with pytest.raises(ValueError, match="mode L; needed: RGB"):
        make_pixel_values(Image.new("L", (5, 5)), RELEASED, "torch")
    with pytest.raises(ValueError, match="no tiles"):
        normalize_tiles([])
    with pytest.raises(ValueError, match="needed: RGB and one size"):
        normalize_tiles([Image.new("RGB", (5, 5)), Image.new("RGB", (5, 6))])
    with pytest.raises(ValueError, match="needed: RGB and one size"):
        normalize_tiles([Image.new("L", (5, 5))])
