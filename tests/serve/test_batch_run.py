"""Rows of a file are answered many at once, each exactly once, and a bad one fails alone."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
from batch_stubs import EchoEngine, StubChat

from internvl35.errors import ConfigError, DataError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.batch_input import URL, BatchInput
from internvl35.serve.batch_output import BatchOutput
from internvl35.serve.batch_run import BatchLimits, BatchRun, RowSettings
from internvl35.serve.chat_answer import AnswerFormat

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def make_row(name, text="hello", **body):
    messages = [{"role": "user", "content": text}]
    body = {"model": "m", "messages": messages, **body}
    return {"custom_id": name, "method": "POST", "url": URL, "body": body}


def write(path, rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def run_file(folder, rows, engine=None, chat=None, on_row=None, **settings):
    """Answer rows; gives the figures and the lines of the file of answers."""
    source, target = folder / "in.jsonl", folder / "out.jsonl"
    if rows is not None:
        write(source, rows)
    requests = BatchInput(source)
    chat = chat or StubChat()
    form = AnswerFormat(chat.tokenizer, chat.rules.end_token_ids, "tiny", "fp_1")
    settings = RowSettings(**{"sampling": SamplingSettings(), **settings})
    with closing(BatchOutput(target, requests.rows, "fp_1")) as output:
        run = BatchRun(
            requests, output, chat, engine or EchoEngine(), form, settings, on_row=on_row
        )
        figures = run.answer()
    return figures, [json.loads(line) for line in target.read_text("utf-8").splitlines()]


def text_of(line):
    return line["response"]["body"]["choices"][0]["message"]["content"]


def test_every_row_is_answered_once_under_its_own_name(tmp_path):
    rows = [make_row(f"row {number}", f"text {number}") for number in range(2000)]
    engine = EchoEngine()
    figures, lines = run_file(tmp_path, rows, engine)
    assert {line["custom_id"]: text_of(line) for line in lines} == {
        f"row {number}": f"TEXT {number}" for number in range(2000)
    }
    assert len(lines) == 2000
    assert len({line["id"] for line in lines}) == 2000
    assert all(line["error"] is None for line in lines)
    assert (figures.num_rows, figures.num_failed, figures.num_tiles) == (2000, 0, 0)
    num_characters = sum(len(f"text {number}") for number in range(2000))
    assert figures.num_prompt_tokens == num_characters
    assert figures.num_new_tokens == num_characters + 2000  # and the end token of each
    assert figures.seconds > 0
    assert 1 < engine.num_most <= 128


def test_rows_are_written_as_they_finish(tmp_path):
    delays = {"slow": 0.3, "quick": 0.0}
    rows = [make_row("a", "slow"), make_row("b", "quick")]
    _, lines = run_file(tmp_path, rows, EchoEngine(lambda text: delays[text]))
    assert [line["custom_id"] for line in lines] == ["b", "a"]


def test_a_bad_row_fails_alone_and_says_why(tmp_path):
    told = []
    rows = [
        make_row("good"),
        "{not json",
        {"custom_id": "get", "method": "GET", "url": URL, "body": {}},
        {"custom_id": "embed", "method": "POST", "url": "/v1/embeddings", "body": {}},
        {"custom_id": "list", "method": "POST", "url": URL, "body": []},
        {"custom_id": "more", "method": "POST", "url": URL, "body": {}, "extra": 1},
        make_row("hot", temperature="hot"),
        make_row("top", top_p=2),
        make_row("file", [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]),
        make_row("broken", "BROKEN"),
        make_row("refused", "REFUSE"),
        make_row("raised", "RAISE"),
        make_row("stream", stream=True),
        make_row("long", "x" * 300),
        make_row("last"),
    ]
    chat = StubChat(max_tokens=200)
    chat.prepare = lambda asked, flash, is_thinking, build=chat.prepare: (
        chat.check_length(len(asked.messages[-1].text)), build(asked, flash)
    )[1]  # fmt: skip
    figures, lines = run_file(
        tmp_path, rows, chat=chat, on_row=lambda row, failure: told.append((row.line, failure))
    )
    found = {line["custom_id"]: line for line in lines}
    assert len(lines) == len(rows) == figures.num_rows
    assert figures.num_failed == 13
    assert text_of(found["good"]) == text_of(found["last"]) == "HELLO"
    expected = {
        None: "the line is not valid JSON",
        "get": 'method is "GET"; needed: "POST"',
        "embed": 'url is "/v1/embeddings"',
        "list": "body is a list of 0; needed: an object",
        "more": 'the field "extra" is unknown',
    }
    for name, message in expected.items():
        assert found[name]["response"] is None
        assert found[name]["error"]["code"] == "invalid_row"
        assert found[name]["error"]["message"].startswith(message)
    bodies = {
        "hot": (400, 'temperature is "hot"; needed: a number'),
        "top": (400, "top_p is 2.0; needed: above 0, at most 1"),
        "file": (400, "messages[0].content[0].image_url: the picture is named as a file"),
        "broken": (500, "IndexError while the prompt was built"),
        "refused": (400, "refused"),
        "raised": (400, "this engine cannot do that"),
        "stream": (400, "stream is true"),
        "long": (400, "the prompt has 300 tokens"),
    }
    for name, (status, message) in bodies.items():
        response = found[name]["response"]
        assert found[name]["error"] is None
        assert response["status_code"] == status
        assert response["body"]["error"]["message"].startswith(message)
    assert found["hot"]["response"]["body"]["error"]["param"] == "temperature"
    assert sorted(line for line, _ in told) == list(range(1, 16))
    assert sum(failure is None for _, failure in told) == 2


def test_a_fault_of_the_engine_ends_the_run_and_what_was_answered_stays(tmp_path):
    rows = [make_row("a"), make_row("b", "CRASH"), make_row("c"), make_row("d")]
    with pytest.raises(RuntimeError, match="the engine is gone"):
        run_file(tmp_path, rows, limits=BatchLimits(max_rows=1))
    written = (tmp_path / "out.jsonl").read_text()
    assert [json.loads(line)["custom_id"] for line in written.splitlines()] == ["a"]


def test_a_second_run_answers_what_is_left(tmp_path):
    rows = [make_row(f"row {number}") for number in range(10)] + ["{broken", "{broken"]
    figures, lines = run_file(tmp_path, rows)
    target = tmp_path / "out.jsonl"
    kept = target.read_bytes().splitlines(keepends=True)
    order = [3, 11, 1]  # a broken line among them
    half = kept[5][: len(kept[5]) // 2]
    target.write_bytes(b"".join(kept[place] for place in order) + half)
    engine = EchoEngine()
    figures, lines = run_file(tmp_path, None, engine)
    assert figures.num_rows == 12 - 3
    assert len(lines) == 12
    names = sorted(str(line["custom_id"]) for line in lines)
    assert names == sorted([f"row {number}" for number in range(10)] + ["None", "None"])
    assert len({line["id"] for line in lines}) == 12


def test_no_more_tiles_are_under_way_than_the_limit_but_for_a_row_that_has_more(tmp_path):
    rows = [make_row(f"row {number}", [PICTURE] * 2) for number in range(20)]  # 6 tiles each
    rows.append(make_row("large", [PICTURE] * 9))
    engine = EchoEngine(lambda text: 0.001)
    limits = BatchLimits(max_rows=50, max_tiles=12, num_workers=1)
    figures, _ = run_file(tmp_path, rows, engine, limits=limits)
    assert figures.num_tiles == 20 * 6 + 27
    assert 12 <= engine.tiles_most <= 11 + 27
    assert engine.num_most <= 3


def test_no_more_rows_are_under_way_than_the_limit(tmp_path):
    rows = [make_row(f"row {number}") for number in range(30)]
    engine = EchoEngine(lambda text: 0.001)
    run_file(tmp_path, rows, engine, limits=BatchLimits(max_rows=4))
    assert engine.num_most == 4


def test_rows_go_before_what_holds_for_all(tmp_path):
    rows = [make_row("own", temperature=0.5, max_tokens=3, flash="off"), make_row("other", "x")]
    engine = EchoEngine()
    run_file(
        tmp_path, rows, engine,
        sampling=SamplingSettings(max_tokens=7, top_k=5), flash=FlashSettings("all"),
    )  # fmt: skip
    seen = {text: (sampling, flash) for text, sampling, flash in engine.seen}
    assert seen["hello"] == (
        SamplingSettings(max_tokens=3, top_k=5, temperature=0.5), FlashSettings("off")
    )  # fmt: skip
    assert seen["x"] == (SamplingSettings(max_tokens=7, top_k=5), FlashSettings("all"))


def test_answers_of_n_are_choices_in_order(tmp_path):
    _, lines = run_file(tmp_path, [make_row("a", n=3)])
    body = lines[0]["response"]["body"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"] == {
        "prompt_tokens": 5, "completion_tokens": 18, "total_tokens": 23,
        "prompt_tokens_details": {"cached_tokens": 0},
    }  # fmt: skip


def test_requests_that_change_while_they_are_answered_end_the_run(tmp_path):
    source = tmp_path / "in.jsonl"
    write(source, [make_row("a"), make_row("b", "one")])
    requests = BatchInput(source)
    write(source, [make_row("a"), make_row("b", "two")])
    chat = StubChat()
    form = AnswerFormat(chat.tokenizer, (), "tiny")
    with closing(BatchOutput(tmp_path / "out.jsonl", requests.rows, "fp_1")) as output:
        run = BatchRun(requests, output, chat, EchoEngine(), form, RowSettings(SamplingSettings()))
        with pytest.raises(DataError, match="has changed at line 2"):
            run.answer()


@pytest.mark.parametrize("name", ["max_rows", "max_tiles", "num_workers"])
def test_limits_leave_room_for_a_row(name):
    with pytest.raises(ConfigError, match=name):
        BatchLimits(**{name: 0})
