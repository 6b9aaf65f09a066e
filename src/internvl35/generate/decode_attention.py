"""Attention of newest tokens over a paged key-value cache, and storing into that cache.

One query a sequence, which sees everything that the sequence's pages hold, itself included. Plain
torch works on every device; on a CPU :mod:`internvl35.generate.decode_kernel` is faster where numba
is installed (extra ``cpu``). Which pages are whose, and attention of prompts, are left to the
engine. No counterpart in the paper.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from internvl35.errors import ConfigError

DecodeBackend: TypeAlias = Literal["numba", "torch"]
"""Who computes the attention of newest tokens."""

_PAGE_DTYPES = (torch.float32, torch.bfloat16)
_LANES = 16
"""Heads whose width is a multiple of this can be read by numba's kernel."""
_QUERY_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def choose_backend(
    device: torch.device, dtype: torch.dtype, width: int, backend: DecodeBackend | None = None
) -> DecodeBackend:
    """Choose who computes the attention of newest tokens.

    Args:
        device: of the cache.
        dtype: of the cache.
        width: of a head.
        backend: whom the caller wants; None for the fastest that is at hand.

    Returns:
        The one to call.

    Raises:
        ConfigError: if numba is wanted where it is not installed or cannot read the cache.
    """
    is_readable = device.type == "cpu" and dtype in _PAGE_DTYPES and width % _LANES == 0
    if backend == "numba" and not is_readable:
        raise ConfigError(
            f"backend 'numba' on a {dtype} cache on {device} with heads of width {width}; needed: "
            f"float32 or bfloat16 on a CPU and a multiple of {_LANES}, or backend 'torch'"
        )
    if backend == "numba" and not has_numba():
        raise ConfigError(
            "backend 'numba', but numba is not installed: pip install 'internvl35[cpu]'"
        )
    if backend is None:
        return "numba" if is_readable and has_numba() else "torch"
    return backend


@cache
def has_numba() -> bool:
    """Say whether the extra ``cpu`` is installed."""
    return find_spec("numba") is not None


def attend_decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    *,
    scaling: float,
    window: int | None = None,
    sinks: Tensor | None = None,
    backend: DecodeBackend | None = None,
) -> Tensor:
    """Attend from the newest token of every sequence to all tokens of that sequence.

    Sums are float32 whatever the inputs are. Heads ``h * H / Hkv`` to ``(h + 1) * H / Hkv - 1``
    share the key-value head ``h``.

    Args:
        query: ``(B, H, K)``, float32, bfloat16 or float16, positions already in it.
        keys: ``(P, Hkv, S, K)`` pages of ``S`` tokens, contiguous.
        values: the same of values.
        tables: ``(B, M)`` int32, the pages of every sequence in order. Entries behind the last
            token, and those wholly before the window, are not read and may hold anything.
        lengths: ``(B,)`` int32, tokens of every sequence, the newest included; 0 for a row that is
            only padding, whose output is 0.
        scaling: what products of queries and keys are multiplied by.
        window: how many of the last tokens are seen; None for all.
        sinks: ``(H,)`` a further logit in the softmax's sum, to which no value belongs; or None.
        backend: who computes; None for the fastest at hand.

    Returns:
        ``(B, H, K)`` in the dtype of ``query``.

    Raises:
        ConfigError: if the backend cannot be had.
    """
    assert query.dtype in _QUERY_DTYPES
    assert (keys.dtype, keys.shape) == (values.dtype, values.shape)
    assert query.shape[1] % keys.shape[1] == 0
    assert window is None or window > 0
    if choose_backend(keys.device, keys.dtype, keys.shape[3], backend) == "numba":
        from internvl35.generate.decode_kernel import attend_pages

        return attend_pages(
            query, keys, values, tables, lengths, scaling=scaling, window=window, sinks=sinks
        )
    attend = _attend_one_by_one if keys.device.type == "cpu" else _attend_padded
    return attend(query, keys, values, tables, lengths, scaling, window, sinks)


def _attend_padded(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    scaling: float,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """Gather and attend all at once: no number is waited for, so that a GPU never stands still."""
    positions = torch.arange(tables.shape[1] * keys.shape[2], device=keys.device)
    is_seen = positions < lengths[:, None]  # (B, T)
    if window is not None:
        is_seen &= positions >= lengths[:, None] - window
    # Entries that are not in use may be no page at all, and what they name may be no number.
    is_used = is_seen.unflatten(1, (tables.shape[1], -1)).any(2)
    pages = torch.where(is_used, tables, 0)
    unseen = ~is_seen[:, None, :, None]
    seen_keys = _gather(keys, pages).masked_fill(unseen, 0)
    seen_values = _gather(values, pages).masked_fill(unseen, 0)
    return _attend(query, seen_keys, seen_values, is_seen, scaling, sinks)


def _attend_one_by_one(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    scaling: float,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """Gather and attend per sequence: no work for what a longer neighbour would pad."""
    size = keys.shape[2]
    output = torch.zeros_like(query, memory_format=torch.contiguous_format)
    for row, length in enumerate(lengths.tolist()):
        if length == 0:
            continue
        start = 0 if window is None else max(0, length - window)
        first = start // size
        pages = tables[row : row + 1, first : (length + size - 1) // size]
        seen = slice(start - first * size, length - first * size)
        output[row] = _attend(
            query[row : row + 1], _gather(keys, pages)[:, :, seen],
            _gather(values, pages)[:, :, seen], None, scaling, sinks,
        )[0]  # fmt: skip
    return output


def _gather(pages: Tensor, tables: Tensor) -> Tensor:
    """Lay the pages of sequences one behind the other: ``(B, Hkv, T, K)``."""
    found = pages.index_select(0, tables.flatten()).unflatten(0, tables.shape)
    return found.transpose(1, 2).flatten(2, 3)  # (B, Hkv, M * S, K)


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    is_seen: Tensor | None,
    scaling: float,
    sinks: Tensor | None,
) -> Tensor:
    """Attend over gathered keys and values in float32; ``is_seen`` is ``(B, T)``."""
    grouped = query.float().unflatten(1, (keys.shape[1], -1))  # (B, Hkv, H / Hkv, K)
    logits = torch.matmul(grouped * scaling, keys.float().transpose(2, 3))
    if is_seen is not None:
        logits = logits.masked_fill(~is_seen[:, None, None], float("-inf"))
    if sinks is not None:
        extra = sinks.float().view(1, *grouped.shape[1:3], 1).expand(len(query), -1, -1, -1)
        logits = torch.cat([logits, extra], dim=-1)
    weights = logits.softmax(dim=-1)[..., : keys.shape[2]]
    if is_seen is not None:  # a softmax over nothing, which padding gets, is no number
        weights = weights.masked_fill(~is_seen[:, None, None], 0)
    return torch.matmul(weights, values.float()).flatten(1, 2).to(query.dtype)


def store(
    keys: Tensor, values: Tensor, cache_keys: Tensor, cache_values: Tensor, slots: Tensor
) -> None:
    """Write new tokens into their places in the cache.

    Args:
        keys: ``(T, Hkv, K)`` of new tokens, positions already in them.
        values: the same of values.
        cache_keys: ``(P, Hkv, S, K)`` pages, changed in place; values are cast to their dtype.
        cache_values: the same of values.
        slots: ``(T,)`` int64, page times ``S`` plus place in the page; none twice.
    """
    size = cache_keys.shape[2]
    pages, places = slots // size, slots % size
    cache_keys[pages, :, places] = keys.to(cache_keys.dtype)
    cache_values[pages, :, places] = values.to(cache_values.dtype)
