"""Pictures that look like photographs, paintings or scribbles: what the model cannot name.

They are painted from noise and gradients, since this package ships no pictures. What is asked about
them is left to :mod:`internvl35.data.synthetic.honesty`. No counterpart in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from internvl35.data.synthetic.drawing import Chance, Pool

Floats = NDArray[np.floating[Any]]
Painter = Callable[[np.random.Generator, int, int], Image.Image]
"""Paints a picture of a width and a height."""


def _fractal(rng: np.random.Generator, width: int, height: int, smooth: float = 2.0) -> Floats:
    """Noise from 0 to 1 with coarse and fine parts; a smoother one has less of the fine."""
    total = np.zeros((height, width), np.float32)
    cells, weight = 2, 1.0
    stretch = rng.uniform(0.6, 1.8)
    while cells < 100:
        grid = rng.random((max(2, round(cells * stretch)), cells), np.float32)
        layer = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += weight * np.asarray(layer)
        cells, weight = cells * 2, weight / smooth
    total -= total.min()
    share: Floats = total / np.float32(max(float(total.max()), 1e-6))
    return share


def _colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> Floats:
    """A colour, more often dull than bright, as those of photographs are."""
    bright = rng.integers(low, high, 3).astype(np.float32)
    grey = np.float32(bright.mean())
    dull: Floats = grey + np.float32(rng.uniform(0.1, 1.0)) * (bright - grey)
    return dull


def _blend(share: Floats, zero: Floats, one: Floats) -> Floats:
    return zero + share[..., None] * (one - zero)


def _to_image(pixels: Floats) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _ridge(rng: np.random.Generator, width: int) -> Floats:
    """Heights from 0 to 1 of a line of hills."""
    across = np.linspace(0, 1, width, dtype=np.float32)
    line = np.zeros(width, np.float32)
    for octave in range(6):
        frequency = 2.0**octave * rng.uniform(0.7, 1.6)
        line += np.sin(2 * math.pi * (frequency * across + rng.random())).astype(np.float32) / (
            1.8**octave
        )
    return 0.5 + line / 4


def _landscape(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Sky, and ranges of hills that fade into the distance."""
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.ones(width, np.float32)
    sky = _blend(down, _colour(rng, 60, 230), _colour(rng, 140, 256))
    sky += 50 * (_fractal(rng, width, height)[..., None] - 0.5)
    ground, haze = _colour(rng, 10, 130), sky.mean(axis=(0, 1))
    texture = 70 * (_fractal(rng, width, height, 1.3)[..., None] - 0.5)
    num = int(rng.integers(1, 5))
    for layer in range(num):
        share = (layer + 1) / num
        top = height * (0.25 + 0.45 * share - 0.25 * _ridge(rng, width))
        is_hill = np.arange(height)[:, None] >= top
        sky = np.where(is_hill[..., None], share * ground + (1 - share) * haze + texture, sky)
    return _to_image(sky)


def _texture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Grass, wood, stone, sand, fur: one stuff that fills the picture."""
    pixels = _blend(_fractal(rng, width, height, rng.uniform(1.0, 1.6)), _colour(rng), _colour(rng))
    grain = rng.integers(2, 12)
    streaks = rng.random((height, max(2, width // int(grain))), np.float32)
    layer = Image.fromarray(streaks).resize((width, height), Image.Resampling.BICUBIC)
    pixels += float(rng.uniform(20, 90)) * (np.asarray(layer)[..., None] - 0.5)
    image = _to_image(pixels)
    return image.transpose(Image.Transpose.ROTATE_90) if rng.random() < 0.5 else image


def _bokeh(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Blurred lights or leaves, out of focus."""
    image = _to_image(
        _blend(_fractal(rng, width, height, 3), _colour(rng, 0, 120), _colour(rng, 30, 200))
    )
    pen = ImageDraw.Draw(image, "RGBA")
    for _ in range(int(rng.integers(8, 40))):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(5, 0.2 * width)
        fill = (*_ints(_colour(rng, 40)), int(rng.integers(60, 200)))
        pen.ellipse((x - r, y - r * rng.uniform(0.6, 1), x + r, y + r), fill=fill)
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(3, 9))))


