"""Read chosen frames of a video as pictures, in memory bounded by the frames asked for.

Sampling is that of the released inference code (section 2.1; frames are one tile each by default).
Labels such as ``Frame1:`` are left to :mod:`internvl35.data.prompt`.

A frame is known by its place in presentation order. A first pass reads packets without decoding
them, because what a container says about its number of frames may be wrong or missing. A frame
that cannot be decoded is counted, and the good frame nearest to it in time takes its place.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from internvl35.config import TileSettings
from internvl35.data.sources import MediaSource, SourceSettings, describe_content, open_media
from internvl35.data.tiles import Resizer, make_pixel_values
from internvl35.errors import ConfigError, MediaError

if TYPE_CHECKING:
    from torch import Tensor

_LOGGER = logging.getLogger(__name__)

_Keyed: TypeAlias = tuple[int, VideoFrame]
"""A frame and its key: its time in the stream's unit, or its place where times are of no use."""

_SEEKABLE = ("mov", "matroska", "avi")
"""Containers with an index that leads to key frames; of others, seeking gives unreliable times."""

_GENERATE_TIMES = 1
"""FFmpeg's flag to make up times that a container does not store; wrong for AVI with B-frames."""

_CAN_LIMIT_PROBING = tuple(int(part) for part in av.__version__.split(".")[:2]) >= (17, 1)
"""Older ones crash on options for streams where streams appear late, as in MPEG files."""

_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}

