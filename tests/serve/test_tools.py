"""Tools are offered, called, demanded and answered as OpenAI's API has it."""

from __future__ import annotations

import json

import pytest
from answer_streams import SayingEngine, ask_gateway, join_chunks

from internvl35.data.messages import Message
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.chat_body import read_body
from internvl35.serve.chat_messages import MediaRules, read_messages
from internvl35.serve.fields import BodyError

LOOK = {
    "type": "function",
    "function": {
        "name": "look", "description": "Looks.",
        "parameters": {"type": "object", "properties": {"at": {"$ref": "#/$defs/place"}},
                       "$defs": {"place": {"type": "string"}}, "required": ["at"]},
    },
}  # fmt: skip
ADD = {"type": "function", "function": {"name": "add"}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "it"}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "look"}}


def make_body(**fields):
    return {"messages": [{"role": "user", "content": "what?"}], "tools": [LOOK, ADD], **fields}


def read(**fields):
    return read_body(make_body(**fields), SamplingSettings(), MediaRules())


def test_tools_are_shown_as_they_were_sent():
    call = read()
    assert json.loads(call.tools.schemas) == [LOOK, ADD]
    assert (call.tools.names, call.tools.prefix) == (("look", "add"), "")
    assert call.sampling.structure is None
    assert read(tool_choice="none").tools is None
    assert read(tools=[]).tools is None


@pytest.mark.parametrize(("choice", "names"), [("required", ["look", "add"]), (NAMED, ["look"])])
def test_a_demanded_call_is_begun_and_held_to_the_schemas(choice, names):
    call = read(tool_choice=choice)
    assert call.tools.prefix == "<tool_call>\n"
    schema = json.loads(call.sampling.structure.json_schema)
    found = [one["properties"]["name"]["const"] for one in schema["anyOf"]]
    assert found == names
    arguments = schema["anyOf"][0]["properties"]["arguments"]
    assert arguments["properties"]["at"]["$ref"] == "#/anyOf/0/properties/arguments/$defs/place"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": "look"}, "tools"), ({"tools": [1]}, "tools[0]"),
        ({"tools": [{"type": "web"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [LOOK, LOOK]}, "tools[1]"), ({"tools": [ADD] * 129}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
         "tools[0].function.parameters"),
        ({"tools": [{"type": "function", "function": {"name": "a", "x": 1}}]},
         "tools[0].function.x"),
        ({"tool_choice": "always"}, "tool_choice"), ({"tool_choice": 1}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"), ({"functions": [1]}, "functions"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(fields, param):
    with pytest.raises(BodyError) as found:
        read(**fields)
    assert found.value.param == param


def test_a_schema_that_is_nested_too_deeply_is_refused():
    schema = {"type": "object"}
    for _ in range(100_000):
        schema = {"type": "object", "properties": {"a": schema}}
    tool = {"type": "function", "function": {"name": "deep", "parameters": schema}}
    with pytest.raises(BodyError, match="nested too deeply"):
        read(tools=[tool], tool_choice="required")


def made_call(name, **arguments):
    return {"id": f"id {name}", "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)}}  # fmt: skip


def result(name, text):
    return {"role": "tool", "tool_call_id": f"id {name}", "content": text}


ASKED = {"role": "user", "content": "what?"}
CALLED = {"role": "assistant", "content": "so",
          "tool_calls": [made_call("look", at="it"), made_call("add")]}  # fmt: skip


def test_results_stand_in_the_order_of_their_calls():
    entries = [ASKED, CALLED, result("add", "3"), result("look", "red")]
    messages, _ = read_messages(entries, MediaRules())
    assert messages[1].text == (
        f'so\n{CALL}\n<tool_call>\n{{"name": "add", "arguments": {{}}}}\n</tool_call>'
    )
    assert messages[2:] == (Message("tool", "red"), Message("tool", "3"))


@pytest.mark.parametrize(
    ("entries", "param"),
    [
        ([ASKED, result("look", "red")], "messages[1].tool_call_id"),
        ([ASKED, CALLED, result("fly", "red")], "messages[2].tool_call_id"),
        ([ASKED, CALLED, *[result("look", "red")] * 2], "messages[3].tool_call_id"),
        ([ASKED, CALLED, {**result("look", ""), "content": [{"type": "image_url"}]}],
         "messages[2].content[0].type"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].type"),
        ([{"role": "assistant", "tool_calls": [{**made_call("a"), "function": {"name": "a",
         "arguments": "[1]"}}]}], "messages[0].tool_calls[0].function.arguments"),
        ([{"role": "assistant", "tool_calls": [made_call("a"), made_call("a")]}],
         "messages[0].tool_calls[1].id"),
        ([{"role": "user", "content": "a", "tool_calls": [made_call("a")]}],
         "messages[0].tool_calls"),
    ],
)  # fmt: skip
def test_a_wrong_message_is_named(entries, param):
    with pytest.raises(BodyError) as found:
        read_messages(entries, MediaRules())
    assert found.value.param == param


def test_calls_are_told_whole_and_in_parts_alike():
    text = f"<think>Hm</think>\n\nI look.\n{CALL}\n{CALL}"
    whole = ask_gateway("/v1/chat/completions", make_body(), SayingEngine(text))
    choice = whole.json()["choices"][0]
    message = choice["message"]
    assert (choice["finish_reason"], message["content"]) == ("tool_calls", "I look.")
    assert message["reasoning_content"] == "Hm"
    first, second = message["tool_calls"]
    assert first["function"] == {"name": "look", "arguments": '{"at": "it"}'}
    assert first["id"] != second["id"]
    parts = ask_gateway("/v1/chat/completions", make_body(stream=True), SayingEngine(text))
    joined = join_chunks(parts)
    ids = [call.pop("id") for call in joined["tool_calls"]]
    for call in message["tool_calls"]:
        del call["id"]
    assert len(set(ids)) == 2
    assert joined == {
        "role": "assistant", "content": "I look.", "reasoning_content": "Hm",
        "tool_calls": [{"index": n, **c} for n, c in enumerate(message["tool_calls"])],
        "finish_reason": "tool_calls",
    }  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
def test_a_demanded_call_is_read_from_what_follows_its_beginning(stream):
    engine = SayingEngine('{"name": "look", "arguments": {"at": "it"}}')
    body = make_body(tool_choice=NAMED, stream=stream)
    response = ask_gateway("/v1/chat/completions", body, engine)
    if stream:
        message = join_chunks(response)
        assert (message["content"], message["finish_reason"]) == ("", "tool_calls")
    else:
        message = response.json()["choices"][0]["message"]
        assert message["content"] is None
    assert message["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at": "it"}'}


def test_without_tools_an_answer_that_looks_like_a_call_stays_text():
    response = ask_gateway("/v1/chat/completions", make_body(tools=[]), SayingEngine(CALL))
    choice = response.json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")
