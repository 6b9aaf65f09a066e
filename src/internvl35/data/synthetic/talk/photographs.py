"""Pictures that look like photographs, paintings or scribbles: what the model cannot name.

They are painted from noise and gradients, since this package ships no pictures. Places, people and
things are left to :mod:`internvl35.data.synthetic.talk.scenery`, what is asked about them to
:mod:`internvl35.data.synthetic.talk.honesty`. No counterpart in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from internvl35.data.synthetic.drawing import Chance, Pool
from internvl35.data.synthetic.talk.noise import (
    blend,
    choose_colour,
    fractal_noise,
    to_image,
    to_ink,
)
from internvl35.data.synthetic.talk.scenery import (
    paint_figures,
    paint_landscape,
    paint_plant,
    paint_portrait,
    paint_still_life,
    paint_street,
)

Painter = Callable[[np.random.Generator, int, int], Image.Image]
"""Paints a picture of a width and a height."""


def _texture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Grass, wood, stone, sand, fur: one stuff that fills the picture."""
    pixels = blend(
        fractal_noise(rng, width, height, rng.uniform(1.0, 1.6)),
        choose_colour(rng),
        choose_colour(rng),
    )
    grain = rng.integers(2, 12)
    streaks = rng.random((height, max(2, width // int(grain))), np.float32)
    layer = Image.fromarray(streaks).resize((width, height), Image.Resampling.BICUBIC)
    pixels += float(rng.uniform(20, 90)) * (np.asarray(layer)[..., None] - 0.5)
    image = to_image(pixels)
    return image.transpose(Image.Transpose.ROTATE_90) if rng.random() < 0.5 else image


def _bokeh(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Blurred lights or leaves, out of focus."""
    image = to_image(
        blend(
            fractal_noise(rng, width, height, 3),
            choose_colour(rng, 0, 120),
            choose_colour(rng, 30, 200),
        )
    )
    pen = ImageDraw.Draw(image, "RGBA")
    for _ in range(int(rng.integers(8, 40))):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), width * rng.uniform(0.05, 0.2)
        fill = (*to_ink(choose_colour(rng, 40)), int(rng.integers(60, 200)))
        pen.ellipse((x - r, y - r * rng.uniform(0.6, 1), x + r, y + r), fill=fill)
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(3, 9))))


def _painting(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Broad strokes of many colours over each other."""
    image = Image.new("RGB", (width, height), to_ink(choose_colour(rng)))
    pen = ImageDraw.Draw(image, "RGBA")
    colours = [to_ink(choose_colour(rng)) for _ in range(int(rng.integers(3, 8)))]
    for _ in range(int(rng.integers(25, 90))):
        x, y = rng.uniform(-20, width + 20), rng.uniform(-20, height + 20)
        points = [(x, y)]
        for _ in range(int(rng.integers(1, 5))):
            x, y = x + rng.normal(0, 30), y + rng.normal(0, 30)
            points.append((x, y))
        fill = (*colours[rng.integers(len(colours))], int(rng.integers(90, 256)))
        if rng.random() < 0.4 and len(points) > 2:
            pen.polygon(points, fill=fill)
        else:
            pen.line(points, fill=fill, width=int(rng.integers(3, 22)), joint="curve")
    return image.filter(ImageFilter.SMOOTH)


def _scribble(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Loops of a pen on paper that say nothing."""
    paper = choose_colour(rng, 205, 256)
    image = to_image(blend(fractal_noise(rng, width, height), paper, paper - rng.uniform(0, 30)))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 6))):
        steps = np.linspace(0, rng.uniform(4, 14), 160)
        a, b = rng.uniform(0.3, 1.6, 2)
        x = width * (0.5 + 0.4 * np.sin(a * steps + rng.uniform(0, 6)) * rng.uniform(0.3, 1))
        y = height * (0.5 + 0.4 * np.cos(b * steps * 1.3 + rng.uniform(0, 6)) * rng.uniform(0.3, 1))
        x += rng.normal(0, 2, 160).cumsum() * 0.6
        ink = to_ink(choose_colour(rng, 0, 130))
        pen.line(list(zip(x, y, strict=True)), fill=ink, width=int(rng.integers(1, 5)))
    return image


def _static(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Grain of some size in grey or colour."""
    cell = int(rng.integers(1, 9))
    shape = (height // cell + 1, width // cell + 1, 1 if rng.random() < 0.4 else 3)
    noise = rng.normal(128, rng.uniform(25, 90), shape)
    pixels = np.broadcast_to(noise, (*shape[:2], 3)).astype(np.float32)
    image = to_image(pixels)
    way = Image.Resampling.NEAREST if rng.random() < 0.5 else Image.Resampling.BICUBIC
    return image.resize((width, height), way)


def _gradient(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Colours that run into each other, with a light somewhere."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 6.3)
    share = (math.cos(angle) * columns / width + math.sin(angle) * rows / height + 1.42) / 2.84
    share = share.astype(np.float32) ** rng.uniform(0.5, 2)
    pixels = blend(share, choose_colour(rng), choose_colour(rng))
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    spread = (rng.uniform(0.1, 0.5) * width) ** 2
    glow = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / spread)
    return to_image(pixels + glow[..., None] * (choose_colour(rng) - 60))


PHOTOGRAPHS: Pool[Painter] = Pool(
    "photograph",
    (
        paint_landscape,
        paint_portrait,
        paint_still_life,
        paint_plant,
        _texture,
        _bokeh,
        _painting,
        _scribble,
        _static,
        _gradient,
    ),
    (paint_street, paint_figures),
)
"""Sorts of pictures from outside the drawn world."""

_SHARES = (0.4, 0.65)
_MIXED_SHARE = 0.25  # pictures that run into another


def paint_photograph(chance: Chance, width: int, height: int) -> Image.Image:
    """Paint something that the model cannot name.

    Args:
        chance: of the sort and of everything in it.
        width: pixels.
        height: pixels.

    Returns:
        RGB picture, some in grey, some grainy or dim as photographs are.
    """
    rng = np.random.default_rng(chance.rng.getrandbits(64))
    share = float(rng.uniform(*_SHARES))  # painted small, which is several times as fast
    size = round(share * width), round(share * height)
    image = chance.pick(PHOTOGRAPHS)(rng, *size)
    if chance.is_hard() and chance.rng.random() < _MIXED_SHARE:
        other = chance.pick(PHOTOGRAPHS)(rng, *size)
        edge = 8 * (fractal_noise(rng, *size, 3) - rng.uniform(0.3, 0.7)) + 0.5
        mask = Image.fromarray(np.clip(255 * edge, 0, 255).astype(np.uint8))
        image = Image.composite(image.resize(size), other.resize(size), mask)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    if not chance.is_hard():
        return image
    pixels = np.asarray(image, np.float32)
    if rng.random() < 0.2:
        pixels = np.broadcast_to(pixels.mean(axis=2, keepdims=True), pixels.shape)
    if rng.random() < 0.4:
        pixels = 128 + rng.uniform(0.4, 1.3) * (pixels - 128) + rng.uniform(-50, 40)
    if rng.random() < 0.4:
        grain = rng.normal(0, rng.uniform(2, 16), (height, width, 1))
        pixels = pixels + grain.astype(np.float32)
    return to_image(pixels.astype(np.float32))
