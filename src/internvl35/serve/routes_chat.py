"""``/v1/chat/completions``, whole and in parts.

What a body may say stands in :mod:`internvl35.serve.chat_body`. No counterpart in the paper.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from internvl35.generate.answers import Update
from internvl35.serve.body_schemas import CHAT, describe_post
from internvl35.serve.chat_stream import ChatStream
from internvl35.serve.incoming import Incoming

router = APIRouter()

ANSWER = ("id", "object", "created", "model", "choices", "usage")
"""Fields of a whole answer."""


@router.post("/v1/chat/completions", **describe_post(CHAT, ANSWER, is_streamed=True))
async def answer_chat(request: Request) -> Response:
    """Answer a conversation."""
    incoming = Incoming(request)
    answerer, name = incoming.answerer, f"chatcmpl-{incoming.number}"
    async with AsyncExitStack() as stack:
        stack.enter_context(answerer.room.place())
        call = answerer.read(await incoming.read_json())
        opened = await incoming.wait_for(answerer.open(call, incoming.caller))
        created, form = int(time.time()), answerer.form_for(call.model)
        if not call.is_streamed:
            completion = await incoming.wait_for(answerer.complete(opened))
            return JSONResponse(form.write(completion, name, created, call.tools))
        updates = await stack.enter_async_context(aclosing(answerer.stream(opened)))
        first = await incoming.wait_for(anext(updates))  # what is refused gets a status
        parts = ChatStream(form, name, created, has_usage=call.has_usage, tools=call.tools)
        return incoming.stream(_write(first, updates, parts), stack.pop_all())
    raise AssertionError("unreachable")


async def _write(
    first: Update, updates: AsyncGenerator[Update], parts: ChatStream
) -> AsyncIterator[Mapping[str, Any] | str]:
    update = first
    while True:
        for chunk in parts.add(update):
            yield chunk
        if update.completion is not None:
            for event in parts.end(update.completion):
                yield event
            return
        update = await anext(updates)
