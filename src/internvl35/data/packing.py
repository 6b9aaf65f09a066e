"""Which rows share a pack: sequences of many rows one behind the other, of nearly equal size.

Packs are planned from sizes alone, before anything is decoded. Joining examples to a pack is left
to :mod:`internvl35.data.batches`, attention within each row to :mod:`internvl35.train.attention`.
Paper section 2.2 and the released scripts (96 tiles and 32768 tokens a pack).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from internvl35.data.packing_settings import PackingSettings

__all__ = ["PackReport", "PackingSettings", "plan_packs", "report_packs"]

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class PackReport:
    """How well rows were packed."""

    num_packs: int
    """Packs."""
    num_rows: int
    """Rows in all of them."""
    token_fill: float
    """Tokens over the room for tokens, 0 to 1."""
    token_imbalance: float
    """Tokens of the largest pack over those of the mean one, at least 1."""
    tile_imbalance: float
    """Tiles of the pack with most over those of the mean one, at least 1; 1 without pictures."""


def plan_packs(
    tokens: ArrayLike,
    tiles: ArrayLike,
    order: Iterable[int],
    *,
    max_tokens: int,
    max_tiles: int,
    window: int = 1024,
) -> list[list[int]]:
    """Choose the rows of each pack.

    Within a window of rows, the number of packs is found by best fit on tokens, large rows first;
    then rows are spread over that many packs so that each has about as many tiles, and among those
    with pictures alike, as many tokens. Rows of the emptiest pack move on to the next window,
    once.

    Args:
        tokens: ``(rows,)`` tokens of every row.
        tiles: ``(rows,)`` tiles of every row.
        order: rows to pack, in the order of training; each at most once.
        max_tokens: most tokens of a pack.
        max_tiles: most tiles of a pack. A row that is larger than a pack gets one of its own.
        window: rows that are looked at together.

    Returns:
        Packs of rows, in the order of the first row of each; the same for the same arguments.
    """
    import numpy as np  # not above, so that settings can be named quickly

    sizes = _Sizes(np.asarray(tokens), np.asarray(tiles), max_tokens, max_tiles)
    rows = list(order)
    packs: list[list[int]] = []
    carried: list[int] = []
    for start in range(0, len(rows), window):
        found = _pack_window([*carried, *rows[start : start + window]], sizes)
        # a row moves on once, or one that takes few tokens and many tiles would do so for ever
        movable = [pack for pack in found if set(carried).isdisjoint(pack)]
        carried = []
        if start + window < len(rows) and movable:
            carried = min(movable, key=sizes.count)
            found.remove(carried)
        packs += found
    return packs


def report_packs(
    packs: Sequence[Sequence[int]], tokens: ArrayLike, tiles: ArrayLike, *, max_tokens: int
) -> PackReport:
    """Say how full and how unequal packs are.

    Args:
        packs: rows of each pack.
        tokens: ``(rows,)`` tokens of every row.
        tiles: ``(rows,)`` tiles of every row.
        max_tokens: most tokens of a pack.

    Returns:
        The report.
    """
    import numpy as np

    all_tokens, all_tiles = np.asarray(tokens), np.asarray(tiles)
    loads = np.array([all_tokens[list(pack)].sum() for pack in packs])
    seen = np.array([all_tiles[list(pack)].sum() for pack in packs])
    return PackReport(
        num_packs=len(packs),
        num_rows=sum(map(len, packs)),
        token_fill=float(loads.sum() / (max_tokens * len(packs))) if packs else 0.0,
        token_imbalance=float(loads.max() / loads.mean()) if packs and loads.any() else 1.0,
        tile_imbalance=float(seen.max() / seen.mean()) if packs and seen.any() else 1.0,
    )


class _Sizes:
    """Sizes of all rows, and the room of a pack."""

    def __init__(
        self, tokens: NDArray[np.int64], tiles: NDArray[np.int64], max_tokens: int, max_tiles: int
    ) -> None:
        self.tokens = tokens
        self.tiles = tiles
        self.max_tokens = max_tokens
        self.max_tiles = max_tiles

    def count(self, rows: Sequence[int]) -> int:
        """Tokens of several rows."""
        return int(self.tokens[list(rows)].sum())


class _Loads:
    """What packs hold so far."""

    def __init__(self, num_packs: int, sizes: _Sizes) -> None:
        import numpy as np

        self.rows: list[list[int]] = [[] for _ in range(num_packs)]
        self.tokens = np.zeros(num_packs, dtype=np.int64)
        self.tiles = np.zeros(num_packs, dtype=np.int64)
        self._sizes = sizes

    def find_room(self, row: int) -> NDArray[np.int64]:
        """Number the packs that have room for a row; an empty one has room for any."""
        sizes = self._sizes
        has_room = (self.tokens + sizes.tokens[row] <= sizes.max_tokens) & (
            self.tiles + sizes.tiles[row] <= sizes.max_tiles
        )
        found: NDArray[np.int64] = (has_room | (self.tokens == 0)).nonzero()[0]
        return found

    def put(self, row: int, pack: int) -> None:
        """Add a row to a pack."""
        self.rows[pack].append(row)
        self.tokens[pack] += max(1, self._sizes.tokens[row])
        self.tiles[pack] += self._sizes.tiles[row]


def _pack_window(rows: Sequence[int], sizes: _Sizes) -> list[list[int]]:
    places = {row: place for place, row in enumerate(rows)}
    by_tokens = sorted(rows, key=lambda row: (-sizes.tokens[row], places[row]))
    tight = _fill(by_tokens, sizes)
    packs = _spread(rows, places, len(tight), sizes) or tight
    packs = [sorted(pack, key=places.__getitem__) for pack in packs]
    return sorted(packs, key=lambda pack: places[pack[0]])


def _fill(rows: Sequence[int], sizes: _Sizes) -> list[list[int]]:
    """Put each row into the fullest pack that has room for it."""
    loads = _Loads(len(rows), sizes)
    num_packs = 0
    for row in rows:
        room = loads.find_room(row)
        room = room[room < num_packs]
        if len(room):
            pack = int(room[loads.tokens[room].argmax()])
        else:
            pack, num_packs = num_packs, num_packs + 1
        loads.put(row, pack)
    return loads.rows[:num_packs]


def _spread(
    rows: Sequence[int], places: dict[int, int], num_packs: int, sizes: _Sizes
) -> list[list[int]] | None:
    """Put each row into the pack with fewest tiles, or tokens if it has none, that has room."""
    loads = _Loads(num_packs, sizes)
    for row in sorted(rows, key=lambda row: (-sizes.tiles[row], -sizes.tokens[row], places[row])):
        room = loads.find_room(row)
        if not len(room):
            return None
        if sizes.tiles[row]:
            pack = min(room, key=lambda pack: (loads.tiles[pack], loads.tokens[pack]))
        else:
            pack = room[loads.tokens[room].argmin()]
        loads.put(row, int(pack))
    return loads.rows if all(loads.rows) else None
