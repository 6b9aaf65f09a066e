"""A row of a data set in canonical form, from any of the usual shapes of rows.

Reads the rows of the announcement (``messages`` with ``images``), official ``conversations``,
question and answer columns, Alpaca, ShareGPT, OpenAI and Anthropic parts. Turning a record into
tokens and tiles is left to :mod:`internvl35.data.encoding`. Paper section 3.1, data formats.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from internvl35.data.grounding import Objects, has_object_marks, read_objects
from internvl35.data.messages import IMAGE_MARK, VIDEO_MARK, Message
from internvl35.data.row_media import MediaFolder, read_media, read_video
from internvl35.data.row_turns import (
    FROM_COLUMN,
    Slots,
    prepend_marks,
    read_messages,
    read_pair,
)
from internvl35.errors import DataError, PromptError

if TYPE_CHECKING:
    from internvl35.data.images import ImageSource

QUERY_COLUMNS = ("query", "prompt", "input", "instruction", "question", "problem")
"""Columns that hold the question, the first one found."""

RESPONSE_COLUMNS = (
    "response", "answer", "output", "targets", "target", "answer_key", "answers", "solution",
    "text", "completion", "content",
)  # fmt: skip
"""Columns that hold the answer, the first one found."""

_JSON_COLUMNS = (
    "messages",
    "conversations",
    "conversation",
    "images",
    "videos",
    "history",
    "objects",
)
"""Columns that tables of plain text, such as CSV, hold as JSON."""

MAX_TILES = 1024
"""Most tiles of a picture that a row may ask for; a hundred times that would take forever."""

_PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class RowDefaults:
    """What holds for all rows of a table."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Names of columns in the table, to the names they have here."""
    query: str | None = None
    """Question of every row, whatever its columns say; None where rows have their own."""
    max_dynamic_patch: int | None = None
    """Most tiles of a picture, thumbnail not counted; None for the run's own."""
    data_augment: bool | None = None
    """Whether pictures are augmented; None for the run's own."""
    confined_to: tuple[Path, ...] | None = None
    """Folders that files named by rows must lie in; None where rows may name any file."""


@dataclass(frozen=True)
class Record:
    """One conversation of a data set."""

    messages: tuple[Message, ...]
    """Turns; a record of nothing but an assistant's message is plain text to pre-train on."""
    images: tuple[ImageSource, ...] = ()
    """Pictures in the order of the ``<image>`` marks; files as ``Path``, joined to their root."""
    videos: tuple[Any, ...] = ()
    """Videos in the order of the ``<video>`` marks: a source, or a tuple of frames' sources."""
    tools: str | None = None
    """JSON text of a list of tool schemas."""
    objects: Objects | None = None
    """What belongs at the ``<ref-object>`` and ``<bbox>`` marks of the texts."""
    max_dynamic_patch: int | None = None
    """Most tiles of a picture of this record; None for the run's own."""
    data_augment: bool | None = None
    """Whether its pictures are augmented; None for the run's own."""
    origin: str = ""
    """Where it comes from, for messages: ``train.jsonl:17`` or ``owner/name[train] row 12``."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """All columns that nothing above was read from."""


DEFAULTS = RowDefaults()
"""Rows of the user's own that say everything themselves."""


def read_record(
    row: Mapping[str, Any],
    *,
    origin: str,
    root: Path | None = None,
    defaults: RowDefaults = DEFAULTS,
) -> Record:
    """Bring a row into canonical form.

    Args:
        row: columns by name.
        origin: where the row comes from, for messages.
        root: folder that relative paths of the row start from; None for the working directory.
        defaults: what holds for all rows of its table.

    Returns:
        The record. Marks that the row lacks stand in front of its first question.

    Raises:
        DataError: if the row cannot be understood; the message starts with the origin.
    """
    try:
        return _read(_Columns(row, defaults.columns), origin, root, defaults)
    except (DataError, PromptError) as error:
        raise DataError(f"{origin}: {error}") from error
    except RecursionError as error:
        raise DataError(f"{origin}: the row is nested too deeply") from error


class _Columns:
    """The columns of a row, each taken once; what nobody takes is left over."""

    def __init__(self, row: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self.left = {
            name: value for name, value in row.items() if value is not None and name not in names
        }
        self.left |= {new: row[old] for old, new in names.items() if row.get(old) is not None}
        self._names = {name.casefold(): name for name in reversed(self.left)}

    def find(self, *names: str) -> str | None:
        """Tell which of several columns there is, the first that is found."""
        for name in names:
            found = name if name in self.left else self._names.get(name)
            if found in self.left:
                return found
        return None

    def take(self, *names: str) -> Any:
        """Take the value of the first column that is found, or None."""
        found = self.find(*names)
        if found is None:
            return None
        value = self.left.pop(found)
        if names[0] in _JSON_COLUMNS and isinstance(value, str) and _is_json(value):
            try:
                return json.loads(value)
            except (ValueError, RecursionError) as error:
                raise DataError(f"the column {found} is not valid JSON") from error
        return value


def _read(columns: _Columns, origin: str, root: Path | None, defaults: RowDefaults) -> Record:
    folder = MediaFolder(root, defaults.confined_to)
    images = _as_list(columns.take("images", "image", "file_name"))
    videos = _take_videos(columns)
    if _as_list(columns.take("audios", "audio")):
        raise DataError(
            "the row has audio, which these models do not hear; drop the column, or name it "
            "something else by columns"
        )
    slots = Slots()
    messages = _with_system(_read_turns(columns, slots, defaults), _take_system(columns))
    if not messages:
        raise DataError(
            f"no conversation in the columns {sorted(columns.left)}; needed: messages, "
            "conversations, or a question and an answer (see columns for other names)"
        )
    messages, images = _match(messages, slots.image, images, IMAGE_MARK)
    messages, videos = _match(messages, slots.video, videos, VIDEO_MARK)
    objects = None
    if has_object_marks(messages):
        objects = _take_objects(columns)
    return Record(
        messages,
        tuple(read_media(image, folder) for image in images),
        tuple(read_video(video, folder) for video in videos),
        tools=_take_tools(columns),
        objects=objects,
        max_dynamic_patch=read_tiles(columns.take("max_dynamic_patch"), defaults.max_dynamic_patch),
        data_augment=read_augment(columns.take("data_augment"), defaults.data_augment),
        origin=origin,
        extra=columns.left,
    )


def _as_list(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview)):
        return [item for item in value if item is not None]
    return [value]


