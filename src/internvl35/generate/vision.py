"""The vision stage of an engine: tiles of many requests go through the tower together.

Ordinary tiles of several requests share a batch; those of a request that is routed are computed
apart from others, by the steps of :mod:`internvl35.generate.routing`, because the last bit of a
score can depend on its neighbours and a choice must not. What was seen before is taken from
:mod:`internvl35.generate.feature_cache`. Pictures are cut into tiles in
:mod:`internvl35.data.tiles`. A stage belongs to one thread. No counterpart in the paper.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from internvl35.errors import ConfigError, InternVLError, MediaError, ServerError
from internvl35.generate.digests import digest_picture
from internvl35.generate.encoders import (
    EncodedRequest,
    EncodingResult,
    VisionEncoder,
    check_pictures,
    failure_text,
)
from internvl35.generate.feature_cache import FeatureCache, FeatureKey
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.routing import (
    RoutedTiles,
    group_tiles,
    join_routed,
    resolve_settings,
    route_patches,
)
from internvl35.generate.side_stream import UNSEEN_AN_ANSWER, Encoding, SideStream, SideThread
from internvl35.model.composite import VisionLanguageModel

__all__ = [
    "EncodedRequest", "EncodingResult", "VisionEncoder", "VisionStage", "VisionStageSettings",
]  # fmt: skip

NOT_FINITE = (
    "the network returns numbers that are not finite for a picture of this request; normalise "
    "pixels with the checkpoint's mean and standard deviation"
)
NO_MEMORY = (
    "the device has no memory left to encode the pictures of this request; send fewer tiles, or "
    "lower max_tiles_per_batch or the memory kept for answers"
)


@dataclass(frozen=True)
class VisionStageSettings:
    """How tiles are put together."""

    max_tiles_per_batch: int = 16
    """Most tiles that go through the tower at once, and tiles of a step that names no number."""
    tiles_per_turn: int = 4
    """Most ordinary tiles of one request before it is the next one's turn."""
    cache_bytes: int = 256 * 2**20
    """Most bytes of visual tokens that are kept for pictures shown again; 0 for none."""

    def __post_init__(self) -> None:
        """Refuse batches and turns without tiles, and a cache of less than nothing."""
        for name, least in (("max_tiles_per_batch", 1), ("tiles_per_turn", 1), ("cache_bytes", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: {least} or more")


@dataclass
class _Job:
    """A request on its way."""

    key: str
    request: Request
    priority: int
    is_routed: bool
    digests: tuple[bytes, ...]
    """Of its tiles."""
    starts: list[int]
    """First tile of each piece."""
    found: list[RoutedTiles | None]
    """What each piece became."""
    pieces: list[_Piece | None]
    """Those that had not been seen before."""
    num_missing: int = 0
    num_passed: int = 0
    """Pieces of which nothing is left to deal."""

    def next_piece(self) -> _Piece | None:
        while self.num_passed < len(self.pieces):
            piece = self.pieces[self.num_passed]
            if piece is not None and piece.num_dealt < piece.num_tiles:
                return piece
            self.num_passed += 1
        return None


@dataclass
class _Piece:
    """Tiles that are looked up, computed and kept as one: a tile, or a group that is routed."""

    key: FeatureKey
    waiting: dict[tuple[str, int], _Job] = field(default_factory=dict)
    """Who shows it, by key and number of the piece."""
    num_dealt: int = 0
    """Tiles that went to the tower."""
    patches: list[Tensor] = field(default_factory=list)
    """Of a group: what came back, ``(N, G, G, C)`` each."""

    @property
    def num_tiles(self) -> int:
        return len(self.key.tiles)

    @property
    def is_routed(self) -> bool:
        return self.key.flash.policy != "off"

    def deal(self, num_tiles: int) -> Tensor:
        """Take the next tiles ``(N, 3, tile, tile)`` from a request that shows them."""
        (_, index), job = next(iter(self.waiting.items()))
        assert job.request.pixel_values is not None
        start = job.starts[index] + self.num_dealt
        self.num_dealt += num_tiles
        return job.request.pixel_values[start : start + num_tiles].cpu()


class VisionStage:
    """Encodes the tiles of many requests, a few of each of the same priority in turn.

    Args:
        model: in eval mode.
        settings: how tiles are put together.
        beside: encodes ordinary tiles of steps that name a number, while their caller goes on
            with answers that are not too few; None to encode them before a step returns.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        settings: VisionStageSettings | None = None,
        beside: SideThread | None = None,
    ) -> None:
        self.settings = settings or VisionStageSettings()
        self.cache = FeatureCache(self.settings.cache_bytes)
        self._model = model
        self._stream = SideStream(model)
        self._beside = beside
        self._jobs: dict[str, _Job] = {}
        self._turns: OrderedDict[str, _Job] = OrderedDict()  # with tiles to deal, next one first
        self._pieces: dict[FeatureKey, _Piece] = {}
        self._running: deque[tuple[list[_Piece], Encoding]] = deque()
        self._results: dict[str, EncodingResult] = {}

    @property
    def has_work(self) -> bool:
        """Whether :meth:`step` has something to do or to hand out."""
        return bool(self._jobs or self._results or self._running)

    @property
    def num_waiting_tiles(self) -> int:
        """Tiles that are not encoded yet; one that several requests show counts once."""
        pieces = self._pieces.values()
        return sum(piece.num_tiles - sum(map(len, piece.patches)) for piece in pieces)

    def submit(
        self,
        key: str,
        request: Request,
        flash: FlashSettings | None = None,
        *,
        cache_salt: str = "",
        priority: int = 0,
    ) -> None:
        """Take a request up; see :meth:`VisionEncoder.submit`."""
        if key in self._jobs or key in self._results:
            raise ValueError(f"a request {key!r} is under way; give each a key of its own")
        try:
            settings = resolve_settings(flash, self._model.config)
            check_pictures(request, self._model.config)
        except InternVLError as error:
            self._results[key] = error.with_traceback(None)  # whose frames would hold the tiles
            return
        if not request.prompt.num_tiles:
            request = replace(request, pixel_values=None)
        if request.pixel_values is None:
            self._results[key] = EncodedRequest(request, request.digests)
            return
        is_routed = settings.policy != "off"
        settings = settings if is_routed else FlashSettings("off")  # without idle thresholds
        digests = request.digests
        sizes = group_tiles(request, settings) if is_routed else [1] * len(digests)
        starts = list(accumulate(sizes[:-1], initial=0))
        job = _Job(
            key, request, priority, is_routed, digests, starts, [None] * len(sizes),
            [None] * len(sizes),
        )  # fmt: skip
        self._jobs[key] = self._turns[key] = job
        for index, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            tiles = digests[start : start + size]
            self._await(job, index, FeatureKey(tiles, settings, cache_salt))
        if not job.num_missing:
            self._complete(job)

    def _await(self, job: _Job, index: int, key: FeatureKey) -> None:
        job.found[index] = self.cache.find(key)
        if job.found[index] is None:
            piece = job.pieces[index] = self._pieces.setdefault(key, _Piece(key))
            piece.waiting[job.key, index] = job
            job.num_missing += 1

    def cancel(self, key: str) -> None:
        """Forget a request and give its memory back; a key that is not known is passed over."""
        self._results.pop(key, None)
        if key in self._jobs:
            self._forget(self._jobs[key])

    def _forget(self, job: _Job) -> None:
        del self._jobs[job.key]
        self._turns.pop(job.key, None)
        for index, piece in enumerate(job.pieces):
            if piece is None:
                continue
            piece.waiting.pop((job.key, index), None)
            if not piece.waiting and self._pieces.get(piece.key) is piece:
                del self._pieces[piece.key]

    def forget_pictures(self) -> None:
        """Forget all visual tokens that were kept, as is needed when weights have changed."""
        self.cache.clear()
        self._running.clear()  # of requests that were cancelled

    @torch.inference_mode()
    def step(
        self, max_tiles: int | None = None, *, num_answers: int | None = None
    ) -> list[tuple[str, EncodingResult]]:
        """Encode some tiles, the requests in turn; see :meth:`VisionEncoder.step`.

        Args:
            max_tiles: how many; None for a batch, which nothing else is computed beside, 0 to hand
                out only what is ready. A group that is routed goes through the tower in parts of
                ``max_tiles_per_batch`` tiles, whatever the step, so that nothing but the request
                decides what it gets; a step exceeds its number by such a part rather than do none.
            num_answers: how many are written meanwhile; None for enough to encode tiles beside.

        Returns:
            Requests that are done now, with their keys; each is handed out once.
        """
        most = self.settings.max_tiles_per_batch
        left = most if max_tiles is None else max_tiles
        is_early = num_answers is not None and len(self._jobs) > UNSEEN_AN_ANSWER * num_answers
        beside = None if max_tiles is None or is_early else self._beside
        is_first = True
        while left > 0 and not (beside and beside.is_full):
            pieces, tiles = self._deal(min(left, most), may_exceed=is_first)
            if not pieces:
                break
            left -= sum(map(len, tiles))
            is_first = False
            self._launch(pieces, torch.cat(tiles), beside)
        self._collect()
        if self._beside is not None:
            self._beside.settle()
        results, self._results = self._results, {}
        return list(results.items())

    def _deal(self, room: int, *, may_exceed: bool) -> tuple[list[_Piece], list[Tensor]]:
        """Take single tiles of several requests, or a part of one group, for one batch."""
        pieces: list[_Piece] = []
        tiles: list[Tensor] = []
        while self._turns and len(pieces) < room:
            key, job = min(self._turns.items(), key=_priority)  # of equal ones, the next in turn
            for _ in range(self.settings.tiles_per_turn):
                piece = job.next_piece()
                if piece is None or len(pieces) == room:
                    break
                part = min(self.settings.max_tiles_per_batch, piece.num_tiles - piece.num_dealt)
                if piece.is_routed:
                    if pieces or (part > room and not may_exceed):
                        return pieces, tiles
                    self._turns.move_to_end(key)
                    return [piece], [piece.deal(part)]
                pieces.append(piece)
                tiles.append(piece.deal(part))
            self._turns.move_to_end(key)
            if job.next_piece() is None:
                del self._turns[key]
        return pieces, tiles

    def _launch(
        self, pieces: list[_Piece], pixel_values: Tensor, beside: SideThread | None
    ) -> None:
        """Start to encode a batch; what is routed always by all threads, to the same last bit."""
        model, is_routed = self._model, pieces[0].is_routed
        encode = model.encode_patches if is_routed else model.get_image_features
        place = self._stream if beside is None or is_routed else beside
        try:
            self._running.append((pieces, place.run(encode, pixel_values)))
        except torch.OutOfMemoryError:
            for piece in pieces:
                self._fail(piece, ServerError, NO_MEMORY)

    def _collect(self) -> None:
        """Hand what has come back to the requests that wait for it."""
        while self._running and self._running[0][1].is_done():
            pieces, encoded = self._running.popleft()
            try:
                values, finite = encoded.values()
            except torch.AcceleratorError:
                raise  # nothing on that device works again in this process
            except RuntimeError as error:
                for piece in pieces:
                    self._fail(piece, ServerError, failure_text(error))
                continue
            is_finite = finite.tolist()
            if pieces[0].is_routed:
                self._collect_group(pieces[0], values, all(is_finite))
                continue
            for piece, features, is_usable in zip(pieces, values, is_finite, strict=True):
                self._finish(piece, RoutedTiles(features, (False,)), is_usable=is_usable)

    def _collect_group(self, piece: _Piece, patches: Tensor, is_finite: bool) -> None:
        if not piece.waiting:
            return  # cancelled; no one will ask for the rest
        if not is_finite:
            self._fail(piece, MediaError, NOT_FINITE)
            return
        piece.patches.append(patches)
        if sum(map(len, piece.patches)) < piece.num_tiles:
            return
        try:
            tiles = route_patches(self._model, torch.cat(piece.patches), piece.key.flash)
        except torch.OutOfMemoryError:
            self._fail(piece, ServerError, NO_MEMORY)
            return
        is_finite = bool(tiles.features.isfinite().all())
        is_finite = is_finite and all(map(math.isfinite, tiles.scores or ()))
        self._finish(piece, tiles, is_usable=is_finite)

    def _finish(self, piece: _Piece, tiles: RoutedTiles, *, is_usable: bool) -> None:
        """Give a piece to all who wait for it."""
        if not is_usable:
            self._fail(piece, MediaError, NOT_FINITE)
            return
        try:
            tiles = self.cache.keep(piece.key, tiles)
        except torch.OutOfMemoryError:
            self._fail(piece, ServerError, NO_MEMORY)
            return
        for (_, index), job in self._close(piece).items():
            job.found[index] = tiles
            job.num_missing -= 1
            if not job.num_missing:
                self._complete(job)

    def _fail(self, piece: _Piece, kind: type[InternVLError], reason: str) -> None:
        """Fail all who wait for a piece."""
        for job in {job.key: job for job in self._close(piece).values()}.values():
            self._forget(job)
            self._results[job.key] = kind(reason)

    def _close(self, piece: _Piece) -> dict[tuple[str, int], _Job]:
        """Take a piece off the table and tell who waited for it."""
        if self._pieces.get(piece.key) is piece:
            del self._pieces[piece.key]
        waiting, piece.waiting = piece.waiting, {}
        return waiting

    def _complete(self, job: _Job) -> None:
        self._forget(job)
        try:
            self._results[job.key] = self._join(job)
        except torch.OutOfMemoryError:
            self._results[job.key] = ServerError(NO_MEMORY)

    def _join(self, job: _Job) -> EncodedRequest:
        """Put the pieces of a request together."""
        parts = [part for part in job.found if part is not None]
        choices = [choice for part in parts for choice in part.is_compressed]
        digests, start = [], 0
        for span in job.request.prompt.image_spans:
            stop = start + span.num_tiles
            digests.append(digest_picture(job.digests[start:stop], choices[start:stop]))
            start = stop
        if job.is_routed:
            request = join_routed(job.request, parts, self._model.config)
        else:
            features = torch.cat([part.features for part in parts])
            request = Request(job.request.prompt, image_features=features)
        num_computed = sum(piece.num_tiles for piece in job.pieces if piece is not None)
        return EncodedRequest(request, tuple(digests), len(job.digests) - num_computed)


def _priority(turn: tuple[str, _Job]) -> int:
    return turn[1].priority
