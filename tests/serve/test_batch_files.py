"""Files of requests and answers: names, doubles, half-written lines, foreign files, two runs."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import closing

import pytest

from internvl35.errors import DataError
from internvl35.serve.batch_input import URL, BatchInput
from internvl35.serve.batch_output import BatchOutput
from internvl35.serve.fields import BodyError


def row(name, text="hi"):
    body = {"messages": [{"role": "user", "content": text}]}
    return json.dumps({"custom_id": name, "method": "POST", "url": URL, "body": body})


def read_file(path, *lines):
    path.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    )
    return BatchInput(path)


@pytest.fixture
def source(tmp_path):
    return tmp_path / "in.jsonl"


def test_lines_are_read_at_their_places(source):
    requests = read_file(
        source, b"\xef\xbb\xbf" + row("a", "ä").encode(), "", "  ", f"{row('b')}\r", row("c")
    )
    assert [(found.line, found.custom_id) for found in requests.rows] == [
        (1, "a"), (4, "b"), (5, "c")
    ]  # fmt: skip
    with source.open("rb") as file:
        bodies = [requests.read(found, file) for found in reversed(requests.rows)]
    assert [body["messages"][0]["content"] for body in bodies] == ["hi", "hi", "ä"]


def test_doubled_names_are_refused_with_their_lines(source):
    lines = [row("a"), row("b"), row("a", "x"), row("c"), row("b"), row("a")]
    with pytest.raises(DataError) as found:
        read_file(source, *lines)
    message = str(found.value)
    assert '"a" on lines 1 and 3, "b" on lines 2 and 5, "a" on lines 1 and 6' in message
    with pytest.raises(DataError, match="and 3 more"):
        read_file(source, *[row("a")] * 9)


@pytest.mark.parametrize(
    "line",
    [
        b"{", b"\xff\xfe", b"[" * 100_000, b"7", b"{}", b'{"custom_id": 5}', b'{"custom_id": ""}',
        b'{"custom_id": null, "body": {}}',
    ],
)  # fmt: skip
def test_lines_without_a_name_are_rows_of_their_own(source, line):
    requests = read_file(source, line, row("a"), line)
    assert [found.custom_id for found in requests.rows] == [None, "a", None]
    assert len({found.row_id for found in requests.rows}) == 3
    with source.open("rb") as file:
        for place in (0, 2):
            with pytest.raises(BodyError):
                requests.read(requests.rows[place], file)


@pytest.mark.parametrize("lines", [(), ("", " ")])
def test_a_file_without_rows_is_refused(source, lines):
    with pytest.raises(DataError, match="holds no row"):
        read_file(source, *lines)
    with pytest.raises(DataError, match="cannot be read"):
        BatchInput(source.with_name("none.jsonl"))


def test_a_file_is_not_held_in_memory(source):
    with source.open("w") as file:
        for number in range(200):
            file.write(row(f"row {number}", "x" * 100_000) + "\n")  # 20 MB in all
    tracemalloc.start()
    requests = BatchInput(source)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(requests.rows) == 200
    assert most < 2_000_000


ANSWER = {
    "response": {"status_code": 200, "request_id": "r", "body": {"x": "ü\ud800\n"}},
    "error": None,
}
FAILURE = {"response": None, "error": {"code": "invalid_row", "message": "no"}}


@pytest.fixture
def requests(source):
    return read_file(source, row("a"), row("b"), "{", row("\ud800"))


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "out.jsonl"


def write(target, requests, *places, fingerprint="fp_1"):
    with closing(BatchOutput(target, requests.rows, fingerprint)) as output:
        for place in places:
            output.append(requests.rows[place], FAILURE if place == 2 else ANSWER)
        return output


def test_a_file_is_gone_on_with_behind_a_half_written_line(target, requests):
    write(target, requests, 0, 2)
    whole = target.read_bytes()
    write(target, requests, 3)
    last = target.read_bytes()[len(whole) :]
    for length in range(len(last)):  # a kill can cut a line anywhere
        target.write_bytes(whole + last[:length])
        output = write(target, requests)
        assert target.read_bytes() == whole
        assert output.done == {requests.rows[0].row_id, requests.rows[2].row_id}
        assert output.num_failed == 1
    write(target, requests, 1, 3)
    lines = [json.loads(line) for line in target.read_bytes().splitlines()]
    assert [line["custom_id"] for line in lines] == ["a", None, "b", "\ud800"]
    assert lines[3]["response"]["body"] == {"x": "ü\ud800\n"}


def test_answers_to_other_rows_are_not_gone_on_with(target, source, requests):
    write(target, requests, 0, 1)
    kept = target.read_bytes()
    changed = read_file(source, row("a", "changed"), row("b"))
    with pytest.raises(DataError, match=r'line 1 .* answers the changed row "a"'):
        BatchOutput(target, changed.rows, "fp_1")
    fewer = read_file(source, row("a"), row("c"))
    with pytest.raises(DataError, match=r'line 2 .* answers a row that is not there: "b"'):
        BatchOutput(target, fewer.rows, "fp_1")
    moved = read_file(source, row("new"), row("b"), row("a"))
    assert len(write(target, moved).done) == 2
    assert target.read_bytes() == kept


def test_answers_under_other_settings_are_not_gone_on_with(target, requests):
    line = {"response": {"status_code": 200, "body": {"system_fingerprint": "fp_1"}}}
    with closing(BatchOutput(target, requests.rows, "fp_1")) as output:
        output.append(requests.rows[0], line)
    with pytest.raises(DataError, match="another checkpoint or other options"):
        BatchOutput(target, requests.rows, "fp_2")


@pytest.mark.parametrize(
    "content", [b"notes\n", b"notes", b'{"id": "x"}\n', b"\x00\x01\n", b'{"id": "batch_req_1"\n']
)
def test_a_file_that_holds_something_else_is_left_alone(target, requests, content):
    target.parent.mkdir()
    target.write_bytes(content)
    with pytest.raises(DataError, match=r"line 1 of .* is no answer of this command"):
        BatchOutput(target, requests.rows, "fp_1")
    assert target.read_bytes() == content


def test_a_line_that_stands_twice_is_refused(target, requests):
    write(target, requests, 0)
    target.write_bytes(target.read_bytes() * 2)
    with pytest.raises(DataError, match=r'line 2 .* answers "a" for the second time'):
        BatchOutput(target, requests.rows, "fp_1")


def test_two_runs_do_not_write_one_file(target, requests):
    with (
        closing(BatchOutput(target, requests.rows, "fp_1")),
        pytest.raises(DataError, match="another run writes"),
    ):
        BatchOutput(target, requests.rows, "fp_1")
    write(target, requests, 0)


def test_places_that_take_no_file_are_refused(tmp_path, requests):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "out.jsonl"):
        with pytest.raises(DataError, match="name another file"):
            BatchOutput(path, requests.rows, "fp_1")
