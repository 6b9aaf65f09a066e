"""Vision and language servers as replicas of Ray Serve.

A replica listens for links like any other server, announces its address and tells how long its
queue is. What it works on is left to :mod:`internvl35.serve.vision` and
:mod:`internvl35.serve.language`. Paper section 2.3.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack, suppress
from typing import Any

import torch
from ray import serve
from ray.exceptions import RayError
from ray.util import get_node_ip_address

from internvl35.model.hub import resolve_checkpoint
from internvl35.serve.handshake import Identity
from internvl35.serve.link_server import LinkServer, ListenSettings
from internvl35.serve.logs import start_log
from internvl35.serve.messages import Role
from internvl35.serve.parts import start_language, start_vision
from internvl35.serve.ray.directory import ANNOUNCE_EVERY_S
from internvl35.serve.ray.scaling import QUEUE
from internvl35.serve.ray.settings import RaySettings
from internvl35.serve.served_checkpoint import ServedCheckpoint, look_at
from internvl35.serve.server_process import PartService
from internvl35.serve.tracing import sending

_LOGGER = logging.getLogger("internvl35.serve")


class ServerReplica:
    """What both kinds of servers have in common."""

    role: Role

    async def __init__(self, settings: RaySettings, directory: Any) -> None:  # type: ignore[misc]
        """Load the weights and begin to listen.

        Args:
            settings: of the application.
            directory: handle of the :class:`~internvl35.serve.ray.directory.Directory`.
        """
        self._settings, self._directory = settings, directory
        self._watching = watch(settings, self.role)
        self._announcing: asyncio.Task[None] | None = None
        name = f"{self.role} {serve.get_replica_context().replica_id.unique_id}"
        self._device = None if settings.num_gpus else "cpu"
        if settings.num_cpus >= 1:
            torch.set_num_threads(int(settings.num_cpus))
        found = look_at(resolve_checkpoint(settings.model), settings.dtype)
        self._service = await asyncio.to_thread(self._load, found)
        profile = found.profile(self.role, name, image_token_id=self._service.config.image_token_id)
        identity = Identity(profile, found.fingerprint, settings.secret.encode())
        host = get_node_ip_address()
        self._server = LinkServer(self._service, identity, ListenSettings(host=host))
        await self._server.start()
        self._place = self.role, host, self._server.port
        ends = self._service.wait_failed(), self._server.wait_stalled()
        self._ends = [asyncio.create_task(end) for end in ends]
        self._announcing = asyncio.create_task(self._announce())

    def _load(self, found: ServedCheckpoint) -> PartService:
        """Load a part of the checkpoint."""
        raise NotImplementedError

    async def check_health(self) -> None:
        """Raise if nothing can be answered any more; Ray then starts another server."""
        for end in self._ends:
            if end.done():
                end.result()
                raise RuntimeError("the service has ended, or its work stands still")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Ray how long the queue is."""
        load = self._server.load
        queue = load.num_waiting_tiles if self.role == "vision" else load.num_requests
        return {QUEUE: float(queue)}

    async def __del__(self) -> None:
        """Finish what is in work, and end; Ray waits for it."""
        if self._announcing is None:  # Ray takes it away while it loads
            return
        self._announcing.cancel()
        with suppress(RayError):
            await self._directory.withdraw.remote(*self._place)
        num_left = await self._server.drain(self._settings.drain_timeout_s)
        _LOGGER.info("%s server %s:%d ends, %d requests cut off", *self._place, num_left)
        for end in self._ends:
            end.cancel()
        self._service.close()
        self._watching.close()

    async def _announce(self) -> None:
        while True:
            try:
                await self._directory.announce.remote(*self._place)
            except RayError as error:  # it is being started anew
                _LOGGER.warning("the directory does not answer: %s", type(error).__name__)
            await asyncio.sleep(ANNOUNCE_EVERY_S)


class VisionReplica(ServerReplica):
    """Encodes tiles."""

    role = "vision"

    def _load(self, found: ServedCheckpoint) -> PartService:
        return start_vision(found, device=self._device)


class LanguageReplica(ServerReplica):
    """Writes answers."""

    role = "language"

    def _load(self, found: ServedCheckpoint) -> PartService:
        return start_language(found, device_map=self._device)


def watch(settings: RaySettings, role: Role) -> ExitStack:
    """Write the log of a replica and send its spans.

    Args:
        settings: of the application.
        role: of the replica.

    Returns:
        What is to be closed in the end.
    """
    start_log(settings.log_form, "info", role)
    stack = ExitStack()
    stack.enter_context(
        sending(settings.trace_endpoint, settings.trace_share, f"internvl35-{role}")
    )
    return stack
