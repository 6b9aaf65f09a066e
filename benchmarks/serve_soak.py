"""Hours of requests to a gateway and its servers, and what memory their processes hold meanwhile.

Pictures are more than caches hold, so that these are full from the beginning and always change.
Some clients leave before their answer ends. Processes are those of :mod:`benchmarks.serve_fleet`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serve_fleet import ProcessFleet
from benchmarks.serve_load import Counts, Load, Question
from internvl35.generate.flash import FlashPolicy
from internvl35.serve.bench.bodies import BodyMaker
from internvl35.serve.bench.settings import BenchSettings

CACHES = {"vision": ("--feature-cache-mib", "1"), "language": ("--cache-gib", "0.02")}
"""Options that let caches hold less than all pictures; gateways keep none."""
POLICIES: tuple[FlashPolicy, ...] = ("off", "all", "released", "absolute")
"""Of Flash, in turn."""
NUM_PICTURES, MAX_TOKENS = 120, 8
ROUND_S, ROUND_REQUESTS, AT_ONCE, LEAVE_SHARE = 20.0, 11, 4, 0.2
"""Seconds from one round of requests to the next, and what a round is."""
POINTS = 12
"""Values that are kept of each process's memory."""


def make_checkpoint(folder: Path) -> None:
    """Write the embedded checkpoint with a router that was never trained."""
    import torch

    from internvl35 import load
    from internvl35.data.tokenizer import save_tokenizer
    from internvl35.model.flash_parts import add_router

    torch.manual_seed(0)
    chat = load("tiny")
    add_router(chat.model)
    chat.model.save_pretrained(folder)
    save_tokenizer(chat.tokenizer, folder)


def make_questions(checkpoint: Path) -> list[Question]:
    """Questions about pictures of several tiles, with the answers of a chat."""
    from internvl35 import FlashSettings, SamplingSettings, load

    chat = load(checkpoint)
    questions = []
    for number in range(NUM_PICTURES):
        settings = BenchSettings(
            picture_width=100 + 300 * (number % 3), picture_height=200, num_words=4 + number % 5
        )
        messages = BodyMaker(settings, "", number).make()["messages"]
        shown, words = messages[0]["content"]
        policy = POLICIES[number % len(POLICIES)]
        reply = chat.ask(
            words["text"], [shown["image_url"]["url"]], flash=FlashSettings(policy),
            sampling=SamplingSettings(max_tokens=MAX_TOKENS),
        )  # fmt: skip
        body = {"messages": messages, "max_tokens": MAX_TOKENS, "flash": policy}
        questions.append(Question(body, reply.text))
    chat.engine.close()
    return questions


def read_memory_mib(pid: int) -> float:
    """Read what a process and all that it started hold beside mapped files."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    own = sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own / 1024 + sum(read_memory_mib(int(child)) for child in children)


@dataclass
class Samples:
    """Memory of processes over time."""

    hours: list[float] = field(default_factory=list)
    """Since the first sample."""
    mib: dict[str, list[float]] = field(default_factory=dict)
    """By process, one a moment."""

    def add(self, hours: float, found: Mapping[str, float]) -> None:
        """Note one moment."""
        self.hours.append(hours)
        for name, value in found.items():
            self.mib.setdefault(name, []).append(value)

    def as_dict(self) -> dict[str, Any]:
        """Means of equal parts of the time, and the line that fits best."""
        return {name: self._describe(np.array(values)) for name, values in self.mib.items()}

    def _describe(self, values: np.ndarray[Any, Any]) -> dict[str, Any]:
        means = [float(part.mean()) for part in np.array_split(values, min(POINTS, len(values)))]
        slope = np.polyfit(self.hours, values, 1)[0] if len(values) > 1 else 0.0
        return {
            "start_mib": round(means[0], 1), "end_mib": round(means[-1], 1),
            "slope_mib_an_hour": round(float(slope), 2),
            "mib": [round(value, 1) for value in means],
        }  # fmt: skip


async def soak(
    fleet: ProcessFleet, questions: Sequence[Question], minutes: float
) -> AsyncIterator[dict[str, Any]]:
    """Ask everything twice, then a few questions every now and then.

    Args:
        fleet: that runs.
        questions: asked in turn.
        minutes: how long, after those asked first.

    Yields:
        After each round what was found so far.
    """
    await Load([*questions, *questions], 2 * len(questions), AT_ONCE, timeout_s=600).run(fleet.url)
    counts, samples, began = Counts(), Samples(), time.monotonic()
    while (now := time.monotonic() - began) < minutes * 60:
        first = counts.sent % len(questions)
        asked = [*questions[first:], *questions[:first]]
        load = Load(asked, ROUND_REQUESTS, AT_ONCE, LEAVE_SHARE, timeout_s=600, seed=counts.sent)
        await load.run(fleet.url, counts)
        await fleet.wait_idle()
        found = {name: read_memory_mib(pid) for name, pid in fleet.pids.items()}
        samples.add(now / 3600, found)
        yield {
            "minutes": round(now / 60, 1), "requests": counts.sent,
            "failed": counts.sent - counts.answered - counts.left, **counts.as_dict(),
            "memory": samples.as_dict(),
        }  # fmt: skip
        await asyncio.sleep(max(0.0, began + now + ROUND_S - time.monotonic()))
