"""Messages of a chat-completions body as turns and pictures.

A turn of pictures and one text is what :meth:`internvl35.chat.Chat.ask` is asked: the pictures come
first, several of them labelled. In a turn of several texts every picture stays at its place. A
literal ``<image>`` in a text stays text. Which files and addresses pictures may name is said by
:class:`MediaRules`; reading and cutting them is left to :mod:`internvl35.chat`. No counterpart in
the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from internvl35.data.messages import (
    IMAGE_MARK,
    FrameLabel,
    Message,
    Part,
    image_marks,
    video_marks,
)
from internvl35.data.sources import scheme_of
from internvl35.data.tool_calls import write_calls
from internvl35.errors import MediaError
from internvl35.serve.fields import BodyError, Fields, as_number, show
from internvl35.serve.media import MediaItemError, MediaKind
from internvl35.serve.tools import ResultOrder, read_calls

if TYPE_CHECKING:
    from internvl35.data.images import ImageSource

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Roles that are understood."""

DETAILS = ("auto", "low", "high")
"""What may be said of how closely a picture is looked at; ``low`` is one tile."""

MAX_PICTURES = 1024
"""Most pictures of a body."""


@dataclass(frozen=True)
class MediaRules:
    """Which pictures a body may name."""

    root: Path | None = None
    """Folder that named files must lie in, links followed; relative paths start there. None: no
    files may be named."""
    allow_urls: bool = False
    """Whether http and https URLs may be named."""
    allow_videos: bool = False
    """Whether videos may be named beside pictures."""

    def find(self, source: str) -> ImageSource:
        """Check what a body names as a picture.

        Args:
            source: data URI, URL, path, or ``file://`` URL.

        Returns:
            Text that is no path, or the path of a file that may be read, if it is there.

        Raises:
            MediaError: if it may not be named.
        """
        scheme = scheme_of(source)
        if scheme == "data":
            return source
        if scheme in ("http", "https"):
            if not self.allow_urls:
                raise MediaError(
                    "the picture is a URL, and URLs are not fetched here; send its bytes as "
                    "data:image/png;base64,..., or have URLs allowed"
                )
            return source
        if scheme not in ("", "file"):
            raise MediaError(
                f"the picture has the scheme {scheme[:20]}; known: data, http, https and file"
            )
        return self._locate(_path_of(source) if scheme else source)

    def _locate(self, name: str) -> Path:
        if self.root is None:
            raise MediaError(
                "the picture is named as a file, and files are not read here; send its bytes as "
                "data:image/png;base64,..., or have a folder allowed"
            )
        root = self.root.resolve()
        try:
            path = (root / name).resolve()
        except (OSError, ValueError, RuntimeError) as error:  # null characters, loops of links
            raise MediaError(f"{show(name)} is not a path") from error
        if not path.is_relative_to(root):
            raise MediaError(f"{show(name)} lies outside the folder that files are read from")
        return path


@dataclass(frozen=True)
class AskedPicture:
    """A picture of a body, or a video."""

    source: ImageSource
    """What may be opened."""
    max_tiles: int | None = None
    """Most tiles it is cut into; None for as many as are allowed."""
    kind: MediaKind = "image"
    """What it is; a video holds one place of its turn until its frames are known."""
    num_frames: int | None = None
    """Frames taken of a video, evenly spread; None for as many as are usual."""
    bound: tuple[float, float] | None = None
    """First and last second of a video; None for all of it."""
    where: str = field(default="", compare=False)
    """Where it stands in the body."""


def read_messages(
    entries: Sequence[Any] | None, rules: MediaRules, path: str = "messages"
) -> tuple[tuple[Message, ...], tuple[AskedPicture, ...]]:
    """Read the messages of a body.

    Args:
        entries: ``role`` and ``content``: a text, or a list of parts of the types ``text`` and
            ``image_url``; an assistant's may have ``reasoning_content`` and ``tool_calls``, and a
            tool's has ``tool_call_id``.
        rules: which pictures may be named.
        path: where the messages stand in the body.

    Returns:
        The turns, and the pictures in the order of their places.

    Raises:
        BodyError: if a message has another form.
        MediaError: if a picture may not be named.
    """
    if not entries:
        raise BodyError(f"{path} is empty; needed: a list of at least one message", path)
    messages: list[Message] = []
    pictures: list[AskedPicture] = []
    order = ResultOrder()
    for number, entry in enumerate(entries):
        fields = Fields(entry, f"{path}[{number}]")
        message, shown, num_later = _read_message(fields, rules, order)
        messages.insert(len(messages) - num_later, message)
        pictures += shown
    if len(pictures) > MAX_PICTURES:
        raise BodyError(f"{path} hold {len(pictures)} pictures; at most {MAX_PICTURES}", path)
    return tuple(messages), tuple(pictures)


def _read_message(
    fields: Fields, rules: MediaRules, order: ResultOrder
) -> tuple[Message, list[AskedPicture], int]:
    """Read a message; gives its pictures too, and how many messages before it belong behind it."""
    role = fields.text("role")
    if role not in ROLES:
        path = fields.path("role")
        raise BodyError(f"{path} is {show(role)}; known: {', '.join(ROLES)}", path)
    calls, ids = read_calls(fields) if role == "assistant" else ([], ())
    num_later = order.count_later(fields) if role == "tool" else 0
    parts = _read_content(fields, rules, role)
    thinking = fields.text("reasoning_content") if role == "assistant" else None
    fields.finish(ignored=("name", "refusal", "annotations"))
    if role == "user":
        pictures = [part for part in parts if isinstance(part, AskedPicture)]
        return Message.from_parts(_place(parts)), pictures, 0
    text = "".join(part for part in parts if isinstance(part, str))
    if role == "tool":
        return Message("tool", text), [], num_later
    if role == "assistant":
        order.note_calls(ids)
        said = write_calls(calls, text) if calls else text
        return Message("assistant", said, thinking=thinking or None), [], 0
    return Message("system", text), [], 0


