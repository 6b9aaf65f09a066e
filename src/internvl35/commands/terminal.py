"""What commands show while they work, and how answers reach the screen or a pipe.

Notes and spinners go to stderr, and spinners only to a terminal; stdout holds nothing but results.
"""

from __future__ import annotations

import gc
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Say on stderr that something is under way, if stderr is a terminal.

    Args:
        text: what is under way.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{text} ..."):
        yield


@contextmanager
def paused_collection() -> Iterator[None]:
    """Do not look for garbage while libraries are imported.

    Importing torch and transformers makes very many objects, all of which live on; looking through
    them again and again takes about a sixth of the time.
    """
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()


def silence_libraries() -> None:
    """Keep progress bars and notes of libraries, and Python's warnings, off the screen."""
    from transformers.utils import logging as transformers_logging

    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # imported with peft, it misses kernels that nothing here needs
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def note(text: str) -> None:
    """Tell the user something that is not a result, on stderr.

    Args:
        text: one line; it may quote rows or names of others.
    """
    typer.secho(printable(text, sys.stderr.encoding), err=True, dim=True)


def printable(text: str, encoding: str | None) -> str:
    """Leave out what would steer a terminal, and replace what an output cannot spell.

    Args:
        text: written by a model, which may have read it in a picture.
        encoding: of the output; UTF-8 where None.

    Returns:
        The text, line breaks and tabs kept.
    """
    name = encoding or "utf-8"
    return _CONTROLS.sub("", text).encode(name, "replace").decode(name)


class AnswerWriter:
    """Writes an answer to stdout as it comes; on a terminal its reasoning too, dimmed."""

    def __init__(self) -> None:
        """Look whether stdout is a terminal."""
        self.is_terminal = sys.stdout.isatty()
        self._was_thinking = False

    def write(self, text: str, *, is_thinking: bool) -> None:
        """Write a part.

        Args:
            text: what came.
            is_thinking: whether it belongs to the reasoning, which only a terminal shows.
        """
        if is_thinking and not self.is_terminal:
            return
        if self._was_thinking and not is_thinking:
            typer.echo("\n")
        self._was_thinking = is_thinking
        text = printable(text, sys.stdout.encoding)
        typer.echo(typer.style(text, dim=True) if is_thinking else text, nl=False)
        sys.stdout.flush()

    def end(self) -> None:
        """End the line."""
        typer.echo()
