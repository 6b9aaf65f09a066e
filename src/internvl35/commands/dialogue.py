"""A conversation at the terminal: questions are typed, answers are written as they come.

What a line means is decided here; answering is left to :mod:`internvl35.chat`.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from internvl35.commands.flash import FlashOptions
from internvl35.commands.pictures import PictureOptions
from internvl35.commands.terminal import AnswerWriter, note
from internvl35.conversation import Conversation
from internvl35.errors import InternVLError, PromptError
from internvl35.generate.sampling import SamplingSettings

if TYPE_CHECKING:
    from PIL.Image import Image

    from internvl35.chat import Chat
    from internvl35.conversation import Video

HELP = """\
/image PATH   show a picture with the next question; several paths or commands show several
/video PATH   show a video with the next question
/reset        forget the conversation, pictures and video
/help         print this
/quit         leave; so do Ctrl-C and Ctrl-D here
Ctrl-C stops an answer; the question is then not part of the conversation."""
"""What ``/help`` prints."""

PROMPT = "> "

DEFAULT_FLASH = FlashOptions()

_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?\Z", re.DOTALL)


def ask_for_line() -> str:
    """Read a line from the terminal, with editing and history where Python has readline.

    Returns:
        The line.

    Raises:
        EOFError: at Ctrl-D.
        KeyboardInterrupt: at Ctrl-C.
    """
    if sys.stdout.isatty():
        return input(PROMPT)
    typer.echo(PROMPT, nl=False, err=True)  # stdout goes elsewhere and shall hold answers alone
    return sys.stdin.readline() or _raise_end()


def _raise_end() -> str:
    raise EOFError


class Dialogue:
    """A conversation and what is to be shown with its next question.

    Args:
        chat: who answers.
        options: how pictures and videos are opened.
        sampling: how answers are chosen.
        images: pictures to show with the first question.
        video: video to show with the first question.
        read_line: gives the next line that was typed.
        flash: which tiles are compressed, and where to draw those of the latest answer.
    """

    def __init__(
        self,
        chat: Chat,
        options: PictureOptions,
        sampling: SamplingSettings,
        images: list[Image],
        video: Video | None,
        read_line: Callable[[], str] = ask_for_line,
        *,
        flash: FlashOptions = DEFAULT_FLASH,
    ) -> None:
        """Start an empty conversation."""
        self.chat = chat
        self.options = options
        self.sampling = sampling
        self.images = images
        self.video = video
        self.read_line = read_line
        self.flash = flash
        self.conversation = Conversation()

    def run(self, name: str) -> None:
        """Answer until the user leaves.

        Args:
            name: of the checkpoint, for the first line.
        """
        _use_line_editing()
        note(f"{name}. /help lists what can be typed, Ctrl-D leaves.")
        while True:
            try:
                line = self.read_line().strip()
            except (EOFError, KeyboardInterrupt):
                typer.echo(err=True)
                return
            try:
                if not self.take(line):
                    return
            except InternVLError as error:
                note(f"{type(error).__name__}: {' '.join(str(error).split())}")
            except KeyboardInterrupt:
                note("\n(stopped; pictures stay for the next question)")

    def take(self, line: str) -> bool:
        """Do what a line says.

        Args:
            line: a command or a question.

        Returns:
            Whether the conversation goes on.

        Raises:
            InternVLError: if it cannot be done; the conversation is as it was.
        """
        command = _COMMAND.match(line)
        if command is None:
            if line:
                self._answer(line)
            return True
        name, rest = command[1], (command[2] or "").strip()
        if name in ("quit", "exit"):
            return False
        actions = {"image": self._show_images, "video": self._show_video}
        if name in actions:
            actions[name](_split_paths(rest))
        elif name == "reset":
            self.images, self.video, self.conversation = [], None, Conversation()
            note("(forgotten)")
        elif name == "help":
            note(HELP)
        else:
            raise PromptError(f"unknown command /{name}; /help lists them")
        return True

    def _show_images(self, paths: list[str]) -> None:
        if not paths:
            raise PromptError("/image needs the path of a picture")
        self.images = [*self.images, *self.options.open_images(paths)]
        sizes = ", ".join(f"{image.width}x{image.height}" for image in self.images)
        note(f"(with the next question: {sizes})")

    def _show_video(self, paths: list[str]) -> None:
        if len(paths) != 1:
            raise PromptError(f"/video needs the path of one video, not {len(paths)}")
        self.video = self.options.open_video(paths[0])
        note(f"(with the next question: {paths[0]})")

    def _answer(self, question: str) -> None:
        pieces = self.chat.stream(
            question,
            self.images,
            video=self.video,
            conversation=self.conversation,
            sampling=self.sampling,
            flash=self.flash.settings(),
        )
        writer = AnswerWriter()
        try:
            for piece in pieces:
                writer.write(piece.text, is_thinking=piece.is_thinking)
        finally:
            pieces.close()
        writer.end()
        assert pieces.reply is not None
        if pieces.reply.finish_reason == "length":
            note(f"(cut after {pieces.reply.num_new_tokens} tokens; --max-tokens allows more)")
        self.conversation = pieces.reply.conversation
        self.images, self.video = [], None
        self.flash.show(self.chat, pieces.reply)


def _split_paths(text: str) -> list[str]:
    if Path(text).expanduser().is_file():
        return [str(Path(text).expanduser())]  # spaces and all
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise PromptError(f"{text!r} is not a list of paths: {error}") from error
    # no shell has seen these lines
    return [str(Path(part).expanduser()) if part.startswith("~") else part for part in parts]


def _use_line_editing() -> None:
    with suppress(ImportError):  # Windows edits lines by itself
        import readline  # noqa: F401 - importing it is what gives input() its editing
