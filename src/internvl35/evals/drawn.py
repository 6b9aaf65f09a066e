"""How often a model answers the drawn tasks right, with intervals.

Drawing and scoring rules stand with the families in :mod:`internvl35.data.synthetic`; answering is
left to :mod:`internvl35.chat`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from internvl35.chat import Chat
from internvl35.conversation import Question
from internvl35.data.synthetic import FAMILIES, Drawing, Split, draw
from internvl35.generate.sampling import SamplingSettings
from internvl35.scoring import wilson_interval

BATCH_SIZE = 32


@dataclass(frozen=True)
class FamilyResult:
    """How a model did on one family."""

    num_right: int
    """Pictures answered right."""
    num_pictures: int
    """Pictures asked about."""

    @property
    def accuracy(self) -> float:
        """Share answered right, 0 to 1."""
        return self.num_right / self.num_pictures

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson interval of the accuracy at 95 %."""
        return wilson_interval(self.num_right, self.num_pictures)


@dataclass(frozen=True)
class Answered:
    """A drawn picture and what a model said of it."""

    drawing: Drawing
    """Picture, question and right answer: the first turn is the one that was asked."""
    answer: str
    """What the model said."""
    is_right: bool
    """Whether that counts as the right answer."""


def answer_drawings(
    chat: Chat,
    family: str,
    num_pictures: int,
    split: Split,
    on_answered: Callable[[int], None] | None = None,
) -> list[Answered]:
    """Ask a model about the first pictures of a stream, greedily.

    Args:
        chat: the model.
        family: key of ``FAMILIES``.
        num_pictures: pictures to ask about.
        split: the stream; ``test`` pictures are never trained on.
        on_answered: called with the number answered after every batch.

    Returns:
        One entry a picture, in the order of the stream.
    """
    sampling = SamplingSettings(max_tokens=48)
    answered: list[Answered] = []
    for start in range(0, num_pictures, BATCH_SIZE):
        indices = range(start, min(start + BATCH_SIZE, num_pictures))
        drawings = [draw(family, split, index) for index in indices]
        questions = [
            Question(drawing.turns[0].question, [] if drawing.image is None else [drawing.image])
            for drawing in drawings
        ]
        replies = chat.ask_batch(questions, sampling)
        for drawing, reply in zip(drawings, replies, strict=True):
            is_right = FAMILIES[family].is_right(drawing.turns[0].answer, reply.text)
            answered.append(Answered(drawing, reply.text, is_right))
        if on_answered is not None:
            on_answered(len(replies))
    return answered


def measure(
    chat: Chat,
    families: Sequence[str],
    num_pictures: int,
    split: Split = "validation",
    on_answered: Callable[[int], None] | None = None,
) -> dict[str, FamilyResult]:
    """Count right answers per family.

    Args:
        chat: the model.
        families: keys of ``FAMILIES``.
        num_pictures: pictures a family.
        split: the stream.
        on_answered: called with the number answered after every batch.

    Returns:
        A result a family.
    """
    results: dict[str, FamilyResult] = {}
    for family in families:
        answered = answer_drawings(chat, family, num_pictures, split, on_answered)
        num_right = sum(entry.is_right for entry in answered)
        results[family] = FamilyResult(num_right, len(answered))
    return results
