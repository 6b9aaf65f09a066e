"""``/v1/responses``, whole and in parts, as far as chats go; nothing is stored.

What a body may say stands in :mod:`internvl35.serve.responses_body`. No counterpart in the paper.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from internvl35.generate.answers import Completion, Update
from internvl35.serve.chat_stream import AnswerPieces
from internvl35.serve.incoming import Incoming
from internvl35.serve.responses_body import ResponseFormat, read_response

router = APIRouter()


@router.post("/v1/responses")
async def answer_response(request: Request) -> Response:
    """Answer a conversation."""
    incoming = Incoming(request)
    answerer = incoming.answerer
    async with AsyncExitStack() as stack:
        stack.enter_context(answerer.room.place())
        asked = read_response(await incoming.read_json())
        call = asked.call(answerer.read)
        opened = await incoming.wait_for(answerer.open(call, incoming.caller))
        stack.callback(answerer.close, opened)
        form = ResponseFormat(answerer.form, incoming.number, int(time.time()), asked)
        if not call.is_streamed:
            completion = await incoming.wait_for(answerer.complete(opened))
            pieces = AnswerPieces()
            pieces.add(completion.samples[0].text, is_last=True)
            return JSONResponse(form.write(completion, *pieces.whole()))
        updates = await stack.enter_async_context(aclosing(answerer.stream(opened)))
        first = await incoming.wait_for(anext(updates))
        return incoming.stream(_write(first, updates, form), stack.pop_all())
    raise AssertionError("unreachable")


async def _write(
    first: Update, updates: AsyncGenerator[Update], form: ResponseFormat
) -> AsyncIterator[Mapping[str, Any]]:
    events, update, number = _Events(form), first, 0
    for event in events.begin():
        yield {**event, "sequence_number": number}
        number += 1
    while True:
        for event in events.add(update):
            yield {**event, "sequence_number": number}
            number += 1
        if update.completion is not None:
            return
        update = await anext(updates)


class _Events:
    """What is told of a response while it is written."""

    def __init__(self, form: ResponseFormat) -> None:
        self._form, self._pieces = form, AnswerPieces()
        self._place: int | None = None  # of the answer in the output, once it has begun

    def begin(self) -> Iterator[dict[str, Any]]:
        """Tell that it has begun."""
        for kind in ("response.created", "response.in_progress"):
            yield {"type": kind, "response": self._form.begin()}

    def add(self, update: Update) -> Iterator[dict[str, Any]]:
        """Tell what is new."""
        pieces = self._pieces.add(update.text, is_last=update.finish_reason is not None)
        for text, is_thinking in pieces:
            if not is_thinking:  # the reasoning comes whole, in front of the answer
                yield from self._begin_answer()
                yield self._event("output_text.delta", delta=text, logprobs=[])
        if update.completion is not None:
            yield from self._begin_answer()
            yield from self._end(update.completion)

    def _begin_answer(self) -> Iterator[dict[str, Any]]:
        if self._place is not None:
            return
        thinking, _ = self._pieces.whole()
        self._place = 0
        if thinking is not None:
            item = self._form.reasoning(thinking)
            for kind in ("response.output_item.added", "response.output_item.done"):
                yield {"type": kind, "output_index": 0, "item": item}
            self._place = 1
        item = self._form.message(None, "in_progress")
        yield {"type": "response.output_item.added", "output_index": self._place, "item": item}
        yield self._event("content_part.added", part=self._form.text(""))

    def _end(self, completion: Completion) -> Iterator[dict[str, Any]]:
        thinking, answer = self._pieces.whole()
        whole = self._form.write(completion, thinking, answer)
        yield self._event("output_text.done", text=answer, logprobs=[])
        yield self._event("content_part.done", part=self._form.text(answer))
        item = whole["output"][-1]
        yield {"type": "response.output_item.done", "output_index": self._place, "item": item}
        yield {"type": f"response.{whole['status']}", "response": whole}

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        item_id = self._form.message(None, "")["id"]
        places = {"item_id": item_id, "output_index": self._place, "content_index": 0}
        return {"type": f"response.{kind}", **places, **fields}
