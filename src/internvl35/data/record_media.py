"""Pictures and videos of a record: where they stand, how many tiles they take, their pixels.

A video is the frames that are taken from it, each with a label and a mark of its own. The form of
the conversation around them is left to :mod:`internvl35.data.prompt`. Paper section 2.1; how the
pictures of a row share its tiles follows the official training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from internvl35.config import TileSettings
from internvl35.data.augmentation import compress_tiles
from internvl35.data.frames import DEFAULT_VIDEOS, Video
from internvl35.data.grounding import fill_objects
from internvl35.data.images import DEFAULT_IMAGES, measure_image, open_image
from internvl35.data.messages import IMAGE_MARK, VIDEO_MARK, Message, video_marks
from internvl35.data.sources import SourceSettings, open_media
from internvl35.data.tiles import count_tiles, cut_tiles, normalize_tiles
from internvl35.data.turns import is_pretraining
from internvl35.data.video import read_frames, sample_frame_indices
from internvl35.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from internvl35.data.encoding import EncodingSettings
    from internvl35.data.records import Record

_MARKS = re.compile(f"({re.escape(IMAGE_MARK)}|{re.escape(VIDEO_MARK)}\n?)")


@dataclass(frozen=True)
class PlacedMedia:
    """A conversation whose marks stand for pictures alone, and what each of them shows."""

    messages: tuple[Message, ...]
    """The turns; names and boxes of objects are filled in, frames of videos are labelled."""
    places: tuple[tuple[str, int], ...]
    """``image`` or ``video`` and its number in the record, in order; a video counts once."""


class MediaReader:
    """Reads the pictures and videos of records.

    Args:
        tiles: how the checkpoint cuts pictures.
        settings: how records become tokens and tiles.
    """

    def __init__(self, tiles: TileSettings, settings: EncodingSettings) -> None:
        """Settle the limits."""
        source = SourceSettings(allow_urls=settings.allow_urls)
        self.tiles = tiles
        self.settings = settings
        self.images = replace(DEFAULT_IMAGES, source=source)
        self.videos = replace(DEFAULT_VIDEOS, source=source)

    def place(self, record: Record) -> PlacedMedia:
        """Put labels and marks of frames where videos stand, and objects where their marks stand.

        Args:
            record: any.

        Returns:
            The turns, and what their marks stand for.

        Raises:
            DataError: if marks and media of the record do not match.
            MediaError: if the size of a picture is needed and cannot be read.
        """
        messages = record.messages
        if record.objects is not None:
            messages = fill_objects(messages, record.objects, lambda i: self._size(record, i))
        may_show = ("assistant",) if is_pretraining(messages) else ("user",)
        places: list[tuple[str, int]] = []
        placed: list[Message] = []
        counts = {"image": 0, "video": 0}
        for message in messages:
            if message.role in may_show:
                message, kinds = self._expand(message, record.videos, counts["video"])
                for kind in kinds:
                    places.append((kind, counts[kind]))
                    counts[kind] += 1
            placed.append(message)
        for kind, given in (("image", record.images), ("video", record.videos)):
            if counts[kind] != len(given):
                raise DataError(
                    f"{counts[kind]} <{kind}> marks but {len(given)} {kind}s; needed: one {kind} a "
                    "mark"
                )
        return PlacedMedia(tuple(placed), tuple(places))

    def count(self, record: Record, placed: PlacedMedia) -> list[int]:
        """Count the tiles of each mark, from the headers of pictures.

        Videos are searched for their frames; these are decoded only if one may have several tiles.

        Args:
            record: any.
            placed: the same record with its media placed.

        Returns:
            Tiles of each picture and frame, in order of the marks.

        Raises:
            MediaError: if a picture or video is missing, too large or of an unknown kind.
        """
        num_tiles: list[int] = []
        for kind, number in placed.places:
            if kind == "image":
                size = measure_image(record.images[number], self.images)
                num_tiles.append(count_tiles(*size, self._image_tiles(record)))
            else:
                num_tiles += self._count_frames(record.videos[number])
        return num_tiles

    def read(self, record: Record, placed: PlacedMedia, seed: int | None) -> list[Tensor]:
        """Read the pixels of each mark.

        Args:
            record: any.
            placed: the same record with its media placed.
            seed: of the augmentation; None for none.

        Returns:
            Pixel values ``(N, 3, tile, tile)`` of each picture and frame, in order of the marks.

        Raises:
            MediaError: if a picture or video cannot be read.
        """
        generator = None if seed is None else np.random.default_rng(seed)
        return [
            normalize_tiles(tiles if generator is None else compress_tiles(tiles, generator))
            for tiles in self.cut(record, placed)
        ]

    def cut(self, record: Record, placed: PlacedMedia) -> Iterator[list[Image.Image]]:
        """Decode pictures and videos and cut them into tiles.

        Args:
            record: any.
            placed: the same record with its media placed.

        Yields:
            Tiles of each picture and frame, in order of the marks.

        Raises:
            MediaError: if a picture or video cannot be read.
        """
        for kind, image in self.decode(record, placed):
            tiles = self._image_tiles(record) if kind == "image" else self._frame_tiles()
            yield cut_tiles(image, tiles)

    def decode(self, record: Record, placed: PlacedMedia) -> Iterator[tuple[str, Image.Image]]:
        """Decode pictures and videos.

        Args:
            record: any.
            placed: the same record with its media placed.

        Yields:
            ``image`` or ``video``, and each picture or frame, in order of the marks.

        Raises:
            MediaError: if a picture or video cannot be read.
        """
        for kind, number in placed.places:
            if kind == "image":
                yield kind, open_image(record.images[number], self.images)
            else:
                for frame in self._read_frames(record.videos[number]):
                    yield kind, frame

    def _size(self, record: Record, number: int) -> tuple[int, int]:
        if number >= len(record.images):
            raise DataError(
                f"objects.image_id names picture {number} but the row has {len(record.images)}; "
                "needed: numbers that count from 0"
            )
        return measure_image(record.images[number], self.images)

    def _image_tiles(self, record: Record) -> TileSettings:
        limit = record.max_dynamic_patch or self.settings.max_dynamic_patch or self.tiles.max_tiles
        if self.settings.share_tiles and len(record.images) > 1:
            limit = max(1, limit // len(record.images))
        return replace(self.tiles, min_tiles=min(self.tiles.min_tiles, limit), max_tiles=limit)

    def _frame_tiles(self) -> TileSettings:
        return replace(self.tiles, min_tiles=1, max_tiles=self.settings.video_max_num)

    def _expand(
        self, message: Message, videos: Sequence[Any], start: int
    ) -> tuple[Message, list[str]]:
        """Label the frames of a message's videos; tell its marks in order, a video as one."""
        if message.image_places is not None:
            return message, ["image"] * len(message.image_places)
        parts, kinds = _MARKS.split(message.text), []
        for place, mark in enumerate(parts[1::2]):
            kinds.append("image" if mark == IMAGE_MARK else "video")
            number = start + kinds.count("video") - 1
            if kinds[-1] == "image" or number >= len(videos):
                continue
            marks = video_marks(self._num_frames(videos[number]), self.settings.frame_label)
            is_ended = marks.endswith("\n") or mark == VIDEO_MARK
            parts[2 * place + 1] = marks if is_ended else f"{marks}\n"
        return replace(message, text="".join(parts)), kinds

    def _num_frames(self, video: Any) -> int:
        wanted = self.settings.video_segments
        return min(len(video), wanted) if isinstance(video, tuple) else wanted

    def _pick(self, frames: Sequence[Any]) -> list[Any]:
        """Choose frames of a video that is given as a list of them: all, if they are few."""
        wanted = self.settings.video_segments
        if len(frames) <= wanted:
            return list(frames)
        return [frames[index] for index in sample_frame_indices(len(frames), 0.0, wanted)]

    def _count_frames(self, video: Any) -> list[int]:
        if isinstance(video, tuple):
            sizes = [measure_image(frame, self.images) for frame in self._pick(video)]
        elif self.settings.video_max_num > 1:
            sizes = [frame.size for frame in self._read_frames(video)]
        else:
            with open_media(video, self.videos.source) as (file, label):
                Video(file, label, self.videos)
            return [1] * self.settings.video_segments
        return [count_tiles(*size, self._frame_tiles()) for size in sizes]

    def _read_frames(self, video: Any) -> Iterator[Image.Image]:
        if isinstance(video, tuple):
            for frame in self._pick(video):
                yield open_image(frame, self.images)
        else:
            yield from read_frames(video, self.settings.video_segments, settings=self.videos).frames
