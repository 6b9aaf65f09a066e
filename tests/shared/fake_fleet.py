"""A gateway and two servers of each kind without networks, as processes that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from batch_stubs import StubChat
from benchmarks.serve_fleet import SERVERS, ProcessFleet
from benchmarks.serve_load import Question
from fake_servers import (
    CONFIG,
    GATEWAY,
    FakeLanguage,
    FakeVision,
    expected_text,
    identity,
    make_request,
    serve,
)

from internvl35.data.tiles import Grid
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.answering import Defaults
from internvl35.serve.chat_answer import AnswerFormat
from internvl35.serve.dvd.answering import DecoupledAnswerer
from internvl35.serve.dvd.engine import DecoupledEngine, Servers
from internvl35.serve.dvd.peers import PeerAddress, PeerSettings, Pool
from internvl35.serve.frame_pipe import LinkSettings
from internvl35.serve.gateway import build_app
from internvl35.serve.gateway_settings import GatewaySettings
from internvl35.serve.listening import bind
from internvl35.serve.listening import serve as listen
from internvl35.serve.media import LoadedMedia

PATIENT = PeerSettings(
    retry_first_s=0.02, retry_most_s=0.2, patience_s=60.0,
    link=LinkSettings(ping_every_s=0.5, dead_after_s=10.0, lease_s=30.0),
)  # fmt: skip
"""Patience for a machine that is busy with other things."""
STEP_S = 0.004
"""What a fake server takes for a group of tiles, or a token."""


class LevelChat(StubChat):
    """Builds prompts as :func:`make_request` does, of texts that hold numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = SimpleNamespace(config=CONFIG)
        self.settings = SimpleNamespace(max_tokens=4096, frame_label="")

    def prepare(self, asked: Any, flash: Any = None, *_: Any) -> Any:
        pictures = [tiles[:, 0, 0, 0].tolist() for tiles in asked.pictures]
        text = asked.messages[-1].text.replace("<image>", " ")
        return make_request(*pictures, text=[int(word) for word in text.split() if word.isdigit()])


class LevelLoader:
    """Opens ``data:,20-21``: two tiles of these levels."""

    async def load(self, items: Any, request_id: str = "") -> Any:
        for item in items:
            levels = [int(level) for level in item.source.partition(",")[2].split("-")]
            tiles = np.array(levels, np.uint8)[:, None, None, None]
            values = np.broadcast_to(tiles, (len(levels), 3, 4, 4))
            yield LoadedMedia(values, (Grid(1, len(levels)),), (len(levels),))

    async def close(self) -> None:
        pass


def make_questions() -> list[Question]:
    """Texts, pictures of several groups, several pictures; routed and not."""
    questions = []
    for number in range(12):
        policy = "released" if number % 3 == 0 else "off"
        pictures = [range(20 + number, 20 + number + 5 * (number % 3)), range(90, 90 + number % 2)]
        pictures = [picture for picture in pictures if picture]
        parts = [
            {"type": "image_url", "image_url": {"url": "data:," + "-".join(map(str, picture))}}
            for picture in pictures
        ]
        words = [100 + number, 8]
        parts.append({"type": "text", "text": " ".join(map(str, words))})
        body = {"messages": [{"role": "user", "content": parts}], "flash": policy}
        answer = expected_text(*pictures, text=words, policy=policy)
        questions.append(Question(body, answer))
    return questions


def run_server(name: str, port: int) -> None:
    """One server, until SIGTERM."""
    role = name.partition("-")[0]

    async def step(*_: Any) -> None:
        await asyncio.sleep(STEP_S)

    async def main() -> None:
        kind = FakeVision if role == "vision" else FakeLanguage
        own = identity(role, name, max_requests=64)  # type: ignore[arg-type]
        server = await serve(kind(each=step), own, port, PATIENT)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()
        os._exit(1 if await server.drain(110) else 0)

    asyncio.run(main())


def run_gateway(max_requests: int, port: int, ports: dict[str, int]) -> None:
    """The gateway, until SIGTERM."""
    pools = [
        Pool(role, [PeerAddress("127.0.0.1", ports[name]) for name in SERVERS if role in name],
             GATEWAY, PATIENT)
        for role in ("vision", "language")
    ]  # fmt: skip
    engine = DecoupledEngine(Servers(*pools), CONFIG)  # type: ignore[arg-type]
    chat = LevelChat()
    form = AnswerFormat(chat.tokenizer, chat.rules.end_token_ids, "tiny", None, 4)
    settings = GatewaySettings(max_requests=max_requests, drain_timeout_s=110)
    answerer = DecoupledAnswerer(
        chat, engine, LevelLoader(), form, Defaults(SamplingSettings()), settings, ("tiny",)
    )  # type: ignore[arg-type]
    listen(build_app(answerer), answerer, settings, bind("127.0.0.1", port))


def fleet_of_fakes(max_requests: int = 256) -> ProcessFleet:
    """All of them, not started yet."""
    gateway = partial(run_gateway, max_requests)
    return ProcessFleet(run_server, gateway, [__name__])
