"""``serve vision`` and ``serve language`` as processes: they answer as a chat does, and drain."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flash_models import FULL, SHORT, TILE, make_flash_model
from PIL import Image

from internvl35.chat import Chat
from internvl35.conversation import Conversation
from internvl35.data.compression import compress_prompt
from internvl35.data.messages import Message
from internvl35.data.tiles import cut_tiles, stack_tiles
from internvl35.data.tokenizer import load_tokenizer, save_tokenizer
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.routing import route
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.frames import NackCode, WireError
from internvl35.serve.handshake import Identity
from internvl35.serve.link import Link, open_link
from internvl35.serve.messages import (
    Encode,
    Encoded,
    Features,
    Finished,
    Generate,
    Progress,
    Tiles,
    new_request_id,
    to_block,
    to_tensor,
)
from internvl35.serve.served_checkpoint import look_at

SECRET = "a secret of all processes, long enough"
pytestmark = pytest.mark.slow

PROGRAM = ("-m", "internvl35.cli")
LONG = SamplingSettings(max_tokens=150, ignore_end=True)
"""Long enough that a signal comes while it is written."""


HANGS = """
import functools, os, sys, time
from internvl35.cli import main
from internvl35.generate.engine import Engine
from internvl35.generate.vision import VisionStage
from internvl35.serve import link_server

def hang(step):
    def run(*arguments):
        while os.path.exists(sys.argv[1]):
            time.sleep(0.1)
        return step(*arguments)
    return run

