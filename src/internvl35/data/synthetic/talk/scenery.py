"""Smears of places, people and things, as a photograph might show them.

The other sorts, and choosing among all, are left to
:mod:`internvl35.data.synthetic.talk.photographs`. No counterpart in the paper.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from internvl35.data.synthetic.talk.noise import (
    Floats,
    blend,
    choose_colour,
    fractal_noise,
    to_image,
    to_ink,
)


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


def paint_landscape(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Sky, and ranges of hills that fade into the distance."""
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.ones(width, np.float32)
    sky = blend(down, choose_colour(rng, 60, 230), choose_colour(rng, 140, 256))
    sky += 50 * (fractal_noise(rng, width, height)[..., None] - 0.5)
    ground, haze = choose_colour(rng, 10, 130), sky.mean(axis=(0, 1))
    texture = 70 * (fractal_noise(rng, width, height, 1.3)[..., None] - 0.5)
    num = int(rng.integers(1, 5))
    for layer in range(num):
        share = (layer + 1) / num
        top = height * (0.25 + 0.45 * share - 0.25 * _ridge(rng, width))
        is_hill = np.arange(height)[:, None] >= top
        sky = np.where(is_hill[..., None], share * ground + (1 - share) * haze + texture, sky)
    return to_image(sky)


def paint_portrait(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A smear of a face: skin, hair, eyes, a mouth and shoulders, lit from a side."""
    image = to_image(
        blend(fractal_noise(rng, width, height, 2.5), choose_colour(rng), choose_colour(rng))
    )
    pen = ImageDraw.Draw(image)
    skin = np.array([230, 185, 155], np.float32) * rng.uniform(0.35, 1.05) + rng.normal(0, 9, 3)
    skin = skin.astype(np.float32)
    hair = choose_colour(rng, 0, 150)
    x, y, r = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.35, 0.5), width * 0.2
    r *= rng.uniform(0.7, 1.5)
    clothes = to_ink(choose_colour(rng))
    pen.ellipse((x - 2.1 * r, y + 1.3 * r, x + 2.1 * r, y + 6 * r), fill=clothes)
    long = rng.uniform(0.9, 2.4)
    pen.ellipse((x - 1.25 * r, y - 1.6 * r, x + 1.25 * r, y + long * r), fill=to_ink(hair))
    pen.rectangle((x - 0.45 * r, y + 0.6 * r, x + 0.45 * r, y + 1.7 * r), fill=to_ink(0.85 * skin))
    pen.ellipse((x - r, y - 1.2 * r, x + r, y + 1.3 * r), fill=to_ink(skin))
    for side in (-1, 1):
        eye = x + side * 0.4 * r
        pen.ellipse(
            (eye - 0.2 * r, y - 0.25 * r, eye + 0.2 * r, y - 0.05 * r), fill=(240, 240, 236)
        )
        pen.ellipse((eye - 0.1 * r, y - 0.26 * r, eye + 0.1 * r, y - 0.04 * r), fill=(40, 30, 26))
        pen.line(
            (eye - 0.3 * r, y - 0.45 * r, eye + 0.3 * r, y - 0.5 * r), fill=to_ink(hair), width=3
        )
    pen.line((x, y - 0.1 * r, x - 0.1 * r, y + 0.35 * r, x + 0.1 * r, y + 0.35 * r), width=2,
             fill=to_ink(0.7 * skin))  # fmt: skip
    pen.ellipse((x - 0.4 * r, y + 0.6 * r, x + 0.4 * r, y + 0.8 * r), fill=(170, 70, 70))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.8, 3.5))))
    first, last = rng.uniform(0.55, 1.25, 2)
    light = np.linspace(first, last, width, dtype=np.float32)
    return to_image(np.asarray(image, np.float32) * light[None, :, None])


def paint_still_life(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Round, shaded things with shadows on a table."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    edge = height * rng.uniform(0.3, 0.6)
    wall = blend(rows / height, choose_colour(rng, 40, 220), choose_colour(rng, 40, 220))
    table = choose_colour(rng, 40, 200) + 50 * (fractal_noise(rng, width, height)[..., None] - 0.5)
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
        skin = choose_colour(rng, 40) * light[..., None]
        skin += 30 * (fractal_noise(rng, width, height, 1.5)[..., None] - 0.5)
        pixels = np.where((depth > 0)[..., None], skin, pixels)
    return to_image(pixels)


def paint_street(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Houses with windows along a road, seen in perspective."""
    image = to_image(
        blend(
            fractal_noise(rng, width, height, 2.5), choose_colour(rng, 90), choose_colour(rng, 90)
        )
    )
    pen = ImageDraw.Draw(image)
    horizon = height * rng.uniform(0.45, 0.6)
    pen.rectangle((0, horizon, width, height), fill=to_ink(choose_colour(rng, 50, 130)))
    middle = width * rng.uniform(0.35, 0.65)
    road = ((middle, horizon), (-0.1 * width, height), (1.1 * width, height))
    pen.polygon(road, fill=to_ink(choose_colour(rng, 60, 110)))
    for side in (-1, 1):
        near = 0.0 if side < 0 else float(width)
        for step in np.linspace(0, 0.8, int(rng.integers(3, 6))):
            x0 = near + (middle - near) * step
            x1 = near + (middle - near) * (step + 0.22)
            tall = horizon * rng.uniform(0.5, 1) * (1 - step)
            base = horizon + (height - horizon) * 0.5 * (1 - step)
            wall = to_ink(choose_colour(rng, 60, 220))
            left, right = min(x0, x1), max(x0, x1)
            pen.rectangle((left, horizon - tall, right, base), fill=wall)
            glass = to_ink(choose_colour(rng, 10, 120))
            across = (right - left) / 4
            for row in np.arange(horizon - tall + 4, base - 8, max(6.0, tall / 5)):
                for column in (0.6, 2.2):
                    x = left + column * across
                    pen.rectangle((x, row, x + 0.9 * across, row + max(3.0, tall / 9)), fill=glass)
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.6))))
    noise = rng.normal(0, 9, (height, width, 1)).astype(np.float32)
    return to_image(np.asarray(image, np.float32) + noise)


