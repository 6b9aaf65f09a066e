"""What a request may still send: checked against a frame's header before its tensor is allocated.

A receiver counts for itself how many tiles, visual tokens and numbers must come; what a sender says
about its own bytes is no authority. Waiting and memory are left to :mod:`internvl35.serve.link`. No
counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from internvl35.serve.frames import Header, NackCode, WireError
from internvl35.serve.messages import (
    Encode,
    Encoded,
    Features,
    Finished,
    Generate,
    Message,
    Profile,
    Progress,
    PromptLogprobs,
    Tiles,
)


@dataclass(frozen=True)
class VisualSizes:
    """The sizes of a checkpoint's tiles and visual tokens."""

    tile_side: int
    """Pixels of a tile's side."""
    tokens_per_tile: int
    """Visual tokens of a tile."""
    compressed_tokens: int
    """Visual tokens of a compressed one; 0 if there is none."""
    width: int
    """Numbers of a visual token."""
    dtype: str
    """Of visual tokens."""

    @classmethod
    def of(cls, profile: Profile) -> VisualSizes:
        """Take the sizes of a process's checkpoint."""
        return cls(
            profile.tile_side, profile.tokens_per_tile, profile.compressed_tokens, profile.width,
            profile.dtype,
        )  # fmt: skip

    def count_tokens(self, is_compressed: tuple[bool, ...]) -> int:
        """Count the visual tokens of some tiles.

        Raises:
            WireError: if one is compressed and the checkpoint has no router.
        """
        num_compressed = sum(is_compressed)
        if num_compressed and not self.compressed_tokens:
            raise _unplanned("a tile is compressed; the checkpoint has no router")
        num_whole = len(is_compressed) - num_compressed
        return num_whole * self.tokens_per_tile + num_compressed * self.compressed_tokens


class TilePlan:
    """What a vision server takes after an opening: each tile of the request once.

    Args:
        opening: checked.
        sizes: of our own checkpoint.
    """

    def __init__(self, opening: Encode, sizes: VisualSizes) -> None:
        """Begin with all tiles missing."""
        self._sizes = sizes
        self._arrivals = _Arrivals(sum(opening.tiles))

    @property
    def is_complete(self) -> bool:
        """Whether every tile came."""
        return self._arrivals.is_complete

    def check(self, header: Header, message: Message) -> None:
        """Take a message, or refuse it before its tensor is read.

        Raises:
            WireError: if it is not wanted.
        """
        if not isinstance(message, Tiles):
            raise _unplanned(f"{type(message).__name__} after an opening; needed: Tiles")
        side = self._sizes.tile_side
        _check_tensor(header, "u8", (message.num_tiles, side, side, 3))
        self._arrivals.add(message.first_tile, message.num_tiles)


class FeaturePlan:
    """Which visual tokens somebody takes: those of each tile of the request once.

    Args:
        num_tiles: of the request.
        sizes: of our own checkpoint.
        is_compressed: which tiles take fewer tokens; None if the sender decides.
        is_ended: whether :class:`Encoded` is to come after the last.
    """

    def __init__(
        self,
        num_tiles: int,
        sizes: VisualSizes,
        is_compressed: tuple[bool, ...] | None,
        *,
        is_ended: bool,
    ) -> None:
        """Begin with all tiles missing."""
        self._sizes = sizes
        self._choices = is_compressed
        self._arrivals = _Arrivals(num_tiles)
        self._is_ended = is_ended

    @property
    def is_complete(self) -> bool:
        """Whether the visual tokens of every tile came."""
        return self._arrivals.is_complete

    def check(self, header: Header, message: Message) -> None:
        """Take a message, or refuse it before its tensor is read.

        Raises:
            WireError: if it is not wanted.
        """
        if isinstance(message, Encoded) and self._is_ended:
            if not self.is_complete:
                raise _unplanned("the vision server ended a request before its last tile")
            return
        if not isinstance(message, Features):
            raise _unplanned(f"{type(message).__name__} in place of visual tokens")
        choices, first = message.is_compressed, message.first_tile
        if len(choices) != message.num_tiles or not (
            message.scores is None or len(message.scores) == message.num_tiles
        ):
            raise _unplanned(
                f"{len(choices)} choices or their scores for {message.num_tiles} tiles"
            )
        if self._choices is not None and self._choices[first : first + len(choices)] != choices:
            raise _unplanned("tiles are compressed otherwise than the prompt says")
        tokens = self._sizes.count_tokens(choices)
        _check_tensor(header, self._sizes.dtype, (tokens, self._sizes.width))
        self._arrivals.add(first, message.num_tiles)


class AnswerPlan:
    """What a gateway takes from a language server: answers, and no tensors.

    Args:
        opening: of the request.
    """

    def __init__(self, opening: Generate) -> None:
        """Keep how many answers there are."""
        self._num_samples = opening.sampling.num_samples
        self._num_tokens = opening.values.shape[0]
        self._ended: set[int] = set()

    def check(self, header: Header, message: Message) -> None:
        """Take a message, or refuse it.

        Raises:
            WireError: if it is not wanted.
        """
        if isinstance(message, Progress):
            if 0 <= message.sample < self._num_samples and message.sample not in self._ended:
                if message.finish_reason is not None:
                    self._ended.add(message.sample)
                return
        elif isinstance(message, PromptLogprobs):
            if 0 <= message.start <= self._num_tokens - len(message.logprobs):
                return
        elif isinstance(message, Finished):
            return
        raise _unplanned(f"{type(message).__name__} is none of the answers that were asked for")