Engine.step, VisionStage.step = hang(Engine.step), hang(VisionStage.step)
link_server.LinkSettings = functools.partial(link_server.LinkSettings, stalled_after_s=0.5)
main(sys.argv[2:])
"""
"""A process whose steps do not end while there is a file, and which soon sees it."""


class Server:
    """A process, and where it listens."""

    def __init__(
        self, role: str, folder: Path, secret: Path, program: Sequence[str] = PROGRAM
    ) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable, *program, "serve", role, "--model", str(folder),
                "--listen", "127.0.0.1:0", "--secret-file", str(secret),
            ],
            stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.late = threading.Timer(120, self.process.kill)
        self.late.start()

    def find_port(self) -> int:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found = re.search(r"listening at 127\.0\.0\.1:(\d+)", line)
            if found:
                return int(found.group(1))
        raise AssertionError(f"the server ended with {self.process.wait()}")

    def end(self) -> None:
        self.late.cancel()
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def folder(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flash")
    make_flash_model().save_pretrained(folder)
    save_tokenizer(load_tokenizer(random_checkpoint), folder)
    return folder


@pytest.fixture(scope="module")
def servers(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    secret = tmp_path_factory.mktemp("keys") / "secret"
    secret.touch(0o600)
    secret.write_text(SECRET)
    servers = [Server(role, folder, secret) for role in ("vision", "language")]
    yield servers
    for server in servers:
        server.end()


@pytest.fixture(scope="module")
def ports(servers: list[Server]) -> list[int]:
    return [server.find_port() for server in servers]


@pytest.fixture(scope="module")
def chat(folder: Path) -> Chat:
    return Chat(make_flash_model(), load_tokenizer(folder))


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 100))


def identify(folder: Path, chat: Chat) -> Identity:
    served = look_at(folder)
    profile = served.profile("gateway", "gate", image_token_id=chat.builder.image_token_id)
    return Identity(profile, served.fingerprint, SECRET.encode())


async def encode(
    link: Link, levels: torch.Tensor, flash: FlashSettings
) -> tuple[torch.Tensor, tuple[bool, ...]]:
    """Ask for visual tokens of one picture, the last tile first."""
    request_id = new_request_id()
    stream = await link.open(Encode(request_id, 0, (len(levels),), flash, "", 0))
    last = len(levels) - 1
    await stream.send(Tiles(request_id, last, 1, to_block(levels[last:])))
    await stream.send(Tiles(request_id, 0, last, to_block(levels[:last])))
    found: dict[int, torch.Tensor] = {}
    choices: dict[int, bool] = {}
    while True:
        message = await stream.receive()
        if isinstance(message, Encoded):
            features = torch.cat([found[tile] for tile in sorted(found)])
            return features, tuple(choices[tile] for tile in sorted(choices))
        assert isinstance(message, Features)
        sizes = [SHORT if choice else FULL for choice in message.is_compressed]
        for number, part in enumerate(to_tensor(message.values).split(sizes)):
            found[message.first_tile + number] = part
            choices[message.first_tile + number] = message.is_compressed[number]


def features_of(chat: Chat, request: Request, flash: FlashSettings) -> torch.Tensor:
    """What the network gives, by no code of a server."""
    (routed,) = route(chat.model, [request], flash)
    if routed.image_features is not None:
        return routed.image_features
    with torch.inference_mode():
        return chat.model.get_image_features(routed.pixel_values).flatten(0, 1)


@pytest.mark.parametrize("policy", ["off", "released"])
def test_an_answer_through_both_processes_is_that_of_a_chat(folder, chat, ports, policy) -> None:
    flash, sampling = FlashSettings(policy), SamplingSettings(max_tokens=12)
    rng = np.random.default_rng(4)
    picture = Image.fromarray(rng.integers(0, 255, (220, 230, 3), dtype=np.uint8))
    cut = stack_tiles(cut_tiles(picture, chat.tiles))  # (N, 3, side, side)
    levels = torch.from_numpy(np.ascontiguousarray(cut.transpose(0, 2, 3, 1)))
    shown = (chat.cut(picture)[0],)
    request = chat.prepare(Conversation((Message("user", "<image>\nWhat?"),), shown))
    (expected,) = chat.engine.generate([request], sampling, flash=flash)

    async def main() -> None:
        own = identify(folder, chat)
        vision, language = [await open_link("127.0.0.1", port, own) for port in ports]
        assert (vision.peer.role, language.peer.role) == ("vision", "language")
        features, choices = await encode(vision, levels, flash)
        assert any(choices) == (policy == "released")
        assert torch.equal(features, features_of(chat, request, flash))
        prompt = compress_prompt(
            request.prompt, choices, tokens_per_tile=FULL, compressed_tokens=SHORT
        )
        ids = to_block(torch.tensor(prompt.token_ids, dtype=torch.int32))
        opening = Generate(
            new_request_id(), 0, prompt.image_spans, choices, sampling, "", 0, None, ids
        )
        stream = await language.open(opening)
        values = to_block(features)
        await stream.send(Features(opening.request_id, 0, len(choices), choices, None, values))
        token_ids: list[int] = []
        while not isinstance(message := await stream.receive(), Finished):
            assert isinstance(message, Progress)
            token_ids += message.token_ids
        assert tuple(token_ids) == expected.samples[0].token_ids
        for link in (vision, language):
            await link.close()

    run(main())


def test_who_does_not_hold_the_secret_is_turned_away(folder, chat, ports) -> None:
    own = identify(folder, chat)
    stranger = Identity(own.profile, own.fingerprint, b"another secret, which is as long as ours")

    async def main() -> None:
        for port in ports:
            with pytest.raises(WireError) as caught:
                await open_link("127.0.0.1", port, stranger)
            assert caught.value.code is NackCode.UNAUTHENTICATED

    run(main())


@pytest.mark.parametrize("role", ["vision", "language"])
def test_a_process_whose_thread_hangs_ends_itself(folder, chat, tmp_path, role) -> None:
    secret, there = tmp_path / "secret", tmp_path / "hang"
    secret.touch(0o600)
    secret.write_text(SECRET)
    server = Server(role, folder, secret, ("-c", HANGS, str(there)))
    ids = to_block(torch.tensor([5, 6, 7], dtype=torch.int32))

    async def main() -> None:
        link = await open_link("127.0.0.1", server.find_port(), identify(folder, chat))
        there.touch()
        opening: Encode | Generate = Generate(new_request_id(), 0, (), (), LONG, "", 0, None, ids)
        if role == "vision":
            opening = Encode(new_request_id(), 0, (1,), None, "", 0)
        stream = await link.open(opening)
        if role == "vision":
            levels = torch.zeros(1, TILE, TILE, 3, dtype=torch.uint8)
            await stream.send(Tiles(opening.request_id, 0, 1, to_block(levels)))
        with pytest.raises(WireError) as caught:
            await stream.receive()
        assert caught.value.code is NackCode.LOST
        await link.close()

    try:
        run(main())
        _, err = server.process.communicate(timeout=60)
        assert server.process.returncode == 1
        assert "work stands still; the process ends, to be started anew" in err
    finally:
        server.end()


def test_at_the_signal_what_is_in_work_is_finished_and_nothing_new_taken(
    folder, chat, servers, ports
) -> None:
    """The last test: both processes end."""
    levels = torch.zeros(2, TILE, TILE, 3, dtype=torch.uint8)

    async def main() -> None:
        own = identify(folder, chat)
        vision, language = [await open_link("127.0.0.1", port, own) for port in ports]
        encoding = await vision.open(Encode(new_request_id(), 0, (2,), None, "", 0))
        ids = to_block(torch.tensor([5, 6, 7], dtype=torch.int32))
        writing = await language.open(Generate(new_request_id(), 0, (), (), LONG, "", 0, None, ids))
        first = await writing.receive()
        assert isinstance(first, Progress)
        for server in servers:
            server.process.send_signal(signal.SIGTERM)
        for link in (vision, language):
            while not link.is_draining:
                await asyncio.sleep(0.01)
            with pytest.raises(WireError, match="drains"):
                await link.open(Encode(new_request_id(), 0, (1,), None, "", 0))
        await encoding.send(Tiles(encoding.request_id, 0, 2, to_block(levels)))
        assert isinstance(await encoding.receive(), Features)
        assert isinstance(await encoding.receive(), Encoded)
        num_tokens = len(first.token_ids)
        while not isinstance(message := await writing.receive(), Finished):
            assert isinstance(message, Progress)
            num_tokens += len(message.token_ids)
        assert num_tokens == LONG.max_tokens
        for link in (vision, language):
            await link.wait_ended()

    run(main())
    for server in servers:
        _, err = server.process.communicate(timeout=60)
        assert server.process.returncode == 0, err
