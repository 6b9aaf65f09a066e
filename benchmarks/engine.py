"""The engine against transformers' own loop and vLLM's CPU build, on equal requests.

Every side is a process of its own that stays loaded; they answer the same loads in turn, so that a
slow minute of the machine meets all of them. Equal for all: weights, element type, threads, tiles
and token ids as they come, answers of fixed lengths, greedy (rollouts are drawn). Transformers
answers one request at a time, or eight padded to the longest prompt and written until the longest
answer is done; only tokens that were asked for count. vLLM is run by this package's
``VLLMEngine``: pictures are encoded by our vision stage in its front process, the language part is
vLLM's, ``--vllm`` gives further arguments. Both engines have 1 GiB of cache and 64 seats. Loading,
compiling and a first load are not counted.

Writes ``results/engine.json``: ratios of this run alone, as times of a shared CPU say nothing
elsewhere. Needs two cores for itself, the extra ``cpu``, and for vLLM ``make test-vllm``'s
environment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from benchmarks.engine_figures import (
    compare_answers,
    compare_memory,
    compare_throughput,
    compare_waiting,
    rows_to_print,
)
from benchmarks.engine_load import (
    MIXED,
    ROLLOUTS,
    SHARED,
    SMALL,
    SMALL_SEEN,
    WORDS,
    LoadSettings,
)
from benchmarks.engine_released import save_released
from benchmarks.engine_sides import CACHE_GIB, Job, Measured
from benchmarks.record import RESULTS, write_result
from internvl35.config import TINY_FOLDER

SIDES = ("ours", "transformers_batch1", "transformers_batch8", "vllm")
BATCHED = ("ours", "transformers_batch8", "vllm")
PARTS = ("mixed", "rates", "shared", "rollouts", "words", "sizes")
"""What can be measured for itself."""
SETTLE_S = 2.0
"""Seconds before every load: vLLM's worker looks for work without rest for a second after its last,
which the next side would pay for."""
WARM_UP = 10_000
"""Seed of loads that are not counted."""
VLLM_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB),
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    checkpoint: str = str(TINY_FOLDER)
    """Folder of the small checkpoint."""
    num_requests: int = 64
    """Requests of the mixed loads; rollouts have half as many prompts."""
    rates: tuple[float, ...] = (1.0, 4.0)
    """Arrivals a second, below saturation."""
    repetitions: int = 3
    """Times that every side answers at saturation."""
    threads: int = 2
    """CPU threads."""
    dtype: str = "float32"
    """Element type of the small checkpoint."""
    sizes: tuple[str, ...] = ("1B",)
    """Released shapes."""
    parts: tuple[str, ...] = PARTS
    """What is measured of these."""
    vllm_python: str = ""
    """Interpreter of an environment with vLLM; empty for no vLLM."""
    vllm: str = "{}"
    """Further arguments of vLLM, as JSON."""


class Worker:
    """A side in a process of its own.

    Args:
        name: of the side.
        checkpoint: its folder.
        dtype: of its weights.
        settings: threads and vLLM.
        errors: where it writes what is not an answer.
    """

    def __init__(
        self, name: str, checkpoint: str, dtype: str, settings: Settings, errors: IO[str]
    ) -> None:
        self.name = name
        python = settings.vllm_python if name == "vllm" else sys.executable
        environment = os.environ | {
            "OMP_NUM_THREADS": str(settings.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        if name == "vllm":
            own = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "src")]
            environment |= VLLM_ENVIRONMENT | {
                "PYTHONPATH": os.pathsep.join(own), "ENGINE_BENCHMARK_VLLM": settings.vllm,
            }  # fmt: skip
        self._errors = errors
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.engine_sides", name, checkpoint, dtype,
             str(settings.threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env=environment, cwd=Path(__file__).parents[1],
        )  # fmt: skip

    def wait(self) -> dict[str, Any]:
        """Read an answer; the first one says that the side is ready."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.flush()
            tail = Path(self._errors.name).read_text(encoding="utf-8")[-3000:]
            sys.exit(f"the side {self.name} ended:\n{tail}")
        found: dict[str, Any] = json.loads(line)
        return found

    def run(self, job: Job) -> Measured:
        """Have a load answered."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(job)) + "\n")
        self._process.stdin.flush()
        return Measured(**self.wait())

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()


class Benchmark:
    """Sides that are loaded, and what is done with them.

    Args:
        settings: what is measured.
        console: where it is told.
        folder: for files.
    """

    def __init__(self, settings: Settings, console: Console, folder: Path) -> None:
        self.settings = settings
        self.console = console
        self.folder = folder
        self._workers: dict[str, Worker] = {}
        self._seed = 0

    def open(self, checkpoint: str, dtype: str, warm_up: LoadSettings, stack: ExitStack) -> None:
        """Start all sides, one after another, and let each answer a load that is not counted."""
        self._workers = {}
        for name in SIDES:
            if name == "vllm" and not self.settings.vllm_python:
                continue
            errors = stack.enter_context((self.folder / f"{name}.log").open("w", encoding="utf-8"))
            worker = Worker(name, checkpoint, dtype, self.settings, errors)
            stack.callback(worker.close)
            worker.wait()
            worker.run(Job(replace(warm_up, seed=WARM_UP), is_streamed=True))
            self._workers[name] = worker

    def measure(
        self,
        title: str,
        load: LoadSettings,
        *,
        sides: Sequence[str] = SIDES,
        repetitions: int = 1,
        rate: float | None = None,
        is_streamed: bool = False,
    ) -> dict[str, list[Measured]]:
        """Have loads answered by some sides in turn, and print rates.

        Transformers' loop is as fast with its moments noted as without, so they always are.

        Args:
            title: what is printed above.
            load: another seed is taken for every repetition, so that no cache knows it.
            sides: who answers.
            repetitions: loads.
            rate: see :class:`Job`.
            is_streamed: see :class:`Job`.

        Returns:
            Measurements of each side.
        """
        names = [name for name in sides if name in self._workers]
        runs: dict[str, list[Measured]] = {name: [] for name in names}
        for turn in range(repetitions):
            self._seed += 1
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                noted = is_streamed or (name.startswith("transformers") and load.num_samples == 1)
                job = Job(replace(load, seed=self._seed), rate, noted)
                time.sleep(SETTLE_S)
                runs[name].append(self._workers[name].run(job))
        table = Table(
            "side",
            "tokens/s",
            "tokens/processor s",
            "first, ms",
            "further, ms",
            "peak MiB",
            title=title,
        )
        for row in rows_to_print(runs):
            table.add_row(*row)
        self.console.print(table)
        return runs


def measure_small(benchmark: Benchmark) -> Iterator[dict[str, Any]]:
    """Measure the small checkpoint; yields the figures of each part when they are there."""
    settings = benchmark.settings
    mixed, shared, words = (
        replace(load, num_requests=settings.num_requests) for load in (MIXED, SHARED, WORDS)
    )
    rollouts = replace(ROLLOUTS, num_requests=-(-settings.num_requests // 2))
    with ExitStack() as stack:
        warm_up = replace(mixed, num_requests=min(16, settings.num_requests))
        benchmark.open(settings.checkpoint, settings.dtype, warm_up, stack)
        if "mixed" in settings.parts:
            runs = benchmark.measure("all at once", mixed, repetitions=settings.repetitions)
            yield {
                **compare_throughput(runs),
                "same_answers_as_transformers_batch1": compare_answers(runs, "transformers_batch1"),
                "peak_memory": compare_memory(runs),
            }
        if "rates" in settings.parts:
            yield {"waiting": measure_waiting(benchmark, mixed)}
        for part, name, load in (
            ("shared", "shared_pictures_and_beginnings", shared),
            ("rollouts", "rollouts", rollouts),
            ("words", "words_alone", words),
        ):  # fmt: skip
            if part in settings.parts:
                repetitions = max(1, settings.repetitions - 1)
                runs = benchmark.measure(name, load, sides=BATCHED, repetitions=repetitions)
                yield {name: compare_throughput(runs) | {"peak_memory": compare_memory(runs)}}


def measure_waiting(benchmark: Benchmark, mixed: LoadSettings) -> dict[str, Any]:
    """Measure waiting for tokens at all rates; at the lowest with half as many requests."""
    streamed = benchmark.measure("all at once, streamed", mixed, sides=BATCHED, is_streamed=True)
    figures = {"all_at_once": compare_waiting(streamed)}
    for rate in benchmark.settings.rates:
        is_low = rate <= 1
        streamed = benchmark.measure(
            f"{rate:g} a second",
            replace(mixed, num_requests=-(-mixed.num_requests // 2)) if is_low else mixed,
            sides=SIDES if is_low else BATCHED,
            rate=rate,
            is_streamed=True,
        )
        figures[f"{rate:g}_a_second"] = compare_waiting(streamed)
    return figures


def measure_released(benchmark: Benchmark, size: str) -> dict[str, Any]:
    """Measure a released shape with random weights under a small load."""
    folder = save_released(size, benchmark.folder / size)
    with ExitStack() as stack:
        warm_up = replace(SMALL, num_requests=2, new_tokens=(4, 4))
        benchmark.open(str(folder), "bfloat16", warm_up, stack)
        runs = benchmark.measure(f"{size}, visual tokens ready", SMALL)
        sides = ("ours", "transformers_batch8")
        seen = benchmark.measure(f"{size}, with tower", SMALL_SEEN, sides=sides)
    return {
        "dtype": "bfloat16",
        "load": _about(SMALL),
        "visual_tokens_ready": compare_throughput(runs) | {"peak_memory": compare_memory(runs)},
        "with_tower": compare_throughput(seen),
    }


def _about(load: LoadSettings) -> dict[str, Any]:
    return {
        name: value
        for name, value in asdict(load).items()
        if name in ("num_requests", "tiles", "words", "new_tokens", "num_samples", "num_pictures",
                    "num_shared_words")
    }  # fmt: skip


def measure_all(settings: Settings, console: Console) -> Iterator[dict[str, Any]]:
    """Measure everything.

    Args:
        settings: what.
        console: where absolute numbers are printed.

    Yields:
        Parts of what ``results/engine.json`` holds; a later one replaces an earlier one's keys.
    """
    about: dict[str, Any] = {
        "threads": settings.threads,
        "repetitions": settings.repetitions,
        "vllm_arguments": json.loads(settings.vllm) if settings.vllm_python else None,
        "dtype": settings.dtype,
        "load": _about(replace(MIXED, num_requests=settings.num_requests)),
        "rollouts_load": _about(replace(ROLLOUTS, num_requests=-(-settings.num_requests // 2))),
    }
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(settings, console, Path(folder))
        if set(settings.parts) - {"sizes"}:
            for small in measure_small(benchmark):
                yield about | small
        for size in settings.sizes if "sizes" in settings.parts else ():
            yield {size: measure_released(benchmark, size)}


def main() -> None:
    """Measure, print, and keep ratios."""
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm-python", default="", help="python of an environment with vLLM")
    parser.add_argument("--vllm", default=default.vllm, help="further arguments of vLLM, as JSON")
    parser.add_argument("--requests", type=int, default=default.num_requests, help="of a load")
    parser.add_argument(
        "--rates", type=float, nargs="*", default=default.rates, help="arrivals a second"
    )
    parser.add_argument(
        "--repetitions", type=int, default=default.repetitions, help="at saturation"
    )
    parser.add_argument("--threads", type=int, default=default.threads, help="CPU threads")
    parser.add_argument("--dtype", default=default.dtype, help="of the small checkpoint")
    parser.add_argument("--sizes", nargs="*", default=default.sizes, help="released shapes")
    parser.add_argument(
        "--parts", nargs="*", choices=PARTS, default=PARTS, help="further ones stay in the file"
    )
    parser.add_argument("--no-write", action="store_true", help="keep no results file")
    given = parser.parse_args()
    console = Console()
    settings = Settings(
        num_requests=given.requests, rates=tuple(given.rates), repetitions=given.repetitions,
        threads=given.threads, dtype=given.dtype, sizes=tuple(given.sizes),
        parts=tuple(given.parts), vllm_python=given.vllm_python, vllm=given.vllm,
    )  # fmt: skip
    figures: dict[str, Any] = {} if settings.parts == PARTS else read_result("engine")
    for found in measure_all(settings, console):
        figures |= found
        if not given.no_write:
            console.print(write_result("engine", figures))
    console.print_json(data=figures)


def read_result(name: str) -> dict[str, Any]:
    """Read the figures that an earlier run has kept."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    about = ("date", "command", "machine", "versions")
    return {key: value for key, value in content.items() if key not in about}


if __name__ == "__main__":
    main()
