"""Attention of newest tokens on a CPU, compiled by numba: reads pages where they lie.

Called through :func:`internvl35.generate.decode_attention.attend_decode`, which says what goes in
and comes out. Compiled at first use and kept on disk. No counterpart in the paper.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numba import njit, prange, types
from numba.extending import overload
from torch import Tensor


def _widen(number: float) -> float:
    """Read a stored number as float32; the body is numba's alone."""
    raise NotImplementedError


@overload(_widen)
def _overload_widen(number):  # type: ignore[no-untyped-def]
    if number == types.uint16:  # the upper half of a float32 is a bfloat16
        return lambda number: np.uint32(np.uint32(number) << 16).view(np.float32)
    return lambda number: number


@njit(fastmath=True, nogil=True)
def _weigh(scores, sink):  # type: ignore[no-untyped-def]
    """Turn logits into weights in place; the sink takes its share of the sum."""
    largest = sink
    for token in range(len(scores)):
        largest = max(largest, scores[token])
    total = np.float32(np.exp(sink - largest))
    for token in range(len(scores)):
        scores[token] = np.exp(scores[token] - largest)
        total += scores[token]
    share = np.float32(1) / total
    for token in range(len(scores)):
        scores[token] *= share


@njit(parallel=True, fastmath=True, nogil=True, cache=True)
def _attend(query, keys, values, tables, lengths, window, sinks, output):  # type: ignore[no-untyped-def]
    num_rows, num_heads, width = query.shape
    num_shared, size = keys.shape[1], keys.shape[2]
    group = num_heads // num_shared
    for job in prange(num_rows * num_shared):
        row = job // num_shared
        shared = job % num_shared
        length = lengths[row]
        start = max(0, length - window)
        scores = np.empty((group, max(length - start, 1)), np.float32)
        first = shared * group
        for token in range(start, length):
            page = keys[tables[row, token // size], shared, token % size]
            for head in range(group):
                total = np.float32(0)
                for place in range(width):
                    total += query[row, first + head, place] * _widen(page[place])
                scores[head, token - start] = total
        totals = np.zeros((group, width), np.float32)
        for head in range(group):
            _weigh(scores[head, : length - start], sinks[first + head])
        for token in range(start, length):
            page = values[tables[row, token // size], shared, token % size]
            for head in range(group):
                weight = scores[head, token - start]
                for place in range(width):
                    totals[head, place] += weight * _widen(page[place])
        for head in range(group):
            for place in range(width):
                output[row, first + head, place] = totals[head, place]


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
        query: ``(B, H, K)``.
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
    output = torch.empty(query.shape, dtype=torch.float32)
    logits = torch.full((query.shape[1],), _NO_SINK) if sinks is None else sinks.float()
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    _attend(
        (query.float() * scaling).contiguous().numpy(),
        _bits(keys),
        _bits(values),
        tables.contiguous().numpy(),
        lengths.contiguous().numpy(),
        np.int64(2**31 if window is None else window),
        logits.detach().contiguous().numpy(),
        output.numpy(),
    )
    return output.to(query.dtype)


_NO_SINK = -1e30
"""Adds nothing to any sum; infinite numbers are none under fast arithmetic."""


def _bits(pages: Tensor) -> np.ndarray:
    """See pages as an array; NumPy has no bfloat16, so that comes as its bits."""
    if not pages.is_contiguous():
        raise ValueError(f"pages with strides {pages.stride()}; needed: contiguous ones")
    return (pages.view(torch.uint16) if pages.dtype == torch.bfloat16 else pages).numpy()
