"""The conversation at the terminal, with a chat that says what the test wants."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import pytest
from PIL import Image

from internvl35.commands.dialogue import HELP, Dialogue
from internvl35.commands.pictures import PictureOptions
from internvl35.conversation import Conversation, Piece, Reply
from internvl35.data.prompt import Message
from internvl35.errors import PromptError
from internvl35.generate.sampling import SamplingSettings


class ScriptedStream:
    def __init__(self, pieces, reply):
        self.pieces = iter(pieces)
        self.reply = reply
        self.is_closed = False

    def __iter__(self):
        return self

    def __next__(self):
        item = next(self.pieces)
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self):
        self.is_closed = True


@dataclass
class ScriptedChat:
    """Gives each question the next answer: pieces, the last of which may be an exception."""

    answers: list
    asked: list = field(default_factory=list)
    streams: list = field(default_factory=list)

    def stream(self, text, images, *, video, conversation, sampling, flash):
        self.asked.append((text, list(images), video, conversation))
        pieces = self.answers.pop(0)
        if isinstance(pieces, Exception):
            raise pieces
        said = "".join(p.text for p in pieces if isinstance(p, Piece) and not p.is_thinking)
        messages = (*conversation.messages, Message("user", text), Message("assistant", said))
        reply = Reply(said, None, "stop", 1, 0, 0, 3, 0.1, 0.1, Conversation(messages))
        self.streams.append(ScriptedStream(pieces, reply))
        return self.streams[-1]


@pytest.fixture
def talk(capsys):
    """Type lines into a conversation; gives chat, dialogue, stdout and stderr."""

    def run(lines, answers, images=(), video=None):
        typed = iter(lines)

        def read_line():
            line = next(typed, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        chat = ScriptedChat(answers)
        dialogue = Dialogue(
            chat, PictureOptions(), SamplingSettings(), list(images), video, read_line
        )
        dialogue.run("tiny")
        printed = capsys.readouterr()
        return chat, dialogue, printed.out, printed.err

    return run


def say(*texts):
    return [Piece(text, is_thinking=False) for text in texts]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a picture.png"
    Image.new("RGB", (12, 8)).save(path)
    return path


def test_answers_are_printed_and_the_conversation_is_passed_on(talk):
    chat, dialogue, out, _ = talk(["One?", "", "  Two? "], [say("fi", "rst"), say("second")])
    assert out == "first\nsecond\n"
    assert [entry[0] for entry in chat.asked] == ["One?", "Two?"]
    assert [message.text for message in chat.asked[1][3].messages] == ["One?", "first"]
    assert len(dialogue.conversation.messages) == 4


def test_pictures_are_shown_once_and_with_the_next_question(talk, picture):
    first = Image.new("RGB", (3, 4))
    lines = ["One?", f"/image {picture}", f'/image "{picture}" "{picture}"', "Two?", "Three?"]
    chat, _, _, err = talk(lines, [say("a"), say("b"), say("c")], images=[first])
    assert [[image.size for image in entry[1]] for entry in chat.asked] == [
        [(3, 4)], [(12, 8)] * 3, [],
    ]  # fmt: skip
    assert "(with the next question: 12x8, 12x8, 12x8)" in err


def test_a_video_is_shown_with_the_next_question(talk, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"not looked into yet")
    chat, _, _, _ = talk([f"/video {path}", "One?", "Two?"], [say("a"), say("b")])
    assert [entry[2] and entry[2].source for entry in chat.asked] == [str(path), None]


def test_an_error_is_one_line_and_the_conversation_goes_on(talk, picture):
    wrong = ["/image none.png", "/video", "/image", "/image '", "/dance"]
    lines = [f"/image {picture}", "One?", *wrong, "Two?"]
    chat, _, out, err = talk(lines, [PromptError("too\nlong"), say("b")])
    assert out == "b\n"
    notes = err.splitlines()
    assert "PromptError: too long" in notes
    assert "MediaError: none.png does not exist" in notes
    assert "PromptError: /video needs the path of one video, not 0" in notes
    assert "PromptError: /image needs the path of a picture" in notes
    assert 'PromptError: "\'" is not a list of paths: No closing quotation' in notes
    assert "PromptError: unknown command /dance; /help lists them" in notes
    assert [len(entry[1]) for entry in chat.asked] == [1, 1]  # the picture is still to be shown


def test_an_interrupted_answer_is_not_part_of_the_conversation(talk, picture):
    lines = [f"/image {picture}", "One?", "Two?"]
    chat, dialogue, out, err = talk(lines, [[*say("fir"), KeyboardInterrupt()], say("second")])
    assert out == "firsecond\n"
    assert "(stopped" in err
    assert chat.streams[0].is_closed
    assert [len(entry[1]) for entry in chat.asked] == [1, 1]
    assert chat.asked[1][3] == Conversation()
    assert [message.text for message in dialogue.conversation.messages] == ["Two?", "second"]


@pytest.mark.parametrize("ending", [EOFError(), KeyboardInterrupt(), "/quit", "/exit"])
def test_leaving_is_clean(talk, ending):
    chat, _, out, err = talk([ending, "never asked"], [])
    assert chat.asked == []
    assert out == ""
    assert "Traceback" not in err


def test_reset_forgets_everything(talk, picture):
    lines = ["One?", f"/image {picture}", "/reset", "Two?"]
    chat, _, _, _ = talk(lines, [say("a"), say("b")])
    assert chat.asked[1][1:] == ([], None, Conversation())


def test_help_goes_to_stderr(talk):
    _, _, out, err = talk(["/help"], [])
    assert out == ""
    assert HELP in err


def test_a_path_in_front_of_a_question_is_no_command(talk):
    chat, _, _, _ = talk(["/etc/hosts, what is it for?", "/9 is what?"], [say("a"), say("b")])
    assert [entry[0] for entry in chat.asked] == ["/etc/hosts, what is it for?", "/9 is what?"]


def test_reasoning_is_dimmed_on_a_terminal_and_left_out_elsewhere(talk, monkeypatch):
    answer = [Piece("let me ", is_thinking=True), Piece("see", is_thinking=True), *say("4", "2")]
    assert talk(["One?"], [list(answer)])[2] == "42\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out = talk(["One?"], [list(answer)])[2]
    assert out in ("\x1b[2mlet me \x1b[0m\x1b[2msee\x1b[0m\n\n42\n", "let me see\n\n42\n")
