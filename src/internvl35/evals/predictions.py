"""A model's answers to the questions of a data set, one by one or in batches, in order.

Prompts are built by the encoder that training uses, so that a model is asked as it was taught.
Keeping the answers is left to :mod:`internvl35.evals.result_file`, comparing them with the expected
ones to :mod:`internvl35.scoring`. Paper section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from internvl35.chat import Chat
from internvl35.conversation import Conversation, Piece
from internvl35.data.encoding import Encoder
from internvl35.data.records import Record
from internvl35.errors import DataError, MediaError, PromptError
from internvl35.generate.answers import Completion
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings
from internvl35.replies import make_reply


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token of an answer was."""

    token: str
    """Its text."""
    logprob: float
    """Natural logarithm of its probability under the model, before temperature and penalties."""


@dataclass(frozen=True)
class Prediction:
    """A row of a data set and what a model answered."""

    index: int
    """Number of the row, from 0."""
    record: Record | None
    """The row; None if it cannot be read."""
    expected: str | None = None
    """Its own answer."""
    response: str | None = None
    """What the model answered, reasoning in front; None if the row could not be asked."""
    is_cut: bool = False
    """Whether the answer ended because it had as many tokens as were allowed."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of all tokens of the answer, if they were wanted."""
    error: str | None = None
    """Why the row could not be asked."""


@dataclass(frozen=True)
class _Asked:
    index: int
    record: Record
    request: Request
    expected: str | None


class Predictor:
    """Asks a model the questions of a data set.

    Args:
        chat: the model.
        encoder: turns rows into prompts.
        records: the rows.
        sampling: how answers are chosen; a seed is counted on with the rows.
        has_logprobs: whether predictions say how likely their tokens were.
    """

    def __init__(
        self,
        chat: Chat,
        encoder: Encoder,
        records: Sequence[Record],
        sampling: SamplingSettings,
        *,
        has_logprobs: bool = False,
    ) -> None:
        """Keep what is needed; nothing is read yet."""
        self.chat = chat
        self.encoder = encoder
        self.records = records
        self.sampling = sampling
        self.has_logprobs = has_logprobs

    def predict(
        self,
        *,
        start: int = 0,
        batch_size: int = 1,
        on_question: Callable[[Record, str | None], None] | None = None,
        on_piece: Callable[[Piece], None] | None = None,
    ) -> Iterator[Prediction]:
        """Answer the rows in order.

        Args:
            start: row to begin with.
            batch_size: rows answered at once. Each gets the answer it would get alone, as far as
                the number format of the weights can tell.
            on_question: called with a row and its own answer before it is answered alone.
            on_piece: called with the parts of an answer as they are written; needs batches of one.

        Yields:
            A prediction a row. Rows that cannot be read or asked say why, and do not end the run.
        """
        if on_piece is not None and batch_size > 1:
            raise ValueError("answers are streamed one at a time; batch_size must be 1")
        for first in range(start, len(self.records), batch_size):
            last = min(first + batch_size, len(self.records))
            found = [self._ask(index) for index in range(first, last)]
            batch = [item for item in found if isinstance(item, _Asked)]
            if on_question is not None:
                for item in batch:
                    on_question(item.record, item.expected)
            if on_piece is not None:
                answers = [self._stream(item, on_piece) for item in batch]
            else:
                answers = self._generate(batch)
            answered = iter(answers)
            for row in found:
                yield next(answered) if isinstance(row, _Asked) else row

    def _ask(self, index: int) -> _Asked | Prediction:
        record: Record | None = None
        try:
            record = self.records[index]
            encoded = self.encoder.encode_prompt(record)
        except (DataError, MediaError, PromptError) as error:
            return Prediction(index, record, error=" ".join(str(error).split()))
        request = Request(encoded.prompt, encoded.pixel_values)
        return _Asked(index, record, request, encoded.expected)

    def _seeded(self, index: int) -> SamplingSettings:
        if self.sampling.seed is None:
            return self.sampling
        return replace(self.sampling, seed=self.sampling.seed + index)

    def _generate(self, batch: Sequence[_Asked]) -> list[Prediction]:
        sampling = [self._seeded(item.index) for item in batch]
        if self.has_logprobs:
            sampling = [replace(own, num_logprobs=0) for own in sampling]
        found = self.chat.engine.generate([item.request for item in batch], sampling)
        return [self._predicted(*pair) for pair in zip(batch, found, strict=True)]

    def _predicted(self, item: _Asked, completion: Completion) -> Prediction:
        reply = make_reply(Conversation(), completion, completion.seconds)
        logprobs = None
        tokens = completion.samples[0].logprobs
        if tokens is not None:
            names = [self.chat.tokenizer.decode([token.token_id]) for token in tokens]
            values = [token.logprob for token in tokens]
            logprobs = tuple(map(TokenLogprob, names, values))
        return Prediction(
            item.index,
            item.record,
            item.expected,
            with_reasoning(reply.thinking, reply.text),
            is_cut=reply.finish_reason == "length",
            logprobs=logprobs,
        )

    def _stream(self, item: _Asked, on_piece: Callable[[Piece], None]) -> Prediction:
        if self.has_logprobs:  # the tokens of a stream are not kept
            prediction = self._generate([item])[0]
            on_piece(Piece(prediction.response or "", is_thinking=False))
            return prediction
        pieces = self.chat.read(Conversation(), item.request, self._seeded(item.index))
        try:
            for piece in pieces:
                on_piece(piece)
        finally:
            pieces.close()
        reply = pieces.reply
        assert reply is not None
        text = with_reasoning(reply.thinking, reply.text)
        is_cut = reply.finish_reason == "length"
        return Prediction(item.index, item.record, item.expected, text, is_cut=is_cut)


def with_reasoning(thinking: str | None, answer: str) -> str:
    """Put reasoning in front of an answer, as training data writes it.

    Args:
        thinking: the reasoning, None where there is none.
        answer: the answer.

    Returns:
        Both in one text.
    """
    return answer if thinking is None else f"<think>\n{thinking.strip()}\n</think>\n\n{answer}"
