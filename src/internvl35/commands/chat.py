"""``internvl35 chat``: one question, or a conversation at the terminal.

Answering is left to :mod:`internvl35.chat`, the conversation to
:mod:`internvl35.commands.dialogue`. Paper section 2.1.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from internvl35.commands.checkpoint import HubOptions, ModelOptions
from internvl35.commands.flash import FlashOptions
from internvl35.commands.options import FLAGS, METAVAR, spread_settings
from internvl35.commands.pictures import PictureOptions
from internvl35.commands.terminal import (
    AnswerWriter,
    note,
    paused_collection,
    silence_libraries,
    spinner,
)
from internvl35.config import EMBEDDED
from internvl35.errors import ConfigError, PromptError
from internvl35.generate.sampling import SamplingSettings

if TYPE_CHECKING:
    from internvl35.chat import Chat
    from internvl35.conversation import Reply


@dataclass(frozen=True)
class SystemOptions:
    """What a model is told in front of the conversation."""

    system: str = field(default="official", metadata={METAVAR: "TEXT|official|none"})
    """System prompt: official, none, or a text of your own."""
    thinking: bool = False
    """Ask for reasoning in front of the answer; best with --temperature 0.6 and many tokens."""


@dataclass(frozen=True)
class OutputOptions:
    """How an answer is printed."""

    stream: bool | None = field(default=None, metadata={FLAGS: ("--stream/--no-stream",)})
    """Print the answer while it is written; by default where the output is a terminal."""
    json: bool = False
    """Print one JSON object: text, thinking, finish_reason, counts, timings, model."""

    def __post_init__(self) -> None:
        """Refuse to stream a JSON object."""
        if self.stream and self.json:
            raise ConfigError("--stream and --json exclude each other; drop one of them")


@spread_settings
def chat(
    pictures: PictureOptions,
    system: SystemOptions,
    sampling: SamplingSettings,
    flash: FlashOptions,
    output: OutputOptions,
    model: ModelOptions,
    hub: HubOptions,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION",
            show_default=False,
            help="What to ask; read from stdin if it is left out or -, and asked for in a "
            "conversation if stdin is a terminal.",
        ),
    ] = None,
) -> None:
    """Ask about pictures and videos: one question, or a conversation."""
    is_dialogue = question is None and sys.stdin.isatty()
    if is_dialogue and output.json:
        raise ConfigError("--json prints one answer; give a question too")
    if not is_dialogue:
        if pictures.video is None and (pictures.frames or pictures.bound):
            raise ConfigError("--frames and --bound choose from a video; give --video too")
        question = read_question() if question in (None, "-") else question
        if not question.strip():
            raise PromptError("the question is empty; say what to answer")
        if flash.show_tiles and not pictures.image and pictures.video is None:
            raise ConfigError("--show-tiles draws pictures; give --image or --video too")
    flash.check()
    started = time.perf_counter()
    with spinner(f"loading {model.model}"), paused_collection():
        silence_libraries()
        images = pictures.open_images(pictures.image)
        video = None if pictures.video is None else pictures.open_video(pictures.video)
    loaded = load_chat(model, hub, pictures, system)
    seconds_to_load = time.perf_counter() - started
    if is_dialogue:
        from internvl35.commands.dialogue import Dialogue

        Dialogue(loaded, pictures, sampling, images, video, flash=flash).run(model.model)
        return
    assert question is not None
    pieces = loaded.stream(question, images, video=video, sampling=sampling, flash=flash.settings())
    writer = AnswerWriter()
    is_streamed = writer.is_terminal if output.stream is None else output.stream
    try:
        for piece in pieces:
            if is_streamed and not output.json:
                writer.write(piece.text, is_thinking=piece.is_thinking)
    finally:
        pieces.close()
    assert pieces.reply is not None
    print_reply(pieces.reply, writer, output, is_streamed=is_streamed, facts={
        "seconds_to_load": seconds_to_load, "model": model.model,
    })  # fmt: skip
    flash.show(loaded, pieces.reply)


def read_question() -> str:
    """Read the question from stdin.

    Returns:
        The text without surrounding white space.

    Raises:
        PromptError: if there is none, or it is not UTF-8.
    """
    data = sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise PromptError(
            f"the question on stdin is not UTF-8 text (byte {error.start}); pictures go to --image"
        ) from error
    if not text:
        raise PromptError("stdin holds no question; pass one as an argument or pipe one in")
    return text


def load_chat(
    model: ModelOptions, hub: HubOptions, pictures: PictureOptions, system: SystemOptions
) -> Chat:
    """Load a checkpoint as the options say, with a spinner or a download's progress bar.

    Args:
        model: which one, in which format, and where to.
        hub: where to look for it.
        pictures: how pictures are opened and cut.
        system: what the model is told.

    Returns:
        The chat.

    Raises:
        CheckpointError: if the checkpoint cannot be found or does not fit its config.
    """
    name: Any = model.model
    if name not in EMBEDDED:  # under its own name, for its own number format
        name = hub.find_folder(name)
    with spinner(f"loading {model.model}"), paused_collection():
        from internvl35.chat import load

        return load(
            name,
            dtype=model.dtype,
            device_map=model.device_map,
            system_prompt=system.system,
            is_thinking=system.thinking,
            max_tiles=pictures.max_tiles,
            images=pictures.image_settings(),
            load_in_8bit=model.int8,
        )


def print_reply(
    reply: Reply,
    writer: AnswerWriter,
    output: OutputOptions,
    *,
    is_streamed: bool,
    facts: dict[str, Any],
) -> None:
    """Print an answer, or the end of one that was streamed.

    Args:
        reply: the answer.
        writer: what streamed it, or will write it.
        output: how it is printed.
        is_streamed: whether it stands on the screen already.
        facts: what a JSON object says beside the reply.
    """
    if output.json:
        typer.echo(json.dumps(describe_reply(reply) | facts))
        return
    if not is_streamed:
        if reply.thinking:
            writer.write(reply.thinking, is_thinking=True)
        writer.write(reply.text, is_thinking=False)
    writer.end()
    if reply.finish_reason == "length":
        note(f"(cut after {reply.num_new_tokens} tokens; --max-tokens allows more)")


def describe_reply(reply: Reply) -> dict[str, Any]:
    """Put an answer into a JSON-ready dict: every field but the conversation."""
    names = [name for name in reply.__dataclass_fields__ if name != "conversation"]
    routing = None if reply.routing is None else asdict(reply.routing)
    return {name: getattr(reply, name) for name in names} | {"routing": routing}
