"""The thread in which a vision server encodes, most urgent groups of tiles first.

Groups wait here as levels and enter the vision stage only when it has room, so that a late urgent
one need not wait for all that came before. Other threads turn levels into pixel values, for two
batches at most. Batches are put together in :mod:`internvl35.generate.vision`. No counterpart in
the paper.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue

from torch import Tensor

from internvl35.data.tiles import normalize_levels
from internvl35.data.token_writer import ImageSpan, Prompt
from internvl35.errors import InternVLError, ServerError
from internvl35.generate.encoders import step_or_fail
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.vision import VisionStage
from internvl35.model.configuration import InternVLChatConfig

IDLE_S = 0.0005
"""Seconds until a device that is encoding is asked again."""


@dataclass(frozen=True)
class TileGroup:
    """Tiles that become visual tokens together; of one request."""

    levels: Tensor
    """``(N, side, side, 3)`` u8, red first."""
    tiles: tuple[int, ...]
    """Tiles of each picture."""
    flash: FlashSettings
    """Which are compressed, thresholds named; chosen over the whole group."""
    cache_salt: str = ""
    """Only requests of equal salt share visual tokens."""
    priority: int = 0
    """Lower numbers go first."""


@dataclass(frozen=True)
class EncodedGroup:
    """What tiles became."""

    features: Tensor
    """``(tokens, D)``, tile after tile."""
    is_compressed: tuple[bool, ...]
    """Which of them take fewer tokens."""
    scores: tuple[float, ...] | None
    """The router's probability for each; None if it was not asked."""
    num_cached_tiles: int
    """Those that had not to be computed."""


@dataclass(order=True)
class _Waiting:
    """A group, in the order in which groups are encoded."""

    priority: int
    number: int
    group: TileGroup = field(compare=False)
    future: Future[EncodedGroup] = field(compare=False)
    num_cached: int = field(default=0, compare=False)


