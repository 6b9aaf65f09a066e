"""Options that name pictures and a video, and the way from them to what a chat takes.

Cutting pictures into tiles and choosing frames is left to :mod:`internvl35.data`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from internvl35.commands.options import FLAGS, METAVAR
from internvl35.errors import ConfigError, MediaError

if TYPE_CHECKING:
    from PIL.Image import Image

    from internvl35.conversation import Video
    from internvl35.data.images import ImageSettings


@dataclass(frozen=True)
class PictureOptions:
    """What is shown to a model, and how it is opened."""

    image: tuple[str, ...] = field(default=(), metadata={FLAGS: ("--image", "-i")})
    """Picture to ask about: a file, a data URI, or a URL (see --allow-http); repeat it for more."""
    video: str | None = None
    """Video to ask about: a file, or a URL (see --allow-http)."""
    frames: int | None = None
    """Frames taken from the video, evenly spread, 1 or more; 8 if not given."""
    bound: str | None = field(default=None, metadata={METAVAR: "START:END"})
    """Part of the video to look at, START:END in seconds, for example 2.5:10."""
    max_tiles: int | None = None
    """Most tiles a picture, thumbnail not counted; by default as the checkpoint says."""
    reference_images: bool = False
    """Open pictures as the released code does: EXIF orientation ignored, alpha dropped."""
    allow_http: bool = False
    """Fetch pictures and videos that are given as http or https URLs."""

    def __post_init__(self) -> None:
        """Refuse numbers that no picture or video could meet."""
        for name in ("frames", "max_tiles"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        parse_bound(self.bound)

    def image_settings(self) -> ImageSettings:
        """Say how pictures are opened."""
        from internvl35.data.images import DEFAULT_IMAGES, REFERENCE_IMAGES

        settings = REFERENCE_IMAGES if self.reference_images else DEFAULT_IMAGES
        return replace(settings, source=replace(settings.source, allow_urls=self.allow_http))

    def open_images(self, sources: Sequence[str]) -> list[Image]:
        """Open pictures.

        Args:
            sources: as given to ``--image``.

        Returns:
            The pictures in RGB.

        Raises:
            MediaError: if one cannot be opened.
        """
        from internvl35.data.images import open_image

        for source in sources:
            self._check_url(source)
        return [open_image(source, self.image_settings()) for source in sources]

    def open_video(self, source: str) -> Video:
        """Look whether a video is there, and say which of its frames are wanted.

        Args:
            source: as given to ``--video``.

        Returns:
            What a chat takes; a video behind a URL is in memory.

        Raises:
            MediaError: if there is no file, or a URL may not or cannot be fetched.
        """
        from internvl35.conversation import Video
        from internvl35.data.sources import open_media

        is_url = self._check_url(source)
        with open_media(source, self.image_settings().source) as (file, _):
            video = Video(file.read() if is_url else source, bound=parse_bound(self.bound))
        return video if self.frames is None else replace(video, num_frames=self.frames)

    def _check_url(self, source: str) -> bool:
        is_url = source.lower().startswith(("http://", "https://"))
        if is_url and not self.allow_http:
            raise MediaError(f"{source} is a URL; pass --allow-http to have URLs fetched")
        return is_url


def parse_bound(text: str | None) -> tuple[float, float] | None:
    """Read ``START:END``.

    Args:
        text: two numbers of seconds, or None.

    Returns:
        First and last second, or None.

    Raises:
        ConfigError: if the text is not of this form.
    """
    if text is None:
        return None
    parts = text.split(":")
    try:
        start_s, end_s = map(float, parts)
    except ValueError:
        raise ConfigError(
            f"bound is {text!r}; needed: START:END in seconds, for example 2.5:10"
        ) from None
    if not 0 <= start_s < end_s:
        raise ConfigError(f"bound is {text!r}; needed: 0 <= START < END")
    return start_s, end_s
