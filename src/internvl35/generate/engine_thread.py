"""The engine in a thread of its own, for callers in other threads and for coroutines.

Whoever asks shares the steps with all others, so answers to several callers are written together.
What a step does is left to :mod:`internvl35.generate.engine`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeAlias

from internvl35.errors import InternVLError, ServerError
from internvl35.generate.answers import Completion, Update
from internvl35.generate.engine import Engine, one_each, refuse
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings

News: TypeAlias = Update | BaseException
"""What a reader gets: an update, or what ended the engine."""


class EngineThread:
    """Steps an engine as long as there is work; meets ``GenerationEngine``.

    Args:
        engine: nobody else may call it from now on.
    """

    def __init__(self, engine: Engine) -> None:
        """Begin without a thread; the first request starts it."""
        self.engine = engine
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._readers: dict[str, Callable[[News], None]] = {}  # of the engine's thread alone
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self._end: BaseException | None = None

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings | Sequence[SamplingSettings],
        *,
        flash: FlashSettings | Sequence[FlashSettings | None] | None = None,
    ) -> list[Completion]:
        """Answer requests and wait for all of them; see ``GenerationEngine``."""
        each, choices = one_each(sampling, len(requests)), one_each(flash, len(requests))
        news: SimpleQueue[News] = SimpleQueue()
        found: dict[int, Completion] = {}
        places: dict[str, int] = {}
        try:
            for place, (request, own, choice) in enumerate(
                zip(requests, each, choices, strict=True)
            ):
                try:
                    self.engine.prepare(own)
                    name = self._submit(request, own, news.put, flash=choice).result()
                    places[name] = place
                except InternVLError as error:
                    if self._end is not None:
                        raise
                    found[place] = refuse(request, own, error)
            while len(found) < len(requests):
                update = _checked(news.get())
                if update.completion is not None:
                    found[places[update.request_id]] = update.completion
        except BaseException:
            for name in places:
                self.cancel(name)
            raise
        return [found[place] for place in range(len(requests))]

    def read(
        self, request: Request, sampling: SamplingSettings, *, flash: FlashSettings | None = None
    ) -> Generator[Update]:
        """Answer one request and hand out updates as they come; closing it cancels the request.

        Args:
            request: not routed yet.
            sampling: how the answers are chosen.
            flash: which tiles are compressed; None as the checkpoint says.

        Yields:
            Updates; the last one holds the whole.

        Raises:
            InternVLError: if the request is refused.
        """
        news: SimpleQueue[News] = SimpleQueue()
        self.engine.prepare(sampling)
        name = self._submit(request, sampling, news.put, flash=flash).result()
        try:
            while True:
                update = _checked(news.get())
                yield update
                if update.completion is not None:
                    return
        finally:
            self.cancel(name)

    async def stream(
        self,
        request: Request,
        sampling: SamplingSettings,
        *,
        request_id: str | None = None,
        priority: int = 0,
        flash: FlashSettings | None = None,
        cache_salt: str = "",
    ) -> AsyncIterator[Update]:
        """Answer one request while other coroutines go on; see ``GenerationEngine``."""
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[News] = asyncio.Queue()

        def hand_over(item: News) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.put_nowait, item)

        if sampling.structure is not None:  # which can take seconds
            await asyncio.to_thread(self.engine.prepare, sampling)
        submitted = self._submit(
            request, sampling, hand_over, request_id=request_id, priority=priority, flash=flash,
            cache_salt=cache_salt,
        )  # fmt: skip
        try:
            name = await asyncio.wrap_future(submitted)
        except asyncio.CancelledError:  # whose reader left before it had a name
            submitted.add_done_callback(self._cancel_taken)
            raise
        try:
            while True:
                update = _checked(await news.get())
                yield update
                if update.completion is not None:
                    return
        finally:
            self.cancel(name)

    def cancel(self, request_id: str) -> None:
        """End a request, if it is still in work; nothing more is heard of it."""

        def obey() -> None:
            self._readers.pop(request_id, None)
            self.engine.cancel(request_id)

        self._orders.put(obey)

    def _cancel_taken(self, submitted: Future[str]) -> None:
        if not submitted.cancelled() and submitted.exception() is None:
            self.cancel(submitted.result())

    def close(self) -> None:
        """End all requests and the thread; a second call is harmless."""
        closed = ServerError("the engine was closed; start another one")
        with self._start:
            self._end = self._end or closed
        self._orders.put(lambda: None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _submit(
        self,
        request: Request,
        sampling: SamplingSettings,
        reader: Callable[[News], None],
        **options: Any,
    ) -> Future[str]:
        """Hand a request to the engine's thread; the result is its name, or why it is refused."""
        name: Future[str] = Future()

        def obey() -> None:
            if not name.set_running_or_notify_cancel():
                return
            if self._end is not None:
                error = ServerError(f"the engine has ended: {self._end}")
                error.__cause__ = self._end
                name.set_exception(error)
                return
            try:
                taken = self.engine.submit(request, sampling, **options)
            except InternVLError as error:
                name.set_exception(error)
                return
            self._readers[taken] = reader
            name.set_result(taken)

        with self._start:
            if self._end is None and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()
            if self._end is None:
                self._orders.put(obey)
                return name
        obey()
        return name

    def _run(self) -> None:
        try:
            while self._end is None:
                self._obey()
                if self._end is None:
                    self._hand_out(self.engine.step())
        except BaseException as error:  # noqa: BLE001 - handed to the readers, who raise it
            with self._start:
                self._end = error
        for reader in self._readers.values():
            assert self._end is not None
            reader(self._end)
        self._readers.clear()
        while not self._orders.empty():
            self._orders.get()()

    def _obey(self) -> None:
        """Carry out what was ordered since the last step; wait for it if there is no work."""
        if not self.engine.has_work:
            self._orders.get()()
        while not self._orders.empty():
            self._orders.get()()

    def _hand_out(self, updates: Sequence[Update]) -> None:
        for update in updates:
            reader = self._readers.get(update.request_id)
            if update.completion is not None:
                self._readers.pop(update.request_id, None)
            if reader is not None:
                reader(update)


def _checked(item: News) -> Update:
    if isinstance(item, BaseException):
        raise item
    return item
