"""Draw what a checkpoint read before and after it was trained, from two files of answers.

Both files come from ``internvl35 infer`` on the same rows. Each line of the picture holds a test
picture, its formula, and the two answers, printed as formulas where they are ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pictures import Style, draw_formula
from PIL import Image, ImageDraw, ImageFont

_CELL = (236, 120)
_HEAD = 26
_STYLE = Style("dejavuserif", 22.0, 0, 255, 0.0, 0.5)
_GROUND, _LINE, _RIGHT, _WRONG = (255, 255, 255), (205, 205, 210), (0, 120, 60), (185, 30, 30)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="answers of the base, a JSONL file of infer")
    parser.add_argument("after", type=Path, help="answers of the trained checkpoint")
    parser.add_argument("--output", type=Path, default=Path("compare.png"), help="PNG to write")
    parser.add_argument("--rows", type=int, default=8, help="pictures to show, the first ones")
    parser.add_argument("--start", type=int, default=0, help="rows to leave out in front")
    parser.add_argument("--root", type=Path, default=Path(), help="folder that images are under")
    arguments = parser.parse_args()
    before, after = (read_answers(path) for path in (arguments.before, arguments.after))
    rows = pair(before, after)[arguments.start : arguments.start + arguments.rows]
    draw_table(rows, arguments.root).save(arguments.output)
    for name, answers in (("before", before), ("after", after)):
        right = sum(answer["response"] == answer["labels"] for answer in answers)
        print(f"{name}: {right} of {len(answers)} right")
    print(arguments.output)


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Read a file of answers.

    Args:
        path: of the file.

    Returns:
        Its lines that hold an answer.
    """
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["response"] is not None]


def pair(
    before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> list[tuple[str, str, str, str]]:
    """Bring together what two checkpoints answered to one picture.

    Args:
        before: answers of one.
        after: answers of the other.

    Returns:
        Picture, true formula and both answers of every picture that both were asked about.
    """
    by_picture = {line["images"][0]: line["response"] for line in before}
    return [
        (picture, line["labels"], by_picture[picture], line["response"])
        for line in after
        if (picture := line["images"][0]) in by_picture
    ]


def draw_table(rows: list[tuple[str, str, str, str]], root: Path) -> Image.Image:
    """Draw one line for each picture.

    Args:
        rows: picture, true formula, answer before and after.
        root: folder that relative names of pictures are under.

    Returns:
        RGB picture.
    """
    width, height = _CELL
    table = Image.new("RGB", (4 * width, _HEAD + len(rows) * height), _GROUND)
    pen = ImageDraw.Draw(table)
    for column, title in enumerate(("picture", "formula", "before", "after")):
        pen.text((column * width + 6, 6), title, (0, 0, 0), ImageFont.load_default(14))
    for number, (picture, truth, *answers) in enumerate(rows):
        top = _HEAD + number * height
        pen.line((0, top, 4 * width, top), _LINE)
        with Image.open(root / picture) as image:
            shown = image.convert("RGB")
        shown.thumbnail((width - 12, height - 8))
        table.paste(shown, (6, top + 4))
        _draw_answer(table, (width, top), truth, (0, 0, 0))
        for column, answer in enumerate(answers, 2):
            colour = _RIGHT if answer == truth else _WRONG
            _draw_answer(table, (column * width, top), answer, colour)
    return table


def _draw_answer(
    table: Image.Image,
    place: tuple[int, int],
    answer: str,
    colour: tuple[int, int, int],
) -> None:
    """Put an answer into its cell: the formula it makes, if it makes one, over its text."""
    left, top = place
    pen = ImageDraw.Draw(table)
    text = answer if len(answer) <= 34 else answer[:31] + "..."
    pen.text((left + 6, top + 98), text, colour, ImageFont.load_default(12))
    formula = draw_formula(answer, _STYLE) if answer else None
    if formula is not None:
        table.paste(formula.crop((0, 10, formula.width, 102)).convert("RGB"), (left + 4, top + 3))


if __name__ == "__main__":
    main()
