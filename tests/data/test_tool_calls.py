"""Calls are taken out of answers, however the answers come in pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl35.data.tool_calls import CallReader, ToolCall, write_calls

NAMES = ("look", "add")
LOOK = '<tool_call>\n{"name": "look", "arguments": {"at": "a </tool_call> b"}}\n</tool_call>'
ADD = '<tool_call>{"name": "add", "arguments": {"n": [1, 2.5]}}</tool_call>'
BROKEN = (
    '<tool_call>\n{"name": "look", "arg',
    '<tool_call>{"name": "look", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "look", "arguments": {"x": NaN}}</tool_call>',
    '<tool_call>{"name": "look", "arguments": {}} and</tool_call>',
    "<tool_call></tool_call>", "<tool_call>", "</tool_call>", "<tool_",
)  # fmt: skip


def read(*pieces, **options):
    reader = CallReader(NAMES, **options)
    told = [one for piece in pieces for one in reader.add(piece)]
    told += reader.add("", is_last=True)
    text = "".join(one for one in told if isinstance(one, str))
    return text, [one for one in told if isinstance(one, ToolCall)]


def test_calls_and_what_is_said_around_them_are_told_apart():
    text, calls = read(f"I look. \n{LOOK}\n{ADD}\n")
    assert text == "I look."
    assert calls == [
        ToolCall("look", '{"at": "a </tool_call> b"}'),
        ToolCall("add", '{"n": [1, 2.5]}'),
    ]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_no_call_of_a_known_tool_stays_text(broken):
    assert read(broken) == (broken, [])
    text, calls = read(f"{broken} {ADD}")
    assert (text, [call.name for call in calls]) == (broken, ["add"])


def test_text_is_told_as_soon_as_it_cannot_be_a_call():
    reader = CallReader(NAMES)
    assert reader.add("a < b <tool") == ["a < b"]
    assert reader.add("s ") == [" <tools"]
    assert reader.add(LOOK[:-1]) == []
    assert reader.add(">") == [ToolCall("look", '{"at": "a </tool_call> b"}')]


def test_only_the_first_call_counts_where_calls_may_not_be_parallel():
    text, calls = read(f"{LOOK}{ADD}then", is_parallel=False)
    assert (text, [call.name for call in calls]) == ("then", ["look"])


def test_written_calls_are_read_back():
    calls = [{"name": "look", "arguments": {"at": 'ü "q"'}}, {"name": "add", "arguments": "{}"}]
    text, found = read(write_calls(calls, "so"))
    assert text == "so"
    assert found == [ToolCall("look", '{"at": "ü \\"q\\""}'), ToolCall("add", "{}")]


@given(
    st.lists(st.sampled_from([LOOK, ADD, *BROKEN, " ", "\n", "so", "{}"]), max_size=8), st.data()
)
def test_pieces_join_to_the_same_whatever_they_are(parts, data):
    whole = "".join(parts).strip()  # as reasoning and blanks are taken off before
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=12)) | {0, len(whole)})
    pieces = [whole[start:end] for start, end in pairwise(cuts)]
    assert read(*pieces) == read(whole)
