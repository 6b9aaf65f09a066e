"""``internvl35 bench serve``: figures of a load in a file, a picture and lines."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from internvl35 import cli
from internvl35.errors import ServerError
from internvl35.serve.bench import run
from internvl35.serve.bench.settings import Outcome


def bench(capsys, *arguments):
    with pytest.raises(SystemExit) as ending:
        cli.main(["bench", "serve", *arguments])
    captured = capsys.readouterr()
    return ending.value.code or 0, captured.out, captured.err


@pytest.fixture
def asked(monkeypatch):
    """What the load was asked for, answered at once."""
    calls = []

    async def answer(settings, key=None, on_end=None):
        calls.append((settings, key))
        outcome = Outcome("answered", 0.0, 1.0, 200, None, 0.25, 16, 100, 50, 64, 256)
        on_end(outcome)
        return "8B", [outcome] * settings.num_requests

    monkeypatch.setattr(run, "run_load", answer)
    return calls


def test_figures_are_written_drawn_and_told(capsys, tmp_path, asked):
    target = tmp_path / "load.json"
    (tmp_path / "keys").write_text("sk-0123456789abcdef\nsk-another-0123456\n")
    options = ("--rate", "2.5", "--num-requests", "4", "--flash", "on")
    keys = ("--api-key-file", str(tmp_path / "keys"))
    code, out, _ = bench(capsys, *options, *keys, "--output", str(target))
    assert code == 0
    ((settings, key),) = asked
    assert (settings.rate, settings.flash, key) == (2.5, "on", "sk-0123456789abcdef")
    report = json.loads(target.read_text())
    assert report["counts"]["answered"] == 4
    assert report["settings"]["rate"] == 2.5
    assert "sk-" not in target.read_text() + out
    assert Image.open(tmp_path / "load.png").format == "PNG"
    assert "4 sent, 4 answered" in out
    assert "25% of those before compression" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--output", "/no/such/folder/x.json"), "is no folder"),
        (("--api-key-file", "/no/such/file"), "cannot be read"),
        (("--url", "localhost:8000"), "needed: an http or https URL"),
        (("--max-open", "0"), "max_open"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, asked, arguments, told):
    code, _, err = bench(capsys, *arguments)
    assert (code, told in err) == (2, True), err
    assert asked == []


def test_a_server_that_is_not_there_is_told_of(capsys, tmp_path, monkeypatch):
    async def fail(*arguments, **others):
        raise ServerError("nobody is there")

    monkeypatch.setattr(run, "run_load", fail)
    code, _, err = bench(capsys, "--output", str(tmp_path / "x.json"))
    assert (code, "nobody is there" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []
