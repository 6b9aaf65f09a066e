"""Options that name a checkpoint, and the way from them to a folder or a chat.

Several commands share them. Finding and reading checkpoints is left to
:mod:`internvl35.model.hub` and :mod:`internvl35.chat`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from internvl35.commands.options import FLAGS
from internvl35.config import TINY


@dataclass(frozen=True)
class HubOptions:
    """Where checkpoints are looked for that are neither embedded nor a folder."""

    hub: Literal["hf", "modelscope"] = "hf"
    """Hub on which names are looked up that are neither tiny nor a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    offline: bool = False
    """Use only what was downloaded before."""

    def find_folder(self, name: str) -> Path:
        """Find a checkpoint, downloading it if need be, with a progress bar on a terminal.

        Args:
            name: as given to ``--model``.

        Returns:
            Its folder.

        Raises:
            CheckpointError: if there is no such checkpoint or it cannot be fetched.
        """
        from internvl35.model.hub import resolve_checkpoint

        return resolve_checkpoint(
            name,
            hub=self.hub,
            revision=self.revision,
            offline=self.offline,
            show_progress=sys.stderr.isatty(),
        )


@dataclass(frozen=True)
class ModelOptions:
    """Which checkpoint answers, and how it is loaded."""

    model: str = field(default=TINY, metadata={FLAGS: ("--model", "-m")})
    """Checkpoint: tiny (embedded), a folder, a released size such as 8B, or a hub's owner/name."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the weights; auto takes the checkpoint's own."""
    device_map: str | None = None
    """Where the parts go, for example auto, cpu or cuda:1; by default all GPUs, or the CPU."""
    int8: bool = False
    """Load linear layers in 8 bits (needs the extra internvl35[int8])."""
