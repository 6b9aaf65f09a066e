"""What the server answers is what a chat answers: alone, together, in parts, with pictures."""

from __future__ import annotations

import asyncio
import base64
import io
import json

import httpx
import pytest
import torch
from PIL import Image
from serving import serving

from internvl35 import SamplingSettings, load
from internvl35.serve.answering import Answerer, Defaults
from internvl35.serve.chat_answer import AnswerFormat
from internvl35.serve.gateway import build_app
from internvl35.serve.gateway_settings import GatewaySettings
from internvl35.serve.media import MediaSettings
from internvl35.serve.media_loader import SafeMediaLoader

CHAT = "/v1/chat/completions"
GREEDY = SamplingSettings(max_tokens=8)


@pytest.fixture(scope="module")
def chat(random_checkpoint):
    chat = load(random_checkpoint, dtype=torch.float32)
    yield chat
    chat.engine.close()


@pytest.fixture(scope="module")
def pictures():
    return [Image.effect_noise(size, 80).convert("RGB") for size in [(150, 50), (60, 60)]]


def as_part(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def ask(chat, bodies):
    """Send requests at once; gives the responses, in order."""

    async def send():
        form = AnswerFormat(chat.tokenizer, chat.rules.end_token_ids, "random")
        loader = SafeMediaLoader(chat.tiles, MediaSettings(num_workers=1), chat.images)
        answerer = Answerer(
            chat, chat.engine, loader, form, Defaults(GREEDY), GatewaySettings(), ("random",)
        )
        transport = httpx.ASGITransport(build_app(answerer))
        try:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://gateway", timeout=60
            ) as client:
                return await asyncio.gather(*(client.post(CHAT, json=body) for body in bodies))
        finally:
            await loader.close()

    return asyncio.run(send())


def join(response):
    events = [line[6:] for line in response.text.split("\n\n") if line]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def test_answers_are_those_of_a_chat(chat, pictures):
    expected, bodies = [], []
    for number in range(3):
        shown = pictures[:number]
        text = f"What is picture {number}?"
        expected.append(chat.ask(text, shown, sampling=GREEDY))
        content = [*map(as_part, shown), {"type": "text", "text": text}]
        bodies.append({"messages": [{"role": "user", "content": content}]})
    responses = ask(chat, [*bodies, *({**body, "stream": True} for body in bodies)])
    assert [response.status_code for response in responses] == [200] * 6
    for reply, whole, parts in zip(expected, responses[:3], responses[3:], strict=True):
        choice, usage = whole.json()["choices"][0], whole.json()["usage"]
        assert choice["message"]["content"] == reply.text
        assert usage["prompt_tokens"] == reply.num_prompt_tokens
        assert usage["completion_tokens"] == reply.num_new_tokens
        assert join(parts) == reply.text


def test_a_picture_that_cannot_be_decoded_fails_alone(chat, pictures):
    good = {"messages": [{"role": "user", "content": [as_part(pictures[1])]}]}
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    bad = {"messages": [{"role": "user", "content": [as_part(pictures[1]), broken]}]}
    responses = ask(chat, [good, bad, good])
    assert [response.status_code for response in responses] == [200, 400, 200]
    assert responses[1].json()["error"]["param"] == "messages[0].content[1].image_url"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "b"}}])
def test_a_demanded_call_follows_its_schema_whatever_the_model_would_say(chat, choice):
    pytest.importorskip("llguidance")
    parameters = {
        "type": "object", "properties": {"kind": {"$ref": "#/$defs/kind"}}, "required": ["kind"],
        "additionalProperties": False, "$defs": {"kind": {"enum": ["x", "yy"]}},
    }  # fmt: skip
    tools = [
        {"type": "function", "function": {"name": name, "parameters": parameters}} for name in "ab"
    ]
    body = {
        "messages": [{"role": "user", "content": "hi"}], "tools": tools, "tool_choice": choice,
        "max_tokens": 600,
    }  # fmt: skip
    whole, parts = ask(chat, [body, {**body, "stream": True}])
    assert whole.status_code == 200, whole.text
    answer = whole.json()["choices"][0]
    assert answer["finish_reason"] == "tool_calls"
    (call,) = answer["message"]["tool_calls"]
    assert call["function"]["name"] in ("ab" if choice == "required" else "b")
    assert json.loads(call["function"]["arguments"])["kind"] in ("x", "yy")
    events = [line[6:] for line in parts.text.split("\n\n") if line]
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    (told,) = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert told["function"] == call["function"]


@pytest.mark.parametrize("content", ["hi " * 40, [as_part(Image.new("RGB", (60, 60)))] * 12])
def test_what_is_cached_is_shared_under_one_key_alone(random_checkpoint, content):
    keys = [f"sk-0123456789abcde{number}" for number in range(2)]
    body = {"messages": [{"role": "user", "content": content}]}
    with serving(random_checkpoint, keys=keys) as address:
        counts = []
        for key in (*keys, *keys):
            headers = {"authorization": f"Bearer {key}"}
            answer = httpx.post(f"{address}{CHAT}", json=body, headers=headers, timeout=60).json()
            counts.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert counts[:2] == [0, 0]
    assert min(counts[2:]) > 0
