"""What an engine wrote, as replies: reasoning and answer told apart, whole or piece by piece.

Asking is left to :mod:`internvl35.chat`. Paper section 3.3 ("Thinking").
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace

from internvl35.conversation import Conversation, Piece, Reply
from internvl35.data.messages import Message
from internvl35.data.thinking import split_thinking
from internvl35.errors import ServerError
from internvl35.generate.answers import Completion, Update


def make_reply(asked: Conversation, completion: Completion, seconds: float) -> Reply:
    """Make a reply of the first answer to a request.

    Args:
        asked: the conversation that the request ends.
        completion: what became of it.
        seconds: from the question to the end of the answer.

    Returns:
        The reply.

    Raises:
        InternVLError: if the request failed.
    """
    if completion.failure is not None:
        raise completion.failure
    sample = completion.samples[0]
    if sample.finish_reason == "error":
        raise ServerError(f"the answer broke off: {sample.error}")
    thinking, text = split_thinking(sample.text)
    text = text.strip()
    request = completion.request
    spans = request.prompt.image_spans
    answer = Message("assistant", text, thinking=thinking)
    logprobs = sample.logprobs
    return Reply(
        text=text,
        thinking=thinking,
        finish_reason="length" if sample.finish_reason == "length" else "stop",
        num_prompt_tokens=len(request.prompt),
        num_visual_tokens=sum(span.num_tokens for span in spans),
        num_tiles=sum(span.num_tiles for span in spans),
        num_new_tokens=len(sample.token_ids),
        seconds=seconds,
        seconds_to_first_token=completion.seconds_to_first_token,
        conversation=replace(asked, messages=(*asked.messages, answer)),
        logprobs=None if logprobs is None else tuple(token.logprob for token in logprobs),
        num_compressed_tiles=0 if request.routing is None else request.routing.num_compressed,
        routing=request.routing,
    )


class ReplyStream(Iterator[Piece]):
    """An answer as it is written; ``reply`` holds the whole once it has ended.

    Args:
        asked: the conversation that the request ends.
        updates: of the request, from an engine.
        started: when it was asked, by ``time.perf_counter``.
    """

    def __init__(self, asked: Conversation, updates: Generator[Update], started: float) -> None:
        """Read nothing yet."""
        self.reply: Reply | None = None
        self._pieces = self._run(asked, updates, started)

    def __next__(self) -> Piece:
        """Return the next piece."""
        return next(self._pieces)

    def close(self) -> None:
        """End the generation early; there is no reply then."""
        self._pieces.close()

    def _run(
        self, asked: Conversation, updates: Generator[Update], started: float
    ) -> Generator[Piece]:
        shown = {True: "", False: ""}
        text = ""
        completion: Completion | None = None
        try:
            for update in updates:
                text += update.text
                completion = update.completion
                if update.text and completion is None:
                    yield from (Piece(*piece) for piece in new_pieces(text, shown))
        finally:
            updates.close()
        assert completion is not None
        reply = make_reply(asked, completion, time.perf_counter() - started)
        for is_thinking, whole in ((True, reply.thinking or ""), (False, reply.text)):
            if rest := whole[len(shown[is_thinking]) :]:  # what was held back
                yield Piece(rest, is_thinking)
        self.reply = reply


def new_pieces(text: str, shown: dict[bool, str]) -> Iterator[tuple[str, bool]]:
    """Tell what is new in reasoning and answer; blanks at their ends may yet go.

    Args:
        text: all that was written so far.
        shown: what was told so far of the reasoning (True) and the answer (False); kept up to date.

    Yields:
        Texts, and whether each belongs to the reasoning.
    """
    thinking, answer = split_thinking(text)
    for is_thinking, part in ((True, thinking or ""), (False, answer)):
        settled, before = part.strip(), shown[is_thinking]
        if settled.startswith(before) and len(settled) > len(before):
            shown[is_thinking] = settled
            yield settled[len(before) :], is_thinking
