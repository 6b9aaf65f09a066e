"""One side of the engine's benchmark: a process that answers loads in its own way.

Run as a module with the name of a side and a checkpoint; reads a job a line, writes what was
measured a line. All sides have the same weights, element type, requests and threads, and write
answers of the same lengths.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch

from benchmarks.engine_load import Asked, LoadSettings, Shape, draw_arrivals, draw_load
from internvl35.data.prompt import PromptBuilder, PromptSettings
from internvl35.data.tokenizer import load_tokenizer
from internvl35.generate.engine import Engine
from internvl35.generate.engine_settings import EngineSettings
from internvl35.generate.engine_thread import EngineThread
from internvl35.generate.engines import GenerationEngine
from internvl35.generate.rules import stop_rules
from internvl35.generate.runner import generate, generation_options
from internvl35.generate.vllm_engine import VLLMEngine, VLLMSettings
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig

MAX_SEQUENCES = 64
"""Answers that either engine writes at once."""
MAX_TOKENS = 2048
"""Most tokens of a prompt and its answer."""
CACHE_GIB = 1
"""Key-value cache of either engine."""


@dataclass(frozen=True)
class Job:
    """A load and how it comes."""

    load: LoadSettings
    """Which requests."""
    rate: float | None = None
    """Mean of arrivals a second; None for all at once."""
    is_streamed: bool = False
    """Whether answers are read token by token, with the moment of each."""


@dataclass
class Measured:
    """What became of a job."""

    seconds: float = 0.0
    """From the first arrival to the end of the last answer."""
    processor_s: float = 0.0
    """Seconds that processors worked for it, all processes and threads together."""
    num_tokens: int = 0
    """Tokens that were asked for and written."""
    waits: list[float] = field(default_factory=list)
    """Seconds from each arrival to the first token."""
    gaps: list[float] = field(default_factory=list)
    """Seconds between tokens of an answer, all answers in one list."""
    peak_memory_mib: float = 0.0
    """Most memory of the side's processes, in MiB."""
    answers: list[list[int]] = field(default_factory=list)
    """Tokens of each request's first answer."""


Streamed: TypeAlias = tuple[list[list[int]], list[list[float]]]
"""Tokens of each request's first answer, and the moment of each."""


class Side(Protocol):
    """Answers loads."""

    shape: Shape
    """Of the network."""

    def run(self, asked: Sequence[Asked]) -> list[list[int]]:
        """Answer all at once; returns tokens of each request's first answer."""

    def stream(self, asked: Sequence[Asked], arrivals: Sequence[float]) -> Streamed:
        """Answer as they arrive; returns also the moment of each token, from the start."""


class EngineSide:
    """An engine behind the common interface.

    Args:
        engine: answers.
        shape: of its network.
    """

    def __init__(self, engine: GenerationEngine, shape: Shape) -> None:
        self.engine = engine
        self.shape = shape

    def run(self, asked: Sequence[Asked]) -> list[list[int]]:
        """See :class:`Side`."""
        found = self.engine.generate(
            [one.request for one in asked], [one.sampling for one in asked]
        )
        for completion in found:
            if completion.failure is not None or completion.samples[0].error is not None:
                raise RuntimeError(f"not answered: {completion.samples[0].error}")
        return [list(completion.samples[0].token_ids) for completion in found]

    def stream(self, asked: Sequence[Asked], arrivals: Sequence[float]) -> Streamed:
        """See :class:`Side`."""
        return asyncio.run(self._stream(asked, arrivals))

    async def _stream(self, asked: Sequence[Asked], arrivals: Sequence[float]) -> Streamed:
        started = time.perf_counter()

        async def read(one: Asked, arrival: float) -> tuple[list[int], list[float]]:
            await asyncio.sleep(max(0.0, started + arrival - time.perf_counter()))
            tokens: list[int] = []
            moments: list[float] = []
            async for update in self.engine.stream(one.request, one.sampling):
                tokens += update.token_ids
                moments += [time.perf_counter() - started] * len(update.token_ids)
            return tokens, moments

        found = await asyncio.gather(*map(read, asked, arrivals))
        return [tokens for tokens, _ in found], [moments for _, moments in found]


