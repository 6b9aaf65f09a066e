"""One connection between a gateway and a server, with many requests on it at once.

Three tasks: one reads frames and hands them to streams, one writes what streams post, one pings, so
that a peer that went away without a word is noticed. A mistake in one request ends that request; a
frame whose digest or number is wrong ends the connection. Listening is left to
:mod:`internvl35.serve.link_server`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Coroutine
from dataclasses import replace
from typing import Any

from internvl35.serve.frame_pipe import FramePipe, LinkSettings
from internvl35.serve.frames import NO_REQUEST, Block, Header, NackCode, WireError
from internvl35.serve.handshake import Acquaintance, Identity, greet
from internvl35.serve.message_frames import add_tensor, read_message, write_message
from internvl35.serve.messages import (
    Cancel,
    Credit,
    Encode,
    Freed,
    Generate,
    Goodbye,
    Load,
    Message,
    Nack,
    Ping,
    Pong,
    Profile,
)
from internvl35.serve.plans import VisualSizes, plan_answer, plan_request
from internvl35.serve.stream import Host, Stream, make_nack
from internvl35.serve.transports import Transport, connect


class Link:
    """A connection that is up.

    Args:
        transport: belongs to the link from now on.
        own: what we are.
        found: what the handshake led to.
        settings: how patient it is.
        host: the server's side; None for a gateway.
    """

    def __init__(
        self,
        transport: Transport,
        own: Identity,
        found: Acquaintance,
        settings: LinkSettings,
        host: Host | None = None,
    ) -> None:
        """Start the tasks; needs a running loop."""
        self.peer: Profile = found.profile
        self.peer_load: Load | None = None
        self.is_draining = False  # the peer opens nothing new
        self._pipe = FramePipe(transport, own.fingerprint, found, settings.limits)
        self._own, self._settings, self._host = own, settings, host
        self._sizes = VisualSizes.of(own.profile)
        self._streams: dict[tuple[str, int], Stream] = {}
        self._outbox: asyncio.Queue[tuple[Header, bytes, Block | None, asyncio.Future[None]]] = (
            asyncio.Queue()
        )
        self._has_news = asyncio.Event()  # the first answer to a ping, or the end
        self._end: WireError | None = None
        self._task = asyncio.create_task(self._run(), name=f"link to {self.peer.name}")

    @property
    def error(self) -> WireError | None:
        """Why the connection ended; None while it is up."""
        return None if self._end is None else self._end.anew()

    @property
    def num_requests(self) -> int:
        """Requests on it."""
        return len(self._streams)

    async def open(self, opening: Encode | Generate) -> Stream:
        """Ask the server something.

        Args:
            opening: its id was not used before, or its attempt is a later one.

        Returns:
            The request's stream, to be closed by the caller.

        Raises:
            WireError: if the connection is down, the server drains, or the id is in use here.
        """
        if (error := self.error) is not None:
            raise error
        if self.is_draining:
            raise WireError(NackCode.DRAINING, f"{self.peer.name} drains; ask another server")
        if (opening.request_id, opening.attempt) in self._streams:
            raise WireError(NackCode.DUPLICATE, f"{opening.request_id} is in work on this link")
        stream = self._make_stream(opening, is_opener=True)
        self._streams[stream.key] = stream
        try:
            await self.post(*write_message(opening))
        except BaseException:
            stream.close()
            raise
        return stream

    async def close(self) -> None:
        """End the connection and all requests on it; a second call is harmless."""
        if self._end is None:
            await asyncio.sleep(0)  # a task that is cancelled before it begins hangs nothing up
            self._task.cancel()
        await asyncio.wait([self._task])

    async def wait_heard(self) -> None:
        """Wait until the peer has said how busy it is.

        Raises:
            WireError: if the connection ends before, as it does if the peer's work stands still.
        """
        await self._has_news.wait()
        if (error := self.error) is not None:
            raise error

    async def wait_ended(self) -> None:
        """Wait until the connection is down."""
        await asyncio.wait([self._task])

    def say_goodbye(self) -> None:
        """Tell the peer to open nothing new."""
        self.post(*write_message(Goodbye()))

    def post(self, header: Header, meta: bytes, payload: Block | None) -> Awaitable[None]:
        """Queue a frame; see ``Post``."""
        self._pipe.check_size(header, payload)
        sent = asyncio.get_running_loop().create_future()
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen
        if (error := self.error) is not None:
            sent.set_exception(error)
        else:
            self._outbox.put_nowait((header, meta, payload, sent))
        return sent

    def forget(self, stream: Stream) -> None:
        """Drop a stream that ended; see ``Post``."""
        if self._streams.get(stream.key) is stream:
            del self._streams[stream.key]
            self._leave_if_done()

    def _leave_if_done(self) -> None:
        """Hang up on a server that drains once all it sent is read; it waits for that."""
        if self.is_draining and not self._streams and self._end is None:
            self._task.cancel()

    def _make_stream(self, opening: Encode | Generate, *, is_opener: bool) -> Stream:
        plan = (plan_answer if is_opener else plan_request)(opening, self._sizes)
        own, peer = self._own.profile.window_bytes, self.peer.window_bytes
        return Stream(opening, plan, self, own_window=own, peer_window=peer, is_opener=is_opener)

    async def _run(self) -> None:
        jobs: list[Coroutine[Any, Any, None]] = [self._read_all(), self._write_all(), self._ping()]
        tasks = [asyncio.create_task(job) for job in jobs]
        error = WireError(NackCode.LOST, f"the connection to {self.peer.name} was closed")
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            error = self._explain(next(iter(done)).exception())
            await self._tell(error, *tasks[:2])
        finally:
            self._end = error.anew()
            self._has_news.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._pipe.close()
            for stream in list(self._streams.values()):
                stream.end(error)
            while not self._outbox.empty():
                sent = self._outbox.get_nowait()[-1]
                if not sent.done():
                    sent.set_exception(error)

    def _explain(self, error: BaseException | None) -> WireError:
        if isinstance(error, WireError):
            return error
        if isinstance(error, OSError):
            return WireError(NackCode.LOST, f"the connection to {self.peer.name} broke: {error}")
        assert error is not None
        raise error

    async def _tell(
        self, error: WireError, reader: asyncio.Task[None], writer: asyncio.Task[None]
    ) -> None:
        """Tell the peer why we hang up, if it listens."""
        if error.code is NackCode.LOST or writer.done():
            return
        reader.cancel()
        await asyncio.wait([reader])
        sent = self.post(*write_message(make_nack(NO_REQUEST, error)))
        with contextlib.suppress(WireError, OSError):  # a time-out is an OSError, too
            async with asyncio.timeout(self._settings.ping_every_s):
                await sent
                await self._pipe.discard()

    async def _write_all(self) -> None:
        while True:
            header, meta, payload, sent = await self._outbox.get()
            try:
                await self._pipe.write(header, meta, payload)
            except OSError as error:
                found = self._explain(error)
                if not sent.done():
                    sent.set_exception(found)
                raise found from error
            except asyncio.CancelledError:  # the connection ended meanwhile
                if not sent.done() and (end := self.error) is not None:
                    sent.set_exception(end)
                raise
            if not sent.done():
                sent.set_result(None)

    async def _read_all(self) -> None:
        while True:
            header, meta = await self._pipe.read_head()
            try:
                message = self._check(header, read_message(header, meta))
            except WireError as error:
                await self._skip(header)
                self._refuse(header, error)
                continue
            if message is None:
                await self._skip(header)
                continue
            payload = await self._pipe.read_payload(header)
            if header.shared_at is not None:
                self.post(*write_message(Freed(header.payload_bytes)))
            self._hand_on(header, add_tensor(message, header, payload))

    async def _skip(self, header: Header) -> None:
        await self._pipe.skip_payload(header)
        if header.shared_at is not None:
            self.post(*write_message(Freed(header.payload_bytes)))

    def _check(self, header: Header, message: Message) -> Message | None:
        """Check a message before its tensor is read; None if nobody waits for it any more."""
        if isinstance(message, Nack | Cancel | Credit | Freed | Pong | Goodbye):
            return message
        if isinstance(message, Ping):
            if header.dtype != "none" and (header.dtype != "u8" or header.shape[1:] != (16,)):
                raise WireError(NackCode.UNPLANNED, "a ping names requests otherwise than by id")
            return message
        if isinstance(message, Encode | Generate):
            if self._host is None:
                raise WireError(NackCode.UNPLANNED, "a gateway takes no requests over links")
            self._host.admit(header, message)
            return message
        stream = self._streams.get((header.request_id, header.attempt))
        if stream is None:
            return None  # it ended while this was on its way
        stream.check_window()
        stream.plan.check(header, message)
        return message

    def _refuse(self, header: Header, error: WireError) -> None:
        """End one request whose message is wrong."""
        if header.request_id == NO_REQUEST:
            raise error
        stream = self._streams.get((header.request_id, header.attempt))
        is_opening = header.kind in (Encode.KIND, Generate.KIND)
        if stream is not None and not is_opening:
            stream.refuse(error)
        elif is_opening:
            own, meta, _ = write_message(make_nack(header.request_id, error))
            self.post(replace(own, attempt=header.attempt), meta, None)

    def _hand_on(self, header: Header, message: Message) -> None:
        if isinstance(message, Ping | Pong | Freed | Goodbye):
            self._heed(message)
            return
        if isinstance(message, Encode | Generate):
            self._begin(message)
            return
        stream = self._streams.get((header.request_id, header.attempt))
        if isinstance(message, Nack):
            self._hear_refusal(stream, message)
        elif stream is None:
            return
        elif isinstance(message, Cancel):
            if not stream.is_opener:
                stream.end(WireError(NackCode.EXPIRED, "the gateway does not want the answer"))
        elif isinstance(message, Credit):
            stream.grant(message.num_bytes)
        else:
            self._renew(stream)
            stream.deliver(message, header)

    def _hear_refusal(self, stream: Stream | None, nack: Nack) -> None:
        error = WireError(nack.code, f"{self.peer.name}: {nack.text}", nack.retry_after_s)
        if nack.request_id == NO_REQUEST:
            raise error
        if stream is not None and stream.is_opener:
            stream.end(error)

    def _heed(self, message: Ping | Pong | Freed | Goodbye) -> None:
        if isinstance(message, Goodbye):
            self.is_draining = True
            self._leave_if_done()
        elif isinstance(message, Pong):
            self._note_load(message.load)
        elif isinstance(message, Freed):
            self._pipe.free(message.num_bytes)
        else:
            ids = b"" if message.values is None else bytes(message.values.data)
            named = {ids[start : start + 16].hex() for start in range(0, len(ids), 16)}
            for stream in self._streams.values():
                if stream.request_id in named:
                    self._renew(stream)
            load = Load(len(self._streams), 0, 0) if self._host is None else self._host.load
            self.post(*write_message(Pong(message.number, load)))

    def _note_load(self, load: Load) -> None:
        if load.stalled_s > self._settings.stalled_after_s:
            raise WireError(
                NackCode.LOST, f"{self.peer.name} has stood still for {load.stalled_s} s"
            )
        self.peer_load = load
        self._has_news.set()

    def _begin(self, opening: Encode | Generate) -> None:
        assert self._host is not None
        stream = self._make_stream(opening, is_opener=False)
        self._streams[stream.key] = stream
        self._renew(stream)
        try:
            self._host.begin(opening, stream)
        except WireError as error:
            stream.refuse(error)

    def _renew(self, stream: Stream) -> None:
        stream.lease_ends_at = asyncio.get_running_loop().time() + self._settings.lease_s

    async def _ping(self) -> None:
        loop, number = asyncio.get_running_loop(), 0
        while True:
            ids = b"".join(
                bytes.fromhex(own.request_id) for own in self._streams.values() if own.is_opener
            )
            values = Block("u8", (len(ids) // 16, 16), ids) if ids else None
            self.post(*write_message(Ping(number, values)))
            number += 1
            await asyncio.sleep(self._settings.ping_every_s)
            now = loop.time()
            if now - self._pipe.heard_at > self._settings.dead_after_s:
                raise WireError(NackCode.LOST, f"{self.peer.name} has not answered for too long")
            for stream in list(self._streams.values()):
                if not stream.is_opener and stream.lease_ends_at < now:
                    stream.refuse(WireError(NackCode.EXPIRED, "the request's lease has ended"))


async def open_link(
    host: str,
    port: int,
    own: Identity,
    settings: LinkSettings | None = None,
    context: ssl.SSLContext | None = None,
    name: str | None = None,
) -> Link:
    """Connect a gateway to a server.

    Args:
        host: name or address.
        port: of the server.
        own: what we are.
        settings: how patient the link is; the defaults if None.
        context: for TLS; None for a plain socket.
        name: that the server's certificate has to bear; None for the host.

    Returns:
        The link, to be closed by the caller.

    Raises:
        WireError: if nobody answers, or one side refuses the other.
    """
    settings = settings or LinkSettings()
    transport = None
    try:
        async with asyncio.timeout(settings.handshake_s):
            transport = await connect(host, port, context, name)
            found = await greet(transport, own)
    except BaseException as error:
        if transport is not None:
            transport.close()
        if isinstance(error, OSError):  # which a time-out is, too
            raise WireError(NackCode.LOST, f"no server answers at {host}:{port}: {error}") from None
        raise
    return Link(transport, own, found, settings)
