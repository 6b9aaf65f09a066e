"""Tensors as the bytes that frames carry, and back, without copies where that is possible.

Frames are left to :mod:`internvl35.serve.frames`. No counterpart in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from internvl35.serve.frames import Block, DType

_TORCH: dict[DType, torch.dtype] = {
    "u8": torch.uint8, "i32": torch.int32, "f16": torch.float16, "bf16": torch.bfloat16,
    "f32": torch.float32,
}  # fmt: skip
_NAMES: dict[torch.dtype, DType] = {dtype: name for name, dtype in _TORCH.items()}


def name_dtype(dtype: torch.dtype) -> DType:
    """Name a dtype as the wire does.

    Args:
        dtype: one that the wire has.

    Returns:
        Its name.
    """
    return _NAMES[dtype]


def to_block(values: Tensor) -> Block:
    """Turn a tensor into bytes; on a CPU nothing is copied.

    Args:
        values: of a dtype that the wire has.

    Returns:
        Its numbers; they change with the tensor's.
    """
    values = values.detach().cpu().contiguous()
    flat = values.reshape(-1).view(torch.uint8) if values.numel() else values.new_empty(0).byte()
    return Block(_NAMES[values.dtype], tuple(values.shape), flat.numpy().data)


def to_tensor(block: Block) -> Tensor:
    """Turn bytes into a tensor without copying them.

    Args:
        block: its bytes belong to the tensor from now on.

    Returns:
        The tensor, on the CPU.
    """
    dtype = _TORCH[block.dtype]
    if not block.num_bytes:
        return torch.empty(block.shape, dtype=dtype)
    data = bytearray(block.data) if memoryview(block.data).readonly else block.data
    return torch.frombuffer(data, dtype=dtype).view(block.shape)
