"""What gateway, vision and language servers of one checkpoint say about themselves to each other.

Both sides make it of the same folder, so that servers of different checkpoints, number formats or
preprocessing refuse each other in :mod:`internvl35.serve.handshake`. No counterpart in the paper.
"""

from __future__ import annotations

from pathlib import Path

import torch

from internvl35.data.tiles import IMAGENET_MEAN, IMAGENET_STD
from internvl35.errors import ConfigError
from internvl35.model.configuration import InternVLChatConfig
from internvl35.serve.frames import DType
from internvl35.serve.handshake import make_fingerprint
from internvl35.serve.messages import Profile, Role

_DTYPES: dict[torch.dtype, DType] = {
    torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32",
}  # fmt: skip
_NUM_SAMPLES = 64
_SAMPLE_BYTES = 4096


def describe_checkpoint(
    config: InternVLChatConfig, role: Role, name: str, dtype: torch.dtype
) -> Profile:
    """Describe a process by the checkpoint that it serves.

    Args:
        config: of the checkpoint; ``image_token_id`` is that of its tokenizer.
        role: of the process.
        name: what logs call it.
        dtype: of the weights, and so of visual tokens on the wire.

    Returns:
        What it tells its peers; limits are the defaults.

    Raises:
        ConfigError: if visual tokens of this dtype do not travel.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"weights are {dtype}; needed: bfloat16, float16 or float32")
    return Profile(
        role,
        name,
        tile_side=config.force_image_size,
        tokens_per_tile=config.tokens_per_tile,
        compressed_tokens=config.compressed_tokens_per_tile if config.flash_mode else 0,
        width=config.text_config.hidden_size,
        image_token_id=config.image_token_id,
        dtype=_DTYPES[dtype],
    )


def fingerprint_checkpoint(folder: Path, dtype: torch.dtype) -> bytes:
    """Sum up a checkpoint without reading all of it: its config and samples of its weights.

    Args:
        folder: of the checkpoint.
        dtype: of the weights in memory.

    Returns:
        16 bytes, the same wherever the same files lie.
    """
    parts = [str(dtype).encode(), repr((IMAGENET_MEAN, IMAGENET_STD)).encode()]
    parts.append((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        parts += [path.name.encode(), str(size).encode()]
        with path.open("rb") as file:
            for number in range(_NUM_SAMPLES):
                file.seek(size * number // _NUM_SAMPLES)
                parts.append(file.read(_SAMPLE_BYTES))
    return make_fingerprint(*parts)
