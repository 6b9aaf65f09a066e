"""A thread that encodes pictures for whoever waits for them.

For engines whose own steps run elsewhere; the batches are put together in
:mod:`internvl35.generate.vision`. No counterpart in the paper.
"""

from __future__ import annotations

import atexit
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from internvl35.errors import InternVLError, ServerError
from internvl35.generate.encoders import VisionEncoder, step_or_fail
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request


class VisionThread:
    """Steps an encoder as long as there are tiles to encode.

    Args:
        encoder: belongs to the thread from now on.
    """

    def __init__(self, encoder: VisionEncoder) -> None:
        """Start the thread; it sleeps while there is nothing to do."""
        self._encoder = encoder
        self._names = map(str, itertools.count())
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waiting: dict[str, Future[Request]] = {}
        self._is_closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="vision", daemon=True)
        self._thread.start()
        # a thread that is cut off in the midst of native code aborts the process
        atexit.register(self.close)

    def encode(
        self,
        request: Request,
        flash: FlashSettings | None = None,
        *,
        cache_salt: str = "",
        priority: int = 0,
    ) -> Future[Request]:
        """Ask for the visual tokens of a request.

        Args:
            request: not routed yet.
            flash: which tiles are compressed; None as the checkpoint says.
            cache_salt: only requests of equal salt share visual tokens.
            priority: tiles of lower numbers go first.

        Returns:
            The request with visual tokens instead of tiles, once they are there; cancelling gives
            the work up.
        """
        name = next(self._names)
        future: Future[Request] = Future()

        def begin() -> None:
            if future.cancelled():
                return
            self._waiting[name] = future
            if not self._is_closed:
                self._encoder.submit(name, request, flash, cache_salt=cache_salt, priority=priority)

        with self._lock:
            if self._is_closed:
                future.set_exception(_closed())
                return future
            self._orders.put(begin)
        future.add_done_callback(lambda done: self._give_up(name) if done.cancelled() else None)
        return future

    def close(self) -> None:
        """End the thread; what is waited for fails."""
        with self._lock:  # no request comes behind the end
            self._is_closed = True
            self._orders.put(None)
        self._thread.join()
        atexit.unregister(self.close)

    def _give_up(self, name: str) -> None:
        def forget() -> None:
            self._waiting.pop(name, None)
            self._encoder.cancel(name)

        self._orders.put(forget)

    def _run(self) -> None:
        try:
            self._follow_orders()
        finally:
            with self._lock:
                self._is_closed = True
            while not self._orders.empty():  # whoever asked meanwhile waits too
                order = self._orders.get()
                if order is not None:
                    order()
            for future in self._waiting.values():
                if future.set_running_or_notify_cancel():
                    future.set_exception(_closed())

    def _follow_orders(self) -> None:
        while True:
            try:
                order = self._orders.get(block=not self._encoder.has_work)
            except Empty:
                self._step()
                continue
            if order is None:
                return
            order()

    def _step(self) -> None:
        for name, found in step_or_fail(self._encoder, self._waiting):
            future = self._waiting.pop(name, None)
            if future is None or not future.set_running_or_notify_cancel():
                continue
            if isinstance(found, InternVLError):
                future.set_exception(found)
            else:
                future.set_result(found.request)


def _closed() -> ServerError:
    return ServerError("the engine is closed; open another")
