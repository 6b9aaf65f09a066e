"""Responses say what a chat says, in the words of their own API."""

from __future__ import annotations

import asyncio
import json

import httpx
import openai
import pytest
from answer_streams import SayingEngine
from gateway_stubs import make_answerer

from internvl35.generate.answers import Completion, Sample, Update
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.chat_body import read_body
from internvl35.serve.chat_messages import MediaRules
from internvl35.serve.gateway import build_app
from internvl35.serve.responses_body import read_response

PATH = "/v1/responses"


def ask(answerer=None, **body):
    async def send():
        transport = httpx.ASGITransport(build_app(answerer or make_answerer()))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.post(PATH, json={"model": "tiny", **body})

    return asyncio.run(send())


def with_client(ask_client, answerer=None):
    """Let the official client ask."""

    async def send():
        transport = httpx.ASGITransport(build_app(answerer or make_answerer()))
        client = httpx.AsyncClient(transport=transport)
        async with openai.AsyncOpenAI(
            base_url="http://gateway/v1", api_key="x", http_client=client, max_retries=0
        ) as official:
            return await ask_client(official)

    return asyncio.run(send())


def test_the_official_client_reads_a_whole_response():
    async def create(client):
        return await client.responses.create(model="tiny", input="hello", instructions="Be brief.")

    response = with_client(create)
    assert response.output_text == "HELLO"
    assert (response.status, response.instructions) == ("completed", "Be brief.")
    assert response.usage.input_tokens == 5
    assert response.usage.total_tokens == 11


def test_the_official_client_reads_parts_that_join_to_the_whole():
    async def create(client):
        stream = await client.responses.create(model="tiny", input="hello", stream=True)
        return [event async for event in stream]

    events = with_client(create)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text == "HELLO"
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:4]] == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added",
    ]  # fmt: skip


class ThinkingEngine:
    """Reasons before it answers, a token at a time."""

    async def stream(self, request, sampling, *, request_id, **options):
        tokens = ["<think>", "Hm", "</think>", "\n\nYe", "s"]
        for token in tokens:
            yield Update(request_id, 0, (5,), token)
        sample = Sample((5,) * len(tokens), "".join(tokens), "length")
        done = Completion(request_id, request, (sample,), 0)
        yield Update(request_id, 0, finish_reason="length", completion=done)


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_a_part_of_its_own_in_front_of_the_answer(stream):
    response = ask(make_answerer(ThinkingEngine()), input="why?", stream=stream)
    body = response.json() if not stream else None
    if stream:
        lines = [line[6:] for line in response.text.split("\n") if line.startswith("data: ")]
        events = [json.loads(line) for line in lines]
        body = events[-1]["response"]
        deltas = [event for event in events if event["type"] == "response.output_text.delta"]
        assert [(event["delta"], event["output_index"]) for event in deltas] == [
            ("Ye", 1),
            ("s", 1),
        ]
        added = [event for event in events if event["type"] == "response.output_item.added"]
        assert [event["item"]["type"] for event in added] == ["reasoning", "message"]
        assert events[-1]["type"] == "response.incomplete"
    thinking, answer = body["output"]
    assert thinking["content"][0]["text"] == "Hm"
    assert answer["content"][0]["text"] == "Yes"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}


def test_pictures_and_turns_reach_the_chat_and_its_limits_the_response():
    answerer = make_answerer()
    content = [
        {"type": "input_image", "image_url": "data:a", "detail": "low"},
        {"type": "input_text", "text": "what?"},
    ]
    turns = [
        {"role": "user", "content": "hi"},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "ho", "annotations": []}]},
        {"role": "user", "content": content},
    ]  # fmt: skip
    body = ask(answerer, input=turns, max_output_tokens=7, temperature=0.5).json()
    assert body["output"][0]["content"][0]["text"] == "WHAT?"
    assert (body["max_output_tokens"], body["temperature"]) == (7, 0.5)
    (item,) = answerer.loader.items
    assert (item.source, item.max_tiles) == ("data:a", 1)
    sampling = answerer.engine.seen[0][1]
    assert (sampling.max_tokens, sampling.temperature) == (7, 0.5)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"), ({"input": []}, "input"), ({"input": [{"type": "call"}]}, "input[0].type"),
        ({"input": [{"role": "cat", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "cat", "content": "a"}], "instructions": "x"}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
         "input[0].content[0].type"),
        ({"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "a", "top_p": 2}, "top_p"), ({"input": "a", "tools": [1]}, "tools[0]"),
        ({"input": "a", "previous_response_id": "r"}, "previous_response_id"),
        ({"input": "a", "text": {"format": {"type": "x"}}}, "text.format"),
        ({"input": "a", "extra": 1}, "extra"), ({"input": "a", "model": "gpt"}, "model"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_as_it_was_sent(fields, param):
    response = ask(**fields)
    assert response.status_code == (404 if param == "model" else 400)
    assert response.json()["error"]["param"] == param


LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
SAID = 'I look.\n<tool_call>\n{"name": "look", "arguments": {"at": "it"}}\n</tool_call>'


def test_the_official_client_reads_calls_whole_and_in_parts():
    async def create(client):
        asked = {"model": "tiny", "input": "what?", "tools": [LOOK]}
        whole = await client.responses.create(**asked)
        stream = await client.responses.create(**asked, stream=True)
        return whole, [event async for event in stream]

    whole, events = with_client(create, make_answerer(SayingEngine(SAID)))
    message, call = whole.output
    assert message.content[0].text == "I look."
    assert (call.type, call.name, call.arguments) == ("function_call", "look", '{"at": "it"}')
    assert whole.tools[0].name == "look"
    last = events[-1].response.output
    assert [item.type for item in last] == ["message", "function_call"]
    kinds = [event.type for event in events if getattr(event, "output_index", None) == 1]
    assert kinds == [
        "response.output_item.added", "response.function_call_arguments.delta",
        "response.function_call_arguments.done", "response.output_item.done",
    ]  # fmt: skip
    (delta,) = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert delta == last[1].arguments == '{"at": "it"}'


def test_calls_and_results_reach_the_chat():
    body = read_response({
        "instructions": "Be brief.", "tools": [LOOK], "tool_choice": {"type": "function",
        "name": "look"}, "input": [
            {"role": "user", "content": "what?"},
            {"type": "message", "role": "assistant", "content": "I look."},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c2", "output": "red"},
            {"type": "function_call_output", "call_id": "c1",
             "output": [{"type": "input_text", "text": "blue"}]},
        ],
    }).body  # fmt: skip
    call = read_body(body, SamplingSettings(), MediaRules())
    assert [message.role for message in call.messages] == [
        "system", "user", "assistant", "tool", "tool",
    ]  # fmt: skip
    assert call.messages[2].text.count("<tool_call>") == 2
    assert [message.text for message in call.messages[3:]] == ["blue", "red"]
    assert call.tools.prefix


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": 1}]}, "tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": [{"role": "user", "content": "a"},
                    {"type": "function_call_output", "call_id": "c", "output": "x"}]},
         "input[1].call_id"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "a", "arguments": "x"}]},
         "input[0].arguments"),
    ],
)  # fmt: skip
def test_a_wrong_field_of_tools_is_named_as_it_was_sent(fields, param):
    response = ask(**{"input": "a", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
