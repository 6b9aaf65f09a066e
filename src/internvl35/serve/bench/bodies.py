"""Requests of a load: drawn pictures, random words, the same for the same seed.

Sending them is left to :mod:`internvl35.serve.bench.run`. No counterpart in the paper.
"""

from __future__ import annotations

import base64
import io
from random import Random
from typing import Any

from PIL import Image, ImageDraw

from internvl35.serve.bench.settings import BenchSettings

_WORDS = (
    "count", "colour", "shape", "left", "right", "above", "small", "large", "red", "green", "blue",
    "circle", "square", "line", "table", "number", "letter", "where", "which", "how", "many",
    "what", "is", "the", "of", "in", "and", "picture",
)  # fmt: skip
_NUM_SHAPES = 12
_FLASH = {"on": True, "off": False}


class BodyMaker:
    """Makes the bodies of requests, one after another.

    Args:
        settings: of the load.
        name: of the model.
        seed: of what is drawn; loads of different seeds share no picture.
    """

    def __init__(self, settings: BenchSettings, name: str, seed: int) -> None:
        """Begin with no picture shown."""
        self._settings, self._name = settings, name
        self._chance = Random(seed)
        self._shown: list[str] = []

    def make(self) -> dict[str, Any]:
        """Make a body.

        Returns:
            JSON values of a chat-completions request whose answer is streamed.
        """
        settings, chance = self._settings, self._chance
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": self._picture()}}
            for _ in range(settings.num_pictures)
        ]
        words = " ".join(chance.choice(_WORDS) for _ in range(settings.num_words))
        content.append({"type": "text", "text": words})
        body: dict[str, Any] = {
            "model": self._name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": settings.max_tokens,
            "ignore_eos": True,  # answers of equal length, whichever model gives them
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if settings.flash != "default":
            body["flash"] = _FLASH[settings.flash]
        return body

    def _picture(self) -> str:
        if self._shown and self._chance.random() < self._settings.repeat_share:
            return self._chance.choice(self._shown)
        self._shown.append(self._draw())
        return self._shown[-1]

    def _draw(self) -> str:
        size = self._settings.picture_width, self._settings.picture_height
        picture = Image.new("RGB", size, self._colour())
        pen = ImageDraw.Draw(picture)
        for _ in range(_NUM_SHAPES):
            xs = sorted(self._chance.randrange(size[0]) for _ in range(2))
            ys = sorted(self._chance.randrange(size[1]) for _ in range(2))
            draw = self._chance.choice((pen.ellipse, pen.rectangle))
            draw((xs[0], ys[0], xs[1], ys[1]), fill=self._colour())
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

    def _colour(self) -> tuple[int, int, int]:
        red, green, blue = (self._chance.randrange(256) for _ in range(3))
        return red, green, blue


def draw_arrivals(settings: BenchSettings) -> list[float]:
    """Draw when requests arrive.

    Args:
        settings: of the load.

    Returns:
        Seconds from the beginning, the first one 0; all of them 0 without a rate.
    """
    chance = Random(settings.seed)
    moments = [0.0]
    for _ in range(settings.num_requests - 1):
        gap = 0.0 if settings.rate is None else chance.expovariate(settings.rate)
        moments.append(moments[-1] + gap)
    return moments
