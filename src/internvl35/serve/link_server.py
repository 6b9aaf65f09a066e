"""Listens for gateways, and keeps count of the requests that a server works on.

A request is worked on once: its id is remembered for a while after its end, and a later attempt
ends an earlier one, wherever that came from. Connections are left to
:mod:`internvl35.serve.link`, the work itself to the rooms. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections import OrderedDict
from dataclasses import dataclass

from internvl35.errors import ConfigError, InternVLError
from internvl35.serve.frame_pipe import LinkSettings
from internvl35.serve.frames import Header, NackCode, WireError
from internvl35.serve.handshake import Identity, welcome
from internvl35.serve.link import Link
from internvl35.serve.logs import with_facts
from internvl35.serve.messages import Encode, Generate, Load, Service
from internvl35.serve.plans import check_opening, check_prompt
from internvl35.serve.stream import Stream
from internvl35.serve.tracing import stage
from internvl35.serve.transports import Transport, accept

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListenSettings:
    """Where a server listens, and how much it remembers."""

    host: str = "127.0.0.1"
    """Address to listen at; another than this machine's own needs a secret or TLS."""
    port: int = 0
    """Port to listen at; 0 for a free one."""
    max_connections: int = 64
    """Most gateways at once, those that are still proving who they are included."""
    remember_s: float = 300.0
    """Seconds for which the id of a request that ended is refused again."""
    max_remembered: int = 65_536
    """Most such ids; the oldest are forgotten first."""
    retry_after_s: float = 1.0
    """What a gateway is told when there is no room."""

    def __post_init__(self) -> None:
        """Refuse numbers of nothing."""
        if not 0 <= self.port < 65_536:
            raise ConfigError(f"port is {self.port}; needed: 0 to 65535")
        for name in ("max_connections", "remember_s", "max_remembered", "retry_after_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: above 0")

    def check(self, own: Identity, context: ssl.SSLContext | None) -> None:
        """Refuse to let strangers in.

        Args:
            own: what the server is.
            context: for TLS; None for plain sockets.

        Raises:
            ConfigError: if they could connect.
        """
        has_certificates = context is not None and context.verify_mode is ssl.CERT_REQUIRED
        if not (has_certificates or own.secret or _is_loopback(self.host)):
            raise ConfigError(
                f"everyone could connect to {self.host}; needed: a secret, TLS that asks for "
                "clients' certificates, or an address of this machine alone (127.0.0.1)"
            )

    def bind(self) -> socket.socket:
        """Take the port.

        Returns:
            A socket that listens.

        Raises:
            ConfigError: if the port is taken or the address is not ours.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=128)
        except OSError as error:
            raise ConfigError(
                f"nobody can listen at {self.host}:{self.port}: {error}; take another port"
            ) from error


class LinkServer:
    """A vision or a language server's side of its connections; meets ``Host``.

    Args:
        service: works on requests.
        own: what it is.
        listen: where it listens.
        settings: how patient its connections are.
        context: for TLS, which has to ask clients for certificates; None for plain sockets.

    Raises:
        ConfigError: if strangers could connect.
    """

    def __init__(
        self,
        service: Service,
        own: Identity,
        listen: ListenSettings | None = None,
        settings: LinkSettings | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Check that nobody gets in who should not; :meth:`start` begins to listen."""
        self._service, self._own, self._context = service, own, context
        self._listen, self._settings = listen or ListenSettings(), settings or LinkSettings()
        self._listen.check(own, context)
        self._requests: dict[str, Stream] = {}
        self._ended: OrderedDict[str, tuple[int, float]] = OrderedDict()  # attempt and time
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    @property
    def load(self) -> Load:
        """How busy the service is."""
        return self._service.load

    @property
    def num_requests(self) -> int:
        """Requests in work."""
        return len(self._requests)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._socket is not None
        port: int = self._socket.getsockname()[1]
        return port

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ConfigError: if the port is taken or the address is not ours.
        """
        self._socket = self._listen.bind()
        self._socket.setblocking(False)
        self._accepting = asyncio.create_task(self._accept_all(), name="accepts gateways")

    async def wait_stalled(self) -> None:
        """Wait until work has stood still for so long that gateways give this server up."""
        while self.load.stalled_s <= self._settings.stalled_after_s:
            await asyncio.sleep(self._settings.ping_every_s)

    async def drain(self, timeout_s: float) -> int:
        """Take nothing new, finish what is in work, and close.

        Args:
            timeout_s: most seconds to wait for it.

        Returns:
            Requests that were cut off.
        """
        self._is_draining = True
        for link in self._links:
            link.say_goodbye()
        works = [stream.task for stream in self._requests.values() if stream.task is not None]
        if works:
            await asyncio.wait(works, timeout=timeout_s)
        num_left = len(self._requests)
        leaving = [asyncio.create_task(link.wait_ended()) for link in self._links]
        if leaving and not num_left:  # gateways hang up when they have read the last words
            await asyncio.wait(leaving, timeout=self._settings.dead_after_s)
        for task in leaving:
            task.cancel()
        await self.close()
        return num_left

    async def close(self) -> None:
        """End all connections; a second call is harmless."""
        tasks = {*self._tasks} | ({self._accepting} if self._accepting else set())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    def admit(self, header: Header, opening: Encode | Generate) -> None:
        """Let a request in; see ``Host``."""
        needed = Encode if self._own.profile.role == "vision" else Generate
        if not isinstance(opening, needed):
            raise WireError(
                NackCode.UNPLANNED,
                f"a {self._own.profile.role} server does not take {type(opening).__name__}",
            )
        check_opening(header, opening, self._own.profile)
        self._check_new(opening)

    def begin(self, opening: Encode | Generate, stream: Stream) -> None:
        """Work on a request; see ``Host``."""
        self._check_new(opening)  # another connection may have been faster
        if isinstance(opening, Generate):
            check_prompt(opening, self._own.profile)
        earlier = self._requests.pop(opening.request_id, None)
        if earlier is not None:
            earlier.refuse(WireError(NackCode.EXPIRED, "a later attempt took its place"))
        self._requests[opening.request_id] = stream
        stream.task = asyncio.create_task(self._work(opening, stream), name=opening.request_id)
        self._tasks.add(stream.task)
        stream.task.add_done_callback(self._tasks.discard)

    def _check_new(self, opening: Encode | Generate) -> None:
        if self._is_draining:
            raise WireError(NackCode.DRAINING, "the server drains; ask another one")
        earlier = self._requests.get(opening.request_id)
        attempt = -1 if earlier is None else earlier.opening.attempt
        attempt = max(attempt, self._ended.get(opening.request_id, (-1, 0.0))[0])
        if opening.attempt <= attempt:
            raise WireError(
                NackCode.DUPLICATE,
                f"attempt {opening.attempt} of this request came after {attempt}; "
                "send a new request under a new id",
            )
        if earlier is None and len(self._requests) >= self._own.profile.max_requests:
            raise WireError(
                NackCode.BUSY,
                f"{len(self._requests)} requests are in work, as many as the server takes",
                self._listen.retry_after_s,
            )

    async def _work(self, opening: Encode | Generate, stream: Stream) -> None:
        """Answer one request; the process boundary behind which errors are told."""
        error = WireError(NackCode.INTERNAL, "the server ended the request without an answer")
        try:
            with stage(
                self._own.profile.role, parent=opening.trace, request=opening.request_id,
                attempt=opening.attempt,
            ):  # fmt: skip
                await self._service.answer(opening, stream)
        except asyncio.CancelledError:
            error = WireError(NackCode.LOST, "the server ended before the request")
            raise
        except WireError as found:
            error = found
        except InternVLError as found:
            error = WireError(NackCode.WRONG_REQUEST, str(found))
        except Exception:  # noqa: BLE001 - logged, and told without its words
            _log.exception("fault", extra=with_facts(request=opening.request_id))
            error = WireError(NackCode.INTERNAL, "the server failed; its log says why")
        finally:
            stream.refuse(error)
            self._remember(opening, stream)

    def _remember(self, opening: Encode | Generate, stream: Stream) -> None:
        now = asyncio.get_running_loop().time()
        if self._requests.get(opening.request_id) is stream:
            del self._requests[opening.request_id]
        known = self._ended.pop(opening.request_id, (-1, now))[0]
        self._ended[opening.request_id] = max(known, opening.attempt), now
        while self._ended:
            _, ended_at = next(iter(self._ended.values()))
            is_old = now - ended_at > self._listen.remember_s
            if not is_old and len(self._ended) <= self._listen.max_remembered:
                break
            self._ended.popitem(last=False)

    async def _accept_all(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._socket is not None
        while True:
            try:
                own, _ = await loop.sock_accept(self._socket)
            except OSError as error:  # no descriptors left, for one
                _log.warning("a connection was not accepted: %s", error)
                await asyncio.sleep(self._listen.retry_after_s)
                continue
            if self._is_draining or self._num_connections >= self._listen.max_connections:
                own.close()
                continue
            task = asyncio.create_task(self._serve(own))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @property
    def _num_connections(self) -> int:
        works = {stream.task for stream in self._requests.values()}
        return len(self._tasks - works)

    async def _serve(self, own: socket.socket) -> None:
        transport: Transport | None = None
        link: Link | None = None
        try:
            async with asyncio.timeout(self._settings.handshake_s):
                transport = await accept(own, self._context)
                found = await welcome(transport, self._own)
            link = Link(transport, self._own, found, self._settings, self)
            self._links.add(link)
            await link.wait_ended()
            if link.error is not None and link.error.code is not NackCode.LOST:
                _log.warning("the link to %s ended: %s", link.peer.name, link.error)
        except (WireError, OSError) as error:  # a time-out is an OSError, too
            _log.warning("a connection was refused: %s", error)
        finally:
            if link is not None:
                self._links.discard(link)
                with contextlib.suppress(WireError):
                    await link.close()
            elif transport is not None:
                transport.close()
            else:
                own.close()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
