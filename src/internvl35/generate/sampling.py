"""How the next token is chosen, and when an answer ends.

Generation itself is left to :mod:`internvl35.generate.runner`. Paper section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl35.errors import ConfigError


@dataclass(frozen=True)
class SamplingSettings:
    """Choice of tokens and length of answers."""

    max_tokens: int = 1024
    """Most tokens of an answer."""
    temperature: float = 0.0
    """0 always takes the likeliest token; higher values choose more freely (0.6 for thinking)."""
    top_p: float = 1.0
    """Smallest total probability of the likeliest tokens to choose from, above 0 to 1."""
    top_k: int = 0
    """Number of likeliest tokens to choose from; 0 for all."""
    min_p: float = 0.0
    """Least probability of a token, as a share of the likeliest one's, 0 to 1."""
    repetition_penalty: float = 1.0
    """Factor by which tokens already written become less likely; 1 for none."""
    seed: int | None = None
    """Seed of the choice; None for a different one every time."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; they are not part of it."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        ranges = {
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature <= 100, "0 to 100"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "min_p": (0 <= self.min_p <= 1, "0 to 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
            "stop": (all(self.stop), "texts that are not empty"),
        }
        for name, (is_right, needed) in ranges.items():
            if not is_right:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; needed: {needed}")