Plan = TilePlan | FeaturePlan | AnswerPlan


def plan_answer(opening: Encode | Generate, sizes: VisualSizes) -> Plan:
    """Say what comes back to whoever opens a request.

    Args:
        opening: of the request.
        sizes: of our own checkpoint.

    Returns:
        A new plan.
    """
    if isinstance(opening, Encode):
        return FeaturePlan(sum(opening.tiles), sizes, None, is_ended=True)
    return AnswerPlan(opening)


def plan_request(opening: Encode | Generate, sizes: VisualSizes) -> Plan:
    """Say what comes after the opening of a request to the server that works on it.

    Args:
        opening: checked.
        sizes: of our own checkpoint.

    Returns:
        A new plan.
    """
    if isinstance(opening, Encode):
        return TilePlan(opening, sizes)
    choices = opening.is_compressed
    return FeaturePlan(len(choices), sizes, choices, is_ended=False)


def check_opening(header: Header, opening: Encode | Generate, profile: Profile) -> None:
    """Refuse an opening that is too large, or whose places are not those of its tiles.

    Args:
        header: of its frame; the tensor has not been read.
        opening: what is asked.
        profile: our own.

    Raises:
        WireError: if it is wrong.
    """
    num_tiles = sum(opening.tiles) if isinstance(opening, Encode) else len(opening.is_compressed)
    if num_tiles > profile.max_tiles:
        raise WireError(
            NackCode.TOO_LARGE,
            f"the request has {num_tiles} tiles; needed: {profile.max_tiles} at most",
        )
    if isinstance(opening, Encode):
        if not opening.tiles or min(opening.tiles) < 1:
            raise _unplanned("a picture without tiles, or no picture; needed: a tile at least")
        return
    if header.dtype != "i32" or len(header.shape) != 1 or not header.shape[0]:
        raise _unplanned("a prompt is no list of token ids")
    if header.shape[0] > profile.max_prompt_tokens:
        raise WireError(
            NackCode.TOO_LARGE,
            f"the prompt has {header.shape[0]} tokens; needed: {profile.max_prompt_tokens} at most",
        )
    _check_spans(opening, header.shape[0], VisualSizes.of(profile))


def check_prompt(opening: Generate, profile: Profile) -> None:
    """Refuse a prompt whose tokens for pictures stand elsewhere than its places say.

    Args:
        opening: complete; :func:`check_opening` passed it.
        profile: our own.

    Raises:
        WireError: if they do.
    """
    token_ids = np.frombuffer(opening.values.data, dtype="<i4")
    is_place = np.zeros(len(token_ids), dtype=bool)
    for span in opening.spans:
        is_place[span.start : span.start + span.num_tokens] = True
    if token_ids.min() < 0 or not np.array_equal(token_ids == profile.image_token_id, is_place):
        raise _unplanned("the tokens of a prompt are not those of its pictures' places")


def _check_spans(opening: Generate, num_tokens: int, sizes: VisualSizes) -> None:
    first, end = 0, 0
    for span in opening.spans:
        choices = opening.is_compressed[first : first + max(span.num_tiles, 0)]
        first += len(choices)
        if not choices or len(choices) != span.num_tiles or span.start < end:
            raise _unplanned("the places of a prompt's pictures overlap, or are not those of tiles")
        if span.num_tokens != sizes.count_tokens(choices):
            raise _unplanned(
                f"a picture has {span.num_tokens} places; needed: {sizes.count_tokens(choices)}"
            )
        end = span.start + span.num_tokens
    if first != len(opening.is_compressed) or end > num_tokens:
        raise _unplanned("the places of a prompt's pictures are more or fewer than its tiles have")


class _Arrivals:
    """Which tiles of a request came."""

    def __init__(self, num_tiles: int) -> None:
        self._has_come = bytearray(num_tiles)

    @property
    def is_complete(self) -> bool:
        return all(self._has_come)

    def add(self, first: int, count: int) -> None:
        if count < 1 or first + count > len(self._has_come):
            raise _unplanned(
                f"tiles {first} to {first + count - 1} of a request of {len(self._has_come)}"
            )
        if any(self._has_come[first : first + count]):
            raise _unplanned(f"some of tiles {first} to {first + count - 1} came before")
        self._has_come[first : first + count] = b"\1" * count


def _check_tensor(header: Header, dtype: str, shape: tuple[int, ...]) -> None:
    if header.dtype != dtype or header.shape != shape:
        raise _unplanned(
            f"a tensor of shape {header.shape} and dtype {header.dtype}; needed: {shape} of {dtype}"
        )


def _unplanned(message: str) -> WireError:
    return WireError(NackCode.UNPLANNED, message)
