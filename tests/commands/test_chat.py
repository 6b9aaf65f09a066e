"""``internvl35 chat``: what it prints, what it refuses, and what reaches the model."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken
from typer.main import get_command

from internvl35 import SamplingSettings, cli, load
from internvl35.chat import Chat
from internvl35.commands.chat import SystemOptions, load_chat
from internvl35.commands.checkpoint import HubOptions, ModelOptions
from internvl35.commands.options import shown
from internvl35.commands.pictures import PictureOptions
from internvl35.config import TINY_FOLDER
from internvl35.conversation import Reply
from internvl35.data.prompt import PromptSettings
from internvl35.data.templates import TEMPLATES
from internvl35.data.tokenizer import load_tokenizer, save_tokenizer
from internvl35.errors import ConfigError

ROOT = Path(__file__).parents[2]
QUESTION = "What is it?"


@pytest.fixture(scope="module")
def chat(random_checkpoint):
    return load(random_checkpoint)


@pytest.fixture
def ask(run, random_checkpoint):
    """Ask the random checkpoint, with short answers unless the arguments say otherwise."""

    def with_model(*arguments):
        given = [] if "--max-tokens" in arguments else ["--max-tokens", "6"]
        return run("chat", "--model", random_checkpoint, *given, *arguments)

    return with_model


def child_environment():
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("flags", [(), ("--stream",), ("--no-stream",)])
def test_stdout_is_the_answer_and_a_line_break(ask, chat, wide_picture, flags):
    reply = chat.ask(QUESTION, [wide_picture], sampling=SamplingSettings(max_tokens=6))
    code, out, err = ask("--image", wide_picture, QUESTION, *flags)
    assert (code, out) == (0, reply.text + "\n")
    assert reply.finish_reason == "length"
    assert err == "(cut after 6 tokens; --max-tokens allows more)\n"


def test_json_holds_every_field_of_the_reply_but_the_conversation(
    ask, chat, random_checkpoint, wide_picture
):
    reply = chat.ask(QUESTION, [wide_picture], sampling=SamplingSettings(max_tokens=6))
    code, out, err = ask("-i", wide_picture, QUESTION, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert out == json.dumps(found) + "\n"
    for name in ("seconds", "seconds_to_first_token", "seconds_to_load"):
        assert found.pop(name) > 0
    assert found == {
        "text": reply.text,
        "thinking": None,
        "finish_reason": "length",
        "num_prompt_tokens": reply.num_prompt_tokens,
        "num_visual_tokens": 16,
        "num_tiles": 4,
        "num_new_tokens": 6,
        "logprobs": None,
        "num_compressed_tiles": 0,
        "routing": None,
        "model": str(random_checkpoint),
    }


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_a_question_comes_from_a_pipe(ask, chat, type_in, arguments):
    type_in(f"  {QUESTION} 多少？\n".encode())
    reply = chat.ask(f"{QUESTION} 多少？", sampling=SamplingSettings(max_tokens=6))
    code, out, _ = ask(*arguments)
    assert (code, out) == (0, reply.text + "\n")


def test_a_question_given_leaves_stdin_alone(ask, type_in):
    type_in(b"\xff")
    assert ask(QUESTION)[0] == 0


@pytest.mark.parametrize(
    ("typed", "found"),
    [(b"", "stdin holds no question"), (b" \n", "stdin holds no question"), (b"ab\xff", "byte 2")],
)
def test_a_pipe_without_a_question_is_refused(ask, type_in, typed, found):
    type_in(typed)
    code, out, err = ask()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("PromptError: ")
    assert found in err


def count_prompt_tokens(chat, settings):
    builder = dataclasses.replace(chat.builder.settings, **settings)
    other = Chat(chat.model, chat.tokenizer, prompt=builder)
    return other.ask(QUESTION, sampling=SamplingSettings(max_tokens=1)).num_prompt_tokens


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ((), {"system_prompt": "official"}),
        (("--system", "none"), {"system_prompt": "none"}),
        (("--system", "Be brief."), {"system_prompt": "Be brief."}),
        (("--thinking",), {"is_thinking": True}),
    ],
)
def test_the_system_prompt_is_the_one_asked_for(ask, chat, flags, settings):
    found = json.loads(ask(QUESTION, "--json", *flags)[1])
    assert found["num_prompt_tokens"] == count_prompt_tokens(chat, settings)


def test_the_template_is_that_of_the_checkpoint(random_checkpoint, tmp_path):
    folder = shutil.copytree(random_checkpoint, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    config["template"] = "internvl3_5_gpt_oss"
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder)
    names = TEMPLATES["internvl3_5_gpt_oss"].control_tokens
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken(name) for name in names])
    save_tokenizer(tokenizer, folder)
    chat = load_chat(
        ModelOptions(str(folder)), HubOptions(), PictureOptions(), SystemOptions("none", True)
    )
    assert chat.builder.template.name == "internvl3_5_gpt_oss"
    assert chat.builder.settings.is_thinking
    assert chat.builder.settings.system_prompt == "none"


def test_tiles_are_as_many_as_asked_for(ask, wide_picture):
    pictures = ("-i", wide_picture, "-i", wide_picture)
    found = [json.loads(ask(*pictures, QUESTION, "--json", *more)[1]) for more in
             ((), ("--max-tiles", "1"), ("--max-tiles", "2"))]  # fmt: skip
    assert [entry["num_tiles"] for entry in found] == [8, 2, 6]


def test_sampling_flags_reach_the_choice_of_tokens(ask, chat):
    sampling = SamplingSettings(
        max_tokens=12, temperature=1.5, top_p=0.9, top_k=40, min_p=0.01, repetition_penalty=1.1,
        seed=5,
    )  # fmt: skip
    flags = [
        "--max-tokens", "12", "--temperature", "1.5", "--top-p", "0.9", "--top-k", "40",
        "--min-p", "0.01", "--repetition-penalty", "1.1",
    ]  # fmt: skip
    expected = chat.ask(QUESTION, sampling=sampling).text
    assert ask(QUESTION, *flags, "--seed", "5")[1] == expected + "\n"
    assert ask(QUESTION, *flags, "--seed", "6")[1] != expected + "\n"


def test_a_stop_text_ends_the_answer(ask, chat):
    whole = chat.ask(QUESTION, sampling=SamplingSettings(max_tokens=12)).text
    mark = next(character for character in whole[3:] if character.isalpha())
    found = json.loads(ask(QUESTION, "--max-tokens", "12", "--stop", mark, "--json")[1])
    assert found["text"] == whole.split(mark)[0].strip()
    assert found["finish_reason"] == "stop"


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(20):
            frame = np.full((64, 64, 3), number * 10, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_frames_and_bound_choose_from_a_video(ask, video, monkeypatch):
    found = json.loads(ask("--video", video, QUESTION, "--json")[1])
    assert found["num_tiles"] == 8
    asked = []
    original = Chat.stream

    def note_video(self, *arguments, **options):
        asked.append(options["video"])
        return original(self, *arguments, **options)

    monkeypatch.setattr(Chat, "stream", note_video)
    flags = ("--frames", "3", "--bound", "0.5:1.25")
    found = json.loads(ask("--video", video, *flags, QUESTION, "--json")[1])
    assert found["num_tiles"] == 3
    assert (asked[0].num_frames, asked[0].bound) == (3, (0.5, 1.25))


def test_reference_images_ignore_orientation_and_alpha(tmp_path):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGBA", (30, 10), (255, 0, 0, 0)).save(path, exif=exif)
    [upright] = PictureOptions().open_images([str(path)])
    [reference] = PictureOptions(reference_images=True).open_images([str(path)])
    assert (upright.size, upright.getpixel((0, 0))) == ((10, 30), (255, 255, 255))
    assert (reference.size, reference.getpixel((0, 0))) == ((30, 10), (255, 0, 0))


MISTAKES = [
    ([QUESTION, "-i", "none.png"], "MediaError: none.png does not exist"),
    ([QUESTION, "--video", "none.mp4"], "MediaError: none.mp4 does not exist"),
    ([QUESTION, "-i", "http://127.0.0.1/x.png"], "pass --allow-http"),
    ([QUESTION, "--video", "http://127.0.0.1/x.mp4"], "pass --allow-http"),
    ([QUESTION, "-i", "http://127.0.0.1/x.png", "--allow-http"], "not of the public internet"),
    ([QUESTION, "--top-p", "3"], "ConfigError: top_p is 3.0"),
    ([QUESTION, "--max-tiles", "0"], "ConfigError: max_tiles is 0"),
    ([QUESTION, "--frames", "0", "--video", "x"], "ConfigError: frames is 0"),
    ([QUESTION, "--frames", "4"], "give --video too"),
    ([QUESTION, "--bound", "0:1"], "give --video too"),
    ([QUESTION, "--bound", "3:1", "--video", "x"], "0 <= START < END"),
    ([QUESTION, "--bound", "3", "--video", "x"], "needed: START:END"),
    ([QUESTION, "--stream", "--json"], "exclude each other"),
    ([QUESTION, "--stop", ""], "ConfigError: stop is"),
    (["  "], "PromptError: the question is empty"),
]


@pytest.mark.parametrize(("arguments", "found"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_line_and_exit_code_2(ask, arguments, found):
    code, out, err = ask(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert found in err


def test_a_checkpoint_that_is_not_there_is_named(run, tmp_path):
    code, out, err = run("chat", "-m", tmp_path / "none", QUESTION)
    assert (code, out) == (2, "")
    assert err.startswith("CheckpointError: no checkpoint")


def test_an_unknown_option_exits_2(ask):
    code, out, err = ask(QUESTION, "--tempreature", "1")
    assert (code, out) == (2, "")
    assert "--temperature" in err


def test_an_interrupt_exits_130_and_shows_nothing(ask, monkeypatch):
    def interrupt(self, *arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Chat, "stream", interrupt)
    assert ask(QUESTION) == (130, "", "")


def test_a_conversation_prints_no_json(run, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    code, _, err = run("chat", "--json")
    assert code == 2
    assert "give a question too" in err


def test_flags_are_those_that_scripts_rely_on():
    command = get_command(cli.app).commands["chat"]
    flags = {flag for parameter in command.params for flag in parameter.opts if "-" in flag}
    assert flags == {
        "--image", "-i", "--video", "--frames", "--bound", "--max-tiles", "--reference-images",
        "--allow-http", "--system", "--thinking", "--max-tokens", "--temperature", "--top-p",
        "--top-k", "--min-p", "--repetition-penalty", "--seed", "--stop", "--stream", "--json",
        "--flash", "--flash-threshold", "--flash-quantile", "--show-tiles",
        "--model", "-m", "--dtype", "--device-map", "--int8", "--hub", "--revision", "--offline",
    }  # fmt: skip


def test_defaults_are_those_of_the_python_api():
    command = get_command(cli.app).commands["chat"]
    given = {parameter.name: parameter.default for parameter in command.params}
    for field in shown(SamplingSettings):
        expected = list(field.default) if isinstance(field.default, tuple) else field.default
        assert given[field.name] == expected, field.name
    assert "max_tokens" in given
    assert "logit_bias" not in given
    assert given["system"] == PromptSettings().system_prompt
    assert "8 if not given" in next(p.help for p in command.params if p.name == "frames")


def test_a_process_prints_the_answer_alone_and_loads_nothing_it_does_not_need(
    random_checkpoint, wide_picture, chat
):
    code = (
        "import sys\nfrom internvl35 import cli\n"
        "try:\n    cli.main(sys.argv[1:])\n"
        "finally:\n"
        "    unneeded = {'matplotlib', 'scipy', 'sklearn', 'pandas', 'IPython', 'rich',\n"
        "                'internvl35.train.rounds', 'internvl35.evals',\n"
        "                'internvl35.data.synthetic'}\n"
        "    sys.stderr.write(repr(unneeded & set(sys.modules)))\n"
    )
    arguments = ["chat", "-m", str(random_checkpoint), "-i", str(wide_picture), QUESTION]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--max-tokens", "6", "--temperature", "0"],
        env=child_environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    expected = chat.ask(QUESTION, [wide_picture], sampling=SamplingSettings(max_tokens=6)).text
    assert done.stdout == expected + "\n"
    assert done.stderr == "(cut after 6 tokens; --max-tokens allows more)\nset()"
    assert done.returncode == 0


class Terminal:
    """The other end of a terminal that a process believes to sit at."""

    def __init__(self, process: subprocess.Popen[bytes], end: int) -> None:
        self.process = process
        self.end = end
        self.seen = ""

    def read_until(self, text: str) -> str:
        """Wait for a text; returns it and what came before it."""
        while text not in self.seen:
            self._read_more(text)
        found, _, self.seen = self.seen.partition(text)
        return found + text

    def read_at_least(self, num_characters: int) -> None:
        while len(self.seen) < num_characters:
            self._read_more(num_characters)

    def _read_more(self, wanted: object) -> None:
        while not select.select([self.end], [], [], 5)[0]:
            assert self.process.poll() is None, f"ended without {wanted!r}: {self.seen!r}"
        try:
            self.seen += os.read(self.end, 4096).decode(errors="replace")
        except OSError as error:  # how Linux says that the other end is closed
            raise AssertionError(f"ended without {wanted!r}: {self.seen!r}") from error

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())


def heed_interrupts():
    """What a shell starts in the background ignores interrupts, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def endless_checkpoint(random_checkpoint, tmp_path):
    """One that never ends an answer by itself: its end tokens are never the likeliest."""
    chat, folder = load(random_checkpoint), tmp_path / "endless"
    with torch.no_grad():
        chat.model.language_model.lm_head.weight[list(chat.rules.end_token_ids)] = 0
    chat.model.save_pretrained(folder, layout="remote-code")
    save_tokenizer(chat.tokenizer, folder)
    return folder