def _ints(colour: Floats) -> tuple[int, int, int]:
    red, green, blue = (int(part) for part in np.clip(colour, 0, 255))
    return red, green, blue


def _portrait(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A smear of a face: skin, hair, eyes, a mouth and shoulders, lit from a side."""
    image = _to_image(_blend(_fractal(rng, width, height, 2.5), _colour(rng), _colour(rng)))
    pen = ImageDraw.Draw(image)
    skin = np.array([230, 185, 155], np.float32) * rng.uniform(0.35, 1.05) + rng.normal(0, 9, 3)
    skin = skin.astype(np.float32)
    hair = _colour(rng, 0, 150)
    x, y, r = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.35, 0.5), width * 0.2
    r *= rng.uniform(0.7, 1.5)
    clothes = _ints(_colour(rng))
    pen.ellipse((x - 2.1 * r, y + 1.3 * r, x + 2.1 * r, y + 6 * r), fill=clothes)
    long = rng.uniform(0.9, 2.4)
    pen.ellipse((x - 1.25 * r, y - 1.6 * r, x + 1.25 * r, y + long * r), fill=_ints(hair))
    pen.rectangle((x - 0.45 * r, y + 0.6 * r, x + 0.45 * r, y + 1.7 * r), fill=_ints(0.85 * skin))
    pen.ellipse((x - r, y - 1.2 * r, x + r, y + 1.3 * r), fill=_ints(skin))
    for side in (-1, 1):
        eye = x + side * 0.4 * r
        pen.ellipse(
            (eye - 0.2 * r, y - 0.25 * r, eye + 0.2 * r, y - 0.05 * r), fill=(240, 240, 236)
        )
        pen.ellipse((eye - 0.1 * r, y - 0.26 * r, eye + 0.1 * r, y - 0.04 * r), fill=(40, 30, 26))
        pen.line(
            (eye - 0.3 * r, y - 0.45 * r, eye + 0.3 * r, y - 0.5 * r), fill=_ints(hair), width=3
        )
    pen.line((x, y - 0.1 * r, x - 0.1 * r, y + 0.35 * r, x + 0.1 * r, y + 0.35 * r), width=2,
             fill=_ints(0.7 * skin))  # fmt: skip
    pen.ellipse((x - 0.4 * r, y + 0.6 * r, x + 0.4 * r, y + 0.8 * r), fill=(170, 70, 70))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.8, 3.5))))
    first, last = rng.uniform(0.55, 1.25, 2)
    light = np.linspace(first, last, width, dtype=np.float32)
    return _to_image(np.asarray(image, np.float32) * light[None, :, None])


def _painting(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Broad strokes of many colours over each other."""
    image = Image.new("RGB", (width, height), _ints(_colour(rng)))
    pen = ImageDraw.Draw(image, "RGBA")
    colours = [_ints(_colour(rng)) for _ in range(int(rng.integers(3, 8)))]
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
    paper = _colour(rng, 205, 256)
    image = _to_image(_blend(_fractal(rng, width, height), paper, paper - rng.uniform(0, 30)))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 6))):
        steps = np.linspace(0, rng.uniform(4, 14), 160)
        a, b = rng.uniform(0.3, 1.6, 2)
        x = width * (0.5 + 0.4 * np.sin(a * steps + rng.uniform(0, 6)) * rng.uniform(0.3, 1))
        y = height * (0.5 + 0.4 * np.cos(b * steps * 1.3 + rng.uniform(0, 6)) * rng.uniform(0.3, 1))
        x += rng.normal(0, 2, 160).cumsum() * 0.6
        ink = _ints(_colour(rng, 0, 130))
        pen.line(list(zip(x, y, strict=True)), fill=ink, width=int(rng.integers(1, 5)))
    return image


