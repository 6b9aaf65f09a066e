"""Settings of packing, apart from the planning of packs so that they are named without NumPy.

Packs are planned by :mod:`internvl35.data.packing`.
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl35.errors import ConfigError


@dataclass(frozen=True)
class PackingSettings:
    """Whether and how rows share packs."""

    packing: bool = False
    """Put rows one behind the other into packs, each row attending to itself alone."""
    packing_length: int | None = None
    """Most tokens of a pack; by default those of the longest row that is allowed."""
    packing_max_tiles: int = 96
    """Most tiles of a pack, at least 1."""
    packing_window: int = 1024
    """Rows among which those of a pack are looked for; more fill packs better, fewer keep the
    order of rows closer to the shuffled one."""

    def __post_init__(self) -> None:
        """Refuse settings under which no pack exists."""
        if self.packing_length is not None and self.packing_length < 1:
            raise ConfigError(f"packing_length is {self.packing_length}; it must be at least 1")
        for name in ("packing_max_tiles", "packing_window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
