"""Attention of newest tokens on a CPU, compiled by numba: reads pages where they lie.

Called through :func:`internvl35.generate.decode_attention.attend_decode`, which says what goes in
and comes out. Compiled at first use and kept on disk. Inner loops are written with vectors of
sixteen numbers, because what a compiler makes of sums that end in one number differs by a factor.
No counterpart in the paper.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model
from torch import Tensor

LANES = 16
"""Numbers in a vector; heads are as wide as a multiple of it."""

_TILE = 16
"""Tokens whose keys or values are widened at once; they and a query stay in the fastest cache."""

_NO_SINK = -1e30
"""Adds nothing to any sum; infinite numbers are none under fast arithmetic."""

_READ_PER_THREAD = 1 << 20
"""Numbers of the cache that are worth waking another thread for: some hundred microseconds."""

_fast = njit(fastmath=True, nogil=True, error_model="numpy")


class _VectorType(types.Type):
    """Sixteen float32 in a register."""


_VECTOR = _VectorType(name="Float32x16")
_IR_VECTOR = ir.VectorType(ir.FloatType(), LANES)


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _IR_VECTOR)


def _address(context, builder, array_type, array, index, pointed):  # type: ignore[no-untyped-def]
    start = context.make_array(array_type)(context, builder, value=array).data
    return builder.bitcast(builder.gep(start, [index]), pointed.as_pointer())


@intrinsic
def _load(typing_context, array, index):  # type: ignore[no-untyped-def]
    """Read sixteen numbers; the upper half of a float32 is a bfloat16, which comes as uint16."""
    is_half = array.dtype == types.uint16

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        stored = ir.VectorType(ir.IntType(16), LANES) if is_half else _IR_VECTOR
        place = _address(context, builder, array, arguments[0], arguments[1], stored)
        found = builder.load(place, align=2 if is_half else 4)
        if not is_half:
            return found
        words = ir.VectorType(ir.IntType(32), LANES)
        shift = ir.Constant(words, [16] * LANES)
        return builder.bitcast(builder.shl(builder.zext(found, words), shift), _IR_VECTOR)

    return _VECTOR(array, types.intp), write


@intrinsic
def _prefetch(typing_context, array, index):  # type: ignore[no-untyped-def]
    """Ask for what lies there, to be read soon and once."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        byte, word = ir.IntType(8), ir.IntType(32)
        place = _address(context, builder, array, arguments[0], arguments[1], byte)
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, *(ir.Constant(word, one) for one in (0, 2, 1))])

    return types.void(array, types.intp), write


