"""What every vision encoder can do, so that an engine need not know where tiles are encoded.

Our own one stands in :mod:`internvl35.generate.vision`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from internvl35.errors import InternVLError, MediaError, PromptError, ServerError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.model.configuration import InternVLChatConfig

IDLE_S = 0.0005
"""Seconds until an encoder is asked again by whoever has nothing to do but wait for its tiles."""


@dataclass(frozen=True)
class EncodedRequest:
    """A request as a language model takes it."""

    request: Request
    """With ``image_features`` in place of tiles, and its prompt shortened by what was compressed;
    a request without tiles as it was."""
    digests: tuple[bytes, ...]
    """What each picture's visual tokens show, one a span: the same for equal tiles with equal
    choices, or for equal features that came with a request, and different otherwise."""
    num_cached_tiles: int = 0
    """Tiles that had not to be computed."""


EncodingResult: TypeAlias = EncodedRequest | InternVLError
"""What becomes of a request: its visual tokens, or what is wrong with it."""


class VisionEncoder(Protocol):
    """What turns tiles into visual tokens for an engine, here or on another machine."""

    @property
    def has_work(self) -> bool:
        """Whether :meth:`step` has something to do or to hand out."""
        ...

    @property
    def num_waiting_tiles(self) -> int:
        """Tiles that are not encoded yet; one that several requests show counts once."""
        ...

    def submit(
        self,
        key: str,
        request: Request,
        flash: FlashSettings | None = None,
        *,
        cache_salt: str = "",
        priority: int = 0,
    ) -> None:
        """Take a request up; what is wrong with it is told by :meth:`step`.

        Args:
            key: its name, unique among those that were not handed out yet.
            request: not routed yet; one without tiles comes back as it is.
            flash: which tiles are compressed; None as the checkpoint says.
            cache_salt: only requests of equal salt share visual tokens.
            priority: tiles of lower numbers go first.

        Raises:
            ValueError: if the key is taken.
        """
        ...

    def cancel(self, key: str) -> None:
        """Forget a request and give its memory back; a key that is not known is passed over."""
        ...

    def forget_pictures(self) -> None:
        """Forget all visual tokens that were kept, as is needed when weights have changed."""
        ...

    def step(
        self, max_tiles: int | None = None, *, num_answers: int | None = None
    ) -> list[tuple[str, EncodingResult]]:
        """Encode some tiles.

        Args:
            max_tiles: how many; None for a batch, 0 to hand out only what is ready.
            num_answers: answers that the caller writes meanwhile; if few, tiles may be encoded
                before the step returns, by all threads, and not beside them. None for enough.

        Returns:
            Requests that are done now, with their keys; each is handed out once.
        """
        ...


def step_or_fail(encoder: VisionEncoder, keys: Collection[str]) -> list[tuple[str, EncodingResult]]:
    """Encode some tiles; if that fails, give all up, since nobody knows whose tiles it were.

    Args:
        encoder: whose step it is.
        keys: of the requests that it was given and did not hand out.

    Returns:
        Requests that are done or failed now, with their keys.

    Raises:
        torch.AcceleratorError: if nothing on the device works again in this process.
    """
    try:
        return encoder.step()
    except torch.AcceleratorError:
        raise
    except RuntimeError as error:  # out of memory, mostly
        for key in keys:
            encoder.cancel(key)
        return [(key, ServerError(failure_text(error))) for key in keys]


def failure_text(error: RuntimeError) -> str:
    """Say that tiles could not be encoded."""
    return f"encoding pictures failed: {error}; send fewer or smaller ones"


def check_pictures(request: Request, config: InternVLChatConfig) -> None:
    """Refuse pictures that the network cannot take.

    Args:
        request: its prompt has as many tiles or visual tokens as are given.
        config: of the checkpoint.

    Raises:
        MediaError: if tiles or features have another shape, are no floating point numbers, or not
            finite; of features that arrive, if they have another width.
        PromptError: if a picture has not the places of its tiles.
    """
    pixels, features = request.pixel_values, request.image_features
    if pixels is not None:
        side = config.force_image_size
        _check_values(
            "pixel_values", request, pixels, (3, side, side),
            "cut pictures with the checkpoint's settings",
        )  # fmt: skip
        for number, span in enumerate(request.prompt.image_spans, 1):
            needed = span.num_tiles * config.tokens_per_tile
            if not span.num_tiles or span.num_tokens != needed:
                raise PromptError(
                    f"picture {number} has {span.num_tokens} places for {span.num_tiles} tiles; "
                    f"needed: {config.tokens_per_tile} a tile, and a tile at least"
                )
    width = config.text_config.hidden_size
    if request.arriving is not None and request.arriving.width != width:
        raise MediaError(
            f"visual tokens of width {request.arriving.width} are to arrive; needed: {width}; take "
            "features of the same checkpoint"
        )
    if features is not None:
        _check_values(
            "image_features", request, features, (width,), "take features of the same checkpoint"
        )


def _check_values(
    name: str, request: Request, values: Tensor, shape: tuple[int, ...], advice: str
) -> None:
    if tuple(values.shape[1:]) != shape or not values.is_floating_point():
        needed = ", ".join(("N", *map(str, shape)))
        raise MediaError(
            f"{name} has shape {tuple(values.shape)} and dtype {values.dtype}; needed: ({needed}) "
            f"of floating point numbers; {advice}"
        )
    row = request.first_bad_row
    if row is not None:
        raise MediaError(f"{name} holds NaN or infinite numbers, first in row {row}; {advice}")
