"""Servers found by names that may stand for several of them, as those of headless services do.

Names are looked up again and again; each address is a server of its own. Connections are left to
:mod:`internvl35.serve.dvd.peers`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence

from internvl35.serve.dvd.peers import PeerAddress, PeerSettings, Pool
from internvl35.serve.handshake import Identity
from internvl35.serve.messages import Role

_LOGGER = logging.getLogger("internvl35.serve")


class NamedPool(Pool):
    """All servers of one kind behind some names.

    A name that cannot be looked up keeps the addresses that it had.

    Args:
        role: vision or language.
        names: of servers, or their addresses; at least one.
        own: what we are.
        settings: how patient we are.
        context: for TLS, under which certificates have to bear the names; None for plain sockets.
        every_s: seconds between two look-ups.

    Raises:
        ConfigError: if there is no name, or one twice.
    """

    def __init__(
        self,
        role: Role,
        names: Sequence[PeerAddress],
        own: Identity,
        settings: PeerSettings | None = None,
        context: ssl.SSLContext | None = None,
        *,
        every_s: float = 5.0,
    ) -> None:
        """Look up nothing yet."""
        super().__init__(role, names, own, settings, context)
        self._found: dict[PeerAddress, tuple[PeerAddress, ...]] = dict.fromkeys(names, ())
        self._unknown: set[PeerAddress] = set()
        self._every_s = every_s
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look up and to connect; a second call is harmless."""
        if self._looking is None:
            self.peers = ()
            await super().start()
            self._looking = asyncio.create_task(self._look_up(), name=f"finds {self.role} servers")

    async def close(self) -> None:
        """End all connections and the looking up; a second call is harmless."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self._looking = None
        await super().close()

    async def _look_up(self) -> None:
        while True:
            for name in self._found:
                try:
                    self._found[name] = await _find(name)
                    self._unknown.discard(name)
                except OSError as error:
                    if name not in self._unknown:
                        _LOGGER.warning("%s server %s is not known: %s", self.role, name, error)
                    self._unknown.add(name)
            self.follow([one for found in self._found.values() for one in found])
            await asyncio.sleep(self._every_s)


async def _find(name: PeerAddress) -> tuple[PeerAddress, ...]:
    """Look a name up; where it has addresses of both kinds, each server has one of either."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
    old = [one for one in found if one[0] == socket.AF_INET]
    return tuple(PeerAddress(str(one[4][0]), name.port, name.host) for one in old or found)
