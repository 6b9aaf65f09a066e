"""One chat-completions body as what this package answers: turns, pictures, settings.

The one place where such a body is read, for files of requests as for a server. Messages are read by
:mod:`internvl35.serve.chat_messages`, settings by :mod:`internvl35.serve.chat_sampling`; prompts
are built by :class:`internvl35.chat.Chat`, so they are those of a chat. No counterpart in the
paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from internvl35.conversation import Conversation
from internvl35.data.messages import Message
from internvl35.data.tiles import Grid
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.chat_messages import (
    AskedPicture,
    MediaRules,
    read_messages,
    spread_frames,
)
from internvl35.serve.chat_sampling import read_flash, read_sampling
from internvl35.serve.fields import BodyError, Fields
from internvl35.serve.tools import ToolUse, read_tools

if TYPE_CHECKING:
    from internvl35.chat import Chat

Shown: TypeAlias = Sequence[tuple[Tensor, Grid]]
"""Tiles of a picture, or of each frame of a video, and how they lie beside one another."""

IGNORED = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention",
)  # fmt: skip
"""Fields that say nothing about the answer."""

UNSUPPORTED = ("functions", "function_call", "audio", "prediction", "web_search_options")
"""Fields of OpenAI's API that nothing here follows; empty ones do no harm."""


@dataclass(frozen=True)
class ChatCall:
    """What a chat-completions body asks for."""

    messages: tuple[Message, ...]
    """The turns."""
    pictures: tuple[AskedPicture, ...]
    """Their pictures, in the order of their places."""
    sampling: SamplingSettings
    """How the answers are chosen."""
    flash: FlashSettings | None = None
    """Which tiles are compressed; None where the body says nothing."""
    is_thinking: bool | None = None
    """Whether the model is asked to reason first; None where the body says nothing."""
    model: str | None = None
    """The model that it names."""
    is_streamed: bool = False
    """Whether the answer shall come in parts."""
    has_usage: bool = False
    """Whether the parts end with one that counts tokens."""
    tools: ToolUse | None = None
    """The tools that may be called; None if none may."""


def read_body(body: Any, defaults: SamplingSettings, rules: MediaRules) -> ChatCall:
    """Read a body.

    Args:
        body: JSON values.
        defaults: how answers are chosen where the body says nothing.
        rules: which pictures it may name.

    Returns:
        What it asks for.

    Raises:
        BodyError: if a field is unknown, unsupported or of another form.
        ConfigError: if a setting is out of range.
        MediaError: if a picture may not be named.
    """
    fields = Fields(body)
    fields.refuse(UNSUPPORTED)
    if fields.any("modalities") not in (None, ["text"]):
        raise BodyError('modalities may be ["text"] alone', "modalities")
    model = fields.text("model")
    messages, pictures = read_messages(fields.entries("messages"), rules)
    pictures = _read_processing(fields, pictures)
    sampling, tools = read_sampling(fields, defaults), read_tools(fields)
    if tools is not None and tools.structure is not None:
        if sampling.structure is not None:
            raise BodyError("tool_choice demands a call, and another field says what shape the "
                            "answer has; drop one", "tool_choice")  # fmt: skip
        sampling = replace(sampling, structure=tools.structure)
    call = ChatCall(
        messages, pictures, sampling, read_flash(fields), _read_thinking(fields), model,
        is_streamed=bool(fields.truth("stream")), has_usage=read_usage(fields), tools=tools,
    )  # fmt: skip
    fields.finish(IGNORED)
    return call


