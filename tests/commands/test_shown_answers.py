"""What README and examples say that the embedded checkpoint answers is what it answers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from internvl35 import cli, load

ROOT = Path(__file__).parents[2]


def read_transcript() -> list[tuple[str, str]]:
    """Commands behind a dollar sign, and what is printed under each."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"TRANSCRIPT: begin.*?^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    parts = [part.partition("\n") for part in re.split(r"^\$ ", shown, flags=re.MULTILINE)[1:]]
    return [(command, output.strip()) for command, _, output in parts]


def test_readme_shows_the_demo_and_more():
    commands = [command for command, _ in read_transcript()]
    assert commands[0] == "make demo"
    assert len(commands) > 3


@pytest.mark.parametrize(("command", "output"), read_transcript()[1:])
def test_commands_of_readme_print_what_it_shows(command, output, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, *words = shlex.split(command)
    assert program == "internvl35"
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == output


def test_the_demo_and_the_table_of_examples_tell_the_truth():
    table = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(.+?)\]\(.+?\) \| (.+?) \| `?(.+?)`? \|$", table, re.MULTILINE)
    assert len(rows) > 3
    chat = load("tiny")
    for name, question, answer in rows:
        assert chat.ask(question, images=[ROOT / "examples" / name]).text == answer, name
    demo = dict(read_transcript())["make demo"]
    picture, question, answer = re.findall(r"^\w+: +(.+)$", demo, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"DEMO_IMAGE ?= {picture}\n" in makefile
    assert f"DEMO_QUESTION ?= {question}\n" in makefile
    assert (Path(picture).name, question, answer) in rows
