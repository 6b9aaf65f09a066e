"""What a model answers to drawn tasks, and how often it is right.

Drawing and scoring rules stand with the families in :mod:`internvl35.data.synthetic`; answering is
left to :mod:`internvl35.chat`, figures to :mod:`internvl35.evals.drawn_figures`. No counterpart in
the paper.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from internvl35.chat import Chat
from internvl35.conversation import Question
from internvl35.data.synthetic import FAMILIES, Drawing, Split, draw
from internvl35.data.synthetic.asking import question_text
from internvl35.data.tiles import count_tiles
from internvl35.generate.sampling import SamplingSettings
from internvl35.scoring import wilson_interval

WORDING = "wording"
"""Name under which unseen wordings stand beside unseen fonts and the like."""


@dataclass(frozen=True)
class AskSettings:
    """How many questions are asked at once, and how long answers may get."""

    max_questions: int = 32
    """Most questions of a batch."""
    max_tiles: int = 64
    """Most tiles of a batch, unless a single question has more."""
    max_tokens: int = 160
    """Most tokens of an answer."""
    max_thinking_tokens: int = 384
    """Most tokens of reasoning and answer."""


@dataclass(frozen=True)
class Answered:
    """What a model said of a drawing's first question."""

    family: str
    """Key of ``FAMILIES``."""
    index: int
    """Place of the drawing in its stream."""
    kind: str
    """What was asked for; see ``Turn.kind``."""
    answer: str
    """What the model said, without its reasoning."""
    scores: dict[str, float]
    """What the family says of the answer: ``right``, and other figures from 0 to 1."""
    unseen: frozenset[str]
    """Names of what training never used: of ``Drawing.unseen``, and ``wording``."""
    num_tokens: int
    """Tokens of the answer, reasoning and end included."""
    logprob: float | None = None
    """Natural log-probability of all of them together; None where it was not asked for."""
    has_reasoning: bool = False
    """Whether the question comes with steps that lead to its answer."""

    @property
    def is_right(self) -> bool:
        """Whether the answer counts as right."""
        return self.scores["right"] == 1

    @property
    def probability(self) -> float:
        """Probability of the whole answer."""
        return math.exp(self._logprob)

    @property
    def token_probability(self) -> float:
        """Geometric mean of the probabilities of its tokens."""
        return math.exp(self._logprob / self.num_tokens)

    @property
    def _logprob(self) -> float:
        if self.logprob is None:
            raise ValueError("the answer's probability was not asked for; pass has_logprobs=True")
        return self.logprob


@dataclass(frozen=True)
class Sampled:
    """How many of the answers drawn to one question were right."""

    kind: str
    """What was asked for."""
    num_right: int
    """Right answers."""
    num_samples: int
    """All answers."""


@dataclass(frozen=True)
class Pace:
    """How much was answered in what time; drawing and scoring do not count."""

    num_pictures: int = 0
    """Questions answered."""
    num_tokens: int = 0
    """Tokens written."""
    seconds: float = 0.0
    """From questions to answers."""

    def __add__(self, other: Pace) -> Pace:
        """Take two together."""
        return Pace(
            self.num_pictures + other.num_pictures,
            self.num_tokens + other.num_tokens,
            self.seconds + other.seconds,
        )


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


