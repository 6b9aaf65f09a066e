"""A gateway as a replica of Ray Serve: OpenAI's API behind Ray's proxies.

Which servers it works with is told by the directory, and changes. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from ray.exceptions import RayError

from internvl35.chat import Chat
from internvl35.data.tokenizer import load_tokenizer
from internvl35.errors import ServerError
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.hub import resolve_checkpoint
from internvl35.serve.answering import Defaults
from internvl35.serve.chat_answer import AnswerFormat
from internvl35.serve.dvd.answering import DecoupledAnswerer
from internvl35.serve.dvd.engine import DecoupledEngine, Servers
from internvl35.serve.dvd.peers import PeerAddress, Pool
from internvl35.serve.gateway import build_app
from internvl35.serve.gateway_settings import GatewaySettings
from internvl35.serve.handshake import Identity
from internvl35.serve.media import MediaSettings
from internvl35.serve.media_loader import SafeMediaLoader
from internvl35.serve.messages import Role
from internvl35.serve.ray.directory import ANNOUNCE_EVERY_S
from internvl35.serve.ray.servers import watch
from internvl35.serve.ray.settings import RaySettings
from internvl35.serve.served_checkpoint import look_at

_LOGGER = logging.getLogger("internvl35.serve")

_START_S = 600.0
"""Longest time in seconds that the first servers are waited for."""


class GatewayReplica:
    """Answers HTTP by whichever servers there are.

    Args:
        settings: of the application.
        directory: handle of the :class:`~internvl35.serve.ray.directory.Directory`.
        servers: handles of the servers, so that Ray starts them; they are reached by links.
    """

    async def __init__(  # type: ignore[misc]
        self, settings: RaySettings, directory: Any, servers: Sequence[Any]
    ) -> None:
        """Wait for the first servers, and connect to them."""
        self._settings, self._directory = settings, directory
        self._watching = watch(settings, "gateway")
        found = look_at(resolve_checkpoint(settings.model), settings.dtype)
        with torch.device("meta"):
            model = VisionLanguageModel(found.config)  # sizes alone: nothing is computed here
        chat = Chat(model, load_tokenizer(found.folder))
        profile = found.profile(
            "gateway", f"gateway {os.getpid()}", image_token_id=chat.builder.image_token_id
        )
        identity = Identity(profile, found.fingerprint, settings.secret.encode())
        vision = Pool("vision", await self._wait_for("vision"), identity)
        language = Pool("language", await self._wait_for("language"), identity)
        self._servers = Servers(vision, language)
        name = settings.served_name or settings.model
        form = AnswerFormat(
            chat.tokenizer, chat.rules.end_token_ids, name, None, found.config.tokens_per_tile
        )
        self._answerer = DecoupledAnswerer(
            chat, DecoupledEngine(self._servers, found.config),
            SafeMediaLoader(chat.tiles, MediaSettings(), chat.images), form,
            Defaults(SamplingSettings()), GatewaySettings(), (name,),
        )  # fmt: skip
        await self._answerer.start()
        self._following = asyncio.create_task(self._follow())

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Give Ray the routes."""
        return build_app(self._answerer, _read_keys(self._settings.api_key_file))

    async def check_health(self) -> None:
        """Raise if nothing can be answered any more; Ray then starts another gateway."""
        if self._following.done():
            self._following.result()

    async def __del__(self) -> None:
        """Give up connections; Ray has waited for the answers."""
        self._following.cancel()
        await self._answerer.stop()
        self._watching.close()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(ANNOUNCE_EVERY_S)
            for pool in self._servers.pools:
                found = await self._find(pool.role)
                if found:  # an empty directory has just been started anew
                    pool.follow(found)

    async def _find(self, role: Role) -> Sequence[PeerAddress]:
        try:
            return [PeerAddress(*one) for one in await self._directory.find.remote(role)]
        except RayError as error:  # it is being started anew
            _LOGGER.warning("the directory does not answer: %s", type(error).__name__)
            return ()

    async def _wait_for(self, role: Role) -> Sequence[PeerAddress]:
        try:
            async with asyncio.timeout(_START_S):
                while not (found := await self._find(role)):
                    await asyncio.sleep(ANNOUNCE_EVERY_S / 10)
                return found
        except TimeoutError:
            raise ServerError(f"no {role} server has come up; look at its log") from None


def _read_keys(path: str | None) -> tuple[str, ...]:
    text = os.environ.get("INTERNVL35_API_KEYS", "").replace(",", "\n")
    if path is not None:
        text += "\n" + Path(path).read_text("utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())
