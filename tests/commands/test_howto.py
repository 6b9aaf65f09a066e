"""The pages on the commands name only options that the commands have."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from typer.main import get_command

from internvl35 import cli
from internvl35.commands.infer import InferSettings

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
EXAMPLES = Path(__file__).parents[2] / "examples"
PAGES = {
    "batch.md": ["batch"], "bench-serve.md": ["bench", "serve"], "chat.md": ["chat"],
    "convert.md": ["convert"], "flash.md": ["chat"],
    "serve.md": ["serve"], "train-tiny.md": ["train", "tiny"],
}  # fmt: skip
TRAINED_PAGES = {"infer.md": "infer", "export.md": "export", "vico.md": "vico"}


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


def test_the_page_on_files_of_requests_names_every_option_but_those_of_sampling():
    text = (HOWTO / "batch.md").read_text(encoding="utf-8")
    sampling = {"--top-p", "--top-k", "--min-p", "--repetition-penalty", "--stop", "--help"}
    assert {flag for flag in flags_of(["batch"]) if flag not in text} - sampling == set()


def test_the_page_on_serving_names_every_option_but_those_of_sampling():
    text = (HOWTO / "serve.md").read_text(encoding="utf-8")
    sampling = {"--top-p", "--top-k", "--min-p", "--repetition-penalty", "--stop", "--help"}
    assert {flag for flag in flags_of(["serve"]) if flag not in text} - sampling == set()


def test_the_page_on_servers_names_every_option_of_theirs_and_no_other():
    text = (HOWTO / "decoupled.md").read_text(encoding="utf-8")
    own = flags_of(["serve", "vision"]) | flags_of(["serve", "language"])
    assert {flag for flag in own if flag not in text} - {"--help"} == set()
    named = set(re.findall(r"--[a-z][a-z0-9-]*", text))
    others = flags_of(["serve"]) | flags_of(["serve", "gateway"]) | flags_of(["export"])
    assert named - {"--minutes"} <= own | others  # minutes are those of the benchmark


def test_the_page_on_loads_names_every_option():
    text = (HOWTO / "bench-serve.md").read_text(encoding="utf-8")
    assert {flag for flag in flags_of(["bench", "serve"]) if flag not in text} == set()


@pytest.mark.parametrize(("page", "command"), TRAINED_PAGES.items())
def test_a_page_on_trained_checkpoints_names_only_flags_that_there_are(page, command):
    text = (HOWTO / page).read_text(encoding="utf-8")
    named = set(re.findall(r"--[a-z][a-z0-9_]*", text))
    others = flags_of(["sft"]) | flags_of(["infer"]) | flags_of(["chat"])
    assert named & flags_of([command])
    assert named <= flags_of([command]) | others


def test_the_page_on_export_names_every_flag():
    text = (HOWTO / "export.md").read_text(encoding="utf-8")
    missing = {flag for flag in flags_of(["export"]) if flag not in text}
    assert missing == {"--dtype", "--model_revision", "--help"} & missing


def test_the_page_on_infer_names_every_flag_of_its_own():
    text = (HOWTO / "infer.md").read_text(encoding="utf-8")
    own = {f"--{field.name}" for field in fields(InferSettings)}
    rare = {"--infer_backend", "--quant_bits", "--top_k", "--repetition_penalty"}
    assert {flag for flag in own if flag not in text} == rare


@pytest.mark.parametrize("page", [HOWTO / "finetune.md", EXAMPLES / "latex_ocr" / "README.md"])
def test_pages_on_fine_tuning_name_only_flags_that_there_are(page):
    text = page.read_text(encoding="utf-8")
    scripts = "".join(
        file.read_text(encoding="utf-8") for file in (EXAMPLES / "latex_ocr").glob("*.py")
    )
    named = set(re.findall(r"--[a-z][a-z0-9_-]*", text))
    known = set().union(*(flags_of([name]) for name in ("sft", "infer", "export", "chat")))
    known |= flags_of(["data", "check"]) | {"--nproc_per_node", "--logdir"}
    known |= {f"--{name.replace('_', '-')}" for name in re.findall(r'"([a-z_]+)"', scripts)}
    known |= set(re.findall(r'"(--[a-z-]+)"', scripts))
    assert {"--lora_rank", "--modules_to_save"} <= named
    assert named <= known
