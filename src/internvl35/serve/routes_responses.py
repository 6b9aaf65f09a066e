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

from internvl35.data.tool_calls import ToolCall
from internvl35.generate.answers import Completion, Update
from internvl35.serve.answer_pieces import AnswerPieces, read_answer
from internvl35.serve.body_schemas import RESPONSE, describe_post
from internvl35.serve.incoming import Incoming
from internvl35.serve.responses_body import ResponseFormat, read_response
from internvl35.serve.tools import ToolUse

router = APIRouter()

ANSWER = ("id", "object", "created_at", "model", "output", "status", "usage")
"""Fields of a whole answer."""


@router.post("/v1/responses", **describe_post(RESPONSE, ANSWER, is_streamed=True))
async def answer_response(request: Request) -> Response:
    """Answer a conversation."""
    incoming = Incoming(request)
    answerer = incoming.answerer
    async with AsyncExitStack() as stack:
        stack.enter_context(answerer.room.place())
        asked = read_response(await incoming.read_json())
        call = asked.call(answerer.read)
        opened = await incoming.wait_for(answerer.open(call, incoming.caller))
        written = answerer.form_for(call.model)
        form = ResponseFormat(written, incoming.number, int(time.time()), asked)
        if not call.is_streamed:
            completion = await incoming.wait_for(answerer.complete(opened))
            answer = read_answer(completion.samples[0].text, call.tools)
            return JSONResponse(form.write(completion, answer))
        updates = await stack.enter_async_context(aclosing(answerer.stream(opened)))
        first = await incoming.wait_for(anext(updates))
        events = _Events(form, call.tools)
        return incoming.stream(_write(first, updates, events), stack.pop_all())
    raise AssertionError("unreachable")


async def _write(
    first: Update, updates: AsyncGenerator[Update], events: _Events
) -> AsyncIterator[Mapping[str, Any]]:
    update, number = first, 0
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

    def __init__(self, form: ResponseFormat, tools: ToolUse | None) -> None:
        self._form, self._pieces = form, AnswerPieces(tools)
        self._num_items = 0
        self._place: int | None = None  # of the answer in the output, once it has begun

    def begin(self) -> Iterator[dict[str, Any]]:
        """Tell that it has begun."""
        for kind in ("response.created", "response.in_progress"):
            yield {"type": kind, "response": self._form.begin()}

    def add(self, update: Update) -> Iterator[dict[str, Any]]:
        """Tell what is new."""
        pieces = self._pieces.add(update.text, is_last=update.finish_reason is not None)
        for piece in pieces:
            if not isinstance(piece, ToolCall) and not piece[1]:
                yield from self._begin_answer()  # behind the reasoning, which comes whole
                yield self._event("output_text.delta", delta=piece[0], logprobs=[])
        if update.completion is not None:
            yield from self._end(update.completion)

    def _begin_answer(self) -> Iterator[dict[str, Any]]:
        if self._place is not None:
            return
        yield from self._tell_reasoning()
        self._place = self._num_items
        self._num_items += 1
        item = self._form.message(None, "in_progress")
        yield _tell_item("added", self._place, item)
        yield self._event("content_part.added", part=self._form.text(""))

    def _tell_reasoning(self) -> Iterator[dict[str, Any]]:
        thinking = self._pieces.whole().thinking
        if thinking is not None and self._num_items == 0:
            item = self._form.reasoning(thinking)
            yield _tell_item("added", 0, item)
            yield _tell_item("done", 0, item)
            self._num_items = 1

    def _end(self, completion: Completion) -> Iterator[dict[str, Any]]:
        answer = self._pieces.whole()
        whole = self._form.write(completion, answer)
        if answer.text or not answer.calls:
            yield from self._begin_answer()
            yield self._event("output_text.done", text=answer.text, logprobs=[])
            yield self._event("content_part.done", part=self._form.text(answer.text))
            assert self._place is not None
            yield _tell_item("done", self._place, whole["output"][self._place])
        yield from self._tell_reasoning()
        for number, call in enumerate(answer.calls):
            yield from self._tell_call(number, call)
        yield {"type": f"response.{whole['status']}", "response": whole}

    def _tell_call(self, number: int, call: ToolCall) -> Iterator[dict[str, Any]]:
        item = self._form.call(number, call)
        place = {"item_id": item["id"], "output_index": self._num_items}
        yield _tell_item("added", self._num_items, self._form.call(number, call, is_whole=False))
        name, arguments = "response.function_call_arguments", call.arguments
        yield {"type": f"{name}.delta", **place, "delta": arguments}
        yield {"type": f"{name}.done", **place, "name": call.name, "arguments": arguments}
        yield _tell_item("done", self._num_items, item)
        self._num_items += 1

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        item_id = self._form.message(None, "")["id"]
        places = {"item_id": item_id, "output_index": self._place, "content_index": 0}
        return {"type": f"response.{kind}", **places, **fields}


def _tell_item(what: str, place: int, item: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"response.output_item.{what}", "output_index": place, "item": item}
