"""What a conversation says, before any template: turns, and the places of pictures in them.

Turning messages into tokens is left to :mod:`internvl35.data.prompt`. The labels of pictures and
frames are those of the released data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Literal

from internvl35.errors import PromptError

Role = Literal["system", "user", "assistant", "tool"]
LossScale = Literal["default", "last_round", "all"]
FrameLabel = Literal["Frame1: <image>\n", "Frame-1: <image>\n", "Frame1: <image>"]

IMAGE_MARK = "<image>"
"""Stands in a user's text where a picture belongs."""

VIDEO_MARK = "<video>"
"""Stands in a user's text of a data set where a video belongs; no prompt ever holds it."""


class Part(Enum):
    """What a message can hold beside text."""

    IMAGE = "image"
    """A picture."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    """Who speaks. A system message may only come first; it replaces the settings' system prompt."""
    text: str
    """What is said; in a user's turn, and in a text of pre-training, every ``<image>`` is the place
    of a picture."""
    thinking: str | None = None
    """The reasoning in front of an assistant's answer, when it is kept apart from the text."""
    image_places: tuple[int, ...] | None = None
    """Offsets in the text at which pictures stand, in order; a literal ``<image>`` then stays text.
    None: at the text's ``<image>`` marks."""
    has_loss: bool | None = None
    """Whether the turn carries loss in training; None: as the rule of its role says."""

    @classmethod
    def from_parts(cls, parts: Sequence[str | Part]) -> Message:
        """Make a user's turn of texts and pictures, whatever characters the texts hold.

        Args:
            parts: texts and ``Part.IMAGE``, in order. The released models expect a line break
                behind a picture that stands on its own.

        Returns:
            The message.
        """
        texts: list[str] = []
        places: list[int] = []
        for part in parts:
            if isinstance(part, Part):
                places.append(sum(map(len, texts)))
            else:
                texts.append(part)
        return cls("user", "".join(texts), image_places=tuple(places))

    def split_at_images(self, *, is_pretraining: bool = False) -> list[str]:
        """Cut the text at its pictures.

        Args:
            is_pretraining: whether the message is a text of pre-training, where the assistant's
                marks are places of pictures too.

        Returns:
            The stretches of text in front of, between and behind the pictures: one more than there
            are pictures.

        Raises:
            PromptError: if a place lies outside the text or before an earlier one.
        """
        if self.role != "user" and not is_pretraining:
            if self.image_places:
                raise PromptError(
                    f"a message of the {self.role} has {len(self.image_places)} pictures; "
                    "only a user's message may have more than 0"
                )
            return [self.text]
        if self.image_places is None:
            return self.text.split(IMAGE_MARK)
        edges = (0, *self.image_places, len(self.text))
        for start, end in pairwise(edges):
            if start > end:
                raise PromptError(
                    f"image places {self.image_places} do not fit a text of {len(self.text)} "
                    "characters; they must rise and lie inside it"
                )
        return [self.text[start:end] for start, end in pairwise(edges)]


def image_marks(num_images: int) -> str:
    r"""Write the marks of several pictures kept apart: ``Image-1: <image>`` and so on, a line each.

    Args:
        num_images: pictures to mark; a single one gets no label, as in the released data.

    Returns:
        The marks, each with its line break.
    """
    if num_images == 1:
        return f"{IMAGE_MARK}\n"
    return "".join(f"Image-{number}: {IMAGE_MARK}\n" for number in range(1, num_images + 1))


def video_marks(num_frames: int, label: FrameLabel = "Frame1: <image>\n") -> str:
    """Write the marks of a video's frames.

    Args:
        num_frames: frames to mark.
        label: the label of the first frame; the others count on.

    Returns:
        The labels, one after another.
    """
    return "".join(label.replace("1", str(number)) for number in range(1, num_frames + 1))


def mark_images(text: str, num_images: int) -> str:
    """Mark the places of pictures in a first question that does not say where they go.

    One picture goes in front, unlabelled, as the released ``chat()`` puts it. Several are labelled.

    Args:
        text: the question.
        num_images: pictures that come with it.

    Returns:
        The text, unchanged if it has a mark or there is no picture.
    """
    if num_images == 0 or IMAGE_MARK in text:
        return text
    return image_marks(num_images) + text


def insert_marks(text: str, marks: str, num_images: int) -> str:
    """Put the marks of frames behind those of the pictures, in front of the question.

    Args:
        text: the question, with its pictures marked.
        marks: of the frames.
        num_images: pictures that come with the question.

    Returns:
        The question with all marks.

    Raises:
        PromptError: if marks and pictures differ in number.
    """
    parts = text.split(IMAGE_MARK)
    if len(parts) - 1 != num_images:
        raise PromptError(
            f"{len(parts) - 1} {IMAGE_MARK} marks but {num_images} images beside the video; pass "
            "one image per mark; the video's frames get marks of their own"
        )
    head, tail = IMAGE_MARK.join(parts[:-1]), parts[-1]
    if num_images == 0:
        return marks + tail
    return f"{head}{IMAGE_MARK}\n{marks}{tail.removeprefix(chr(10))}"
