"""What pictures hold: told by few bytes, and whether all of it is numbers.

Who looks them up is left to :mod:`internvl35.generate.feature_cache` and
:mod:`internvl35.generate.prefix`. No counterpart in the paper.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

DIGEST_BYTES = 32
"""Length of a digest: long enough that two contents never share one, by chance or by intent."""


def digest_tensor(values: Tensor) -> bytes:
    """Tell by 32 bytes what a tensor holds.

    Args:
        values: any shape, dtype and device.

    Returns:
        The same bytes for tensors of equal dtype, shape and bits, different ones otherwise.
    """
    head = f"{values.dtype} {tuple(values.shape)}\n".encode()
    digest = hashlib.blake2b(head, digest_size=DIGEST_BYTES)
    # a copy, since what counts as contiguous may still have strides of 0 where it has no length
    flat = values.detach().cpu().clone(memory_format=torch.contiguous_format).reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.digest()


def digest_picture(tiles: Sequence[bytes], is_compressed: Sequence[bool]) -> bytes:
    """Tell by 32 bytes what the visual tokens of a picture show.

    Args:
        tiles: the digest of each tile's pixels, in order.
        is_compressed: which of them take fewer tokens.

    Returns:
        The same bytes for equal tiles with equal choices, different ones otherwise.
    """
    choices = bytes(map(int, is_compressed))
    parts = (f"picture {len(tiles)}\n".encode(), *tiles, choices)
    return hashlib.blake2b(b"".join(parts), digest_size=DIGEST_BYTES).digest()


def is_finite(values: Tensor) -> bool:
    """Tell whether a tensor holds no NaN and nothing infinite; an order faster than ``isfinite``.

    Args:
        values: any shape and dtype.

    Returns:
        Whether it is so; True of what is no floating point number.
    """
    if not values.is_floating_point() or not values.numel():
        return True
    lowest, highest = values.aminmax()  # NaN passes through both
    return bool(lowest.isfinite() & highest.isfinite())
