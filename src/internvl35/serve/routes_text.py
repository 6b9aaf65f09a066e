"""``/v1/completions``, ``/tokenize`` and ``/detokenize``.

What bodies may say stands in :mod:`internvl35.serve.text_body`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from internvl35.generate.answers import Completion, Update
from internvl35.generate.request import Request as EngineRequest
from internvl35.serve.answering import OpenedCall
from internvl35.serve.body_schemas import DETOKENIZE, TEXT, TOKENIZE, describe_post
from internvl35.serve.chat_body import ChatCall
from internvl35.serve.fields import BodyError, Fields
from internvl35.serve.incoming import Incoming
from internvl35.serve.text_body import (
    TextCall,
    make_prompt,
    read_completions,
    read_ids,
    write_choice,
    write_choices,
)

router = APIRouter()

ANSWER = ("id", "object", "created", "model", "choices", "usage")
"""Fields of a whole answer."""


@router.post("/v1/completions", **describe_post(TEXT, ANSWER, is_streamed=True))
async def answer_text(request: Request) -> Response:
    """Go on with texts."""
    incoming = Incoming(request)
    answerer = incoming.answerer
    async with AsyncExitStack() as stack:
        stack.enter_context(answerer.room.place())
        call = read_completions(await incoming.read_json(), answerer.defaults.sampling)
        answerer.check_model(call.model)
        opened = [_open(incoming, call, place) for place in range(len(call.prompts))]
        form = answerer.form_for(call.model)
        frame: dict[str, Any] = {
            "id": f"cmpl-{incoming.number}", "object": "text_completion",
            "created": int(time.time()), "model": form.model,
            "system_fingerprint": form.fingerprint,
        }  # fmt: skip
        if not call.is_streamed:
            completions = await incoming.wait_for(_complete(incoming, opened))
            choices, usage = write_choices(answerer.form, completions)
            return JSONResponse({**frame, "choices": choices, "usage": usage})
        updates = await stack.enter_async_context(aclosing(answerer.stream(opened[0])))
        first = await incoming.wait_for(anext(updates))
        events = _write(incoming, first, updates, frame, has_usage=call.has_usage)
        return incoming.stream(events, stack.pop_all())
    raise AssertionError("unreachable")


def _open(incoming: Incoming, call: TextCall, place: int) -> OpenedCall:
    prompt = make_prompt(incoming.answerer.chat, call.prompts[place])
    caller = replace(incoming.caller, request_id=f"{incoming.caller.request_id}-{place}")
    return OpenedCall(
        ChatCall((), (), call.sampling, model=call.model), EngineRequest(prompt), caller
    )


async def _complete(incoming: Incoming, opened: list[OpenedCall]) -> list[Completion]:
    try:
        async with asyncio.TaskGroup() as tasks:
            doing = [tasks.create_task(incoming.answerer.complete(one)) for one in opened]
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return [task.result() for task in doing]


async def _write(
    incoming: Incoming,
    first: Update,
    updates: AsyncGenerator[Update],
    frame: Mapping[str, Any],
    *,
    has_usage: bool,
) -> AsyncIterator[Mapping[str, Any] | str]:
    form, update = incoming.answerer.form, first
    while True:
        choice = write_choice(
            form, update.sample, update.text, update.logprobs, update.finish_reason
        )
        yield {**frame, "choices": [choice]}
        if update.completion is not None:
            break
        update = await anext(updates)
    if has_usage:
        yield {**frame, "choices": [], "usage": form.describe_usage(update.completion)}
    yield "[DONE]"


@router.post("/tokenize", **describe_post(TOKENIZE, ("count", "max_model_len", "tokens")))
async def tokenize(request: Request) -> Response:
    """Tell the tokens of a text, or of a conversation as its model gets it."""
    incoming = Incoming(request)
    answerer = incoming.answerer
    with answerer.room.place():
        body = await incoming.read_json()
        if isinstance(body, dict) and "messages" in body:
            call = answerer.read(body)
            opened = await incoming.wait_for(answerer.open(call, incoming.caller))
            ids = opened.request.prompt.token_ids
        else:
            fields = Fields(body)
            text, model = fields.text("prompt"), fields.text("model")
            fields.finish()
            if text is None:
                raise BodyError("prompt is missing; needed: a text, or messages", "prompt")
            answerer.check_model(model)
            ids = make_prompt(answerer.chat, text).token_ids if text else ()
    longest = answerer.chat.builder.settings.max_tokens
    return JSONResponse({"count": len(ids), "max_model_len": longest, "tokens": list(ids)})


@router.post("/detokenize", **describe_post(DETOKENIZE, ("prompt",)))
async def detokenize(request: Request) -> Response:
    """Tell the text of tokens."""
    incoming = Incoming(request)
    answerer = incoming.answerer
    with answerer.room.place():
        ids, model = read_ids(await incoming.read_json())
        answerer.check_model(model)
        if any(number >= len(answerer.chat.tokenizer) for number in ids):
            raise BodyError("tokens holds an id that the tokenizer does not have", "tokens")
        text = answerer.chat.tokenizer.decode(list(ids), skip_special_tokens=False)
    return JSONResponse({"prompt": text})
