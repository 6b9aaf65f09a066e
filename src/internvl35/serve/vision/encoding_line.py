"""The line in which groups of tiles wait for the thread that encodes, most urgent first.

Groups wait here as levels and enter the vision stage only when it has room, so that a late urgent
one need not wait for all that came before. Helpers turn levels into pixel values, for two batches
at most. The thread is :mod:`internvl35.generate.vision_thread`. No counterpart in the paper.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from internvl35.data.tiles import normalize_levels
from internvl35.data.token_writer import ImageSpan, Prompt
from internvl35.errors import ServerError
from internvl35.generate.encoders import EncodedRequest
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.vision import VisionStage
from internvl35.generate.vision_thread import VisionThread
from internvl35.model.configuration import InternVLChatConfig


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
    encoding: Future[EncodedRequest] | None = field(default=None, compare=False)
    """Once it is in the stage."""


class EncodingLine:
    """Lets groups of tiles into a vision stage; for any number of threads.

    Args:
        stage: belongs to the line's thread from now on.
        config: of its model.
        num_helpers: threads that turn levels into pixel values.
    """

    def __init__(
        self, stage: VisionStage, config: InternVLChatConfig, *, num_helpers: int = 2
    ) -> None:
        """Start the thread; it sleeps while there is nothing to do."""
        self.thread = VisionThread(stage)
        self._config, self._batch = config, stage.settings.max_tiles_per_batch
        self._helpers = ThreadPoolExecutor(num_helpers, "pixel values")
        self._numbers = itertools.count()
        self._heap: list[_Waiting] = []
        self._num_ahead = 0  # tiles of groups that left the heap; at most a batch a group
        self._is_closed = False
        self._lock = threading.Lock()

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
            heapq.heappush(self._heap, waiting)
        future.add_done_callback(partial(self._drop, waiting))
        self._advance()
        return future

    def close(self) -> None:
        """End the thread; what is waited for fails. A second call is harmless."""
        with self._lock:  # no group comes behind the end
            self._is_closed = True
            left, self._heap = self._heap, []
        self.thread.close()
        self._helpers.shutdown()
        for waiting in left:
            if waiting.future.set_running_or_notify_cancel():
                waiting.future.set_exception(_closed())

    def _advance(self) -> None:
        """Hand groups to the helpers, the most urgent first, so that a batch is always ready."""
        with self._lock:
            while self._heap and self._num_ahead < 2 * self._batch:
                waiting = heapq.heappop(self._heap)
                self._num_ahead += self._count(waiting)
                self._helpers.submit(self._enter, waiting)

    def _count(self, waiting: _Waiting) -> int:
        return min(len(waiting.group.levels), self._batch)

    def _enter(self, waiting: _Waiting) -> None:
        """Make pixel values of a group and let it into the stage; called by a helper."""
        group, future = waiting.group, waiting.future
        encoding: Future[EncodedRequest] = Future()
        try:
            if future.cancelled() or self.thread.ended.done():
                raise _closed()
            encoding = self.thread.encode(
                _as_request(group, self._config), group.flash, cache_salt=group.cache_salt,
                priority=group.priority,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - whoever waits for the group raises it
            encoding.set_exception(error)
        waiting.encoding = encoding
        if future.cancelled():
            encoding.cancel()
        encoding.add_done_callback(partial(self._finish, waiting))

    def _finish(self, waiting: _Waiting, encoding: Future[EncodedRequest]) -> None:
        """Hand over what a group became; called by the thread, mostly."""
        if waiting.future.set_running_or_notify_cancel():
            try:
                found = _read_off(encoding.result(), len(waiting.group.levels))
            except Exception as error:  # noqa: BLE001 - whoever waits for the group raises it
                waiting.future.set_exception(error)
            else:
                waiting.future.set_result(found)
        with self._lock:
            self._num_ahead -= self._count(waiting)
        self._advance()

    def _drop(self, waiting: _Waiting, future: Future[EncodedGroup]) -> None:
        """Give a cancelled group up, and the memory of its tiles."""
        if not future.cancelled():
            return
        with self._lock:
            if waiting in self._heap:
                self._heap.remove(waiting)
                heapq.heapify(self._heap)
        if waiting.encoding is not None:
            waiting.encoding.cancel()


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


def _read_off(encoded: EncodedRequest, num_tiles: int) -> EncodedGroup:
    features, routing = encoded.request.image_features, encoded.request.routing
    assert features is not None
    choices: tuple[bool, ...] = (False,) * num_tiles
    scores = None
    if routing is not None:
        choices, scores = routing.is_compressed, routing.scores
    return EncodedGroup(features.cpu(), choices, scores, encoded.num_cached_tiles)


def _closed() -> ServerError:
    return ServerError("the vision server encodes nothing more; ask another server")
