"""Serving with vision and language apart: what the wire costs, and what faults and time do.

Run ``python -m benchmarks.serve`` on an idle machine; ``wire`` or ``faults`` measures one part and
keeps the others as they are. Faults are those of :mod:`benchmarks.serve_chaos`, on processes of the
embedded checkpoint. ``soak --minutes 60``, which needs no idle machine, is asked for by name.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, write_result
from benchmarks.serve_chaos import CASES, find_faults
from benchmarks.serve_fleet import ProcessFleet
from benchmarks.serve_load import Counts, Load, Question

NAME = "serve"
PICTURE = Path(__file__).parents[1] / "examples" / "shapes.png"
TEXTS = (
    "How many red circles are there?", "What is this?", "How many shapes are there?",
    "Describe the picture.",
)  # fmt: skip
MAX_TOKENS = 8
FIGURES = ("wire_share_of_encode", "wire", "faults", "soak")
NUM_REQUESTS, AT_ONCE, CROWD = 30, 10, 300


def make_questions() -> list[Question]:
    """Questions about a picture and about none, with the answers of a chat."""
    from internvl35 import SamplingSettings, load

    chat = load("tiny")
    address = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
    shown = {"type": "image_url", "image_url": {"url": address}}
    questions = []
    for number, text in enumerate(TEXTS):
        images = [] if number == len(TEXTS) - 1 else [str(PICTURE)]
        reply = chat.ask(text, images, sampling=SamplingSettings(max_tokens=MAX_TOKENS))
        parts = [*[shown for _ in images], {"type": "text", "text": text}]
        body = {"messages": [{"role": "user", "content": parts}], "max_tokens": MAX_TOKENS}
        questions.append(Question(body, reply.text))
    chat.engine.close()
    return questions


Options = Mapping[str, Sequence[str]]
"""More options of processes, by role."""


def run_server(secret: str, model: str, options: Options, name: str, port: int) -> None:
    """One server, until SIGTERM."""
    from internvl35.cli import main

    role = name.partition("-")[0]
    main(
        ["serve", role, "--listen", f"127.0.0.1:{port}", "--name", name, "--model", model,
         "--secret-file", secret, "--log-level", "error", *options.get(role, ())]
    )  # fmt: skip


def run_gateway(secret: str, model: str, port: int, ports: Mapping[str, int]) -> None:
    """The gateway, until SIGTERM."""
    from internvl35.cli import main

    peers = [
        part
        for name, its in ports.items()
        for part in (f"--{name.partition('-')[0]}-peers", f"127.0.0.1:{its}")
    ]
    main(
        ["serve", "gateway", "--port", str(port), *peers, "--secret-file", secret,
         "--model", model, "--log-level", "error"]
    )  # fmt: skip


def make_fleet(secret: str, model: str = "tiny", options: Options | None = None) -> ProcessFleet:
    """A gateway and servers of a checkpoint, none of them started."""
    preload = ["benchmarks.serve", "internvl35.cli", "internvl35.chat", "internvl35.serve.parts"]
    preload += ["internvl35.serve.dvd.answering", "internvl35.serve.gateway"]
    server = partial(run_server, secret, model, options or {})
    return ProcessFleet(server, partial(run_gateway, secret, model), preload)


@contextmanager
def secret_file() -> Iterator[str]:
    """A file that holds a secret, while it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "secret"
        path.touch(0o600)
        path.write_text("no secret at all, but long enough")
        yield str(path)


async def run_faults(names: Sequence[str], secret: str) -> AsyncIterator[tuple[str, Counts]]:
    """Run cases one after the other.

    Args:
        names: of cases.
        secret: path of a file that holds one.

    Yields:
        Each case with its counts.

    Raises:
        RuntimeError: if a request was lost, doubled or answered wrongly.
    """
    questions = make_questions()
    fleet = make_fleet(secret)
    async with fleet.running():
        for name in names:
            number = CROWD if name == "simultaneous" else NUM_REQUESTS
            load = Load(questions, number, AT_ONCE, timeout_s=600)
            counts = await CASES[name](fleet, load)
            await fleet.wait_ready()
            await fleet.wait_idle()
            print(name, counts.as_dict(), flush=True)
            if wrong := find_faults(name, counts):
                raise RuntimeError(f"{name}: {', '.join(wrong)}")
            yield name, counts


async def note_faults(figures: dict[str, Any]) -> None:
    """Run all cases and write the result after each, since they take long."""
    figures["faults"] = {}
    with secret_file() as secret:
        async for name, counts in run_faults(list(CASES), secret):
            figures["faults"][name] = counts.as_dict()
            write_result(NAME, figures)


async def note_soak(figures: dict[str, Any], minutes: float) -> None:
    """Soak and write the result after each round.

    Args:
        figures: the ``soak`` entry is replaced.
        minutes: how long.

    Raises:
        RuntimeError: if a request was lost, doubled, refused, broken or answered wrongly.
    """
    from benchmarks import serve_soak

    with tempfile.TemporaryDirectory() as folder, secret_file() as secret:
        serve_soak.make_checkpoint(Path(folder))
        questions = serve_soak.make_questions(Path(folder))
        async with make_fleet(secret, folder, serve_soak.CACHES).running() as fleet:
            async for found in serve_soak.soak(fleet, questions, minutes):
                figures["soak"] = found
                write_result(NAME, figures)
    print(figures["soak"])
    if figures["soak"]["failed"]:
        raise RuntimeError(f"{figures['soak']['failed']} requests were not answered as a chat does")


def main(parts: Sequence[str], minutes: float) -> None:
    """Measure parts, and write the result beside those that were measured before."""
    path = RESULTS / f"{NAME}.json"
    figures: dict[str, Any] = {}
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        figures = {name: kept[name] for name in FIGURES if name in kept}
    if "wire" in parts:
        from benchmarks.serve_wire import compare

        figures |= compare()
        write_result(NAME, figures)
    if "faults" in parts:
        asyncio.run(note_faults(figures))
    if "soak" in parts:
        asyncio.run(note_soak(figures, minutes))
    print(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["wire", "faults", "soak"])
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to soak")
    asked = parser.parse_args()
    main(asked.parts or ("wire", "faults"), asked.minutes)