class Examiner:
    """Asks one model about drawings, in batches, and keeps the time.

    Args:
        chat: the model; every question is the first of a conversation.
        settings: sizes of batches and answers.
        is_thinking: whether answers may be as long as reasoning needs; the chat has to be one that
            thinks, see :func:`with_thinking`.
        on_answered: called with the number answered after every batch.
    """

    def __init__(
        self,
        chat: Chat,
        settings: AskSettings | None = None,
        *,
        is_thinking: bool = False,
        on_answered: Callable[[int], None] | None = None,
    ) -> None:
        """Begin with nothing answered."""
        self.chat = chat
        self.settings = settings or AskSettings()
        self.max_tokens = (
            self.settings.max_thinking_tokens if is_thinking else self.settings.max_tokens
        )
        self.pace = Pace()
        self._on_answered = on_answered

    def answer(
        self, family: str, indices: Iterable[int], split: Split, *, has_logprobs: bool = True
    ) -> list[Answered]:
        """Ask greedily about some drawings of a stream.

        Args:
            family: key of ``FAMILIES``.
            indices: places in the stream.
            split: the stream; ``test`` drawings are never trained on.
            has_logprobs: whether answers know their probability.

        Returns:
            One entry a drawing, in order.
        """
        sampling = SamplingSettings(max_tokens=self.max_tokens)
        drawings = ((index, draw(family, split, index)) for index in indices)
        return [
            answered
            for batch in self._batches(drawings)
            for answered in self._ask(batch, sampling, has_logprobs=has_logprobs)
        ]

    def sample(
        self, family: str, indices: Iterable[int], split: Split, num_samples: int
    ) -> list[Sampled]:
        """Draw several answers to each question, at temperature 1.

        Args:
            family: key of ``FAMILIES``.
            indices: places in the stream.
            split: the stream.
            num_samples: answers a question.

        Returns:
            One entry a drawing, in order; the same for the same arguments and sizes of batches.
        """
        drawings = (
            asked
            for index in indices
            for asked in [(index, draw(family, split, index))] * num_samples
        )
        answered: list[Answered] = []
        for number, batch in enumerate(self._batches(drawings)):
            sampling = SamplingSettings(max_tokens=self.max_tokens, temperature=1.0, seed=number)
            answered += self._ask(batch, sampling, has_logprobs=False)
        groups = [answered[i : i + num_samples] for i in range(0, len(answered), num_samples)]
        return [
            Sampled(group[0].kind, sum(entry.is_right for entry in group), num_samples)
            for group in groups
        ]

    def _batches(
        self, drawings: Iterable[tuple[int, Drawing]]
    ) -> Iterator[list[tuple[int, Drawing]]]:
        batch: list[tuple[int, Drawing]] = []
        num_tiles = 0
        for index, drawing in drawings:
            added = sum(count_tiles(*image.size, self.chat.tiles) for image in drawing.images)
            is_full = (
                len(batch) == self.settings.max_questions
                or num_tiles + added > self.settings.max_tiles
            )
            if batch and is_full:
                yield batch
                batch, num_tiles = [], 0
            batch.append((index, drawing))
            num_tiles += added
        if batch:
            yield batch

    def _ask(
        self,
        batch: Sequence[tuple[int, Drawing]],
        sampling: SamplingSettings,
        *,
        has_logprobs: bool,
    ) -> list[Answered]:
        questions = [
            Question(question_text(drawing, drawing.turns[0], is_first=True), drawing.images)
            for _, drawing in batch
        ]
        started = time.perf_counter()
        replies = self.chat.ask_batch(questions, sampling, has_logprobs=has_logprobs)
        seconds = time.perf_counter() - started
        answered = [
            _score(index, drawing, reply.text, reply.num_new_tokens, reply.logprobs)
            for (index, drawing), reply in zip(batch, replies, strict=True)
        ]
        num_tokens = sum(entry.num_tokens for entry in answered)
        self.pace += Pace(len(answered), num_tokens, seconds)
        if self._on_answered is not None:
            self._on_answered(len(answered))
        return answered


def _score(
    index: int,
    drawing: Drawing,
    answer: str,
    num_tokens: int,
    logprobs: Sequence[float] | None,
) -> Answered:
    turn = drawing.turns[0]
    return Answered(
        family=drawing.family,
        index=index,
        kind=turn.kind,
        answer=answer,
        scores=FAMILIES[drawing.family].score(turn, answer),
        unseen=drawing.unseen | ({WORDING} if turn.is_unseen else set()),
        num_tokens=num_tokens,
        logprob=None if logprobs is None else math.fsum(logprobs),
        has_reasoning=bool(turn.reasoning),
    )


def with_thinking(chat: Chat) -> Chat:
    """Make a model reason before it answers.

    Args:
        chat: the model; it is not changed.

    Returns:
        The same model under the thinking system prompt.
    """
    return Chat(
        chat.model,
        chat.tokenizer,
        prompt=replace(chat.builder.settings, is_thinking=True),
        tiles=chat.tiles,
        images=chat.images,
        videos=chat.videos,
    )


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
    examiner = Examiner(chat, on_answered=on_answered)
    results: dict[str, FamilyResult] = {}
    for family in families:
        answered = examiner.answer(family, range(num_pictures), split, has_logprobs=False)
        results[family] = FamilyResult(sum(entry.is_right for entry in answered), len(answered))
    return results
