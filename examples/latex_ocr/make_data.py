"""Make a data set of printed formulas in the form of the announcement's LaTeX task.

Formulas are those that people wrote into the docstrings of installed packages, and parts of them;
matplotlib prints them. Nothing is downloaded. The same packages, settings and seed give the same
rows; pictures that exist already are not drawn again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from formulas import describe_packages, find_formulas, list_sources
from latex import LatexError, has_word, list_parts, list_symbols, read_formula, write_formula
from pictures import TILE, choose_style, draw_formula
from rich.console import Console
from rich.progress import track

QUERY = "Using LaTeX to perform OCR on the image."
"""What the announcement's data set asks."""

_HARD_FONTS = (r"\mathrm", r"\mathbf", r"\mathit", r"\mathsf", r"\mathfrak")
_TEST_SHARE, _VAL_SHARE = 0.04, 0.02
_MAX_ATOMS = 10


@dataclass(frozen=True)
class DataSettings:
    """What the rows are."""

    output_dir: Path
    """Where ``train.jsonl``, ``val.jsonl``, ``test.jsonl`` and ``images/`` go."""
    rows: int = 20_000
    """Rows to train on."""
    val_rows: int = 200
    """Rows for evaluation during training."""
    test_rows: int = 500
    """Rows for the figures before and after."""
    max_length: int = 12
    """Longest formula in characters of LaTeX."""
    min_count: int = 30
    """A formula is left out if a symbol of it stands in fewer formulas than this."""
    max_columns: int = 1
    """Most tiles of 112 pixels that a picture is wide."""
    min_size: float = 20.0
    """Smallest font size in pixels."""
    max_size: float = 26.0
    """Largest font size in pixels."""
    seed: int = 42
    """Decides the order and the styles; which split a formula belongs to depends on it alone."""
    processes: int = 0
    """Processes that read and draw; 0 for one a core."""


@dataclass(frozen=True)
class Formula:
    """One formula to be printed."""

    text: str
    """LaTeX in canonical form."""
    kind: str
    """``whole`` as it was found, ``part`` for a stretch of one."""
    style: int = 0
    """How often it was printed before."""


def main() -> None:
    """Read the command line, make the rows and say what came out."""
    settings = _read_arguments()
    console = Console()
    processes = settings.processes or os.cpu_count() or 1
    with multiprocessing.Pool(processes) as pool:
        sources = list_sources()
        found = pool.imap(_find_trees, sources, chunksize=32)
        formulas = collect(
            text
            for texts in track(found, "reading sources", len(sources), console=console)
            for text in texts
        )
    formulas = drop_rare(formulas, settings)
    console.print(_describe(formulas))
    by_split = assign_splits(formulas, settings.seed)
    counts: dict[str, int] = {}
    sizes = {"test": settings.test_rows, "val": settings.val_rows, "train": settings.rows}
    for split, num_rows in sizes.items():
        rows = _draw_rows(by_split[split], split, num_rows, settings, processes, console)
        counts[split] = len(rows)
        _write_rows(settings.output_dir / f"{split}.jsonl", rows)
        unique = len({str(row["messages"]) for row in rows})
        whole = sum(row["kind"] == "whole" for row in rows)
        wide = sum(row["tiles"] != 1 for row in rows)
        console.print(
            f"{split}: {len(rows)} rows, {unique} formulas, {whole} rows of whole formulas, "
            f"{wide} rows of several tiles"
        )
    about = {
        "rows": counts,
        "settings": {
            k: v for k, v in vars(settings).items() if k not in ("output_dir", "processes")
        },
        "packages": describe_packages(),
    }
    path = settings.output_dir / "about.json"
    path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _read_arguments() -> DataSettings:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of the data set")
    for name, help_text in (
        ("rows", "rows to train on"),
        ("val_rows", "rows for evaluation during training"),
        ("test_rows", "rows for the figures before and after"),
        ("max_length", "longest formula in characters"),
        ("min_count", "formulas in which every symbol has to stand"),
        ("max_columns", "most tiles a picture is wide"),
        ("min_size", "smallest font size in pixels"),
        ("max_size", "largest font size in pixels"),
        ("seed", "seed of order and styles"),
        ("processes", "processes that draw; 0 for one a core"),
    ):
        default = getattr(DataSettings, name)
        parser.add_argument(
            "--" + name.replace("_", "-"), type=type(default), default=default,
            help=f"{help_text} (default {default})",
        )  # fmt: skip
    return DataSettings(**vars(parser.parse_args()))


def _find_trees(source: tuple[str, Path]) -> list[str]:
    return list(find_formulas(*source))


