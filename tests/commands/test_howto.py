"""The pages on the commands name only options that the commands have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from internvl35 import cli

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
PAGES = {"chat.md": ["chat"], "convert.md": ["convert"], "train-tiny.md": ["train", "tiny"]}


def flags_of(path):
    command = get_command(cli.app)
    for name in path:
        command = command.commands[name]
    options = [parameter.opts + parameter.secondary_opts for parameter in command.params]
    return {flag for flags in options for flag in flags if flag.startswith("--")}


@pytest.mark.parametrize(("page", "path"), PAGES.items())
def test_a_page_names_only_options_that_there_are(page, path):
    text = (HOWTO / page).read_text(encoding="utf-8")
    named = set(re.findall(r"--[a-z][a-z0-9-]*", text))
    assert named
    assert named <= flags_of(path) | {"--model"}  # a page may go on to chat


def test_the_page_on_chat_names_every_option_but_those_of_sampling():
    text = (HOWTO / "chat.md").read_text(encoding="utf-8")
    sampling = {"--top-p", "--top-k", "--min-p", "--repetition-penalty", "--seed", "--stop"}
    missing = {flag for flag in flags_of(["chat"]) if flag not in text} - sampling
    assert missing == set()
