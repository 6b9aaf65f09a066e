"""The servers of one kind behind a gateway: connected, watched, and chosen by their queues.

A link that ended is opened again, with growing pauses; who waits for a server waits in line. What
is said over links is left to :mod:`internvl35.serve.dvd.engine`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, TypeAlias

from internvl35.errors import ConfigError
from internvl35.serve.frame_pipe import LinkSettings
from internvl35.serve.frames import NackCode, WireError
from internvl35.serve.handshake import Identity
from internvl35.serve.link import Link, open_link
from internvl35.serve.messages import Role

_LOGGER = logging.getLogger("internvl35.serve")

PeerState: TypeAlias = Literal["up", "draining", "down"]
"""Whether a server takes requests."""


@dataclass(frozen=True)
class PeerAddress:
    """Where a server listens."""

    host: str
    """Name or address."""
    port: int
    """Its port."""
    name: str | None = None
    """What its certificate bears under TLS; None for the host."""

    def __str__(self) -> str:
        """Write it as the command line reads it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class PeerSettings:
    """How patient a gateway is with its servers."""

    retry_first_s: float = 0.1
    """Seconds until a server that could not be reached is tried again; they double each time."""
    retry_most_s: float = 5.0
    """Most seconds between two tries."""
    patience_s: float = 10.0
    """Seconds without any server of a kind after which requests for it are refused."""
    max_attempts: int = 4
    """Most times that a request is given to servers of one kind."""
    spread_tiles: int = 16
    """Tiles by which the queue of the vision server that saw a picture before may be longer than
    the shortest."""
    spread_requests: int = 2
    """The same for language servers, in requests."""
    link: LinkSettings = field(default_factory=LinkSettings)
    """How patient each connection is."""

    def __post_init__(self) -> None:
        """Refuse settings under which nobody is reached."""
        for name in ("retry_first_s", "retry_most_s", "patience_s", "max_attempts"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: above 0")
        for name in ("spread_tiles", "spread_requests"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: 0 or more")


class Peer:
    """One server, whether it is there or not.

    Args:
        address: where it listens.
    """

    def __init__(self, address: PeerAddress) -> None:
        """Begin without a link."""
        self.address = address
        self.link: Link | None = None
        self.error = ""  # why it is not there
        self.num_requests = self.num_units = 0  # that we gave it
        self.num_failures = 0
        self.busy_until = 0.0  # by the loop's clock

    @property
    def state(self) -> PeerState:
        """Whether it takes requests."""
        if self.link is None or self.link.error is not None:
            return "down"
        return "draining" if self.link.is_draining else "up"

    @property
    def has_room(self) -> bool:
        """Whether it takes one more request, as far as we know."""
        if self.state != "up" or self.link is None:
            return False
        is_busy = asyncio.get_running_loop().time() < self.busy_until
        return not is_busy and self.num_requests < self.link.peer.max_requests

    @property
    def queue(self) -> int:
        """Tiles or requests that wait there: ours, or what it tells if others send more."""
        load = None if self.link is None else self.link.peer_load
        if load is None or self.link is None:
            return self.num_units
        told = load.num_waiting_tiles if self.link.peer.role == "vision" else load.num_requests
        return max(self.num_units, told)


class Pool:
    """All servers of one kind.

    Args:
        role: vision or language.
        addresses: of the servers; at least one.
        own: what we are.
        settings: how patient we are.
        context: for TLS; None for plain sockets.

    Raises:
        ConfigError: if there is no server, or one twice.
    """

    def __init__(
        self,
        role: Role,
        addresses: Sequence[PeerAddress],
        own: Identity,
        settings: PeerSettings | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Connect to nobody yet."""
        if not addresses or len(set(addresses)) < len(addresses):
            named = ", ".join(map(str, addresses)) or "nobody"
            raise ConfigError(f"{role} servers are {named}; needed: at least one, each once")
        self.role = role
        self.peers = tuple(Peer(address) for address in addresses)
        self.settings = settings or PeerSettings()
        self._own, self._context = own, context
        self._tasks: dict[Peer, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()  # who came first goes first
        self._change = asyncio.Event()
        self._seen_at: float | None = None  # when one was up, by the loop's clock
        self.num_waiting = 0

    @property
    def is_up(self) -> bool:
        """Whether any server takes requests."""
        return any(peer.state == "up" for peer in self.peers)

    async def start(self) -> None:
        """Begin to connect; a second call is harmless."""
        if not self._tasks:
            self._seen_at = asyncio.get_running_loop().time()
            self._tasks = {peer: self._begin(peer) for peer in self.peers}

    def follow(self, addresses: Sequence[PeerAddress]) -> None:
        """Work with other servers from now on; call it again when it is known who there is.

        Args:
            addresses: of all servers. One that is not named stays as long as it is connected, so
                that it can finish what it has; it says itself when it takes nothing new.
        """
        known = {peer.address for peer in self.peers}
        new = [Peer(address) for address in dict.fromkeys(addresses) if address not in known]
        gone = [
            peer for peer in self.peers if peer.address not in addresses and peer.state == "down"
        ]
        for peer in gone:
            self._tasks.pop(peer).cancel()
        self.peers = (*(peer for peer in self.peers if peer not in gone), *new)
        self._tasks |= {peer: self._begin(peer) for peer in new}

    def _begin(self, peer: Peer) -> asyncio.Task[None]:
        return asyncio.create_task(self._keep(peer), name=f"keeps {peer.address}")

    async def close(self) -> None:
        """End all connections and what is asked over them; a second call is harmless."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for peer in self.peers:
            if peer.link is not None:
                await peer.link.close()
                peer.link = None
        self._tasks = {}
        self._turn, self._change = asyncio.Lock(), asyncio.Event()  # those knew this loop alone

    @asynccontextmanager
    async def borrow(
        self, num_units: int, key: bytes = b"", avoid: Peer | None = None
    ) -> AsyncIterator[Peer]:
        """Wait for a server that has room, and hold a place there.

        Args:
            num_units: tiles, or 1 for a language server.
            key: requests of equal keys go to the same server while queues are about even.
            avoid: where it failed before; taken only if no other has room.

        Yields:
            A server that is up.

        Raises:
            WireError: if there has been no server for too long.
        """
        self.num_waiting += 1
        try:
            async with self._turn:
                while (peer := self._choose(key, avoid)) is None:
                    await self._wait_for_change()
                peer.num_requests += 1
                peer.num_units += num_units
        finally:
            self.num_waiting -= 1
        try:
            yield peer
        finally:
            peer.num_requests -= 1
            peer.num_units -= num_units
            self._change.set()

    def note_failure(self, peer: Peer, error: WireError) -> None:
        """Remember that a server failed or refused a request.

        Args:
            peer: the server.
            error: why.
        """
        if error.code is NackCode.BUSY:
            wait = error.retry_after_s or self.settings.retry_first_s
            peer.busy_until = asyncio.get_running_loop().time() + wait
        else:
            peer.num_failures += 1

    def _choose(self, key: bytes, avoid: Peer | None) -> Peer | None:
        free = [peer for peer in self.peers if peer.has_room]
        others = [peer for peer in free if peer is not avoid] or free
        if not others:
            return None
        least = min(peer.queue for peer in others)
        if not key:
            return random.choice([peer for peer in others if peer.queue == least])
        settings = self.settings
        spread = settings.spread_tiles if self.role == "vision" else settings.spread_requests
        near = [peer for peer in others if peer.queue <= least + spread]
        return max(near, key=lambda peer: _rank(key, peer.address))

    async def _wait_for_change(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if any(peer.state != "down" for peer in self.peers) or self._seen_at is None:
            self._seen_at = now
        elif now - self._seen_at >= self.settings.patience_s:
            found = "; ".join(f"{peer.address}: {peer.error}" for peer in self.peers)
            raise WireError(
                NackCode.LOST,
                f"no {self.role} server has been there for {now - self._seen_at:.0f} s: {found}",
                self.settings.retry_most_s,
            )
        self._change.clear()
        with suppress(TimeoutError):  # pauses of busy servers end without a word
            async with asyncio.timeout(self.settings.retry_first_s):
                await self._change.wait()

    async def _keep(self, peer: Peer) -> None:
        """Connect to a server again and again."""
        wait, told = self.settings.retry_first_s, ""
        while True:
            try:
                link = await self._connect(peer.address)
                peer.link, peer.error, peer.busy_until = link, "", 0.0
                wait, told = self.settings.retry_first_s, ""
                _LOGGER.info("%s server %s is up: %s", self.role, peer.address, link.peer.name)
                self._change.set()
                await link.wait_ended()
                self._seen_at = asyncio.get_running_loop().time()
                peer.error = str(link.error)
            except WireError as error:
                peer.error = str(error)
            if peer.error != told:
                told = peer.error
                _LOGGER.warning("%s server %s: %s", self.role, peer.address, told)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, self.settings.retry_most_s)

    async def _connect(self, address: PeerAddress) -> Link:
        link = await open_link(
            address.host, address.port, self._own, self.settings.link, self._context, address.name
        )
        try:
            if link.peer.role != self.role:
                raise WireError(
                    NackCode.INCOMPATIBLE,
                    f"{address} is a {link.peer.role} server; needed here: a {self.role} server",
                )
            await link.wait_heard()  # else a server whose work stands still would be given more
        except BaseException:
            await link.close()
            raise
        return link


def _rank(key: bytes, address: PeerAddress) -> bytes:
    return blake2b(str(address).encode(), key=blake2b(key).digest(), digest_size=8).digest()
