"""``internvl35 data draw``: drawn tasks as a data set for any training.

What is drawn is decided by :mod:`internvl35.data.drawn_rows`. No counterpart in the paper.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from internvl35.commands.options import read_sentences
from internvl35.commands.terminal import paused_collection, silence_libraries, spinner

_ROWS = read_sentences("internvl35.data.drawn_rows", "DrawnRows")


def draw(
    folder: Annotated[Path, typer.Argument(help="Folder for rows.jsonl and pictures/.")],
    rows: Annotated[int, typer.Option(min=1, help=_ROWS["num_rows"])] = 1000,
    family: Annotated[
        list[str], typer.Option(metavar="NAME", help="Kind of task; by default all take turns.")
    ] = [],  # noqa: B006 - typer makes a new list every time
    enlarge: Annotated[
        list[float],
        typer.Option(
            metavar="FACTOR",
            help="Times that pictures are made larger, so that they fill several tiles; of several "
            "factors one is drawn for each row.",
        ),
    ] = [1.0],  # noqa: B006
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option(help=_ROWS["split"])
    ] = "train",
    max_answer_letters: Annotated[int, typer.Option(min=1, help=_ROWS["max_answer_letters"])] = 120,
    seed: Annotated[int, typer.Option(min=0, help=_ROWS["seed"])] = 0,
) -> None:
    """Draw tasks of the embedded checkpoint as rows that sft, vico and infer take.

    Needs the extra tiny for all kinds of task. The same arguments always draw the same rows.
    """
    with spinner("starting"), paused_collection():
        silence_libraries()
        from rich.console import Console
        from rich.progress import track

        from internvl35.data.drawn_rows import DrawnRows, write_rows
        from internvl35.data.synthetic import FAMILIES
    wanted = DrawnRows(
        rows, tuple(family or FAMILIES), tuple(enlarge), split, max_answer_letters, seed
    )
    bar = iter(
        track(
            range(rows), "drawing", console=Console(stderr=True), transient=True,
            disable=not sys.stderr.isatty(),
        )
    )  # fmt: skip
    path = write_rows(folder, wanted, on_written=lambda: next(bar, None))
    typer.echo(f"rows: {path}")
