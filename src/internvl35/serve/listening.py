"""Listens on a port until a signal ends it, and lets answers under way come to their end first.

What is answered is left to :mod:`internvl35.serve.gateway`. No counterpart in the paper.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from internvl35.errors import ServerError
from internvl35.serve.answering import Answerer
from internvl35.serve.gateway_settings import GatewaySettings

_BACKLOG = 2048


class Listener(uvicorn.Server):
    """Serves one application.

    Args:
        app: of :func:`internvl35.serve.gateway.build_app`.
        answerer: turns requests away from the first signal on.
        settings: how long answers are waited for.
        tell: is called once connections are accepted.
    """

    def __init__(
        self,
        app: ASGIApp,
        answerer: Answerer,
        settings: GatewaySettings,
        tell: Callable[[], None] | None = None,
    ) -> None:
        """Listen to nothing yet."""
        self._answerer, self._tell = answerer, tell
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none",
            timeout_keep_alive=30, timeout_graceful_shutdown=max(1, int(settings.drain_timeout_s)),
            backlog=_BACKLOG,
        )  # fmt: skip
        super().__init__(config)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no more requests; a second interruption at the terminal ends at once."""
        self._answerer.room.is_draining = True
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin what the answerer needs, then take requests."""
        await self._answerer.start()
        await super().startup(sockets)
        if self.started and self._tell is not None:
            self._tell()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the answers under way, then end what was begun."""
        await super().shutdown(sockets)
        await self._answerer.stop()


def bind(host: str, port: int) -> socket.socket:
    """Take a port.

    Args:
        host: an address or a name of this machine.
        port: 0 for any that is free.

    Returns:
        The socket, which nobody listens to yet.

    Raises:
        ServerError: if it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except (OSError, OverflowError) as error:
        raise ServerError(f"{host} port {port} cannot be had: {error}; name another") from error
    return taken


def serve(
    app: ASGIApp,
    answerer: Answerer,
    settings: GatewaySettings,
    taken: socket.socket,
    tell: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        app: the application.
        answerer: of the application; its media are given up in the end.
        settings: how long answers are waited for.
        taken: of :func:`bind`.
        tell: is called once connections are accepted.
    """
    listener = Listener(app, answerer, settings, tell)
    with _heeding(signal.SIGTERM, listener):
        listener.run(sockets=[taken])


@contextmanager
def _heeding(number: signal.Signals, listener: Listener) -> Iterator[None]:
    """Stop by a signal that comes before uvicorn looks for it, and outlive its second coming.

    Having stopped, uvicorn sends the process once more the signal that stopped it.
    """
    before = signal.signal(number, listener.handle_exit)
    try:
        yield
    finally:
        signal.signal(number, before)
