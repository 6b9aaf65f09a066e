"""How much a language server takes on; needs no torch, so that the command's help is quick.

No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl35.errors import ConfigError


@dataclass(frozen=True)
class LanguageServerSettings:
    """How much a language server takes on."""

    max_request_tiles: int = 512
    """Most tiles of a request."""
    max_tokens_in_work: int = 262_144
    """Most prompt tokens of all requests; a request that comes on top is refused, unless it is
    alone."""
    max_batch_tokens: int | None = None
    """Most tokens that a step computes; by default 512 on a CPU and 8192 on a GPU."""
    max_sequences: int | None = None
    """Most answers that are written at once; by default 64 on a CPU and 256 on a GPU."""
    cache_gib: float | None = None
    """GiB of keys and values; by default room for 16,384 tokens or the longest prompt on a CPU, and
    80 % of the free memory on a GPU."""
    retry_after_s: float = 1.0
    """Seconds after which a gateway whose request was refused tries again."""

    def __post_init__(self) -> None:
        """Refuse limits under which nothing is answered."""
        for name in (
            "max_request_tiles",
            "max_tokens_in_work",
            "max_batch_tokens",
            "max_sequences",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; needed: 1 or more")
        for name in ("cache_gib", "retry_after_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; needed: above 0")