def collect(texts: Iterable[str], max_length: int = 64) -> list[Formula]:
    """Bring formulas into canonical form and take parts out of them.

    Args:
        texts: LaTeX as it was found.
        max_length: longest formula that is kept, in characters.

    Returns:
        Each formula once, the whole ones first.
    """
    whole: dict[str, None] = {}
    parts: dict[str, None] = {}
    for text in texts:
        try:
            tree = read_formula(text)
        except LatexError:
            continue
        if has_word(tree):
            continue
        whole[write_formula(tree)] = None
        for part in list_parts(tree, _MAX_ATOMS):
            parts[write_formula(part)] = None
    kept = [Formula(text, "whole") for text in whole]
    kept += [Formula(text, "part") for text in parts if text not in whole]
    return [formula for formula in kept if 0 < len(formula.text) <= max_length]


def drop_rare(formulas: list[Formula], settings: DataSettings) -> list[Formula]:
    """Leave out what is long, what has letters in other fonts, and what has rare symbols."""
    short = [formula for formula in formulas if len(formula.text) <= settings.max_length]
    symbols = {formula: set(list_symbols(read_formula(formula.text))) for formula in short}
    kept = [f for f in short if not any(s.startswith(_HARD_FONTS) for s in symbols[f])]
    counts = Counter(symbol for formula in kept for symbol in symbols[formula])
    return [f for f in kept if all(counts[s] >= settings.min_count for s in symbols[f])]


def assign_splits(formulas: list[Formula], seed: int) -> dict[str, list[Formula]]:
    """Deal formulas out to the splits; the formula itself decides, so none is in two.

    Args:
        formulas: each once.
        seed: decides the order within a split.

    Returns:
        ``train``, ``val`` and ``test``, whole formulas first.
    """
    splits: dict[str, list[Formula]] = {"train": [], "val": [], "test": []}
    for formula in formulas:
        place = _share(f"split/{formula.text}")
        name = "test" if place < _TEST_SHARE else "train"
        if _TEST_SHARE <= place < _TEST_SHARE + _VAL_SHARE:
            name = "val"
        splits[name].append(formula)
    for name, members in splits.items():
        # Val and test are samples of everything; what is trained on takes whole formulas first.
        members.sort(
            key=lambda f: (name == "train" and f.kind == "part", _share(f"{seed}/{f.text}"))
        )
    return splits


def _share(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def _describe(formulas: list[Formula]) -> str:
    lengths = Counter((len(formula.text) - 1) // 4 for formula in formulas)
    steps = ", ".join(f"{4 * k + 1}-{4 * k + 4}: {lengths[k]}" for k in sorted(lengths))
    whole = sum(formula.kind == "whole" for formula in formulas)
    return f"{len(formulas)} formulas, {whole} of them whole; by characters {steps}"


def _draw_rows(
    formulas: list[Formula],
    split: str,
    num_rows: int,
    settings: DataSettings,
    processes: int,
    console: Console,
) -> list[dict[str, object]]:
    """Draw until there are enough rows; when formulas run out, in other styles again."""
    (settings.output_dir / "images" / split).mkdir(parents=True, exist_ok=True)
    endless = _in_styles(formulas) if split == "train" else iter(formulas)
    rows: list[dict[str, object]] = []
    with multiprocessing.Pool(processes) as pool:
        draw = partial(draw_row, split=split, settings=settings)
        drawn = pool.imap(draw, islice(endless, 2 * num_rows + 1000), chunksize=32)
        for row in track(drawn, f"drawing {split}", num_rows, console=console):
            if row is not None:
                rows.append(row)
            if len(rows) == num_rows:
                break
        pool.terminate()
    random.Random(f"{settings.seed}/{split}").shuffle(rows)
    return rows


def _in_styles(formulas: list[Formula]) -> Iterator[Formula]:
    style = 0
    while formulas:
        for formula in formulas:
            yield replace(formula, style=style)
        style += 1


def draw_row(formula: Formula, split: str, settings: DataSettings) -> dict[str, object] | None:
    """Print a formula and describe the row that it makes.

    Args:
        formula: what is printed.
        split: ``train``, ``val`` or ``test``, part of the picture's name.
        settings: folder and font sizes.

    Returns:
        The row; None if matplotlib does not know the formula or it does not fit.
    """
    key = f"{settings.seed}/{formula.style}/{formula.text}"
    style = choose_style(random.Random(key), (settings.min_size, settings.max_size))
    image = draw_formula(formula.text, style, settings.max_columns)
    if image is None:
        return None
    name = hashlib.sha256(f"{key}/{style}".encode()).hexdigest()[:16] + ".png"
    place = f"images/{split}/{name}"
    path = settings.output_dir / place
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}.partial")
        image.save(unfinished, format="PNG")
        os.replace(unfinished, path)
    return {
        "messages": [
            {"role": "user", "content": "<image>" + QUERY},
            {"role": "assistant", "content": formula.text},
        ],
        "images": [place],
        "kind": formula.kind,
        "font": style.font,
        "tiles": image.width // TILE,
    }


def _write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    unfinished = path.with_suffix(".partial")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    unfinished.write_text("".join(lines), encoding="utf-8")
    os.replace(unfinished, path)


if __name__ == "__main__":
    main()