def _read_processing(
    fields: Fields, pictures: tuple[AskedPicture, ...]
) -> tuple[AskedPicture, ...]:
    """``mm_processor_kwargs`` and ``media_io_kwargs``: what holds where a picture says nothing."""
    max_tiles, num_frames = None, None
    processing, reading = fields.inner("mm_processor_kwargs"), fields.inner("media_io_kwargs")
    if processing is not None:
        max_tiles = processing.count("max_dynamic_patch")
        processing.finish()
    videos = None if reading is None else reading.inner("video")
    if reading is not None:
        reading.finish()
    if videos is not None:
        num_frames = videos.count("num_frames")
        videos.finish()
    return tuple(
        replace(p, max_tiles=max_tiles if p.max_tiles is None else p.max_tiles)
        if p.kind == "image"
        else replace(p, num_frames=num_frames if p.num_frames is None else p.num_frames)
        for p in pictures
    )


def _read_thinking(fields: Fields) -> bool | None:
    """``thinking``, or ``chat_template_kwargs.enable_thinking`` as vLLM has it."""
    is_thinking = fields.truth("thinking")
    inner = fields.inner("chat_template_kwargs")
    if inner is None:
        return is_thinking
    other, path = inner.truth("enable_thinking"), inner.path("enable_thinking")
    inner.finish()
    if None not in (is_thinking, other) and is_thinking != other:
        raise BodyError(f"{path} and thinking contradict each other; drop one", path)
    return other if is_thinking is None else is_thinking


def read_usage(fields: Fields) -> bool:
    """Take from a body whether a stream ends with counts.

    Args:
        fields: of the body.

    Returns:
        Whether it says so.

    Raises:
        BodyError: if the field has another form.
    """
    options = fields.inner("stream_options")
    if options is None:
        return False
    has_usage = bool(options.truth("include_usage"))
    options.finish(ignored=("include_obfuscation",))
    return has_usage


def prepare(chat: Chat, call: ChatCall) -> Request:
    """Open and cut the pictures of a call and build its prompt.

    Args:
        chat: whose prompts and limits hold.
        call: what is asked for, without videos.

    Returns:
        What an engine takes, not routed yet.

    Raises:
        ConfigError: if more tiles are asked for than the chat allows, or tiles shall be compressed
            that cannot be.
        MediaError: if a picture cannot be read.
        PromptError: if the turns do not alternate, or the prompt is too long.
    """
    num_tiles = 0
    shown: list[Shown] = []
    for picture in call.pictures:
        shown.append((chat.cut(picture.source, picture.max_tiles),))
        num_tiles += len(shown[-1][0][0])
        check_tiles(chat, num_tiles)  # before the next one takes memory
    return assemble(chat, call, shown)


def check_tiles(chat: Chat, num_tiles: int) -> None:
    """Refuse more tiles than any prompt has places for.

    Args:
        chat: whose limits hold.
        num_tiles: of all pictures together.

    Raises:
        PromptError: if they are too many even if all are compressed.
    """
    config = chat.model.config
    fewest = config.compressed_tokens_per_tile if config.flash_mode else config.tokens_per_tile
    chat.builder.check_length(num_tiles * fewest)


def assemble(chat: Chat, call: ChatCall, shown: Sequence[Shown]) -> Request:
    """Build the prompt of a call whose pictures are cut.

    Args:
        chat: whose prompts and limits hold.
        call: what is asked for.
        shown: tiles and grid of each picture, or of each frame of a video, in order.

    Returns:
        What an engine takes, not routed yet.

    Raises:
        ConfigError: if tiles shall be compressed that cannot be.
        PromptError: if the turns do not alternate, or the prompt is too long.
    """
    messages = call.messages
    if any(picture.kind == "video" for picture in call.pictures):
        counts = [
            len(frames) if picture.kind == "video" else None
            for picture, frames in zip(call.pictures, shown, strict=True)
        ]
        messages = spread_frames(messages, counts, chat.builder.settings.frame_label)
    every = [one for frames in shown for one in frames]
    conversation = Conversation(
        messages, tuple(tiles for tiles, _ in every), tuple(grid for _, grid in every)
    )
    if call.tools is None:
        return chat.prepare(conversation, call.flash, call.is_thinking)
    return chat.prepare(
        conversation, call.flash, call.is_thinking,
        tools=call.tools.schemas, prefix=call.tools.prefix,
    )  # fmt: skip