class TransformersSide:
    """Transformers' own loop: so many requests at a time, padded, in the order of arrival.

    A batch is written until its longest answer is done; it takes what waits when the one before
    has ended. Samples of one request are rows of a batch, and share its visual tokens.

    Args:
        model: in eval mode.
        shape: of the network.
        rules: end tokens and banned ones.
        batch_size: rows at a time.
    """

    def __init__(
        self, model: VisionLanguageModel, shape: Shape, rules: Any, batch_size: int
    ) -> None:
        self.model = model
        self.shape = shape
        self.rules = replace(rules, end_token_ids=())
        self.batch_size = batch_size

    def run(self, asked: Sequence[Asked]) -> list[list[int]]:
        """See :class:`Side`."""
        rows = [one for one in asked for _ in range(one.sampling.n)]
        found: list[list[int]] = []
        for start in range(0, len(rows), self.batch_size):
            found += self._answer(rows[start : start + self.batch_size])
        firsts, place = [], 0
        for one in asked:
            firsts.append(found[place])
            place += one.sampling.n
        return firsts

    def stream(self, asked: Sequence[Asked], arrivals: Sequence[float]) -> Streamed:
        """See :class:`Side`."""
        started = time.perf_counter()
        found: list[list[int]] = []
        moments: list[list[float]] = []
        while (first := len(found)) < len(asked):
            time.sleep(max(0.0, arrivals[first] - (time.perf_counter() - started)))
            now = time.perf_counter() - started
            waiting = sum(arrival <= now for arrival in arrivals[first:])
            batch = asked[first : first + min(max(1, waiting), self.batch_size)]
            steps: list[float] = []
            found += self._answer(batch, steps.append)
            moments += [
                [step - started for step in steps[: one.sampling.max_tokens]] for one in batch
            ]
        return found, moments

    def _answer(
        self, batch: Sequence[Asked], on_step: Callable[[float], None] | None = None
    ) -> list[list[int]]:
        longest = max(one.sampling.max_tokens for one in batch)
        options = generation_options(replace(batch[0].sampling, max_tokens=longest, top_k=0))
        options["eos_token_id"] = list(self.rules.banned_token_ids)  # never chosen, so no end

        def note() -> bool:
            if on_step is not None:
                on_step(time.perf_counter())
            return False

        requests = [one.request for one in batch]
        if len({id(request) for request in requests}) < len(requests):
            requests = self._encode_once(batch)
        found = generate(self.model, requests, options, self.rules, seed=0, is_cancelled=note)
        return [row[: one.sampling.max_tokens] for row, one in zip(found, batch, strict=True)]

    @torch.inference_mode()
    def _encode_once(self, batch: Sequence[Asked]) -> list[Any]:
        known: dict[int, Any] = {}
        for request in {id(one.request): one.request for one in batch}.values():
            features = request.image_features
            if request.pixel_values is not None:
                features = self.model.get_image_features(request.pixel_values).flatten(0, 1)
            known[id(request)] = replace(request, pixel_values=None, image_features=features)
        return [known[id(one.request)] for one in batch]


