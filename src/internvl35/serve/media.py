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
from internvl35.errors import ConfigError, MediaError
from internvl35.serve.fields import BodyError

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


@dataclass(frozen=True)
class MediaSettings:
    """Which media of requests are taken in, and how much of them."""

    hosts: tuple[str, ...] = ()
    """Hosts that URLs are fetched from, as :class:`~internvl35.data.sources.SourceSettings` writes
    them; empty: none, and only ``data:`` URIs are taken. ``*`` is every public host."""
    allow_private_addresses: bool = False
    """Whether these hosts may have addresses that are not of the public internet."""
    max_redirects: int = 3
    """Redirects followed from one URL; each is checked like the first."""
    fetch_timeout_s: float = 10.0
    """Seconds that fetching one URL may take, redirects and finding its address included."""
    max_fetches: int = 16
    """URLs that are fetched at once, over all requests; each may hold as many bytes as its kind."""
    max_image_bytes: int = 20 * 2**20
    """Most bytes of one picture."""
    max_video_bytes: int = 128 * 2**20
    """Most bytes of one video."""
    max_total_bytes: int = 256 * 2**20
    """Most bytes of all media of one request."""
    max_images: int = 64
    """Most pictures of one request."""
    max_videos: int = 4
    """Most videos of one request."""
    max_total_tiles: int = 512
    """Most tiles of one request, frames of videos included."""
    max_pixels: int = 50_000_000
    """Most pixels of one picture."""
    image_formats: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "GIF")
    """Formats of pictures that are decoded, by Pillow's names."""
    num_frames: int = 8
    """Frames taken of a video where a request does not say it."""
    max_frames: int = 128
    """Most frames that a request may ask of a video."""
    max_frame_pixels: int = 4096 * 2400
    """Most pixels of a frame of a video; some decoders count margins of 200 pixels in."""
    max_packets: int = 500_000
    """Most frames that a video may have in all, which bounds its length."""
    video_formats: tuple[str, ...] = ("mov", "matroska")
    """Containers of videos, by FFmpeg's names; ``mov`` is MP4 too, and ``matroska`` WebM."""
    video_codecs: tuple[str, ...] = ("h264", "hevc", "vp8", "vp9", "libdav1d", "av1", "mpeg4")
    """Decoders of videos, by FFmpeg's names."""
    num_workers: int = 2
    """Processes that decode, each one picture or video at a time."""
    decode_timeout_s: float = 20.0
    """Seconds after which the decoding of one picture or video is killed."""
    max_memory_bytes: int = 2 * 2**30
    """Memory that decoding one picture or video may take; only Linux keeps to it."""
    max_requests: int = 64
    """Requests whose media are loaded at once; more are refused."""
    max_wait_s: float = 15.0
    """Seconds that a picture or video may wait for its turn; then its request is refused."""

    def __post_init__(self) -> None:
        """Refuse settings under which nothing could be loaded."""
        for name, value in vars(self).items():
            least = 0 if name == "max_redirects" else 1
            if type(value) is int and value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
            if type(value) is float and not 0 < value < 86_400:
                raise ConfigError(f"{name} is {value}; needed: seconds above 0 and below a day")
        for name in ("video_formats", "video_codecs"):
            if not getattr(self, name):  # which FFmpeg would read as all of them
                raise ConfigError(f"{name} is empty; needed: at least one name")


class MediaItemError(BodyError, MediaError):
    """A picture or video of a request cannot be used; its sender can put that right (400)."""


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
            BusyError: if too much is under way.
        """
        ...

    async def close(self) -> None:
        """End all that is under way; nothing can be loaded afterwards."""
        ...
