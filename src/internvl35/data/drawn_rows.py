"""Drawn tasks as a data set: a file of rows and a folder of pictures, as any training takes them.

Drawing is left to the families, reading rows to :mod:`internvl35.data.records`. No counterpart in
the paper.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from internvl35.data.synthetic import FAMILIES, Drawing, Split, Turn, draw
from internvl35.data.synthetic.asking import question_text
from internvl35.data.synthetic.enlarging import enlarge
from internvl35.errors import DataError

ROWS_FILE = "rows.jsonl"
PICTURES_FOLDER = "pictures"

FIRST_PLACE = 500_000_000
"""Place in a family's stream from which rows are drawn, so that none is one that the embedded
checkpoint was trained on."""

_FASTEST = 1
"""Compression of the PNG files: drawing waits for it, and stronger ones save little."""


@dataclass(frozen=True)
class DrawnRows:
    """Which rows are drawn."""

    num_rows: int = 1000
    """Rows in all; the families take turns."""
    families: tuple[str, ...] = tuple(FAMILIES)
    """Kinds of task."""
    factors: tuple[float, ...] = (1.0,)
    """How many times larger pictures become, drawn anew for every row; a larger one fills more
    tiles."""
    split: Split = "train"
    """Stream of drawings; test alone uses what is kept for it."""
    max_answer_letters: int = 120
    """Letters of the answers of one row; further questions are left out, but never the first."""
    seed: int = 0
    """Another seed gives other drawings."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        unknown = [name for name in self.families if name not in FAMILIES]
        if unknown or not self.families:
            raise DataError(
                f"families {', '.join(unknown) or 'none'} cannot be drawn; there are "
                f"{', '.join(FAMILIES)}"
            )
        if self.num_rows < 1 or self.max_answer_letters < 1 or self.seed < 0:
            raise DataError(
                f"num_rows is {self.num_rows}, max_answer_letters {self.max_answer_letters} and "
                f"seed {self.seed}; needed: at least 1, 1 and 0"
            )
        if not self.factors or not all(0.1 <= factor <= 20 for factor in self.factors):
            raise DataError(f"factors are {self.factors}; needed: numbers from 0.1 to 20")
        if self.split not in get_args(Split):
            raise DataError(
                f"split {self.split!r} is unknown; there are {', '.join(get_args(Split))}"
            )

    def drawing(self, number: int) -> Drawing:
        """Draw what a row is about; the same number always gives the same drawing.

        Args:
            number: of the row, from 0.
        """
        rng = random.Random(f"rows/{self.seed}/{number}")
        family = self.families[number % len(self.families)]
        place = FIRST_PLACE * (1 + self.seed) + number // len(self.families)
        return enlarge(draw(family, self.split, place), rng.choice(self.factors))

    def turns(self, drawing: Drawing) -> list[Turn]:
        """Choose the questions of a row: the first ones, as many as do not make it long.

        Args:
            drawing: of the row.
        """
        letters, chosen = 0, list[Turn]()
        for turn in drawing.turns:
            letters += len(turn.answer)
            if chosen and letters > self.max_answer_letters:
                break
            chosen.append(turn)
        return chosen


def write_rows(
    folder: Path, rows: DrawnRows, on_written: Callable[[], object] | None = None
) -> Path:
    """Draw rows into a folder.

    Pictures come first and the file of rows last, whole: what a killed run leaves behind is no data
    set, and the next run draws it again.

    Args:
        folder: made if missing.
        rows: which ones.
        on_written: called after every row.

    Returns:
        The file of rows, whose pictures are named relative to it.

    Raises:
        DataError: if there are rows already, or nothing can be written.
    """
    path = folder / ROWS_FILE
    if path.exists():
        raise DataError(f"{path} is there already; remove it, or choose another folder")
    partial = path.with_suffix(".partial")
    try:
        (folder / PICTURES_FOLDER).mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            for number in range(rows.num_rows):
                drawing = rows.drawing(number)
                row = make_row(drawing, rows.turns(drawing), _save(drawing, folder, number))
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                if on_written is not None:
                    on_written()
        partial.replace(path)
    except OSError as error:
        raise DataError(f"nothing can be written to {folder}: {error.strerror}") from error
    return path


def _save(drawing: Drawing, folder: Path, number: int) -> list[str]:
    names = []
    for place, image in enumerate(drawing.images):
        name = f"{PICTURES_FOLDER}/{number:06d}-{place}.png"
        image.save(folder / name, compress_level=_FASTEST)
        names.append(name)
    return names


def make_row(drawing: Drawing, turns: list[Turn], pictures: list[str]) -> dict[str, Any]:
    """Write a drawing as a row.

    Args:
        drawing: what it is about.
        turns: questions that are asked, at least one.
        pictures: files of its pictures.

    Returns:
        ``messages``, ``images`` where there are any, and ``family``.
    """
    messages = []
    for number, turn in enumerate(turns):
        text = question_text(drawing, turn, is_first=number == 0)
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": turn.answer})
    row: dict[str, Any] = {"messages": messages, "family": drawing.family}
    return row | ({"images": pictures} if pictures else {})