_DECODER_ERRORS = (av.error.FFmpegError, OSError, ValueError, EOFError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class VideoSettings:
    """How videos are read."""

    max_frames: int = 512
    """Most frames read from one video."""
    max_frame_pixels: int = 8192 * 4320
    """Most pixels of one frame."""
    max_total_pixels: int = 2**28
    """Most pixels of all frames that are held at once as pictures; each takes three bytes."""
    max_packets: int = 2_000_000
    """Most frames that a video may have in all; listing them takes some 40 bytes each."""
    apply_rotation: bool = True
    """Whether frames are turned as the container says, as upright phone videos need it."""
    source: SourceSettings = field(default_factory=SourceSettings)
    """Which sources are read, and how much of them."""

    def __post_init__(self) -> None:
        """Refuse settings that no video could meet."""
        for name in ("max_frames", "max_frame_pixels", "max_total_pixels", "max_packets"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")


DEFAULT_VIDEOS = VideoSettings()
"""Limits that a video of ordinary size never meets."""


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
        video = _Video(file, label, settings)
        indices = video.sample(num_segments, bound)
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
            num_bad=len(video.bad),
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
        video = _Video(file, label, settings)
        tiles = [
            make_pixel_values(image, tile_settings, resizer)
            for image, _ in video.pick(video.sample(num_segments, bound))
        ]
        if video.bad:
            _LOGGER.warning("%s: %d damaged frames skipped", label, len(video.bad))
    return torch.cat(tiles), [len(frame) for frame in tiles]


class _Nameless:
    """What FFmpeg sees of a file: bytes, and no name that could make it open other files."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell


class _Video:
    """One video file: the list of its frames, and a way to some of them."""

    def __init__(self, file: BinaryIO, label: str, settings: VideoSettings) -> None:
        self._file = file
        self._label = label
        self._settings = settings
        self._kind = describe_content(file.read(512))
        self.bad: set[int] = set()
        """Keys of the frames that could not be decoded."""
        with self._open() as container:
            stream = self._find_stream(container)
            self.num_pixels: int = stream.width * stream.height
            if self.num_pixels < 1:  # probing is under the same limit
                raise MediaError(
                    f"{label} tells no frame size, or one of more pixels than "
                    f"max_frame_pixels allows ({settings.max_frame_pixels})"
                )
            if self.num_pixels > settings.max_frame_pixels:
                raise MediaError(
                    f"{label} has frames of {stream.width}x{stream.height} pixels; "
                    f"at most {settings.max_frame_pixels} are decoded (max_frame_pixels)"
                )
            keys, key_frames = self._list_packets(container, stream)
            self.num_frames = len(keys)
            self._has_times = None not in keys and len(set(keys)) == len(keys)
            times = sorted(key for key in keys if key is not None)
            # Without usable times, frames are known by their place, and cannot be sought.
            self._keys = times if self._has_times else list(range(len(keys)))
            can_seek = self._has_times and container.format.name.split(",")[0] in _SEEKABLE
            self._key_frames = sorted(key_frames) if can_seek else []
            self._time_base = float(stream.time_base or 0)
            self._origin = times[0] if times else 0
            self.fps = self._measure_rate(stream, times)

    def sample(self, num_segments: int, bound: tuple[float, float] | None) -> list[int]:
        """Choose frames."""
        if num_segments > self._settings.max_frames:
            raise MediaError(
                f"{num_segments} frames were asked for; "
                f"at most {self._settings.max_frames} are read (max_frames)"
            )
        return sample_frame_indices(self.num_frames, self.fps, num_segments, bound)

    def pick(self, indices: Sequence[int]) -> Iterator[tuple[Image.Image, float]]:
        """Yield the frames of never falling indices with their times in seconds."""
        image, image_key = None, None
        for key, frame in self._find_frames([self._keys[index] for index in indices]):
            if image is None or key != image_key:
                image, image_key = self._to_image(frame), key
            if self._has_times:
                yield image, (key - self._origin) * self._time_base
            else:
                yield image, key / self.fps if self.fps else 0.0

    def _open(self) -> InputContainer:
        self._file.seek(0)
        # Playlists may name other files and addresses; no protocol is named like this.
        options = {"protocol_whitelist": "none"}
        limits = {"max_pixels": str(self._settings.max_frame_pixels)} if _CAN_LIMIT_PROBING else {}
        try:
            container = av.open(
                _Nameless(self._file),
                "r",
                options=limits,
                container_options=options,
                metadata_errors="replace",
            )
            container.flags &= ~_GENERATE_TIMES
            return container
        except _DECODER_ERRORS as error:
            raise MediaError(
                f"{self._label} cannot be opened as a video: it is damaged, truncated or none; "
                f"it begins like {self._kind}"
            ) from error

    def _find_stream(self, container: InputContainer) -> VideoStream:
        for stream in container.streams.video:
            is_cover = bool(stream.disposition & av.stream.Disposition.attached_pic)
            if not is_cover and stream.codec_context is not None:
                return stream
        kinds = {stream.type for stream in container.streams}
        rest = "" if "audio" in kinds else ", or is truncated"
        raise MediaError(
            f"{self._label} holds no video that can be decoded, "
            f"only {', '.join(sorted(kinds)) or 'nothing'}{rest}"
        )

    def _list_packets(
        self, container: InputContainer, stream: VideoStream
    ) -> tuple[list[int | None], list[int]]:
        """Return the time of each frame, as stored, and those of the key frames."""
        keys: list[int | None] = []
        key_frames: list[int] = []
        try:
            for packet in container.demux(stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                keys.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    key_frames.append(packet.pts)
                if len(keys) > self._settings.max_packets:
                    raise MediaError(
                        f"{self._label} has more than the {self._settings.max_packets} frames "
                        "of max_packets"
                    )
        except _DECODER_ERRORS as error:
            _LOGGER.debug("%s: reading ended early: %s", self._label, type(error).__name__)
        if not keys:
            raise MediaError(f"{self._label} holds a video without frames, or is truncated")
        return keys, key_frames

    def _measure_rate(self, stream: VideoStream, times: list[int]) -> float:
        rate = stream.average_rate or stream.guessed_rate
        if rate:
            return float(rate)
        span_s = (times[-1] - times[0]) * self._time_base if times else 0.0
        return (len(times) - 1) / span_s if span_s > 0 else 0.0

    def _find_frames(self, targets: Sequence[int]) -> Iterator[_Keyed]:
        """Yield the nearest good frame to each of never falling keys; the earlier of two."""
        can_seek = bool(self._key_frames)
        before: _Keyed | None = None
        after: _Keyed | None = None
        container = self._open()
        try:
            frames = self._decode(container, None)
            for target in targets:
                start = self._last_key_frame(target) if can_seek else None
                reached = after[0] if after else before[0] if before else self._keys[0]
                if start is not None and start > reached:
                    frames, before, after = self._decode(container, start), None, None
                before, after = self._advance(frames, target, before, after)
                if can_seek and (after is None or after[0] != target):
                    # Seeking led too far, or frames are damaged: look from the start on.
                    can_seek = False
                    container.close()
                    container = self._open()
                    frames = self._decode(container, None)
                    before, after = self._advance(frames, target, None, None)
                yield self._choose(target, before, after)
        finally:
            container.close()

    def _last_key_frame(self, target: int) -> int | None:
        place = bisect_right(self._key_frames, target)
        return self._key_frames[place - 1] if place else None

    @staticmethod
    def _advance(
        frames: Iterator[_Keyed], target: int, before: _Keyed | None, after: _Keyed | None
    ) -> tuple[_Keyed | None, _Keyed | None]:
        """Decode until one frame is before a key and the next is not."""
        while after is None or after[0] < target:
            before, after = after or before, next(frames, None)
            if after is None:
                break
        return before, after

    def _choose(self, target: int, before: _Keyed | None, after: _Keyed | None) -> _Keyed:
        if after is not None and (before is None or after[0] - target < target - before[0]):
            return after
        if before is not None:
            return before
        raise MediaError(
            f"no frame of the video in {self._label} can be decoded; {len(self.bad)} are damaged"
        )

    def _decode(self, container: InputContainer, start: int | None) -> Iterator[_Keyed]:
        """Yield good frames with rising keys, from the beginning or from a key frame on."""
        stream = self._find_stream(container)
        stream.codec_context.options = {"max_pixels": str(self._settings.max_frame_pixels)}
        place, last = 0, -math.inf
        for packet in self._read_packets(container, stream, start):
            try:
                frames = stream.decode(packet)
            except _DECODER_ERRORS:
                time = packet.pts if packet is not None and self._has_times else None
                self.bad.add(place if time is None else time)
                place += 1
                continue
            for frame in frames:
                key = frame.pts if self._has_times and frame.pts is not None else place
                place += 1
                if frame.is_corrupt or frame.width * frame.height > self._settings.max_frame_pixels:
                    self.bad.add(key)
                elif key > last:
                    last = key
                    yield key, frame

    def _read_packets(
        self, container: InputContainer, stream: VideoStream, start: int | None
    ) -> Iterator[Packet[VideoStream] | None]:
        """Yield packets, and at last an empty one or none, on which a decoder gives its rest."""
        try:
            if start is not None:
                container.seek(start, stream=stream)
            yield from container.demux(stream)
        except _DECODER_ERRORS as error:
            _LOGGER.debug("%s: reading ended early: %s", self._label, type(error).__name__)
            yield None

    def _to_image(self, frame: VideoFrame) -> Image.Image:
        try:
            image = Image.fromarray(frame.to_ndarray(format="rgb24"))
        except _DECODER_ERRORS as error:
            raise MediaError(f"{self._label} has frames that cannot be turned to RGB") from error
        turn = _TURNS.get(frame.rotation % 360) if self._settings.apply_rotation else None
        return image if turn is None else image.transpose(turn)