class EncodingThread:
    """Steps a vision stage as long as there are tiles to encode.

    Args:
        stage: belongs to the thread from now on.
        config: of its model.
        num_helpers: threads that turn levels into pixel values.
    """

    def __init__(
        self, stage: VisionStage, config: InternVLChatConfig, *, num_helpers: int = 2
    ) -> None:
        """Start the thread; it sleeps while there is nothing to do."""
        self.ended: Future[None] = Future()
        """Done when the thread has ended, with the error if one ended it."""
        self.ended.set_running_or_notify_cancel()
        self._stage, self._config = stage, config
        self._numbers = itertools.count()
        self._orders: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._heap: list[_Waiting] = []
        self._helpers = ThreadPoolExecutor(num_helpers, "pixel values")
        self._helped: dict[str, _Waiting] = {}
        self._in_stage: dict[str, _Waiting] = {}
        self._is_closed = False
        self._moved_at = time.monotonic()  # when tiles were encoded, or work began
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="encodes tiles", daemon=True)
        self._thread.start()

    def encode(self, group: TileGroup) -> Future[EncodedGroup]:
        """Ask for the visual tokens of a group.

        Args:
            group: of tiles of the checkpoint's size.

        Returns:
            What became of them, once it is there; cancelling gives the work up.
        """
        future: Future[EncodedGroup] = Future()
        waiting = _Waiting(group.priority, next(self._numbers), group, future)
        with self._lock:
            if self._is_closed:
                future.set_exception(_closed())
                return future
            if not self._has_work:
                self._moved_at = time.monotonic()
            self._orders.put(lambda: heapq.heappush(self._heap, waiting))
        future.add_done_callback(
            lambda done: self._orders.put(lambda: self._drop(waiting)) if done.cancelled() else None
        )
        return future

    @property
    def stalled_s(self) -> float:
        """Seconds since any tile was encoded; 0 if there is none to encode."""
        return time.monotonic() - self._moved_at if self._has_work else 0.0

    @property
    def _has_work(self) -> bool:
        return bool(self._heap or self._helped or self._in_stage)

    def close(self) -> None:
        """End the thread; what is waited for fails. A second call is harmless."""
        with self._lock:  # no group comes behind the end
            self._is_closed = True
        self._orders.put(lambda: None)
        self._thread.join()

    def _drop(self, waiting: _Waiting) -> None:
        """Give a group up, and the memory of its tiles."""
        if waiting in self._heap:
            self._heap.remove(waiting)
            heapq.heapify(self._heap)
        elif self._in_stage.pop(str(waiting.number), None) is not None:
            self._stage.cancel(str(waiting.number))

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            while not self._is_closed:
                self._obey()
                self._prepare()
                if self._stage.has_work and not self._step():
                    with suppress(Empty):
                        self._orders.get(timeout=IDLE_S)()
        except BaseException as found:  # noqa: BLE001 - told to all who wait, and by ``ended``
            error = found
        with self._lock:
            self._is_closed = True
        self._helpers.shutdown(cancel_futures=True)
        while not self._orders.empty():  # whoever asked meanwhile waits too
            self._orders.get()()
        for waiting in [*self._heap, *self._helped.values(), *self._in_stage.values()]:
            if waiting.future.set_running_or_notify_cancel():
                waiting.future.set_exception(_closed())
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)

    def _obey(self) -> None:
        """Carry out what was ordered since the last step; wait for it if there is no work."""
        if not self._stage.has_work:
            self._orders.get()()
        while not self._orders.empty():
            self._orders.get()()

    def _prepare(self) -> None:
        """Hand groups to the helpers, the most urgent first, so that a batch is always ready."""
        most = 2 * self._stage.settings.max_tiles_per_batch
        num_tiles = self._stage.num_waiting_tiles
        num_tiles += sum(len(waiting.group.levels) for waiting in self._helped.values())
        while self._heap and num_tiles < most:
            waiting = heapq.heappop(self._heap)
            if waiting.future.cancelled():
                continue
            num_tiles += len(waiting.group.levels)
            self._helped[str(waiting.number)] = waiting
            made = self._helpers.submit(_as_request, waiting.group, self._config)
            made.add_done_callback(partial(self._hand_on, waiting))

    def _hand_on(self, waiting: _Waiting, made: Future[Request]) -> None:
        """Let a group whose pixel values are there enter the stage; called by a helper."""
        if not made.cancelled():
            self._orders.put(lambda: self._enter(waiting, made))

    def _enter(self, waiting: _Waiting, made: Future[Request]) -> None:
        if self._is_closed:
            return
        key, group = str(waiting.number), waiting.group
        del self._helped[key]
        request = made.result()
        if waiting.future.cancelled():
            return
        hits = self._stage.cache.num_hits
        self._in_stage[key] = waiting
        self._stage.submit(key, request, group.flash, cache_salt=group.cache_salt)
        waiting.num_cached = (self._stage.cache.num_hits - hits) * _tiles_per_lookup(group)

    def _step(self) -> bool:
        """Encode some tiles; tell whether any group was done."""
        num_waiting = self._stage.num_waiting_tiles
        results = step_or_fail(self._stage, self._in_stage)
        if results or self._stage.num_waiting_tiles != num_waiting:
            self._moved_at = time.monotonic()
        for key, found in results:
            waiting = self._in_stage.pop(key, None)
            if waiting is None or not waiting.future.set_running_or_notify_cancel():
                continue
            if isinstance(found, InternVLError):
                waiting.future.set_exception(found)
            else:
                waiting.future.set_result(_read_off(found.request, waiting))
        return bool(results)


def _as_request(group: TileGroup, config: InternVLChatConfig) -> Request:
    """Put tiles into a prompt of nothing but places, which is what the stage takes."""
    spans, start = [], 0
    for num_tiles in group.tiles:
        spans.append(ImageSpan(start, num_tiles * config.tokens_per_tile, num_tiles))
        start += num_tiles * config.tokens_per_tile
    prompt = Prompt((config.image_token_id,) * start, tuple(spans), (False,) * start)
    request = Request(prompt, normalize_levels(group.levels.permute(0, 3, 1, 2).numpy()))
    request.examine()
    return request


def _tiles_per_lookup(group: TileGroup) -> int:
    """Count the tiles that the cache holds as one: those that are routed together."""
    return 1 if group.flash.policy == "off" else len(group.levels)


def _read_off(request: Request, waiting: _Waiting) -> EncodedGroup:
    features, routing = request.image_features, request.routing
    assert features is not None
    if routing is None:
        choices: tuple[bool, ...] = (False,) * len(waiting.group.levels)
        return EncodedGroup(features.cpu(), choices, None, waiting.num_cached)
    return EncodedGroup(features.cpu(), routing.is_compressed, routing.scores, waiting.num_cached)


def _closed() -> ServerError:
    return ServerError("the vision server's thread has ended; ask another server")
