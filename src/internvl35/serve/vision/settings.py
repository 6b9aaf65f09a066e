"""How much a vision server takes on; needs no torch, so that the command's help is quick.

No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl35.errors import ConfigError


@dataclass(frozen=True)
class VisionServerSettings:
    """How much a vision server takes on."""

    max_request_tiles: int = 512
    """Most tiles of a request."""
    max_tiles_in_work: int = 1024
    """Most tiles of all requests; a request that comes on top is refused, unless it is alone."""
    max_tiles_per_batch: int = 16
    """Most tiles that go through the tower at once."""
    num_helpers: int = 2
    """Threads that turn tiles into pixel values while others are encoded."""
    feature_cache_mib: int = 256
    """MiB of visual tokens that are kept for pictures shown again; 0 for none."""
    retry_after_s: float = 1.0
    """Seconds after which a gateway whose request was refused tries again."""

    def __post_init__(self) -> None:
        """Refuse limits under which nothing is encoded."""
        for name, least in (
            ("max_request_tiles", 1), ("max_tiles_in_work", 1), ("max_tiles_per_batch", 1),
            ("num_helpers", 1), ("feature_cache_mib", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: {least} or more")
        if not self.retry_after_s > 0:
            raise ConfigError(f"retry_after_s is {self.retry_after_s}; needed: above 0")
