"""``internvl35 convert``: a checkpoint in the other released layout.

The work is left to :mod:`internvl35.model.conversion`. Paper section 2.1.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from internvl35.commands.checkpoint import HubOptions
from internvl35.commands.options import spread_settings
from internvl35.commands.terminal import paused_collection, silence_libraries, spinner
from internvl35.errors import CheckpointError

POLL_S = 0.3
"""Seconds between two looks at how much is written."""


@dataclass(frozen=True)
class WriteOptions:
    """How a checkpoint is written."""

    max_shard_size: str = "5GB"
    """Most bytes a file of weights, for example 500MB."""
    overwrite: bool = False
    """Replace the checkpoint in a folder that is not empty; its other files stay."""


@spread_settings
def convert(
    source: Annotated[
        str, typer.Argument(help="Checkpoint: tiny, a folder, a size such as 8B, or a hub's name.")
    ],
    target: Annotated[Path, typer.Argument(help="Folder to write.")],
    layout: Annotated[
        Literal["hf", "remote-code"],
        typer.Option(help="Layout to write: of transformers (hf) or of the first release."),
    ],
    write: WriteOptions,
    hub: HubOptions,
) -> None:
    """Write a checkpoint in either released layout."""
    check_target(target, is_overwritten=write.overwrite)
    with spinner("looking at the checkpoint"), paused_collection():
        silence_libraries()
        from internvl35.model.conversion import convert_checkpoint
    folder = hub.find_folder(source)
    with show_written(target, sum(path.stat().st_size for path in folder.glob("*.safetensors"))):
        convert_checkpoint(folder, target, layout, max_shard_size=write.max_shard_size)
    num_tensors, num_bytes = count_tensors(target)
    typer.echo(f"{target}: layout {layout}, {num_tensors} tensors, {num_bytes:,} bytes")


def check_target(target: Path, *, is_overwritten: bool) -> None:
    """Refuse to write where something is already.

    Args:
        target: folder to write.
        is_overwritten: whether a folder that is not empty is taken.

    Raises:
        CheckpointError: if it is a file, or not empty and not to be overwritten.
    """
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file; name a folder to write the checkpoint to")
    if target.is_dir() and any(target.iterdir()) and not is_overwritten:
        raise CheckpointError(
            f"{target} is not empty; name a new folder, or pass --overwrite to replace the "
            "checkpoint in it"
        )


def count_tensors(folder: Path) -> tuple[int, int]:
    """Count what the weights of a checkpoint hold.

    Args:
        folder: a checkpoint.

    Returns:
        Number of tensors, and bytes of their files.
    """
    from safetensors import safe_open

    num_tensors = num_bytes = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            num_tensors += len(file.keys())
        num_bytes += path.stat().st_size
    return num_tensors, num_bytes


@contextmanager
def show_written(folder: Path, num_bytes: int) -> Iterator[None]:
    """Draw a bar of the bytes written below a folder, if stderr is a terminal.

    Args:
        folder: what is written; weights are counted wherever below it they are.
        num_bytes: how many it will be.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    before = _written(folder)
    is_done = threading.Event()
    bar = Progress(
        TextColumn("writing"), BarColumn(), DownloadColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    task = bar.add_task("write", total=num_bytes)

    def follow() -> None:
        while not is_done.wait(POLL_S):
            bar.update(task, completed=max(0, _written(folder) - before))

    follower = threading.Thread(target=follow, name="progress", daemon=True)
    with bar:
        follower.start()
        try:
            yield
        finally:
            is_done.set()
            follower.join()


def _written(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*.safetensors"):
        with suppress(FileNotFoundError):  # moved to its final name just now
            total += path.stat().st_size
    return total