@intrinsic
def _store(typing_context, array, index, vector):  # type: ignore[no-untyped-def]
    """Write sixteen float32."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = _address(context, builder, array, arguments[0], arguments[1], _IR_VECTOR)
        builder.store(arguments[2], place, align=4)

    return types.void(array, types.intp, _VECTOR), write


@intrinsic
def _fill(typing_context, number):  # type: ignore[no-untyped-def]
    """Repeat a number."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        empty = ir.Constant(_IR_VECTOR, ir.Undefined)
        first = builder.insert_element(empty, arguments[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, empty, _lanes([0] * LANES))

    return _VECTOR(types.float32), write


@intrinsic
def _add_product(typing_context, total, left, right):  # type: ignore[no-untyped-def]
    """Compute ``total + left * right``, place by place."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        flags = ("fast",)
        product = builder.fmul(arguments[1], arguments[2], flags=flags)
        return builder.fadd(arguments[0], product, flags=flags)

    return _VECTOR(_VECTOR, _VECTOR, _VECTOR), write


@intrinsic
def _store_sums(typing_context, array, index, one, two, three, four):  # type: ignore[no-untyped-def]
    """Write the sums over the places of four vectors next to each other.

    Four at once, because half of each step then works on two of them.
    """

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        def add(left, right, first, second):  # type: ignore[no-untyped-def]
            return builder.fadd(
                builder.shuffle_vector(left, right, _lanes(first)),
                builder.shuffle_vector(left, right, _lanes(second)),
            )

        narrow = []
        for vector in arguments[2:]:
            eight = add(vector, vector, range(8), range(8, 16))
            narrow.append(add(eight, eight, range(4), range(4, 8)))
        early = add(narrow[0], narrow[1], (0, 1, 4, 5), (2, 3, 6, 7))
        late = add(narrow[2], narrow[3], (0, 1, 4, 5), (2, 3, 6, 7))
        sums = add(early, late, (0, 2, 4, 6), (1, 3, 5, 7))
        place = _address(context, builder, array, arguments[0], arguments[1], sums.type)
        builder.store(sums, place, align=4)

    return types.void(array, types.intp, _VECTOR, _VECTOR, _VECTOR, _VECTOR), write


def _lanes(places):  # type: ignore[no-untyped-def]
    return ir.Constant(ir.VectorType(ir.IntType(32), len(places)), list(places))


@_fast
def _find(table, size, stride, shared, token, width):  # type: ignore[no-untyped-def]
    """Find where the numbers of a token and head start."""
    number = token // size
    return (table[number] * stride + shared * size + token - number * size) * width


@_fast
def _find_next(table, size, stride, shared, heads, token, behind, width):  # type: ignore[no-untyped-def]
    """Find what is copied after these tokens of a head: the next head's, or those behind."""
    if shared + 1 < heads[1]:
        return _find(table, size, stride, shared + 1, token, width)
    return _find(table, size, stride, heads[0], behind, width)


@_fast
def _widen(pages, table, size, stride, shared, first, stop, ahead, tile):  # type: ignore[no-untyped-def]
    """Copy tokens ``first`` to ``stop - 1`` of one sequence and head into a tile, as float32.

    Pages lie anywhere, so what is copied next, from ``ahead`` on, is asked for in time.
    """
    width = len(tile) // _TILE
    number = first // size
    place = first - number * size
    start = (table[number] * stride + shared * size + place) * width
    for token in range(stop - first):
        if place == size:
            number += 1
            place = 0
            start = (table[number] * stride + shared * size) * width
        for lane in range(0, width, LANES):
            _prefetch(pages, ahead + lane)
            _store(tile, token * width + lane, _load(pages, start + lane))
        place += 1
        start += width
        ahead += width
    tile[(stop - first) * width :] = 0  # what was there may be no number, and 0 times that is none


@_fast
def _score(query, at, tile, scores, to):  # type: ignore[no-untyped-def]
    """Multiply a query with the keys of a tile."""
    width = len(tile) // _TILE
    for token in range(0, _TILE, 4):
        start = token * width
        one = two = three = four = _fill(np.float32(0))
        for lane in range(0, width, LANES):
            part = _load(query, at + lane)
            one = _add_product(one, part, _load(tile, start + lane))
            two = _add_product(two, part, _load(tile, start + width + lane))
            three = _add_product(three, part, _load(tile, start + 2 * width + lane))
            four = _add_product(four, part, _load(tile, start + 3 * width + lane))
        _store_sums(scores, to + token, one, two, three, four)


@_fast
def _add(weights, at, tile, totals, to):  # type: ignore[no-untyped-def]
    """Add the weighted values of a tile to a head's totals."""
    width = len(tile) // _TILE
    for token in range(0, _TILE, 8):
        start = token * width
        one, two = _fill(weights[at + token]), _fill(weights[at + token + 1])
        three, four = _fill(weights[at + token + 2]), _fill(weights[at + token + 3])
        five, six = _fill(weights[at + token + 4]), _fill(weights[at + token + 5])
        seven, eight = _fill(weights[at + token + 6]), _fill(weights[at + token + 7])
        for lane in range(0, width, LANES):
            place = start + lane
            total = _add_product(_load(totals, to + lane), one, _load(tile, place))
            total = _add_product(total, two, _load(tile, place + width))
            total = _add_product(total, three, _load(tile, place + 2 * width))
            total = _add_product(total, four, _load(tile, place + 3 * width))
            total = _add_product(total, five, _load(tile, place + 4 * width))
            total = _add_product(total, six, _load(tile, place + 5 * width))
            total = _add_product(total, seven, _load(tile, place + 6 * width))
            total = _add_product(total, eight, _load(tile, place + 7 * width))
            _store(totals, to + lane, total)


@_fast
def _exponentiate(number):  # type: ignore[no-untyped-def]
    """Compute e to the power of a number that is not above 0, to the last bit but two.

    The library's own function is called for one number at a time; this one is seen through. Two to
    the power of a whole number is written into the bits of the exponent; the polynomial is that of
    two to the power of -1/2 to 1/2.
    """
    power = max(number * np.float32(1.4426950408889634), np.float32(-126))
    whole = np.int32(power - np.float32(0.5))
    rest = power - np.float32(whole)
    value = np.float32(1.535336188319500e-4)
    value = value * rest + np.float32(1.339887440266574e-3)
    value = value * rest + np.float32(9.618437357674640e-3)
    value = value * rest + np.float32(5.550332471162809e-2)
    value = value * rest + np.float32(2.402264791363012e-1)
    value = value * rest + np.float32(6.931472028550421e-1)
    value = value * rest + np.float32(1)
    return value * np.int32((whole + np.int32(127)) << 23).view(np.float32)


@_fast
def _weigh(scores, num_tokens, sink):  # type: ignore[no-untyped-def]
    """Turn logits into weights that still have to be divided by their sum; return one over it."""
    largest = sink
    for token in range(num_tokens):
        largest = max(largest, scores[token])
    total = np.float32(0)
    for token in range(num_tokens):
        weight = _exponentiate(scores[token] - largest)
        scores[token] = weight
        total += weight
    scores[num_tokens:] = 0
    return np.float32(1) / (total + _exponentiate(sink - largest))


@_fast
def _attend_row(query, keys, values, shape, table, tokens, heads, sinks, scores, tile, output):  # type: ignore[no-untyped-def]
    """Attend for some key-value heads of one sequence.

    Heads take turns tile by tile, because their parts of a page lie next to each other.
    """
    num_shared, size, group, width = shape
    stride = num_shared * size
    room = len(scores) // (num_shared * group)
    num_tokens = tokens[1] - tokens[0]
    rounded = (num_tokens + _TILE - 1) // _TILE * _TILE
    for at in range(0, num_tokens, _TILE):
        first = tokens[0] + at
        stop = min(first + _TILE, tokens[1])
        behind = min(stop, tokens[1] - 1)
        for shared in range(heads[0], heads[1]):
            ahead = _find_next(table, size, stride, shared, heads, first, behind, width)
            _widen(keys, table, size, stride, shared, first, stop, ahead, tile)
            for head in range(shared * group, (shared + 1) * group):
                _score(query, head * width, tile, scores, head * room + at)
    for head in range(heads[0] * group, heads[1] * group):
        share = _weigh(scores[head * room : head * room + rounded], num_tokens, sinks[head])
        scores[head * room : head * room + num_tokens] *= share
    output[heads[0] * group * width : heads[1] * group * width] = 0
    for at in range(0, num_tokens, _TILE):
        first = tokens[0] + at
        stop = min(first + _TILE, tokens[1])
        behind = min(stop, tokens[1] - 1)
        for shared in range(heads[0], heads[1]):
            ahead = _find_next(table, size, stride, shared, heads, first, behind, width)
            _widen(values, table, size, stride, shared, first, stop, ahead, tile)
            for head in range(shared * group, (shared + 1) * group):
                _add(scores, head * room + at, tile, output, head * width)


@njit(fastmath=True, nogil=True, error_model="numpy", cache=True)
def _attend(query, keys, values, shape, tables, lengths, window, sinks, output, tile, first, stop):  # type: ignore[no-untyped-def]
    """Attend for jobs ``first`` to ``stop - 1``; a job is a sequence and a key-value head."""
    num_shared, _, group, _ = shape
    rows = range(first // num_shared, (stop + num_shared - 1) // num_shared)
    longest = 0
    for row in rows:
        longest = max(longest, min(window, lengths[row]))
    room = (longest + _TILE - 1) // _TILE * _TILE
    scores = np.empty(num_shared * group * room, np.float32)
    for row in rows:
        heads = max(first - row * num_shared, 0), min(stop - row * num_shared, num_shared)
        tokens = max(0, lengths[row] - window), np.int64(lengths[row])
        _attend_row(
            query[row], keys, values, shape, tables[row], tokens, heads, sinks, scores, tile,
            output[row],
        )  # fmt: skip


def attend_pages(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    *,
    scaling: float,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attend as :func:`internvl35.generate.decode_attention.attend_decode` says, on a CPU.

    Args:
        query: ``(B, H, K)``, ``K`` a multiple of :data:`LANES`.
        keys: ``(P, Hkv, S, K)`` pages, float32 or bfloat16, contiguous.
        values: the same of values.
        tables: ``(B, M)`` int32.
        lengths: ``(B,)`` int32.
        scaling: what products of queries and keys are multiplied by.
        window: how many of the last tokens are seen; None for all.
        sinks: ``(H,)`` or None.

    Returns:
        ``(B, H, K)`` in the dtype of ``query``.
    """
    _, num_heads, width = query.shape
    _, num_shared, size, _ = keys.shape
    output = torch.empty(query.shape, dtype=torch.float32)
    logits = torch.full((num_heads,), _NO_SINK) if sinks is None else sinks.detach().float()
    limit = 2**31 - 1 if window is None else window
    given: tuple[Any, ...] = (
        (query.float() * scaling).contiguous().flatten(1).numpy(), _bits(keys), _bits(values),
        (num_shared, size, num_heads // num_shared, width), tables.contiguous().numpy(),
        lengths.contiguous().numpy(), limit, logits.contiguous().numpy(), output.flatten(1).numpy(),
    )  # fmt: skip
    bounds = _split(lengths.clamp(max=limit), num_shared, width, torch.get_num_threads())
    # Torch's memory starts at the edge of a cache line, numba's own does not.
    tiles = torch.zeros(len(bounds) - 1, _TILE * width).numpy()
    jobs = [(*given, tile, *bound) for tile, bound in zip(tiles, pairwise(bounds), strict=True)]
    others = [_threads(len(jobs) - 1).submit(_attend, *job) for job in jobs[1:]]
    _attend(*jobs[0])
    for other in others:
        other.result()
    return output.to(query.dtype)


def _split(lengths: Tensor, num_shared: int, width: int, num_threads: int) -> list[int]:
    """Share jobs out so that every thread reads about as much; short work stays with one."""
    read = np.cumsum(np.repeat(lengths.numpy(), num_shared))
    num_jobs = len(read)
    total = int(read[-1]) if num_jobs else 0
    count = max(1, min(num_threads, num_jobs, 2 * total * width // _READ_PER_THREAD))
    marks = [total * part // count for part in range(1, count)]
    return [0, *np.searchsorted(read, marks).tolist(), num_jobs]


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Keep threads ready; the caller works beside them."""
    return ThreadPoolExecutor(count, thread_name_prefix="decode-attention")


def _bits(pages: Tensor) -> np.ndarray:
    """See pages as one row of numbers; NumPy has no bfloat16, so that comes as its bits."""
    if not pages.is_contiguous():
        raise ValueError(f"pages with strides {pages.stride()}; needed: contiguous ones")
    pages = pages.detach().view(-1)
    return (pages.view(torch.uint16) if pages.dtype == torch.bfloat16 else pages).numpy()
