"""Draws tokens from rows of logits: temperature, top-k, top-p, min-p, at one random number a row.

A row is looked at as if its tokens stood in order of falling probability, equal ones by id; a
number from 0 to 1 then points at one of them. The order is written out for the likeliest tokens
alone, which nearly always suffices; otherwise tokens are counted by how likely they are, and only
those of narrow classes are put in order. A row is never looked at beside another, so its token does
not depend on its neighbours. Penalties and bans are left to :mod:`internvl35.generate.sampler`.
Paper section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from internvl35.generate.sampling import SamplingSettings

Array: TypeAlias = NDArray[Any]

LARGE: Final = 16_384
"""Vocabularies from here on are large."""

SMALL_HEAD, LARGE_HEAD = 32, 128
"""Tokens that are put in order at first, at least."""

SMALL_BLOCK, LARGE_BLOCK = 16, 64
"""Tokens of a block, of which the likeliest tells whether any can be among the first."""

LONGEST_HEAD: Final = 1024
"""Longest top-k for which as many tokens are put in order at first."""

NUM_CLASSES: Final = 4096
"""Classes, of equal width in logits, that the tokens of a row are counted in."""

DEEPEST: Final = 100.0
"""Logits below the highest one, at temperature 1, under which all tokens are of one class."""

COLDEST: Final = 1e-30
"""Lowest temperature, above 0, by which float32 can be divided."""

CHUNK: Final = 1 << 20
"""Logits that are worked on at a time, so that what is made of them stays in a CPU's cache."""


@dataclass(frozen=True)
class Heads:
    """The likeliest tokens of some rows, in order."""

    values: Array
    """``(B, C)`` float64 logits, falling; -inf behind the end of a row."""
    token_ids: Array
    """``(B, C)`` int64."""
    lengths: Array
    """``(B,)`` how many tokens of each row there are."""
    is_whole: Array
    """``(B,)`` whether no token of the row is missing that could be drawn."""