def _is_json(text: str) -> bool:
    return text[:1] + text[-1:] in ("[]", "{}")


def _take_videos(columns: _Columns) -> list[Any]:
    videos = columns.take("videos")
    if videos is not None:
        return _as_list(videos)
    video = columns.take("video")
    # a list under this name is the frames of one video, or as many videos
    is_frames = isinstance(video, list) and all(
        isinstance(frame, str) and frame.lower().endswith(_PICTURE_ENDINGS) for frame in video
    )
    return [video] if is_frames and video else _as_list(video)


def _read_turns(columns: _Columns, slots: Slots, defaults: RowDefaults) -> tuple[Message, ...]:
    query = defaults.query
    if query is None:
        entries = columns.take("messages", "conversations", "conversation")
        if entries is not None:
            return read_messages(entries, slots)
        query = _take_query(columns)
        if isinstance(query, list):  # a prompt of messages, as preference and reward sets have it
            completion = columns.take("completion")
            return read_messages([*query, *_as_list(completion)], slots)
    history = columns.take("history")
    return read_pair(query, columns.take(*RESPONSE_COLUMNS), history, slots)


def _take_query(columns: _Columns) -> Any:
    if columns.find("query", "prompt") is None and columns.find("instruction"):
        instruction, given = columns.take("instruction"), columns.take("input")
        return f"{instruction}\n{given}" if given else instruction
    return columns.take(*QUERY_COLUMNS)


def _take_system(columns: _Columns) -> str | None:
    system = columns.take("system", "system_prompt")
    if system is None or system == "":
        return None
    if not isinstance(system, str):
        raise DataError(f"system is of type {type(system).__name__}; needed: a text")
    return system


def _with_system(messages: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    if system is None:
        return messages
    if messages and messages[0].role == "system":
        if messages[0].text != system:
            raise DataError("a system column and another system message; keep one of them")
        return messages
    return (Message("system", system), *messages)


def _match(
    messages: tuple[Message, ...], slots: Sequence[Any], column: list[Any], mark: str
) -> tuple[tuple[Message, ...], list[Any]]:
    """Give every mark its picture or video; put missing marks in front."""
    num_open = sum(slot is FROM_COLUMN for slot in slots)
    num_missing = len(column) - num_open
    if num_missing < 0:
        kind = mark.strip("<>")
        raise DataError(
            f"{num_open} {mark} marks but {len(column)} {kind}s; add the missing {kind}s or drop "
            "marks"
        )
    if num_missing:
        messages = prepend_marks(messages, mark, num_missing)
    rest = iter(column[num_missing:])
    filled = [next(rest) if slot is FROM_COLUMN else slot for slot in slots]
    return messages, [*column[:num_missing], *filled]


def _take_objects(columns: _Columns) -> Objects:
    value = columns.take("objects")
    if not isinstance(value, Mapping):
        raise DataError(
            "a text has <ref-object> or <bbox> marks but the row has no objects; needed: "
            "objects with 'ref' and 'bbox'"
        )
    return read_objects(value)


def _take_tools(columns: _Columns) -> str | None:
    tools = columns.take("tools")
    if tools is None or tools == "" or tools == []:
        return None
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise DataError("tools is not valid JSON") from error
    if not isinstance(tools, list):
        raise DataError(f"tools is of type {type(tools).__name__}; needed: a list of schemas")
    return json.dumps(tools, ensure_ascii=False)


def read_tiles(value: Any, default: int | None) -> int | None:
    """Check how many tiles a picture may have.

    Args:
        value: of ``max_dynamic_patch``; None where it is missing.
        default: what holds then.

    Returns:
        The number.

    Raises:
        DataError: if it is something else.
    """
    if value is None:
        return default
    if type(value) is not int or not 1 <= value <= MAX_TILES:
        raise DataError(
            f"max_dynamic_patch is {repr(value)[:80]}; needed: a whole number, 1 to {MAX_TILES}"
        )
    return value


def read_augment(value: Any, default: bool | None) -> bool | None:
    """Check whether pictures are augmented.

    Args:
        value: of ``data_augment``; None where it is missing.
        default: what holds then.

    Returns:
        Whether they are.

    Raises:
        DataError: if it is something else.
    """
    if value is None:
        return default
    if not isinstance(value, bool):
        raise DataError(f"data_augment is {value!r}; needed: true or false")
    return value
