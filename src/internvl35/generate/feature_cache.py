"""Visual tokens of tiles seen before, found by what the tiles show, and bounded in bytes.

What is looked up and when is decided by :mod:`internvl35.generate.vision`. No counterpart in the
paper.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from internvl35.errors import ConfigError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.routing import RoutedTiles


@dataclass(frozen=True)
class FeatureKey:
    """What visual tokens depend on, beside the network."""

    tiles: tuple[bytes, ...]
    """Digests of the tiles that were computed together; pixels tell how a picture was cut and
    normalised too."""
    flash: FlashSettings
    """By which rule each of them took its branch, thresholds named."""
    salt: str = ""
    """Only requests of equal salt share."""


class FeatureCache:
    """Keeps what was used last, and never more than its bytes.

    Args:
        max_bytes: most bytes of visual tokens; 0 keeps nothing.

    Raises:
        ConfigError: if ``max_bytes`` is negative.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ConfigError(f"cache_bytes is {max_bytes}; needed: 0 or more")
        self.max_bytes = max_bytes
        self.num_bytes = 0
        """Bytes of the visual tokens that are kept."""
        self.num_hits = 0
        """Lookups that found something."""
        self.num_misses = 0
        """Lookups that found nothing."""
        self._entries: OrderedDict[FeatureKey, RoutedTiles] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: FeatureKey) -> bool:
        return key in self._entries

    def find(self, key: FeatureKey) -> RoutedTiles | None:
        """Look visual tokens up; they now count as used last.

        Args:
            key: what they depend on.

        Returns:
            What was kept, or None.
        """
        found = self._entries.get(key)
        if found is None:
            self.num_misses += 1
            return None
        self.num_hits += 1
        self._entries.move_to_end(key)
        return found

    def keep(self, key: FeatureKey, tiles: RoutedTiles) -> RoutedTiles:
        """Keep visual tokens; those unused for longest make room.

        Args:
            key: what they depend on.
            tiles: a part of a larger tensor is copied, since it would hold the whole of it.

        Returns:
            The same, sharing no memory with anything but the cache.
        """
        features = tiles.features
        if features.untyped_storage().nbytes() != features.nbytes:
            tiles = replace(tiles, features=features.clone())
        self._drop(key)
        if features.nbytes > self.max_bytes:
            return tiles
        while self.num_bytes + features.nbytes > self.max_bytes:
            self._drop(next(iter(self._entries)))
        self._entries[key] = tiles
        self.num_bytes += features.nbytes
        return tiles

    def clear(self) -> None:
        """Forget everything, as is needed when weights have changed."""
        self._entries.clear()
        self.num_bytes = 0

    def _drop(self, key: FeatureKey) -> None:
        dropped = self._entries.pop(key, None)
        if dropped is not None:
            self.num_bytes -= dropped.features.nbytes
