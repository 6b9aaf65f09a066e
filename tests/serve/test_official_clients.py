"""OpenAI's own clients, in Python and in JavaScript, are understood over every route."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Literal

import openai
import pytest
from pydantic import BaseModel
from serving import PICTURE, serving

pytest.importorskip("llguidance")

KEY = "sk-0123456789abcdef"
LIMITS = {"model": "random", "max_tokens": 8, "temperature": 0}
TEXT = [{"role": "user", "content": "Describe it."}]
SHOWN = [{"role": "user", "content": [
    {"type": "image_url", "image_url": {"url": PICTURE}}, {"type": "text", "text": "What?"},
]}]  # fmt: skip
SCRIPTS = Path(__file__).parent / "javascript"


class Kind(BaseModel):
    kind: Literal["x", "yy"]


@pytest.fixture(scope="module")
def address(random_checkpoint):
    with serving(random_checkpoint, keys=[KEY]) as address:
        yield f"{address}/v1"


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=address, api_key=KEY, max_retries=0) as client:
        yield client


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["random"]
    assert client.models.retrieve("random").id == "random"


@pytest.mark.parametrize("messages", [TEXT, SHOWN])
def test_parts_of_a_chat_join_to_the_whole(client, messages):
    whole = client.chat.completions.create(**LIMITS, messages=messages)
    parts = list(
        client.chat.completions.create(
            **LIMITS, messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    choices = [part.choices[0] for part in parts if part.choices]
    joined = "".join(choice.delta.content or "" for choice in choices)
    assert joined == whole.choices[0].message.content
    assert choices[-1].finish_reason == whole.choices[0].finish_reason
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_several_answers_tell_how_likely_their_tokens_are(client):
    options = {**LIMITS, "temperature": 1, "n": 2, "seed": 1, "logprobs": True, "top_logprobs": 3}
    answer = client.chat.completions.create(messages=TEXT, **options)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert all(len(token.top_logprobs) == 3 for token in choice.logprobs.content)
    assert client.chat.completions.create(messages=TEXT, **options).choices == answer.choices


def test_an_answer_is_parsed_into_the_class_that_was_asked_for(client):
    answer = client.chat.completions.parse(
        model="random", messages=TEXT, max_tokens=400, response_format=Kind
    )
    assert answer.choices[0].message.parsed.kind in ("x", "yy")
    response = client.responses.parse(
        model="random", input="Which?", max_output_tokens=400, text_format=Kind
    )
    assert response.output_parsed.kind in ("x", "yy")


def test_a_tool_is_called_and_its_result_taken(client):
    tools = [openai.pydantic_function_tool(Kind, name="choose")]
    asked = {"model": "random", "messages": TEXT, "tools": tools, "tool_choice": "required"}
    answer = client.chat.completions.parse(**asked, max_tokens=600)
    message = answer.choices[0].message
    (call,) = message.tool_calls
    assert call.function.parsed_arguments.kind in ("x", "yy")
    with client.chat.completions.stream(**asked, max_tokens=600) as stream:
        (told,) = stream.get_final_completion().choices[0].message.tool_calls
    assert told.function.arguments == call.function.arguments
    said = message.model_dump(exclude={"parsed": True, "tool_calls": {"__all__": {
        "function": {"parsed_arguments"}}}})  # fmt: skip
    result = {"role": "tool", "tool_call_id": call.id, "content": "42"}
    after = client.chat.completions.create(**LIMITS, tools=tools, messages=[*TEXT, said, result])
    assert after.usage.prompt_tokens > answer.usage.prompt_tokens


def test_responses_are_read_whole_and_in_parts(client):
    asked = {"model": "random", "input": "Describe it.", "max_output_tokens": 8, "temperature": 0}
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        events = list(stream)
    assert events[-1].response.output_text == whole.output_text
    assert events[-1].type == f"response.{whole.status}"
    schema = Kind.model_json_schema() | {"additionalProperties": False}
    function = {"type": "function", "name": "choose", "strict": True, "parameters": schema}
    called = client.responses.create(
        model="random", input="Which?", tools=[function], tool_choice="required",
        max_output_tokens=600,
    )  # fmt: skip
    (item,) = called.output
    output = {"type": "function_call_output", "call_id": item.call_id, "output": "42"}
    turns = [{"role": "user", "content": "Which?"}, item.model_dump(), output]
    after = client.responses.create(**{**asked, "input": turns, "tools": [function]})
    assert after.usage.input_tokens > called.usage.input_tokens


def test_texts_are_gone_on_with(client):
    whole = client.completions.create(**LIMITS, prompt="Hello", logprobs=2)
    parts = client.completions.create(**LIMITS, prompt="Hello", stream=True)
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    assert len(whole.choices[0].logprobs.tokens) == len(whole.choices[0].logprobs.top_logprobs)
    several = client.completions.create(**LIMITS, prompt=["Hello", "user"], n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]


def test_what_is_refused_is_raised_as_its_own_error(client):
    with pytest.raises(openai.BadRequestError) as found:
        client.chat.completions.create(**LIMITS, messages=TEXT, n=0)
    assert found.value.param == "n"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="none", messages=TEXT)
    assert missing.value.code == "model_not_found"
    stranger = client.with_options(api_key="sk-0000000000000000")
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


@pytest.mark.slow
def test_the_javascript_client_is_understood(address, tmp_path):
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    shutil.copytree(SCRIPTS, tmp_path, dirs_exist_ok=True)
    install = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    done = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"OpenAI's JavaScript client cannot be had: {done.stderr[-200:]}")
    arguments = [node, "conformance.mjs", address, KEY, "random", PICTURE]
    ran = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.split()) == 10  # checks, by name
