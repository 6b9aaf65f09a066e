"""How fast attention of newest tokens over pages is, against torch's own attention.

Sequences of different lengths lie in shuffled pages. Compared are the compiled kernel, a loop over
the sequences that gathers the pages of each and calls torch's attention, the same over caches that
are no pages at all but one tensor a sequence, and this package's plain implementation. Writes
``results/decode_attention.json``, ratios alone: times of a shared CPU say nothing elsewhere.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numba
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.record import write_result
from internvl35.generate.decode_attention import DecodeBackend, attend_decode

SIZE = 16
"""Tokens a page."""


@dataclass(frozen=True)
class Shape:
    """Heads of a language model."""

    name: str
    """Which models have them."""
    heads: int
    """Query heads."""
    shared: int
    """Key-value heads."""
    width: int
    """Numbers a head."""


SHAPES = (
    Shape("1B", 16, 8, 128),
    Shape("8B", 32, 8, 128),
    Shape("30B-A3B", 32, 4, 128),
    Shape("GPT-OSS-20B", 64, 8, 64),
)


@dataclass(frozen=True)
class Load:
    """One step's worth of sequences."""

    query: Tensor
    """``(B, H, K)``."""
    keys: Tensor
    """``(P, Hkv, S, K)``."""
    values: Tensor
    """``(P, Hkv, S, K)``."""
    tables: Tensor
    """``(B, M)`` pages of the sequences."""
    lengths: Tensor
    """``(B,)`` tokens of the sequences."""


def main() -> None:
    """Measure all shapes and dtypes in turns, and print and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16, help="sequences")
    parser.add_argument("--longest", type=int, default=1000, help="tokens of the longest sequence")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each kind")
    parser.add_argument("--no-write", action="store_true", help="keep no results file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            load = make_load(shape, dtype, arguments.rows, arguments.longest)
            name = f"{shape.name}, {str(dtype).removeprefix('torch.')}"
            figures[name] = measure(load, arguments.repeats)
    show(figures)
    if not arguments.no_write:
        content = {
            "threads": 1,
            "sequences": arguments.rows,
            "tokens": [50, arguments.longest],
            "numba": numba.__version__,
            "speedup": figures,
        }
        Console().print(write_result("decode_attention", content))


def make_load(shape: Shape, dtype: torch.dtype, rows: int, longest: int) -> Load:
    """Draw sequences in shuffled pages.

    Args:
        shape: heads of the model.
        dtype: of cache and query.
        rows: sequences.
        longest: tokens of the longest one; the shortest has 50.

    Returns:
        The step.
    """
    chance = random.Random(0)
    lengths = [chance.randint(50, longest) for _ in range(rows)]
    most = -(-longest // SIZE)
    pages = list(range(rows * most))
    chance.shuffle(pages)
    cache = torch.randn(2, rows * most, shape.shared, SIZE, shape.width).to(dtype)
    return Load(
        query=torch.randn(rows, shape.heads, shape.width).to(dtype),
        keys=cache[0],
        values=cache[1],
        tables=torch.tensor(pages, dtype=torch.int32).view(rows, most),
        lengths=torch.tensor(lengths, dtype=torch.int32),
    )


def measure(load: Load, repeats: int) -> dict[str, float]:
    """Time the kernel and what it is compared with, in turns.

    Args:
        load: what each attends over.
        repeats: measurements of each, behind one that is not counted.

    Returns:
        Median over the turns of how many times as long the others take.
    """
    gathered = [gather(load, row) for row in range(len(load.lengths))]

    def attend(backend: DecodeBackend) -> Callable[[], object]:
        return lambda: attend_decode(
            load.query, load.keys, load.values, load.tables, load.lengths,
            scaling=load.query.shape[2] ** -0.5, backend=backend,
        )  # fmt: skip

    jobs = {
        "kernel": attend("numba"),
        "torch_attention_over_gathered_pages": lambda: [
            attend_in_torch(load.query[row], *gather(load, row)) for row in range(len(gathered))
        ],
        "torch_attention_over_whole_caches": lambda: [
            attend_in_torch(load.query[row], *one) for row, one in enumerate(gathered)
        ],
        "plain": attend("torch"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(repeats + 1):
        for name, job in jobs.items():
            started = time.process_time()
            job()
            if number:
                seconds[name].append(time.process_time() - started)
    kernel = seconds.pop("kernel")
    return {
        name: round(statistics.median(a / b for a, b in zip(kept, kernel, strict=True)), 2)
        for name, kept in seconds.items()
    }


def gather(load: Load, row: int) -> tuple[Tensor, Tensor]:
    """Copy keys and values of a sequence out of its pages, ``(Hkv, T, K)`` each."""
    length = int(load.lengths[row])
    pages = load.tables[row, : -(-length // SIZE)]
    keys, values = (
        one.index_select(0, pages).transpose(0, 1).flatten(1, 2)[:, :length]
        for one in (load.keys, load.values)
    )
    return keys, values


def attend_in_torch(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend with torch's own attention."""
    return scaled_dot_product_attention(
        query[None, :, None], keys[None], values[None], enable_gqa=True
    )


def show(figures: dict[str, dict[str, float]]) -> None:
    """Print how many times as long the others take."""
    names = list(next(iter(figures.values())))
    table = Table("", *names, title="times as long as the kernel, one thread")
    for name, found in figures.items():
        table.add_row(name, *(f"{found[one]:.2f}" for one in names))
    Console().print(table)


if __name__ == "__main__":
    main()