def _still_life(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Round, shaded things with shadows on a table."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    edge = height * rng.uniform(0.3, 0.6)
    wall = _blend(rows / height, _colour(rng, 40, 220), _colour(rng, 40, 220))
    table = _colour(rng, 40, 200) + 50 * (_fractal(rng, width, height)[..., None] - 0.5)
    pixels = np.where((rows > edge)[..., None], table, wall)
    for _ in range(int(rng.integers(2, 7))):
        r = width * rng.uniform(0.08, 0.22)
        x, y = rng.uniform(0, width), edge + rng.uniform(-0.2, 0.4) * height
        tall = rng.uniform(0.7, 1.7)
        shadow = np.exp(-(((columns - x - r) / (1.4 * r)) ** 2 + ((rows - y - r) / (0.5 * r)) ** 2))
        pixels *= 1 - 0.55 * shadow[..., None]
        across, down = (columns - x) / r, (rows - y) / (r * tall)
        depth = 1 - across**2 - down**2
        light = 0.25 + 0.8 * np.clip(
            0.7 * np.sqrt(np.maximum(depth, 0)) - 0.4 * (across + down), 0, 2
        )
        skin = _colour(rng, 40) * light[..., None]
        skin += 30 * (_fractal(rng, width, height, 1.5)[..., None] - 0.5)
        pixels = np.where((depth > 0)[..., None], skin, pixels)
    return _to_image(pixels)


def _street(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Houses with windows along a road, seen in perspective."""
    image = _to_image(_blend(_fractal(rng, width, height, 2.5), _colour(rng, 90), _colour(rng, 90)))
    pen = ImageDraw.Draw(image)
    horizon = height * rng.uniform(0.45, 0.6)
    pen.rectangle((0, horizon, width, height), fill=_ints(_colour(rng, 50, 130)))
    middle = width * rng.uniform(0.35, 0.65)
    road = ((middle, horizon), (-0.1 * width, height), (1.1 * width, height))
    pen.polygon(road, fill=_ints(_colour(rng, 60, 110)))
    for side in (-1, 1):
        near = 0.0 if side < 0 else float(width)
        for step in np.linspace(0, 0.8, int(rng.integers(3, 6))):
            x0 = near + (middle - near) * step
            x1 = near + (middle - near) * (step + 0.22)
            tall = horizon * rng.uniform(0.5, 1) * (1 - step)
            base = horizon + (height - horizon) * 0.5 * (1 - step)
            wall = _ints(_colour(rng, 60, 220))
            left, right = min(x0, x1), max(x0, x1)
            pen.rectangle((left, horizon - tall, right, base), fill=wall)
            glass = _ints(_colour(rng, 10, 120))
            across = (right - left) / 4
            for row in np.arange(horizon - tall + 4, base - 8, max(6.0, tall / 5)):
                for column in (0.6, 2.2):
                    x = left + column * across
                    pen.rectangle((x, row, x + 0.9 * across, row + max(3.0, tall / 9)), fill=glass)
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.6))))
    noise = rng.normal(0, 9, (height, width, 1)).astype(np.float32)
    return _to_image(np.asarray(image, np.float32) + noise)


def _plant(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Branches and leaves before a blurred ground."""
    image = _to_image(_blend(_fractal(rng, width, height, 2), _colour(rng, 60), _colour(rng, 60)))
    image = image.filter(ImageFilter.GaussianBlur(4))
    pen = ImageDraw.Draw(image)
    bark, leaf = _colour(rng, 20, 110), _colour(rng, 20, 200)
    tips = [(width * rng.uniform(0.3, 0.7), float(height), -math.pi / 2, height * 0.28)]
    for depth in range(6):
        grown = []
        for x, y, angle, length in tips:
            end = x + math.cos(angle) * length, y + math.sin(angle) * length
            pen.line((x, y, *end), fill=_ints(bark), width=max(1, 7 - depth))
            for turn in rng.uniform(-0.8, 0.8, 2):
                grown.append((*end, angle + float(turn), length * float(rng.uniform(0.6, 0.85))))
        tips = grown
    for x, y, _, _ in tips:
        r = rng.uniform(2, 8)
        shade = _ints(leaf * rng.uniform(0.6, 1.3))
        pen.ellipse((x - r, y - 0.6 * r, x + r, y + 0.6 * r), fill=shade)
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.5))))


