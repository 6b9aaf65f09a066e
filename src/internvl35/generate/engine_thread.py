"""The engine in a thread of its own, for callers in other threads and for coroutines.

Whoever asks shares the steps with all others, so answers to several callers are written together.
What a step does is left to :mod:`internvl35.generate.engine`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeAlias

from internvl35.errors import InternVLError, ServerError
from internvl35.generate.answers import Completion, Update
from internvl35.generate.encoders import IDLE_S
from internvl35.generate.engine import Engine
from internvl35.generate.engines import one_each
from internvl35.generate.flash import FlashSettings
from internvl35.generate.grammar import Grammar
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings

News: TypeAlias = Update | BaseException
"""What a reader gets: an update, why its request was refused, or what ended the engine."""

ORDERS_PER_STEP = 16
"""Most requests that are taken on between two steps, while those whose answers are being written
wait."""


@dataclass(eq=False)
class _Asked:
    """A request, and who hears of it."""

    request: Request
    sampling: SamplingSettings
    grammar: Grammar | None
    hear: Callable[[News], None]
    request_id: str | None = None
    priority: int = 0
    flash: FlashSettings | None = None
    cache_salt: str = ""
    name: str | None = None
    """By which the engine calls it; None before it is taken on."""
    is_left: bool = False
    """Whether nobody listens any more."""


class EngineThread:
    """Steps an engine as long as there is work; meets ``GenerationEngine``.

    The thread ends with :meth:`close`, and once nobody holds this object or reads from it.

    Args:
        engine: nobody else may call it from now on.
    """

    def __init__(self, engine: Engine) -> None:
        """Begin without a thread; the first request starts it."""
        self._loop = _Loop(engine)
        self._orders = self._loop.orders
        weakref.finalize(self, self._loop.abandon).atexit = False  # where the loop closes itself

    @property
    def engine(self) -> Engine:
        """What is stepped."""
        return self._loop.engine

    @property
    def stalled_s(self) -> float:
        """Seconds that the present step has taken; 0 between steps."""
        began_at = self._loop.step_began_at
        return 0.0 if began_at is None else time.monotonic() - began_at

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings | Sequence[SamplingSettings],
        *,
        flash: FlashSettings | Sequence[FlashSettings | None] | None = None,
    ) -> list[Completion]:
        """Answer requests and wait for all of them; see ``GenerationEngine``."""
        each, choices = one_each(sampling, len(requests)), one_each(flash, len(requests))
        todo = deque(enumerate(zip(requests, each, choices, strict=True)))
        news: SimpleQueue[tuple[int, News]] = SimpleQueue()
        found: dict[int, Completion] = {}
        asked: dict[int, _Asked] = {}
        num_left = self.engine.settings.max_waiting  # answers that may come into work
        try:
            while todo or asked:
                while todo and (not asked or todo[0][1][1].num_samples <= num_left):
                    place, (request, own, choice) = todo.popleft()
                    hear = _Marked(place, news)
                    request.examine()
                    try:
                        grammar = self.engine.prepare(own)
                    except InternVLError as error:
                        found[place] = Completion.of_none("", request, own.n, error)
                        continue
                    num_left -= own.num_samples
                    asked[place] = one = _Asked(request, own, grammar, hear, flash=choice)
                    self._loop.take(one)
                if not asked:
                    break
                place, item = news.get()
                one = asked[place]
                completion: Completion | None
                if isinstance(item, InternVLError) and not self._loop.has_ended:
                    completion = Completion.of_none("", one.request, one.sampling.n, item)
                else:
                    completion = _checked(item).completion
                if completion is not None:
                    found[place] = completion
                    num_left += one.sampling.num_samples
                    del asked[place]
        finally:
            for one in asked.values():
                self._loop.leave(one)
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
        request.examine()
        asked = _Asked(request, sampling, self.engine.prepare(sampling), news.put, flash=flash)
        try:
            self._loop.take(asked)
            while True:
                update = _checked(news.get())
                yield update
                if update.completion is not None:
                    return
        finally:
            self._loop.leave(asked)

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
            with suppress(RuntimeError):  # the reader's loop is closed: nobody reads any more
                loop.call_soon_threadsafe(news.put_nowait, item)

        if request.pixel_values is not None or request.image_features is not None:
            await asyncio.to_thread(request.examine)
        grammar = None
        if sampling.structure is not None:  # which can take seconds
            grammar = await asyncio.to_thread(self.engine.prepare, sampling)
        asked = _Asked(
            request, sampling, grammar, hand_over, request_id, priority, flash, cache_salt
        )
        try:
            self._loop.take(asked)
            while True:
                update = _checked(await news.get())
                yield update
                if update.completion is not None:
                    return
        finally:
            self._loop.leave(asked)

    def cancel(self, request_id: str) -> None:
        """End a request, if it is still in work; whoever reads it hears so.

        Args:
            request_id: its name.
        """
        engine = self.engine
        self._orders.put(lambda: engine.cancel(request_id))

    def close(self) -> None:
        """End all requests and the thread; a second call is harmless."""
        self._loop.close()


class _Loop:
    """The thread's side, which must not hold the callers' side, so that that can be collected."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.orders: SimpleQueue[Callable[[], object]] = SimpleQueue()
        """What the thread does between two steps."""
        self.step_began_at: float | None = None
        """Of the present step; None between two."""
        self._readers: dict[str, _Asked] = {}
        self._num_left = 0  # of what is taken on before the next step
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self._end: BaseException | None = None
        self._close_at_exit = partial(_close_if_there, weakref.ref(self))

    @property
    def has_ended(self) -> bool:
        """Whether no request is taken on any more."""
        return self._end is not None

    def take(self, asked: _Asked) -> None:
        """Hand a request to the thread; its reader hears of everything, of a refusal too."""
        with self._start:
            if self._end is None:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                    self._thread.start()
                    # a thread that is cut off in the midst of native code aborts the process
                    atexit.register(self._close_at_exit)
                self.orders.put(lambda: self._submit(asked))
                return
        self._submit(asked)

    def leave(self, asked: _Asked) -> None:
        """End a request if it has not ended; its reader hears nothing more."""
        asked.is_left = True
        self.orders.put(lambda: self._drop(asked))

    def close(self) -> None:
        """End all requests and the thread, and wait for it."""
        with self._start:
            self._end = self._end or ServerError("the engine was closed; start another one")
        self.orders.put(_nothing)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        atexit.unregister(self._close_at_exit)

    def abandon(self) -> None:
        """End the thread without waiting, in whatever thread objects are being collected."""

        def end() -> None:
            self._end = self._end or ServerError("nobody holds the engine any more")

        self.orders.put(end)

    def _submit(self, asked: _Asked) -> None:
        if asked.is_left:
            return
        if self._end is not None:
            error = ServerError(f"the engine has ended: {self._end}")
            error.__cause__ = self._end
            asked.hear(error)
            return
        try:
            if asked.request.arriving is not None:
                asked.request.arriving.listen(partial(self.orders.put, _nothing))
            name = self.engine.submit(
                asked.request, asked.sampling, request_id=asked.request_id,
                priority=asked.priority, flash=asked.flash, cache_salt=asked.cache_salt,
                grammar=asked.grammar,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - of this request; those of others go on
            asked.hear(error)
        else:
            asked.name = name
            self._readers[name] = asked

    def _drop(self, asked: _Asked) -> None:
        if asked.name is not None and self._readers.get(asked.name) is asked:
            del self._readers[asked.name]
            self.engine.drop(asked.name)

    def _run(self) -> None:
        try:
            while self._end is None:
                self._obey()
                if self._end is None:
                    self.step_began_at = time.monotonic()
                    self._hand_out(self.engine.step())
                    self.step_began_at = None
        except BaseException as error:  # noqa: BLE001 - handed to the readers, who raise it
            with self._start:
                self._end = error
        for asked in self._readers.values():
            assert self._end is not None
            asked.hear(self._end)
        self._readers.clear()
        while not self.orders.empty():
            self.orders.get()()

    def _obey(self) -> None:
        """Carry out what was ordered since the last step; wait for it if there is no work."""
        if not self.engine.has_work:
            self.orders.get()()
        elif self.engine.is_waiting:
            with suppress(Empty):  # what arrives from elsewhere is an order, too
                self.orders.get(timeout=IDLE_S if self.engine.vision.has_work else None)()
        self._num_left = ORDERS_PER_STEP
        while self._num_left > 0 and not self.orders.empty():
            self._num_left -= 1
            self.orders.get()()

    def _hand_out(self, updates: Sequence[Update]) -> None:
        for update in updates:
            asked = self._readers.get(update.request_id)
            if asked is None:
                continue
            if update.completion is not None:
                del self._readers[update.request_id]
            asked.hear(update)


@dataclass(frozen=True)
class _Marked:
    """Puts what is heard of one of several requests into the queue of all of them."""

    place: int
    news: SimpleQueue[tuple[int, News]]

    def __call__(self, item: News) -> None:
        self.news.put((self.place, item))


def _close_if_there(loop: weakref.ref[_Loop]) -> None:
    found = loop()
    if found is not None:
        found.close()


def _nothing() -> None:
    """Wakes the thread."""


def _checked(item: News) -> Update:
    if isinstance(item, BaseException):
        raise item
    return item
