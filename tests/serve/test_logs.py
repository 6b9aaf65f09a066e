"""The log: one line an event, facts in place, nothing that a user wrote."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys

import httpx
import pytest
from gateway_stubs import make_answerer

from internvl35.errors import PromptError, ServerError
from internvl35.serve.frames import NackCode, WireError
from internvl35.serve.gateway import build_app
from internvl35.serve.logs import LineFormatter, describe_fault, start_log, with_facts


def record_of(message="answered", *args, error=None, **facts):
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("internvl35.serve", 20, "x.py", 1, message, args, info)
    vars(record).update(with_facts(**facts))
    return record


def raised(error, cause=None):
    try:
        raise error from cause
    except type(error) as found:
        return found


def test_a_json_line_holds_event_facts_and_where_it_comes_from():
    line = LineFormatter("json", "vision").format(record_of("took %d", 3, request="req_1"))
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "info", "role": "vision", "logger": "internvl35.serve", "event": "took 3",
        "request": "req_1",
    }  # fmt: skip


def test_a_text_line_holds_the_same_and_stays_one_line():
    line = LineFormatter("text", "gateway").format(record_of("a\nb\x1b[31m", status=200))
    assert line.endswith(" INFO a?b?[31m status=200")


def test_a_fault_tells_kinds_and_places_but_no_text_that_may_be_a_users():
    cause = raised(KeyError("my secret question"))
    error = raised(PromptError("found 'my secret question' in it"), cause)
    for form in ("json", "text"):
        line = LineFormatter(form, "gateway").format(record_of("fault", error=error))
        assert "secret" not in line
        assert line.index("KeyError") < line.index("PromptError")
        assert "tests/serve/test_logs.py" in line
        assert "raised" in line


@pytest.mark.parametrize(
    "error",
    [OSError(28, "disk full"), RuntimeError("disk full"), ServerError("disk full"),
     WireError(NackCode.LOST, "disk full"), ConnectionResetError("disk full")],
)  # fmt: skip
def test_errors_about_the_machine_keep_their_text(error):
    assert any("disk full" in line for line in describe_fault(error))


def test_a_chain_that_bites_its_tail_ends():
    first, second = ValueError("a"), TypeError("b")
    first.__cause__, second.__cause__ = second, first
    assert describe_fault(first) == ["TypeError", "ValueError"]


def test_the_log_goes_to_stderr_once_however_often_it_is_started(capsys):
    root, own = logging.getLogger(), logging.getLogger("internvl35")
    before, level = list(root.handlers), own.level
    try:
        for form in ("text", "json"):
            start_log(form, "info", "gateway")
        own.getChild("serve").info("hello", extra=with_facts(request="r"))
        own.getChild("serve").debug("too small")
        logging.getLogger("elsewhere").info("not ours")
    finally:
        for handler in set(root.handlers) - set(before):
            root.removeHandler(handler)
        own.setLevel(level)
    out, err = capsys.readouterr()
    assert not out
    (line,) = err.splitlines()
    assert json.loads(line)["event"] == "hello"


def test_what_cannot_be_json_is_still_a_line():
    line = LineFormatter("json", "gateway").format(record_of(where=sys))
    assert json.loads(line)["where"].startswith("<module")


@pytest.fixture
def lines():
    """What the servers of this process write to their log, as JSON."""
    file = io.StringIO()
    handler, logger = logging.StreamHandler(file), logging.getLogger()
    handler.setFormatter(LineFormatter("json", "gateway"))
    own, level = logging.getLogger("internvl35"), logging.getLogger("internvl35").level
    logger.addHandler(handler)
    own.setLevel("DEBUG")
    yield lambda: [json.loads(line) for line in file.getvalue().splitlines()]
    own.setLevel(level)
    logger.removeHandler(handler)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", ["hello", "BROKEN", "REFUSE", "RAISE", "CRASH"])
def test_the_log_has_the_requests_id_and_neither_its_words_nor_its_key(lines, text, stream):
    key, words = "sk-0123456789abcdef", "private words"

    async def ask():
        app = build_app(make_answerer(), [key])
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://gateway", headers=headers
        ) as client:
            message = {"role": "user", "content": f"{text} {words}"}
            body = {"messages": [message], "stream": stream, "user": words, "stop": [words]}
            return await client.post("/v1/chat/completions", json=body)

    response = asyncio.run(ask())
    found = [line for line in lines() if line["logger"].startswith("internvl35")]
    assert found
    assert found[-1]["event"] == "answered"
    assert found[-1]["status"] == response.status_code
    assert {line["request"] for line in found} == {response.headers["x-request-id"]}
    written = json.dumps(lines())
    assert "private" not in written
    assert key not in written
    if text in ("BROKEN", "CRASH"):
        assert [line["event"] for line in found] == ["fault", "answered"]
        assert found[0]["fault"]
