"""Media of requests as tiles: what a gateway asks for, and what it gets.

A :class:`MediaItem` is what a body names; a :class:`LoadedMedia` is what the vision side takes.
Paper section 2.1 for the tiles.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from internvl35.data.tiles import Grid
from internvl35.errors import MediaError, ServerError

MediaKind: TypeAlias = Literal["image", "video"]
"""What a body says that it names."""


@dataclass(frozen=True)
class MediaItem:
    """A picture or a video that a body names."""

    source: str
    """``data:`` URI, or ``http(s)`` URL."""
    kind: MediaKind = "image"
    """What it is."""
    max_tiles: int | None = None
    """Most tiles of a picture, thumbnail not counted; None for as many as are allowed. A frame of
    a video is one tile."""
    num_frames: int | None = None
    """Frames taken of a video, evenly spread; None for the loader's own number."""
    bound: tuple[float, float] | None = None
    """First and last second of a video; None for all of it."""
    where: str = ""
    """Where it stands in the body, as ``messages[0].content[1].image_url``; for errors."""


@dataclass(frozen=True)
class LoadedMedia:
    """A picture or a video, cut into tiles."""

    levels: NDArray[np.uint8] = field(repr=False)
    """``(N, 3, tile, tile)``, not normalised; C order, read only."""
    grids: tuple[Grid, ...]
    """Of the picture, or of each frame, thumbnail not counted."""
    num_tiles: tuple[int, ...]
    """Tiles of the picture, or of each frame, thumbnail counted; their sum is N."""
    timestamps_s: tuple[float, ...] = ()
    """Time of each frame of a video, in seconds from its start."""


class MediaItemError(MediaError):
    """A picture or video of a request cannot be used; its sender can put that right (400).

    Args:
        message: what is wrong; it holds nothing that the sender may not know.
        param: where it stands in the body; None for no single place.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        """Keep the place beside the message."""
        super().__init__(message)
        self.param = param or None


class MediaBusyError(ServerError):
    """No more media are taken in just now (503).

    Args:
        message: what is full.
        retry_after_s: when to ask again.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        """Keep the time beside the message."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class MediaLoader(Protocol):
    """Fetches, decodes and cuts the media of requests."""

    def load(self, items: Sequence[MediaItem], request_id: str = "") -> AsyncGenerator[LoadedMedia]:
        """Load the media of one request; several are worked on at once.

        Closing the generator, or cancelling who reads it, ends what is under way.

        Args:
            items: of one body, in order.
            request_id: for logs.

        Yields:
            One result an item, in order, each as soon as it and those before it are ready.

        Raises:
            MediaItemError: if an item cannot be used; raised before any is fetched where the body
                alone shows it.
            MediaBusyError: if too much is under way.
        """
        ...

    async def close(self) -> None:
        """End all that is under way; nothing can be loaded afterwards."""
        ...
