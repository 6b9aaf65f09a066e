"""What the processes of one installation must have in common, found without reading all weights.

Gateways, vision and language servers each look at the checkpoint themselves; their handshake
compares what they found. Connections are left to :mod:`internvl35.serve.link`. No counterpart in
the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from internvl35.config import EMBEDDED
from internvl35.model.checkpoint import Checkpoint
from internvl35.model.configuration import InternVLChatConfig
from internvl35.model.part_files import digest_content, read_whole
from internvl35.serve.handshake import make_fingerprint
from internvl35.serve.messages import Profile, Role
from internvl35.serve.tensors import name_dtype

PREPROCESSING: Final = b"levels of RGB tiles, mean and deviation of ImageNet, version 1"
"""How tiles become pixel values; another way needs another text."""


@dataclass(frozen=True)
class ServedCheckpoint:
    """A checkpoint as the processes that serve it know it."""

    folder: Path
    """Where it lies."""
    config: InternVLChatConfig
    """Of the checkpoint."""
    dtype: torch.dtype
    """Of its weights once they are loaded, and of visual tokens on the wire."""
    fingerprint: bytes
    """Equal for equal checkpoints, 16 bytes."""

    def profile(
        self,
        role: Role,
        name: str,
        *,
        max_requests: int = 256,
        max_tiles: int = 512,
        max_prompt_tokens: int | None = None,
        image_token_id: int | None = None,
    ) -> Profile:
        """Say what a process tells its peers.

        Args:
            role: what it does.
            name: what logs call it.
            max_requests: most requests that it takes at once.
            max_tiles: most tiles of a request.
            max_prompt_tokens: most tokens of a prompt; None for what the model holds.
            image_token_id: as the tokenizer says; None for what config.json says.

        Returns:
            Its profile.
        """
        config, text = self.config, self.config.text_config
        return Profile(
            role, name, config.force_image_size, config.tokens_per_tile,
            config.compressed_tokens_per_tile if config.flash_mode else 0,
            int(text.hidden_size),
            config.image_token_id if image_token_id is None else image_token_id,
            name_dtype(self.dtype), max_tiles,
            max_prompt_tokens or int(text.max_position_embeddings), max_requests,
        )  # fmt: skip


def look_at(folder: Path, dtype: str = "auto") -> ServedCheckpoint:
    """Look at a checkpoint as all processes that serve it do.

    Args:
        folder: the whole checkpoint, of either layout, or a part that was cut from it.
        dtype: of the weights once they are loaded; ``auto`` for the checkpoint's own, and float32
            for the embedded one.

    Returns:
        What was found.

    Raises:
        CheckpointError: if the folder holds no checkpoint, or one that does not fit its config.
    """
    whole = read_whole(folder)
    checkpoint = Checkpoint(folder, part=None if whole is None else whole.part)
    found = checkpoint.dtype()
    if dtype != "auto":
        found = getattr(torch, dtype)
    elif folder in EMBEDDED.values():
        found = torch.float32
    files = {info.file for info in checkpoint.shards.tensors.values()}
    content = digest_content(folder, files) if whole is None else whole.content
    fingerprint = make_fingerprint(PREPROCESSING, str(found).encode(), content.encode())
    return ServedCheckpoint(folder, checkpoint.config, found, fingerprint)
