"""Tiles pass through JPEG with qualities from the range of the official training."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from internvl35.data.augmentation import compress_tiles

RANGE = range(75, 101)


def tile(seed=0, side=28):
    levels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def as_jpeg(image, quality):
    """What Pillow itself makes of a picture at one quality."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert("RGB").tobytes()


def quality_of(image, compressed):
    found = [q for q in RANGE if as_jpeg(image, q) == compressed.tobytes()]
    assert len(found) == 1, "a tile must come back as one of the qualities makes it"
    return found[0]


def test_every_tile_is_the_jpeg_of_one_quality_of_its_own():
    tiles = [tile(seed) for seed in range(12)]
    found = compress_tiles(tiles, np.random.default_rng(0))
    qualities = [quality_of(*pair) for pair in zip(tiles, found, strict=True)]
    assert len(set(qualities)) > 5
    assert {(image.mode, image.size) for image in found} == {("RGB", (28, 28))}


def test_qualities_are_uniform_from_75_to_100():
    class Recorder:
        """Says what was asked of a generator."""

        def integers(self, low, high, size):
            self.asked = (low, high, size)
            return np.array([low, high - 1])

    recorder = Recorder()
    pictures = [tile(1), tile(2)]
    lowest, highest = compress_tiles(pictures, recorder)
    assert recorder.asked == (75, 101, 2)
    assert quality_of(pictures[0], lowest) == 75
    assert quality_of(pictures[1], highest) == 100


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_generator_gives_the_same_tiles(seed):
    first, again = (
        [t.tobytes() for t in compress_tiles([tile(), tile()], np.random.default_rng(seed))]
        for _ in range(2)
    )
    assert first == again


def test_the_tiles_given_stay_as_they_are():
    picture = tile()
    before = picture.tobytes()
    compress_tiles([picture], np.random.default_rng(0))
    assert picture.tobytes() == before