@pytest.fixture
def terminal(endless_checkpoint):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    arguments = ["chat", "-m", str(endless_checkpoint), "--max-tokens", "1800"]
    process = subprocess.Popen(
        [sys.executable, "-m", "internvl35.cli", *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, env=child_environment(), start_new_session=True,
        preexec_fn=heed_interrupts,
    )  # fmt: skip
    os.close(theirs)
    yield Terminal(process, ours)
    process.kill()
    process.wait()
    os.close(ours)


def test_at_a_terminal_an_interrupt_stops_the_answer_and_the_conversation_goes_on(terminal):
    shown = terminal.read_until("> ")
    assert "loading" in shown
    assert "/help" in shown
    terminal.type("/image none.png\n")
    assert "MediaError: none.png does not exist" in terminal.read_until("\r\n> ")
    terminal.type("Tell me all.\n")
    terminal.read_until("Tell me all.\r\n")
    terminal.read_at_least(20)  # the answer has begun
    terminal.process.send_signal(signal.SIGINT)
    assert "(stopped" in terminal.read_until("\r\n> ")
    terminal.type("/reset\n")
    assert "(forgotten)" in terminal.read_until("\r\n> ")
    terminal.type("\x04")
    assert terminal.process.wait() == 0


@pytest.mark.parametrize("options", [{"frames": 0}, {"max_tiles": -1}, {"bound": "a:b"}])
def test_picture_options_out_of_range_are_refused_before_anything_is_loaded(options):
    with pytest.raises(ConfigError):
        PictureOptions(**options)


def test_eight_bit_weights_need_their_package(ask, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    code, _, err = ask(QUESTION, "--int8")
    assert code == 2
    assert "internvl35[int8]" in err


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_come_in_the_number_format_asked_for(random_checkpoint, dtype):
    chat = load_chat(
        ModelOptions(str(random_checkpoint), dtype, "cpu"),
        HubOptions(), PictureOptions(), SystemOptions(),
    )  # fmt: skip
    assert chat.model.dtype == getattr(torch, dtype)


def test_the_reply_has_no_field_that_json_would_miss():
    names = {field.name for field in dataclasses.fields(Reply)}
    assert names == {
        "text", "thinking", "finish_reason", "num_prompt_tokens", "num_visual_tokens", "num_tiles",
        "num_new_tokens", "seconds", "seconds_to_first_token", "conversation", "logprobs",
        "num_compressed_tiles", "routing",
    }  # fmt: skip


def test_names_are_looked_up_as_the_options_say(monkeypatch, random_checkpoint):
    asked = []

    def resolve(name, **options):
        asked.append((name, options))
        return random_checkpoint

    monkeypatch.setattr("internvl35.model.hub.resolve_checkpoint", resolve)
    hub = HubOptions("modelscope", "v1", offline=True)
    chat = load_chat(ModelOptions("owner/name"), hub, PictureOptions(), SystemOptions())
    assert isinstance(chat, Chat)
    options = {"hub": "modelscope", "revision": "v1", "offline": True, "show_progress": False}
    assert asked == [("owner/name", options)]


@pytest.mark.skipif(not TINY_FOLDER.is_dir(), reason="no embedded checkpoint here yet")
def test_the_embedded_checkpoint_answers_where_no_other_is_named(run):
    chat = load()
    expected = chat.ask("Hello", sampling=SamplingSettings(max_tokens=8)).text
    code, out, _ = run("chat", "Hello", "--max-tokens", "8")
    assert (code, out) == (0, expected + "\n")
