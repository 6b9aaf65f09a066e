"""Pictures and videos as rows of data sets name them, and which files a row may name.

Opening them is left to :mod:`internvl35.data.images` and :mod:`internvl35.data.video`; URLs and
data URIs are passed on as they are. No counterpart in the paper.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from internvl35.data.sources import scheme_of
from internvl35.errors import DataError

if TYPE_CHECKING:
    from internvl35.data.images import ImageSource

_PATH_KEYS = ("path", "url", "image", "video", "file_name")
"""Keys of a mapping under which a path, a URL or a data URI may stand."""


@dataclass(frozen=True)
class MediaFolder:
    """Where the files of a table's rows lie."""

    root: Path | None = None
    """Folder that relative paths start from; None for the working directory."""
    confined_to: tuple[Path, ...] | None = None
    """Folders that every named file must lie in, links followed; None where rows are the user's
    own and may name any file."""

    def locate(self, path: str | PathLike[str]) -> Path:
        """Join a path of a row to the root.

        A relative path of a user's own row that does not exist there but does in the working
        directory is taken from the working directory.

        Args:
            path: as the row has it.

        Returns:
            The path of the file, which need not exist.

        Raises:
            DataError: if rows may not name this file.
        """
        given = Path(path)
        joined = given if self.root is None else self.root / given
        try:
            if self.confined_to is None:
                is_elsewhere = not given.is_absolute() and not joined.exists() and given.exists()
                return given if is_elsewhere else joined
            target = joined.resolve()
        except (OSError, ValueError, RuntimeError) as error:  # null characters, loops of links
            raise DataError(f"{str(path)[:200]!r} is not a path") from error
        if not any(target.is_relative_to(folder.resolve()) for folder in self.confined_to):
            raise DataError(
                f"the row names the file {str(path)[:200]!r}, which is not among the files fetched "
                "for this data set; rows of a hub's set may name no others: if you trust it, fetch "
                "the whole set and pass its folder"
            )
        return joined


def read_media(value: Any, folder: MediaFolder) -> ImageSource:
    """Turn one picture or video of a row into a source that can be opened.

    Args:
        value: path, URL, data URI, bytes, a Pillow picture, or a mapping with ``bytes`` (base64 if
            text), ``path`` or ``url``.
        folder: where the files of the row lie.

    Returns:
        Paths as joined ``Path``; URLs and data URIs as text; anything else as it is.

    Raises:
        DataError: if it is none of these, or a file that the row may not name.
    """
    if isinstance(value, Mapping):
        return _read_mapping(value, folder)
    if isinstance(value, str):
        if not value.strip():
            raise DataError("a picture or video is an empty text; needed: a path, URL or data URI")
        return value if scheme_of(value) else folder.locate(value)
    if isinstance(value, PathLike):
        return folder.locate(value)
    if isinstance(value, (bytes, bytearray, memoryview, Image.Image)):
        return value
    raise DataError(
        f"a picture or video cannot be of type {type(value).__name__}; needed: a path, URL, data "
        "URI, bytes, or a mapping with 'bytes' or 'path'"
    )


def read_video(value: Any, folder: MediaFolder) -> Any:
    """Turn one video of a row into a source, or a list of frames into a list of sources.

    Args:
        value: what :func:`read_media` takes, or a list of such.
        folder: where the files of the row lie.

    Returns:
        One source, or a tuple of them.

    Raises:
        DataError: as :func:`read_media`, or if a list of frames is empty.
    """
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray, memoryview)):
        return read_media(value, folder)
    if not value:
        raise DataError("a video is an empty list; needed: a path, or a list of frames")
    return tuple(read_media(frame, folder) for frame in value)


def _read_mapping(value: Mapping[str, Any], folder: MediaFolder) -> ImageSource:
    data = value.get("bytes")
    if data is None:
        data = value.get("base64")
    if isinstance(data, (bytes, bytearray, memoryview)):
        return data
    if isinstance(data, str):
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError("'bytes' of a picture is text that is not valid base64") from error
    for key in _PATH_KEYS:
        if value.get(key) is not None:
            return read_media(value[key], folder)
    raise DataError(
        f"a picture or video is a mapping with the keys {sorted(map(str, value))}; "
        "needed: 'bytes' or 'path'"
    )
