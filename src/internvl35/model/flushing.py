"""Makes sure that what was written survives a machine that goes down.

Beside :mod:`internvl35.model.shards` because commands that load no torch need it, too. No
counterpart in the paper.
"""

from __future__ import annotations

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Make sure that a file, or a folder's list of names, is on the disk.

    Args:
        path: of the file or folder.

    Raises:
        OSError: if the disk does not take it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