def _read_content(fields: Fields, rules: MediaRules, role: str) -> list[str | AskedPicture]:
    path = fields.path("content")
    content = fields.any("content")
    if isinstance(content, str):
        return [content]
    if content is None and role == "assistant":
        return [""]
    if not isinstance(content, list) or not content:
        raise BodyError(f"{path} is {show(content)}; needed: a text or a list of parts", path)
    parts: list[str | AskedPicture] = []
    for number, entry in enumerate(content):
        part = Fields(entry, f"{path}[{number}]")
        kind = part.text("type")
        if kind == "text":
            parts.append(_read_text(part))
        elif kind == "image_url" and role == "user":
            parts.append(_read_picture(part, rules))
        elif kind == "video_url" and role == "user" and rules.allow_videos:
            parts.append(_read_video(part, rules))
        else:
            known = "text"
            if role == "user":
                known = f"text{', video_url' * rules.allow_videos} and image_url"
            where = part.path("type")
            raise BodyError(f"{where} is {show(kind)}; a {role}'s may be {known}", where)
        part.finish()
    return parts


def _read_text(part: Fields) -> str:
    text = part.text("text")
    if text is None:
        raise BodyError(f"{part.path('text')} is missing; needed: a text", part.path("text"))
    return text


def _read_picture(part: Fields, rules: MediaRules) -> AskedPicture:
    fields, source = _read_source(part, "image_url", "picture")
    detail = fields.text("detail") or "auto"
    if detail not in DETAILS:
        path = fields.path("detail")
        raise BodyError(f"{path} is {show(detail)}; known: {', '.join(DETAILS)}", path)
    max_tiles = fields.count("max_dynamic_patch")
    fields.finish()
    where = part.path("image_url")
    found = _find(source, where, rules)
    max_tiles = 1 if max_tiles is None and detail == "low" else max_tiles
    return AskedPicture(found, max_tiles, where=where)


def _read_video(part: Fields, rules: MediaRules) -> AskedPicture:
    fields, source = _read_source(part, "video_url", "video")
    num_frames, path = fields.count("num_frames"), fields.path("bound")
    given = fields.entries("bound")
    fields.finish()
    bound = None
    if given is not None:
        numbers = [as_number(value, path) for value in given]
        if len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
            raise BodyError(f"{path} is no pair of seconds, the first before the second", path)
        bound = (numbers[0], numbers[1])
    where = part.path("video_url")
    found = _find(source, where, rules)
    return AskedPicture(found, None, "video", num_frames, bound, where)


def _read_source(part: Fields, name: str, kind: str) -> tuple[Fields, str]:
    fields, where = part.inner(name), part.path(name)
    source = None if fields is None else fields.text("url")
    if fields is None or source is None:
        raise BodyError(f'{where} names no {kind}; needed: {{"url": "data:..."}}', where)
    return fields, source


def _find(source: str, where: str, rules: MediaRules) -> ImageSource:
    try:
        return rules.find(source)
    except MediaError as error:
        raise MediaItemError(f"{where}: {error}", where) from error


def _place(parts: Sequence[str | AskedPicture]) -> list[str | Part]:
    """Say where pictures stand among the texts of a turn; a video has one place for all frames."""
    texts = [part for part in parts if isinstance(part, str)]
    media = [part for part in parts if not isinstance(part, str)]
    placed: list[str | Part] = []
    if len(texts) <= 1:
        labels = iter(image_marks(sum(one.kind == "image" for one in media)).splitlines())
        for one in media:
            if one.kind == "video":
                placed.append(Part.IMAGE)
            else:
                placed += [next(labels).removesuffix(IMAGE_MARK), Part.IMAGE, "\n"]
        return [*placed, *texts]
    for place, part in enumerate(parts):
        if isinstance(part, str):
            placed.append(part)
            continue
        following = parts[place + 1] if place + 1 < len(parts) else ""
        is_apart = isinstance(following, str) and following[:1].isspace()
        placed += [Part.IMAGE] if is_apart or part.kind == "video" else [Part.IMAGE, "\n"]
    return placed


def spread_frames(
    messages: Sequence[Message], num_frames: Sequence[int | None], label: FrameLabel
) -> tuple[Message, ...]:
    """Give every frame of a video a place of its own, with its label.

    Args:
        messages: of :func:`read_messages`.
        num_frames: of each place in order; None for a picture.
        label: of the first frame; the others count on.

    Returns:
        The messages, with a place for each picture and each frame.
    """
    counts = iter(num_frames)
    spread = []
    for message in messages:
        texts = message.split_at_images()
        parts: list[str | Part] = [texts[0]]
        for text in texts[1:]:
            count = next(counts)
            labels = ["", ""]
            if count is not None:
                labels = video_marks(count, label).split(IMAGE_MARK)
            parts.append(labels[0])
            for behind in labels[1:]:
                parts += [Part.IMAGE, behind]
            parts.append(text)
        spread.append(Message.from_parts(parts) if len(texts) > 1 else message)
    return tuple(spread)


def _path_of(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise MediaError(f"{show(url)} is no address of a file") from error
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise MediaError(f"{show(url)} is no address of a file; needed: file:///folder/name")
    return unquote(parts.path)