def row_chunks(logits: Tensor) -> Iterator[slice]:
    """Cut rows into stretches that are worked on at a time.

    Args:
        logits: ``(B, W)``; a CPU's are taken a few rows at a time, a GPU's many.

    Yields:
        Stretches of ``range(B)``.
    """
    elements = CHUNK if logits.device.type == "cpu" else 64 * CHUNK
    size = max(1, elements // logits.shape[1])
    for start in range(0, len(logits), size):
        yield slice(start, min(start + size, len(logits)))


def find_best(scores: Tensor) -> tuple[Array, Array]:
    """Find the likeliest token of each row, the first of equal ones.

    Args:
        scores: ``(B, W)`` float32.

    Returns:
        ``(B,)`` token ids and ``(B,)`` float64 logits; NaN for a row that holds one.
    """
    if scores.device.type == "cpu":
        rows = scores.numpy()  # torch's argmax takes many times as long
        token_ids = rows.argmax(axis=1)
        return token_ids, rows[np.arange(len(rows)), token_ids].astype(np.float64)
    values, indices = scores.max(dim=1)
    return indices.cpu().numpy(), values.double().cpu().numpy()


def sum_weights(scores: Tensor, best: Array, temperatures: Array) -> Array:
    """Sum the probabilities of each row, as multiples of the likeliest token's.

    Args:
        scores: ``(B, W)`` float32.
        best: ``(B,)`` the highest logit of each row.
        temperatures: ``(B,)``.

    Returns:
        ``(B,)`` float64: the sums of ``exp((score - best) / temperature)``.
    """
    shifted = scores - _column(best, scores)
    if np.any(temperatures != 1):
        shifted /= _column(temperatures, scores)
    sums: Array = shifted.exp_().sum(dim=1).double().cpu().numpy()
    return sums


def _column(values: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device, like.dtype)[:, None]


def find_heads(scores: Tensor, num_wanted: Array) -> Heads:
    """Put the likeliest tokens of each row in order, equal ones by id.

    The highest logits of blocks of tokens give a bound that enough tokens reach; all that reach it
    are taken, so that none of several equal ones is missing.

    Args:
        scores: ``(B, W)`` float32.
        num_wanted: ``(B,)`` fewest tokens of each row, at least 1.

    Returns:
        As many tokens or more, or whole rows; tokens of -inf are left out.
    """
    width = scores.shape[1]
    block = SMALL_BLOCK if width < LARGE else LARGE_BLOCK
    num_full = width // block
    is_whole = num_wanted > num_full
    if is_whole.all():
        return _order_whole(scores)
    tops = scores[:, : num_full * block].unflatten(1, (num_full, block)).amax(dim=2)
    if num_full * block < width:
        tops = torch.cat([tops, scores[:, num_full * block :].amax(dim=1, keepdim=True)], dim=1)
    ranks = np.minimum(num_wanted, num_full)
    highest = tops.topk(int(ranks.max()), dim=1).values
    bounds = highest.gather(1, torch.from_numpy(ranks - 1).to(scores.device)[:, None])  # (B, 1)
    bounds[torch.from_numpy(is_whole).to(scores.device)] = -torch.inf
    rows, blocks = ((tops >= bounds) & (tops > -torch.inf)).nonzero(as_tuple=True)
    columns = blocks[:, None] * block + torch.arange(block, device=scores.device)
    cells = scores[rows[:, None], columns.clamp(max=width - 1)]  # (blocks taken, block)
    is_taken = (cells >= bounds[rows]) & (cells > -torch.inf) & (columns < width)
    found = (
        rows[:, None].expand_as(cells)[is_taken].cpu().numpy(),
        columns[is_taken].cpu().numpy(),
        cells[is_taken].cpu().numpy(),
    )
    return _order(*found, bounds[:, 0].cpu().numpy() == -np.inf, int(num_wanted.max()))


def _order(rows: Array, columns: Array, values: Array, is_whole: Array, num_wanted: int) -> Heads:
    """Order what was found, which comes by rows, and by token ids within them."""
    lengths = np.bincount(rows, minlength=len(is_whole))
    places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    table = np.full((len(is_whole), max(int(lengths.max()), 1)), -np.inf)
    table[rows, places] = values
    if table.shape[1] > 2 * num_wanted:  # likely tokens stood side by side
        last = -np.partition(-table, num_wanted - 1, axis=1)[:, num_wanted - 1]
        is_kept = values >= last[rows]
        if np.count_nonzero(is_kept) < len(values) // 2:
            rows, columns, values = rows[is_kept], columns[is_kept], values[is_kept]
            is_whole = is_whole & (np.bincount(rows, minlength=len(is_whole)) == lengths)
            return _order(rows, columns, values, is_whole, num_wanted)
    token_ids = np.zeros(table.shape, dtype=np.int64)
    token_ids[rows, places] = columns
    order = np.argsort(-table, axis=1, kind="stable")
    table = np.take_along_axis(table, order, 1)
    return Heads(table, np.take_along_axis(token_ids, order, 1), lengths, is_whole)


def _order_whole(scores: Tensor) -> Heads:
    values, token_ids = scores.sort(dim=1, descending=True, stable=True)
    table = values.double().cpu().numpy()
    lengths = np.count_nonzero(table > -np.inf, axis=1)
    return Heads(table, token_ids.cpu().numpy(), lengths, np.ones(len(table), dtype=bool))


def draw(scores: Tensor, settings: Sequence[SamplingSettings], numbers: Sequence[float]) -> Array:
    """Draw a token from each row.

    Top-k keeps what is as likely as the k-th token; top-p, of that, the fewest tokens that hold the
    share; min-p what is likely enough beside the likeliest one. Those that are left share the
    numbers from 0 to 1 by their probabilities, the likeliest first.

    Args:
        scores: ``(B, W)`` float32; the highest of each row is finite, -inf stands for a ban.
        settings: temperature (above 0), top_k, top_p and min_p of each row.
        numbers: one for each row, from 0 to below 1.

    Returns:
        ``(B,)`` token ids.
    """
    found = np.empty(len(scores), dtype=np.int64)
    for part in row_chunks(scores):
        found[part] = _draw_chunk(scores[part], settings[part], np.array(numbers[part]))
    return found


def _draw_chunk(scores: Tensor, settings: Sequence[SamplingSettings], numbers: Array) -> Array:
    knobs = _Knobs.of(settings, scores.shape[1])
    _, best = find_best(scores)
    heads = find_heads(scores, knobs.head)
    totals = np.full(len(scores), np.nan)
    is_open = (knobs.top_k == 0) & ~heads.is_whole
    if is_open.all():
        totals = sum_weights(scores, best, knobs.temperature)
    elif is_open.any():
        part = scores[torch.from_numpy(is_open).to(scores.device)]
        totals[is_open] = sum_weights(part, best[is_open], knobs.temperature[is_open])
    found = _draw_from_heads(heads, best, totals, knobs, numbers)
    for row in np.flatnonzero(found < 0):
        logits = scores[row].cpu().numpy()
        found[row] = _draw_from_classes(logits, best[row], settings[int(row)], numbers[row])
    return found


@dataclass(frozen=True)
class _Knobs:
    """Settings of several rows."""

    temperature: Array
    """``(B,)``."""
    top_k: Array
    """``(B,)``; 0 for all."""
    top_p: Array
    """``(B,)``."""
    min_p: Array
    """``(B,)``."""
    head: Array
    """``(B,)`` tokens that are put in order at first."""

    @classmethod
    def of(cls, settings: Sequence[SamplingSettings], width: int) -> _Knobs:
        """Gather them; a top-k of the whole vocabulary or more is none."""
        head = SMALL_HEAD if width < LARGE else LARGE_HEAD
        top_k = np.array([one.top_k if one.top_k < width else 0 for one in settings])
        return cls(
            np.array([max(one.temperature, COLDEST) for one in settings]),
            top_k,
            np.array([one.top_p for one in settings], dtype=np.float64),
            np.array([one.min_p for one in settings], dtype=np.float64),
            np.where((top_k > 0) & (top_k <= LONGEST_HEAD), top_k, head),
        )


def _draw_from_heads(
    heads: Heads, best: Array, totals: Array, knobs: _Knobs, numbers: Array
) -> Array:
    """Draw where the heads suffice.

    What top-k, top-p and min-p keep are beginnings of one order, so the shortest is the one of
    least weight. A weight of infinity stands for a beginning that ends behind the head, NaN for
    one that may end anywhere.

    Returns:
        ``(B,)`` token ids, -1 for a row whose token, or what is kept of it, lies behind the head.
    """
    values, is_cut = heads.values, ~heads.is_whole
    with np.errstate(over="ignore"):  # a temperature near 0
        weights = np.exp((values - best[:, None]) / knobs.temperature[:, None])
    sums = np.cumsum(weights, axis=1)
    covered, end = sums[:, -1], values.shape[1] - 1
    kept = np.where(is_cut, totals, covered)

    kth = np.take_along_axis(values, np.clip(knobs.top_k - 1, 0, end)[:, None], 1)
    of_k = np.where(values >= kth, weights, 0).sum(axis=1)
    of_k[is_cut & (knobs.top_k > heads.lengths)] = np.inf
    kept = np.where(knobs.top_k > 0, of_k, kept)

    goal = knobs.top_p * kept
    last = np.minimum(np.count_nonzero(sums < goal[:, None], axis=1), end)
    of_p = np.take_along_axis(sums, last[:, None], 1)[:, 0]
    of_p[is_cut & (covered < goal)] = np.inf
    of_p[kept == np.inf] = np.nan  # a share of what is not known
    kept = np.where(knobs.top_p < 1, of_p, kept)

    is_likely = weights >= knobs.min_p[:, None]
    of_min = np.where(is_likely, weights, 0).sum(axis=1)
    is_behind = is_cut & (np.count_nonzero(is_likely, axis=1) >= heads.lengths)
    is_unknown = is_behind & (kept > covered)
    kept = np.where(knobs.min_p > 0, np.where(is_unknown, np.inf, np.minimum(kept, of_min)), kept)

    with np.errstate(invalid="ignore"):  # 0 times infinity
        goal = numbers * kept
    place = np.minimum(
        np.count_nonzero(sums <= goal[:, None], axis=1),
        np.count_nonzero(sums < kept[:, None], axis=1),
    )
    found = np.take_along_axis(heads.token_ids, np.minimum(place, end)[:, None], 1)[:, 0]
    return np.where(goal < covered, found, -1)


def _draw_from_classes(row: Array, best: float, settings: SamplingSettings, number: float) -> int:
    """Draw from one row whose head does not suffice.

    Args:
        row: ``(W,)`` float32 logits.
        best: the highest of them.
        settings: temperature, top_k, top_p and min_p.
        number: from 0 to below 1.

    Returns:
        The token.
    """
    order = _ClassOrder(row, best, max(settings.temperature, COLDEST))
    kept = float(order.sums[-1])
    if 0 < settings.top_k < len(row):
        kept = order.weight_of_top(settings.top_k)
    if settings.top_p < 1:
        kept = order.find(settings.top_p * kept, side="left")[1]
    if settings.min_p > 0:
        likely = order.weights >= settings.min_p
        kept = min(kept, float(order.weights[likely].sum(dtype=np.float64)))
    return order.find(number * kept, side="right")[0]


class _ClassOrder:
    """The tokens of a row in order of falling probability, of which few are put in order."""

    def __init__(self, row: Array, best: float, temperature: float) -> None:
        """Count tokens and weights by classes of logits.

        Args:
            row: ``(W,)`` float32.
            best: the highest of them.
            temperature: above 0.
        """
        depths = (np.float32(best) - row) / np.float32(temperature)
        self.weights = np.exp(-depths)
        """``(W,)`` probabilities as multiples of the likeliest token's."""
        deepest = min(DEEPEST, float(np.max(depths, where=depths < np.inf, initial=0)))
        scale = (NUM_CLASSES - 1) / deepest if deepest > 0 else 0.0
        self._row = row
        self._classes = (np.minimum(depths, deepest) * scale).astype(np.int64)
        self._counts = np.bincount(self._classes, minlength=NUM_CLASSES)
        self._weights = np.bincount(self._classes, self.weights, NUM_CLASSES)
        self.sums = np.cumsum(self._weights)
        """Weight of the tokens of each class and all before it."""

    def find(self, goal: float, *, side: Literal["left", "right"]) -> tuple[int, float]:
        """Find the token at which the weights, summed up in order, reach or pass a goal.

        Args:
            goal: at most the weight of all.
            side: ``left`` if it is to be reached, ``right`` if it is to be passed.

        Returns:
            The token, and the sum up to and including it.
        """
        number = int(np.searchsorted(self.sums, goal, side))
        token_ids, sums = self._members(min(number, int(np.searchsorted(self.sums, self.sums[-1]))))
        # Sums of a class and of its tokens differ by rounding; a token of no weight is never taken.
        place = min(int(np.searchsorted(sums, goal, side)), int(np.searchsorted(sums, sums[-1])))
        return int(token_ids[place]), float(sums[place])

    def weight_of_top(self, num_tokens: int) -> float:
        """Sum the weights of tokens that are at least as likely as the one of that rank."""
        counts = np.cumsum(self._counts)
        number = int(np.searchsorted(counts, num_tokens))
        token_ids, sums = self._members(number)
        values = self._row[token_ids]
        last = values[num_tokens - 1 - (counts[number] - self._counts[number])]
        return float(sums[np.count_nonzero(values >= last) - 1])

    def _members(self, number: int) -> tuple[Array, Array]:
        """Put the tokens of a class in order; their weights are summed up from the likeliest on."""
        token_ids = np.flatnonzero(self._classes == number)
        token_ids = token_ids[np.argsort(-self._row[token_ids], kind="stable")]
        before = self.sums[number] - self._weights[number]
        return token_ids, before + np.cumsum(self.weights[token_ids], dtype=np.float64)
