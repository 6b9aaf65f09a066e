"""Choose frames of a video and read them as pictures or pixel values.

Sampling is that of the released inference code (section 2.1; frames are one tile each by default).
Decoding is left to :mod:`internvl35.data.frames`, labels such as ``Frame1:`` to
:mod:`internvl35.data.prompt`.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from internvl35.config import TileSettings
from internvl35.data.frames import DEFAULT_VIDEOS, Video, VideoSettings
from internvl35.data.sources import MediaSource, open_media
from internvl35.data.tiles import Resizer, make_pixel_values
from internvl35.errors import MediaError

if TYPE_CHECKING:
    from torch import Tensor

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoFrames:
    """Frames chosen from a video."""

    frames: tuple[Image.Image, ...]
    """The pictures, mode RGB, in the order of time."""
    indices: tuple[int, ...]
    """Place of each frame asked for, counted from 0 in presentation order."""
    timestamps_s: tuple[float, ...]
    """Time of each frame taken, in seconds from the start of the video."""
    num_frames: int
    """Frames that the whole video has."""
    fps: float
    """Mean frame rate of the video; 0 if unknown."""
    num_bad: int
    """Damaged frames met on the way, whether asked for or not."""


def sample_frame_indices(
    num_frames: int, fps: float, num_segments: int, bound: tuple[float, float] | None = None
) -> list[int]:
    """Choose the middle frame of each of several equal parts of a video.

    Follows the released inference code to the frame: parts begin at multiples of the part's length
    rounded half to even, and the middle is cut, not rounded.

    Args:
        num_frames: frames N of the video, at least 1.
        fps: frame rate; used only with ``bound``.
        num_segments: number of parts; with more parts than frames, frames repeat.
        bound: first and last second to choose from; the whole video by default.

    Returns:
        ``num_segments`` indices from 0 to N - 1, never falling.

    Raises:
        MediaError: if there are no frames or parts, or the bound is outside the video.
    """
    if num_frames < 1 or num_segments < 1:
        raise MediaError(
            f"{num_segments} frames were asked of a video with {num_frames}; needed: 1 or more each"
        )
    first, last = 0, num_frames - 1
    if bound:
        start_s, end_s = bound
        if not (math.isfinite(start_s) and math.isfinite(end_s)):
            raise MediaError(f"the bound is {start_s} to {end_s} s; needed: two finite numbers")
        if not fps > 0:
            raise MediaError("the frame rate of the video is not known, so a bound cannot be used")
        first = max(first, round(start_s * fps))
        last = min(round(end_s * fps), last)
        if first > last:
            raise MediaError(
                f"the bound is {start_s:g} to {end_s:g} s; "
                f"needed: a stretch of the video, which has {num_frames / fps:g} s"
            )
    length = (last - first) / num_segments
    return [int(first + length / 2 + np.round(length * part)) for part in range(num_segments)]


def read_frames(
    source: MediaSource,
    num_segments: int = 32,
    bound: tuple[float, float] | None = None,
    settings: VideoSettings = DEFAULT_VIDEOS,
) -> VideoFrames:
    """Read evenly spread frames of a video.

    Args:
        source: path, URL, data URI, bytes or open binary file, of any container FFmpeg knows.
        num_segments: frames to read.
        bound: first and last second to choose from; the whole video by default.
        settings: limits.

    Returns:
        The frames with their times, and the number of damaged ones.

    Raises:
        MediaError: if there is no video, no frame of it can be decoded, or a limit is met.
    """
    with open_media(source, settings.source) as (file, label):
        video = Video(file, label, settings)
        indices = _sample(video, num_segments, bound, settings)
        total = len(set(indices)) * video.num_pixels
        if total > settings.max_total_pixels:
            raise MediaError(
                f"{label}: the frames asked for have {total} pixels in all; at most "
                f"{settings.max_total_pixels} are held (max_total_pixels); ask for fewer frames"
            )
        picked = list(video.pick(indices))
        return VideoFrames(
            frames=tuple(image for image, _ in picked),
            indices=tuple(indices),
            timestamps_s=tuple(time_s for _, time_s in picked),
            num_frames=video.num_frames,
            fps=video.fps,
            num_bad=video.num_bad,
        )


def load_video(
    video_path: MediaSource,
    bound: tuple[float, float] | None = None,
    input_size: int = 448,
    max_num: int = 1,
    num_segments: int = 32,
    *,
    settings: VideoSettings = DEFAULT_VIDEOS,
    resizer: Resizer = "pillow",
) -> tuple[Tensor, list[int]]:
    """Turn a video into pixel values, with the signature and the results of the released code.

    Args:
        video_path: anything that :func:`read_frames` takes.
        bound: first and last second to choose from; the whole video by default.
        input_size: side of a tile in pixels.
        max_num: most tiles a frame, thumbnail not counted.
        num_segments: frames to read.
        settings: limits.
        resizer: see :func:`internvl35.data.tiles.make_pixel_values`.

    Returns:
        Pixel values ``(N, 3, input_size, input_size)``, float32, and the tiles of each frame.

    Raises:
        MediaError: if there is no video, no frame of it can be decoded, or a limit is met.
        ConfigError: if ``input_size`` or ``max_num`` is below 1.
    """
    import torch

    tile_settings = TileSettings(tile_size=input_size, max_tiles=max_num)
    with open_media(video_path, settings.source) as (file, label):
        video = Video(file, label, settings)
        tiles = [
            make_pixel_values(image, tile_settings, resizer)
            for image, _ in video.pick(_sample(video, num_segments, bound, settings))
        ]
        if video.num_bad:
            _LOGGER.warning("%s: %d damaged frames skipped", label, video.num_bad)
    return torch.cat(tiles), [len(frame) for frame in tiles]


def _sample(
    video: Video, num_segments: int, bound: tuple[float, float] | None, settings: VideoSettings
) -> list[int]:
    if num_segments > settings.max_frames:
        raise MediaError(
            f"{num_segments} frames were asked for; "
            f"at most {settings.max_frames} are read (max_frames)"
        )
    return sample_frame_indices(video.num_frames, video.fps, num_segments, bound)