def paint_plant(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Branches and leaves before a blurred ground."""
    image = to_image(
        blend(fractal_noise(rng, width, height, 2), choose_colour(rng, 60), choose_colour(rng, 60))
    )
    image = image.filter(ImageFilter.GaussianBlur(4))
    pen = ImageDraw.Draw(image)
    bark, leaf = choose_colour(rng, 20, 110), choose_colour(rng, 20, 200)
    tips = [(width * rng.uniform(0.3, 0.7), float(height), -math.pi / 2, height * 0.28)]
    for depth in range(6):
        grown = []
        for x, y, angle, length in tips:
            end = x + math.cos(angle) * length, y + math.sin(angle) * length
            pen.line((x, y, *end), fill=to_ink(bark), width=max(1, 7 - depth))
            for turn in rng.uniform(-0.8, 0.8, 2):
                grown.append((*end, angle + float(turn), length * float(rng.uniform(0.6, 0.85))))
        tips = grown
    for x, y, _, _ in tips:
        r = rng.uniform(2, 8)
        shade = to_ink(leaf * rng.uniform(0.6, 1.3))
        pen.ellipse((x - r, y - 0.6 * r, x + r, y + 0.6 * r), fill=shade)
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.5))))


def paint_figures(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Smears of people or animals before a landscape."""
    image = paint_landscape(rng, width, height)
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 5))):
        x, tall = width * rng.uniform(0.1, 0.9), height * rng.uniform(0.25, 0.6)
        base = height * rng.uniform(0.75, 1.0)
        head, half = tall * 0.08, tall * 0.12
        shirt, legs, skin = (
            to_ink(choose_colour(rng, *span)) for span in ((20, 240), (10, 110), (90, 220))
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
