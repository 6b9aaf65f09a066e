"""Which load a server gets, and what is expected of it.

Requests are made of it in :mod:`internvl35.serve.bench.bodies`. No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from internvl35.errors import ConfigError


@dataclass(frozen=True)
class BenchSettings:
    """A load and its limits."""

    url: str = "http://127.0.0.1:8000/v1"
    """Where the server's API begins."""
    served_name: str | None = None
    """Name of the model to ask; by default the first that the server lists."""
    num_requests: int = 100
    """Requests that are measured."""
    num_warm_up: int = 2
    """Requests before them, one after another, that are not."""
    rate: float | None = None
    """Mean of arrivals a second, gaps between them as if nobody knew of each other; by default
    each request is sent as soon as --max-open lets it."""
    max_open: int = 64
    """Most requests under way at once; a request that arrives meanwhile waits, and its wait
    counts."""
    num_pictures: int = 1
    """Pictures a request."""
    picture_width: int = 896
    """Pixels."""
    picture_height: int = 448
    """Pixels."""
    repeat_share: float = 0.0
    """Share of pictures that were shown before, 0 to 1; the others are new to the server."""
    num_words: int = 30
    """Words of a question."""
    max_tokens: int = 64
    """Tokens of an answer; each has as many, whatever it says."""
    flash: Literal["default", "on", "off"] = "default"
    """Whether tiles are compressed; default as the server does."""
    seed: int = 0
    """Seed of pictures, words and arrivals."""
    first_token_limit_s: float = 2.0
    """Longest time in seconds to the first text of an answer that counts as good."""
    token_limit_s: float = 0.1
    """Longest mean time in seconds of each later token that counts as good."""
    timeout_s: float = 600.0
    """Longest time in seconds that an answer is waited for."""

    def __post_init__(self) -> None:
        """Refuse loads that there are not."""
        address = urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ConfigError(f"url is {self.url!r}; needed: an http or https URL")
        least = {
            "num_requests": 1, "num_warm_up": 0, "max_open": 1, "num_pictures": 0,
            "picture_width": 1, "picture_height": 1, "num_words": 1, "max_tokens": 1,
        }  # fmt: skip
        for name, needed in least.items():
            if getattr(self, name) < needed:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: at least {needed}")
        for name in ("rate", "first_token_limit_s", "token_limit_s", "timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; needed: above 0")
        if not 0 <= self.repeat_share <= 1:
            raise ConfigError(f"repeat_share is {self.repeat_share}; needed: 0 to 1")


@dataclass(frozen=True)
class Outcome:
    """What became of one request."""

    kind: Literal["answered", "refused", "failed", "lost"]
    """Refused means that the server is full and says so; lost, that no answer came."""
    arrived_s: float
    """When it was due, in seconds from the beginning."""
    ended_s: float
    """When its last byte came."""
    status: int | None = None
    """Of HTTP; None if there was none."""
    error: str | None = None
    """Kind of what went wrong."""
    first_token_s: float | None = None
    """From its arrival to the first text."""
    num_new_tokens: int = 0
    """Tokens of the answer."""
    num_prompt_tokens: int = 0
    """Tokens of the prompt, pictures counted as compressed."""
    num_cached_tokens: int = 0
    """Of them, those that had not to be computed."""
    num_image_tokens: int = 0
    """Of them, those of pictures."""
    num_image_tokens_before: int = 0
    """What those of pictures were without compression."""

    @property
    def seconds(self) -> float:
        """From its arrival to its end."""
        return self.ended_s - self.arrived_s

    @property
    def token_s(self) -> float | None:
        """Mean time of each token after the first."""
        if self.first_token_s is None or self.num_new_tokens < 2:
            return None
        return (self.seconds - self.first_token_s) / (self.num_new_tokens - 1)