def build_side(name: str, checkpoint: str, dtype: str, threads: int) -> Side:
    """Load a side.

    Args:
        name: ``ours``, ``transformers_batch1``, ``transformers_batch8`` or ``vllm``.
        checkpoint: a folder with tokenizer.
        dtype: of the weights.
        threads: CPU threads.

    Returns:
        The side.
    """
    torch.set_num_threads(threads)
    if name == "vllm":
        settings = VLLMSettings(
            dtype=dtype, max_tokens=MAX_TOKENS, max_sequences=MAX_SEQUENCES,
            further=json.loads(os.environ.get("ENGINE_BENCHMARK_VLLM", "{}")),
        )  # fmt: skip
        vllm = VLLMEngine(checkpoint, settings)
        return EngineSide(vllm, shape_of(vllm.config))
    model = VisionLanguageModel.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).eval()
    tokenizer = load_tokenizer(checkpoint)
    builder = PromptBuilder(tokenizer, PromptSettings(template=model.config.template))
    rules = stop_rules(tokenizer, builder)
    shape = shape_of(model.config)
    if name == "ours":
        engine_settings = EngineSettings(max_sequences=MAX_SEQUENCES, cache_gib=CACHE_GIB)
        engine = Engine(model, rules, tokenizer=tokenizer, settings=engine_settings)
        return EngineSide(EngineThread(engine), shape)
    return TransformersSide(model, shape, rules, int(name.removeprefix("transformers_batch")))


def shape_of(config: InternVLChatConfig) -> Shape:
    """Read what requests must know of a network."""
    return Shape(
        image_token_id=config.image_token_id,
        num_words=min(700, config.image_token_id),
        tokens_per_tile=config.tokens_per_tile,
        tile_size=config.tile_settings.tile_size,
        width=config.text_config.hidden_size,
    )


def measure(side: Side, job: Job) -> Measured:
    """Answer a load and measure it.

    Args:
        side: answers.
        job: what and when.

    Returns:
        What was measured.
    """
    asked = draw_load(job.load, side.shape)
    found = Measured(num_tokens=sum(one.num_tokens for one in asked))
    forget_peak()
    before = processor_s()
    started = time.perf_counter()
    if job.is_streamed:
        arrivals = draw_arrivals(len(asked), job.rate, job.load.seed)
        found.answers, moments = side.stream(asked, arrivals)
        found.waits = [row[0] - arrival for row, arrival in zip(moments, arrivals, strict=True)]
        found.gaps = [later - sooner for row in moments for sooner, later in pairwise(row)]
    else:
        found.answers = side.run(asked)
    found.seconds = time.perf_counter() - started
    found.processor_s = processor_s() - before
    found.peak_memory_mib = peak_memory_mib()
    lengths = [len(row) for row in found.answers]
    wanted = [one.sampling.max_tokens for one in asked]
    if lengths != wanted:
        raise RuntimeError(f"answers have {lengths} tokens; asked for: {wanted}")
    return found


def _processes() -> list[Path]:
    """This process and those that came from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    family = {os.getpid()}
    while more := {one for one, parent in parents.items() if parent in family} - family:
        family |= more
    return [Path("/proc") / str(one) for one in sorted(family)]


def forget_peak() -> None:
    """Begin anew with the highest memory of all processes."""
    for process in _processes():
        try:
            (process / "clear_refs").write_text("5", encoding="utf-8")
        except OSError:
            continue


def processor_s() -> float:
    """Seconds that processors have worked for all processes so far."""
    ticks = 0
    for process in _processes():
        try:
            stat = (process / "stat").read_text(encoding="utf-8")
        except OSError:
            continue
        user, system = stat.rpartition(")")[2].split()[11:13]
        ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_memory_mib() -> float:
    """Highest memory since then, in MiB, all processes together."""
    total = 0
    for process in _processes():
        try:
            lines = (process / "status").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return total / 1024


def main() -> None:
    """Answer the jobs that come by standard input."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed must not stand among the answers
    name, checkpoint, dtype, threads = sys.argv[1:]
    side = build_side(name, checkpoint, dtype, int(threads))
    print("{}", file=out, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        found = measure(side, Job(LoadSettings(**job.pop("load")), **job))
        print(json.dumps(asdict(found)), file=out, flush=True)
    close = getattr(getattr(side, "engine", None), "close", None)
    if close is not None:
        close()


if __name__ == "__main__":
    main()
