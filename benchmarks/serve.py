"""Serving with vision and language apart: what the wire costs, and what faults do to requests.

Run ``python -m benchmarks.serve`` on an idle machine; ``wire`` or ``faults`` measures one part and
keeps the other as it is. Faults are those of :mod:`benchmarks.serve_chaos`, on processes of the
embedded checkpoint.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
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
FIGURES = ("wire_share_of_encode", "wire", "faults")
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


def run_server(secret: str, name: str, port: int) -> None:
    """One server of the embedded checkpoint, until SIGTERM."""
    from internvl35.cli import main

    main(
        ["serve", name.partition("-")[0], "--listen", f"127.0.0.1:{port}", "--name", name,
         "--secret-file", secret, "--log-level", "error"]
    )  # fmt: skip


def run_gateway(secret: str, port: int, ports: Mapping[str, int]) -> None:
    """The gateway, until SIGTERM."""
    from internvl35.cli import main

    peers = [
        part
        for name, its in ports.items()
        for part in (f"--{name.partition('-')[0]}-peers", f"127.0.0.1:{its}")
    ]
    main(
        ["serve", "gateway", "--port", str(port), *peers, "--secret-file", secret,
         "--log-level", "error"]
    )  # fmt: skip


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
    preload = ["benchmarks.serve", "internvl35.cli", "internvl35.chat", "internvl35.serve.parts"]
    preload += ["internvl35.serve.dvd.answering", "internvl35.serve.gateway"]
    fleet = ProcessFleet(partial(run_server, secret), partial(run_gateway, secret), preload)
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
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "secret"
        secret.touch(0o600)
        secret.write_text("no secret at all, but long enough")
        async for name, counts in run_faults(list(CASES), str(secret)):
            figures["faults"][name] = counts.as_dict()
            write_result(NAME, figures)


def main(parts: Sequence[str]) -> None:
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
    print(RESULTS / f"{NAME}.json")


if __name__ == "__main__":
    main(sys.argv[1:] or ("wire", "faults"))