def _figures(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Smears of people or animals before a landscape."""
    image = _landscape(rng, width, height)
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 5))):
        x, tall = width * rng.uniform(0.1, 0.9), height * rng.uniform(0.25, 0.6)
        base = height * rng.uniform(0.75, 1.0)
        head, half = tall * 0.08, tall * 0.12
        shirt, legs, skin = (
            _ints(_colour(rng, *span)) for span in ((20, 240), (10, 110), (90, 220))
        )
        for side in (-1, 1):
            foot = x + side * half * rng.uniform(0.3, 1.6)
            pen.line((x, base - 0.45 * tall, foot, base), fill=legs, width=round(0.09 * tall))
            hand = x + side * half * rng.uniform(1.2, 2.6)
            pen.line((x, base - 0.78 * tall, hand, base - rng.uniform(0.4, 0.9) * tall), fill=shirt,
                     width=round(0.06 * tall))  # fmt: skip
        pen.rectangle((x - half, base - 0.82 * tall, x + half, base - 0.42 * tall), fill=shirt)
        pen.ellipse((x - head, base - tall, x + head, base - 0.82 * tall), fill=skin)
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.6, 2.2))))


def _static(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Grain of some size in grey or colour."""
    cell = int(rng.integers(1, 9))
    shape = (height // cell + 1, width // cell + 1, 1 if rng.random() < 0.4 else 3)
    noise = rng.normal(128, rng.uniform(25, 90), shape)
    pixels = np.broadcast_to(noise, (*shape[:2], 3)).astype(np.float32)
    image = _to_image(pixels)
    way = Image.Resampling.NEAREST if rng.random() < 0.5 else Image.Resampling.BICUBIC
    return image.resize((width, height), way)


def _gradient(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Colours that run into each other, with a light somewhere."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 6.3)
    share = (math.cos(angle) * columns / width + math.sin(angle) * rows / height + 1.42) / 2.84
    share = share.astype(np.float32) ** rng.uniform(0.5, 2)
    pixels = _blend(share, _colour(rng), _colour(rng))
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    spread = (rng.uniform(0.1, 0.5) * width) ** 2
    glow = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / spread)
    return _to_image(pixels + glow[..., None] * (_colour(rng) - 60))


PHOTOGRAPHS: Pool[Painter] = Pool(
    "photograph",
    (
        _landscape, _texture, _bokeh, _portrait, _painting, _scribble, _still_life, _plant, _static,
        _gradient,
    ),
    (_street, _figures),
)  # fmt: skip
"""Sorts of pictures from outside the drawn world."""

_SHARES = (0.4, 0.65)


def paint_photograph(chance: Chance, width: int, height: int) -> Image.Image:
    """Paint something that the model cannot name.

    Args:
        chance: of the sort and of everything in it.
        width: pixels.
        height: pixels.

    Returns:
        RGB picture, some in grey, some grainy or dim as photographs are.
    """
    paint = chance.pick(PHOTOGRAPHS)
    rng = np.random.default_rng(chance.rng.getrandbits(64))
    share = float(rng.uniform(*_SHARES))  # painted small, which is several times as fast
    image = paint(rng, round(share * width), round(share * height))
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
    return _to_image(pixels.astype(np.float32))
