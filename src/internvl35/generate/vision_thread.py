"""A thread that encodes pictures for whoever waits for them.

For vision servers, and for engines whose own steps run elsewhere; the batches are put together in
:mod:`internvl35.generate.vision`. No counterpart in the paper.
"""

from __future__ import annotations

import atexit
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from internvl35.errors import InternVLError, ServerError
from internvl35.generate.encoders import IDLE_S, EncodedRequest, VisionEncoder, step_or_fail
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request


class VisionThread:
    """Steps an encoder as long as there are tiles to encode.

    Args:
        encoder: belongs to the thread from now on.
    """

    def __init__(self, encoder: VisionEncoder) -> None:
        """Start the thread; it sleeps while there is nothing to do."""
        self.ended: Future[None] = Future()
        """Done when the thread has ended, with the error if one ended it."""
        self.ended.set_running_or_notify_cancel()
        self._encoder = encoder
        self._names = map(str, itertools.count())
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waiting: dict[str, Future[EncodedRequest]] = {}
        self._moved_at = time.monotonic()  # when tiles were encoded, or work began
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
    ) -> Future[EncodedRequest]:
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
        future: Future[EncodedRequest] = Future()

        def begin() -> None:
            if future.cancelled():
                return
            if not self._waiting:
                self._moved_at = time.monotonic()
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

    @property
    def stalled_s(self) -> float:
        """Seconds since any tile was encoded; 0 if there is none to encode."""
        return time.monotonic() - self._moved_at if self._waiting else 0.0

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
        error: BaseException | None = None
        try:
            self._follow_orders()
        except BaseException as found:  # noqa: BLE001 - told to all who wait, and by ``ended``
            error = found
        with self._lock:
            self._is_closed = True
        while not self._orders.empty():  # whoever asked meanwhile waits too
            order = self._orders.get()
            if order is not None:
                order()
        for future in self._waiting.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(_closed())
        self._waiting.clear()
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)

    def _follow_orders(self) -> None:
        pause = 0.0
        while True:
            try:
                order = self._orders.get(timeout=pause if self._encoder.has_work else None)
            except Empty:
                pause = 0.0 if self._step() else IDLE_S
                continue
            if order is None:
                return
            order()
            del order  # which holds tiles, while the next is waited for

    def _step(self) -> bool:
        """Encode some tiles; tell whether any was."""
        num_waiting = self._encoder.num_waiting_tiles
        results = step_or_fail(self._encoder, self._waiting)
        for name, found in results:
            future = self._waiting.pop(name, None)
            if future is None or not future.set_running_or_notify_cancel():
                continue
            if isinstance(found, InternVLError):
                future.set_exception(found)
            else:
                future.set_result(found)
        has_moved = bool(results) or self._encoder.num_waiting_tiles != num_waiting
        if has_moved:
            self._moved_at = time.monotonic()
        return has_moved


def _closed() -> ServerError:
    return ServerError("the thread that encodes pictures has ended; start another one")
