"""``internvl35 batch``: what it writes and prints, and what a kill at any time leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from batch_stubs import EchoEngine, StubChat

from internvl35 import Question, SamplingSettings, load
from internvl35.commands import batch
from internvl35.serve.batch_input import URL

ROOT = Path(__file__).parents[2]
NUM_ROWS = 60

CHILD = f"""
import sys
from contextlib import contextmanager
sys.path.insert(0, {str(ROOT / "tests" / "shared")!r})
from batch_stubs import EchoEngine, StubChat
from internvl35 import cli
from internvl35.commands import batch

@contextmanager
def start_engine(chat):
    yield EchoEngine(lambda text: 0.02)

batch.load_chat = lambda *options: StubChat()
batch.start_engine = start_engine
batch.silence_libraries = lambda: None
cli.main(["batch", sys.argv[1], sys.argv[2], "--max-rows", "3", "--json"])
"""


def write_rows(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def make_row(name, text, **body):
    messages = [{"role": "user", "content": text}]
    return {
        "custom_id": name, "method": "POST", "url": URL, "body": {"messages": messages, **body}
    }  # fmt: skip


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def text_of(line):
    return line["response"]["body"]["choices"][0]["message"]["content"]


@pytest.fixture
def engine(monkeypatch):
    """Stand in for the model, and keep what reaches the engine."""
    engine = EchoEngine()

    @contextmanager
    def start_engine(chat):
        yield engine

    monkeypatch.setattr(batch, "load_chat", lambda *options: StubChat())
    monkeypatch.setattr(batch, "start_engine", start_engine)
    return engine


@pytest.fixture
def files(tmp_path):
    source = write_rows(
        tmp_path / "in.jsonl",
        [make_row("a", "one"), make_row("b", "two", temperature=9999), make_row("c", "three")],
    )
    return source, tmp_path / "out.jsonl"


def test_answers_are_written_and_counted(run, engine, files):
    code, out, err = run("batch", *files, "--max-tokens", 9, "--flash", "off")
    assert code == 0
    assert {line["custom_id"]: line["response"]["status_code"] for line in read(files[1])} == {
        "a": 200, "b": 400, "c": 200
    }  # fmt: skip
    assert "line 2: temperature is 9999.0; needed: 0 to 100" in err
    lines = out.splitlines()
    assert lines[0] == "rows: 3, 1 of them could not be answered"
    assert lines[1].startswith("this run: 3 rows in ")
    assert lines[2].startswith("new tokens: 10, ")  # ONE and THREE with an end each
    assert lines[3].startswith("prompt tokens: 8, ")
    assert lines[4] == "tiles: 0, 0.0 a second"
    assert [(sampling.max_tokens, flash.policy) for _, sampling, flash in engine.seen] == [
        (9, "off")
    ] * 2
    (line,) = (line for line in read(files[1]) if line["custom_id"] == "a")
    body = line["response"]["body"]
    assert (body["model"], body["object"]) == ("tiny", "chat.completion")


def test_the_summary_is_json_if_that_is_wanted(run, engine, files):
    code, out, _ = run("batch", *files, "--json")
    facts = json.loads(out)
    assert (code, facts["num_rows"], facts["num_failed"]) == (0, 3, 1)
    done = facts["this_run"]
    assert (done["num_rows"], done["num_new_tokens"], done["num_tiles"]) == (3, 10, 0)
    assert done["tokens_per_second"] == pytest.approx(10 / done["seconds"])
    code, out, err = run("batch", *files, "--json")
    assert json.loads(out) == {"num_rows": 3, "num_failed": 1}
    assert "holds 3 of 3 answers" in err
    assert len(engine.seen) == 2


def test_other_options_do_not_go_on_with_a_file(run, engine, files):
    assert run("batch", *files)[0] == 0
    kept = files[1].read_bytes()
    code, _, err = run("batch", *files, "--temperature", 0.5)
    assert code == 2
    assert "another checkpoint or other options" in err
    assert run("batch", *files, "--max-rows", 7, "--offline")[0] == 0
    assert files[1].read_bytes() == kept


def test_mistakes_are_told_before_a_model_is_loaded(run, files, tmp_path, monkeypatch):
    monkeypatch.delattr(batch, "load_chat")
    source, target = files
    assert "which is no folder" in run("batch", *files, "--media-root", tmp_path / "none")[2]
    assert "max_rows is 0" in run("batch", *files, "--max-rows", 0)[2]
    assert "holds the requests" in run("batch", source, source)[2]
    assert "cannot be read" in run("batch", tmp_path / "none.jsonl", target)[2]
    doubled = write_rows(tmp_path / "doubled.jsonl", [make_row("a", "x"), make_row("a", "y")])
    assert '"a" on lines 1 and 2' in run("batch", doubled, target)[2]
    assert not target.exists()


def test_answers_are_those_of_a_chat(run, random_checkpoint, wide_picture, tmp_path):
    chat = load(random_checkpoint)
    shown = {"type": "image_url", "image_url": {"url": wide_picture.name}}
    questions = {
        "text": Question("Who are you?"),
        "one": Question("What is it?", [wide_picture]),
        "two": Question("Describe the two images in detail.", [wide_picture] * 2),
        "again": Question("What is it?", [wide_picture]),
    }
    rows = [
        make_row(
            name, [*[shown] * len(question.images), {"type": "text", "text": question.text}],
            logprobs=True,
        )
        for name, question in questions.items()
    ]  # fmt: skip
    rows.append(make_row("outside", [{"type": "image_url", "image_url": {"url": "../x.png"}}]))
    source, target = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    code, out, err = run(
        "batch", source, target, "--model", random_checkpoint, "--max-tokens", 8,
        "--media-root", wide_picture.parent, "--json",
    )  # fmt: skip
    assert code == 0, err
    found = {line["custom_id"]: line["response"] for line in read(target)}
    assert found.pop("outside")["status_code"] == 400
    replies = chat.ask_batch(
        list(questions.values()), SamplingSettings(max_tokens=8), has_logprobs=True
    )
    for name, reply in zip(questions, replies, strict=True):
        (choice,) = found[name]["body"]["choices"]
        assert choice["message"]["content"] == reply.text
        assert choice["finish_reason"] == reply.finish_reason
        usage = found[name]["body"]["usage"]
        assert usage["prompt_tokens"] == reply.num_prompt_tokens
        assert usage["completion_tokens"] == reply.num_new_tokens
        values = [token["logprob"] for token in choice["logprobs"]["content"]]
        assert reply.logprobs is not None
        assert values == pytest.approx(reply.logprobs[: len(values)], abs=1e-4)
    assert json.loads(out)["this_run"]["num_tiles"] == sum(reply.num_tiles for reply in replies)


def test_a_kill_loses_and_doubles_no_row(run, engine, tmp_path):
    rows = [make_row(f"row {number}", f"text {number}") for number in range(NUM_ROWS)]
    source, target = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(source), str(target)]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    while not target.exists() or target.read_bytes().count(b"\n") < NUM_ROWS // 3:
        assert child.poll() is None, "the run ended before it was killed"
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    content = target.read_bytes()
    num_lines = content.count(b"\n")
    assert NUM_ROWS // 3 <= num_lines < NUM_ROWS
    # as if the kill had come while the last line was being written
    target.write_bytes(content[: content.rfind(b"\n") - 20])
    code, out, _ = run("batch", source, target, "--max-rows", 3, "--json")
    assert code == 0
    assert {line["custom_id"]: text_of(line) for line in read(target)} == {
        f"row {number}": f"TEXT {number}" for number in range(NUM_ROWS)
    }
    assert target.read_bytes().count(b"\n") == NUM_ROWS
    left = json.loads(out)["this_run"]["num_rows"]
    assert left == NUM_ROWS - num_lines + 1
