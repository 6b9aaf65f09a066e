import random

import numpy as np
import pytest
from PIL import Image

from internvl35.data.synthetic.drawing import Chance
from internvl35.data.synthetic.talk.photographs import PHOTOGRAPHS, paint_photograph


def _commonest_share(image: Image.Image) -> float:
    """Share of the pixels that have the commonest colour of all, exactly."""
    colours = image.convert("RGB").getcolors(image.width * image.height)
    return max(count for count, _ in colours) / (image.width * image.height)


@pytest.mark.parametrize("paint", [*PHOTOGRAPHS.seen, *PHOTOGRAPHS.kept])
def test_each_sort_fills_the_picture_and_no_two_of_a_sort_are_alike(paint) -> None:
    pictures = [paint(np.random.default_rng(seed), 90, 70) for seed in range(12)]
    assert {picture.mode for picture in pictures} == {"RGB"}
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    spreads = [np.asarray(picture, float).std() for picture in pictures]
    assert np.median(spreads) > 5


def test_a_painted_picture_has_no_plain_background_as_drawn_pictures_have() -> None:
    shares = []
    for seed in range(50):
        chance = Chance(random.Random(seed))
        image = paint_photograph(chance, 160, 150)
        assert image.size == (160, 150)
        assert image.mode == "RGB"
        assert not chance.unseen
        shares.append(_commonest_share(image))
    assert np.quantile(shares, 0.9) < 0.25


def test_only_a_test_shows_the_sorts_that_are_kept_for_it() -> None:
    assert len(PHOTOGRAPHS.seen) + len(PHOTOGRAPHS.kept) >= 8
    unseen = []
    for seed in range(60):
        chance = Chance(random.Random(seed), is_test=True)
        paint_photograph(chance, 60, 60)
        unseen.append(chance.unseen == {"photograph"})
    assert 0.35 < np.mean(unseen) < 0.85


def test_the_same_chances_paint_the_same_pixels() -> None:
    one, two = (paint_photograph(Chance(random.Random(7)), 120, 110) for _ in range(2))
    assert one.tobytes() == two.tobytes()


def test_real_photographs_have_no_plain_background_either() -> None:
    data = pytest.importorskip("skimage.data", reason="needs pictures of scikit-image")
    for name in ("astronaut", "chelsea", "coffee"):
        image = Image.fromarray(getattr(data, name)())
        assert _commonest_share(image) < 0.25
