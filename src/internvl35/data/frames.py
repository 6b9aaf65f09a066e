"""Decode chosen frames of one video file, in memory bounded by one frame at a time.

A frame is known by its place in presentation order. A first pass reads packets without decoding
them, because what a container says about its number of frames may be wrong or missing. A frame
that cannot be decoded is counted, and the good frame nearest to it in time takes its place.
Which frames to take is left to :mod:`internvl35.data.video`.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import BinaryIO, TypeAlias

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from internvl35.data.sources import SourceSettings, describe_content
from internvl35.errors import ConfigError, MediaError

_LOGGER = logging.getLogger(__name__)

_Keyed: TypeAlias = tuple[int, VideoFrame]
"""A frame and its key: its time in the stream's unit, or its place where times are of no use."""

_SEEKABLE = ("mov", "matroska", "avi")
"""Containers with an index that leads to key frames; of others, seeking gives unreliable times."""

_GENERATE_TIMES = 1
"""FFmpeg's flag to make up times that a container does not store; wrong for AVI with B-frames."""

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
    max_packets: int = 1_000_000
    """Most frames that a video may have in all; listing them takes some 60 bytes each."""
    formats: tuple[str, ...] = ()
    """FFmpeg's names of the containers that are opened, as mov and matroska; empty for all."""
    codecs: tuple[str, ...] = ()
    """FFmpeg's names of the decoders that are used, as h264 and libdav1d; empty for all."""
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


def _is_cover(stream: Stream) -> bool:
    """Tell whether a stream is the picture on the cover of a piece of music."""
    return bool(stream.disposition & Disposition.attached_pic)


class _Nameless:
    """What FFmpeg sees of a file: bytes, and no name that could make it open other files."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell


class Video:
    """One video file: the list of its frames, and a way to some of them.

    Args:
        file: seekable, at its beginning.
        label: name for messages.
        settings: limits.

    Raises:
        MediaError: if there is no video in the file, or a limit is met.
    """

    def __init__(self, file: BinaryIO, label: str, settings: VideoSettings) -> None:
        self._file = file
        self._label = label
        self._settings = settings
        self._kind = describe_content(file.read(512))
        self._bad: set[int] = set()  # keys
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
            times = sorted(key for key in keys if key is not None)
            are_all_different = all(one < other for one, other in pairwise(times))
            self._has_times = len(times) == len(keys) and are_all_different
            # Without usable times, frames are known by their place, and cannot be sought.
            self._keys = times if self._has_times else list(range(len(keys)))
            can_seek = self._has_times and container.format.name.split(",")[0] in _SEEKABLE
            self._key_frames = sorted(key_frames) if can_seek else []
            self._time_base = float(stream.time_base or 0)
            self._origin = times[0] if times else 0
            self.fps = self._measure_rate(stream, times)

    @property
    def num_bad(self) -> int:
        """Damaged frames met so far, whether asked for or not."""
        return len(self._bad)

    def pick(self, indices: Sequence[int]) -> Iterator[tuple[Image.Image, float]]:
        """Decode frames.

        Args:
            indices: places in presentation order, never falling.

        Yields:
            For each index a picture in mode RGB and its time in seconds from the start; the nearest
            good frame where the one asked for is damaged.

        Raises:
            MediaError: if no frame can be decoded.
        """
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
        if self._settings.formats:
            options["format_whitelist"] = ",".join(self._settings.formats)
        if self._settings.codecs:  # of streams that are only looked at, too
            options["codec_whitelist"] = ",".join(self._settings.codecs)
        try:
            container = av.open(
                _Nameless(self._file),
                "r",
                options=self._decoder_options(),
                container_options=options,
                metadata_errors="replace",
            )
            container.flags &= ~_GENERATE_TIMES
            return container
        except _DECODER_ERRORS as error:
            raise MediaError(
                f"{self._label} cannot be opened as a video: it is damaged, truncated, none or "
                f"of a kind that is not opened here; it begins like {self._kind}"
            ) from error

    def _decoder_options(self) -> dict[str, str]:
        options = {"max_pixels": str(self._settings.max_frame_pixels)}
        if self._settings.codecs:
            options["codec_whitelist"] = ",".join(self._settings.codecs)
        return options

    def _find_stream(self, container: InputContainer) -> VideoStream:
        for stream in container.streams.video:
            if not _is_cover(stream) and stream.codec_context is not None:
                return stream
        kinds = {stream.type for stream in container.streams if not _is_cover(stream)}
        if "video" in kinds:
            raise MediaError(f"{self._label} holds a video of a kind that cannot be decoded")
        rest = "" if "audio" in kinds else ", or is truncated"
        raise MediaError(
            f"{self._label} holds no video, only {', '.join(sorted(kinds)) or 'nothing'}{rest}"
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
            f"no frame of the video in {self._label} can be decoded; {len(self._bad)} are damaged"
        )

    def _decode(self, container: InputContainer, start: int | None) -> Iterator[_Keyed]:
        """Yield good frames with rising keys, from the beginning or from a key frame on."""
        stream = self._find_stream(container)
        stream.codec_context.options = self._decoder_options()
        place, last = 0, -math.inf
        for packet in self._read_packets(container, stream, start):
            try:
                frames = stream.decode(packet)
            except _DECODER_ERRORS:
                time = packet.pts if packet is not None and self._has_times else None
                self._bad.add(place if time is None else time)
                place += 1
                continue
            for frame in frames:
                key = frame.pts if self._has_times and frame.pts is not None else place
                place += 1
                if frame.is_corrupt or frame.width * frame.height > self._settings.max_frame_pixels:
                    self._bad.add(key)
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
