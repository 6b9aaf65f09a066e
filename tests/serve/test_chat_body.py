"""A body's prompt is the one that a chat would build, and no field is passed over in silence."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from batch_stubs import StubChat
from PIL import Image

from internvl35 import Question, load
from internvl35.conversation import Conversation
from internvl35.data.messages import Message
from internvl35.errors import ConfigError, MediaError, PromptError
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.chat_body import ChatCall, prepare, read_body
from internvl35.serve.chat_messages import AskedPicture, MediaRules
from internvl35.serve.fields import BodyError


@pytest.fixture(scope="module")
def chat(random_checkpoint):
    return load(random_checkpoint, dtype=torch.float32)


@pytest.fixture(scope="module")
def pictures():
    return [Image.effect_noise(size, 80).convert("RGB") for size in [(150, 50), (60, 60)]]


def as_part(picture, **more):
    file = io.BytesIO()
    picture.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url, **more}}


def read(body):
    return read_body(body, SamplingSettings(), MediaRules())


def ask(*content, **more):
    return {"messages": [{"role": "user", "content": list(content)}], **more}


def text(said):
    return {"type": "text", "text": said}


def assert_equal(ours, theirs):
    assert ours.prompt == theirs.prompt
    assert (ours.pixel_values is None) == (theirs.pixel_values is None)
    if ours.pixel_values is not None:
        assert torch.equal(ours.pixel_values, theirs.pixel_values)


@pytest.mark.parametrize("num_pictures", [0, 1, 2])
def test_a_question_is_the_chats_own(chat, pictures, num_pictures):
    shown = pictures[:num_pictures]
    request = prepare(chat, read(ask(*map(as_part, shown), text("What is it?"))))
    _, theirs = chat._prepare(Question("What is it?", shown))
    assert_equal(request, theirs)


def test_a_conversation_is_the_chats_own(chat, pictures):
    first = chat.ask("What is it?", pictures[:1], sampling=SamplingSettings(max_tokens=3))
    said = first.conversation.messages[-1]
    turns = ask(as_part(pictures[0]), text("What is it?"))["messages"]
    turns.append({
        "role": "assistant", "content": said.text, "reasoning_content": said.thinking
    })  # fmt: skip
    turns.append(ask(as_part(pictures[1]), text("And this?"))["messages"][0])
    request = prepare(chat, read({"messages": turns}))
    question = Question("And this?", pictures[1:], conversation=first.conversation)
    assert_equal(request, chat._prepare(question)[1])


def test_a_system_message_stands_in_for_the_official_one(chat):
    body = {"messages": [{"role": "system", "content": "Be brief."}, *ask(text("Hi"))["messages"]]}
    request = prepare(chat, read(body))
    turns = [Message("system", "Be brief."), Message("user", "Hi")]
    assert request.prompt == chat.builder.build(turns)
    assert request.prompt != prepare(chat, read(ask(text("Hi")))).prompt


def test_tiles_are_limited_by_body_and_picture(chat, pictures):
    whole = prepare(chat, read(ask(as_part(pictures[0])))).prompt.num_tiles
    assert whole == 4  # three beside one another, and a thumbnail
    low = prepare(chat, read(ask(as_part(pictures[0], detail="low"))))
    assert low.prompt.num_tiles == 1
    body = ask(
        as_part(pictures[0]), as_part(pictures[0], max_dynamic_patch=1),
        mm_processor_kwargs={"max_dynamic_patch": 2},
    )  # fmt: skip
    spans = prepare(chat, read(body)).prompt.image_spans
    assert [span.num_tiles for span in spans] == [3, 1]
    with pytest.raises(ConfigError, match="needed: 1 to 6"):
        prepare(chat, read(ask(as_part(pictures[0], max_dynamic_patch=7))))


def test_too_many_pictures_are_refused_before_all_of_them_are_opened():
    chat = StubChat(max_tokens=30)  # a tile takes 4
    call = ChatCall((Message("user", ""),), (AskedPicture("a", 2),) * 1000, SamplingSettings())
    with pytest.raises(PromptError):
        prepare(chat, call)
    assert len(chat.cuts) == 4


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (ask(text("a")) | {"messages": [{"role": "assistant", "content": "a"}]}, PromptError),
        ({"messages": ask(text("a"))["messages"] * 2}, PromptError),
        (
            ask({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
            MediaError,
        ),
    ],
)
def test_what_no_prompt_can_hold_is_refused(chat, body, error):
    with pytest.raises(error):
        prepare(chat, read(body))


def test_fields_that_change_no_answer_are_passed_over():
    call = read(ask(
        text("a"), model="gpt", user="me", metadata={"a": "b"}, store=True, tools=[],
        tool_choice="none", modalities=["text"], stream=True,
        stream_options={"include_usage": True},
    ))  # fmt: skip
    assert (call.model, call.is_streamed) == ("gpt", True)
    assert read(ask(text("a"))).is_streamed is False


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"functions": [{}]}, "functions is not supported"),
        ({"modalities": ["audio"]}, "modalities may be"),
        ({"mesages": []}, "do you mean messages?"),
        ({"max_token": 5}, "do you mean max_tokens?"),
        ({"chat_template": "{{ x }}"}, '"chat_template" is unknown'),
        ({"mm_processor_kwargs": {"size": 5}}, '"mm_processor_kwargs.size" is unknown'),
    ],
)
def test_fields_that_would_change_it_are_refused(more, message):
    with pytest.raises(BodyError) as found:
        read(ask(text("a"), **more))
    assert message in str(found.value)


@pytest.mark.parametrize("body", [None, [], "a", 5])
def test_a_body_is_an_object(body):
    with pytest.raises(BodyError, match=r"the body is .*; needed: an object") as found:
        read(body)
    assert found.value.param is None


@pytest.mark.parametrize("is_thinking", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_a_body_may_ask_for_reasoning_or_against_it(random_checkpoint, is_thinking, own):
    chat = load(random_checkpoint, dtype=torch.float32, is_thinking=own)
    expected = load(random_checkpoint, dtype=torch.float32, is_thinking=is_thinking)
    expected = expected.prepare(Conversation((Message("user", "Why?"),)))
    for said in (
        {"thinking": is_thinking},
        {"chat_template_kwargs": {"enable_thinking": is_thinking}},
    ):
        call = read(ask(text("Why?"), **said))
        assert prepare(chat, call).prompt == expected.prompt


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"thinking": "on"}, "thinking"),
        ({"chat_template_kwargs": {"template": "x"}}, "chat_template_kwargs.template"),
        ({"thinking": True, "chat_template_kwargs": {"enable_thinking": False}},
         "chat_template_kwargs.enable_thinking"),
        ({"chat_template": "x"}, "chat_template"),
    ],
)  # fmt: skip
def test_templates_of_a_body_are_refused(said, param):
    with pytest.raises(BodyError) as found:
        read(ask(text("Why?"), **said))
    assert found.value.param == param


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"mm_processor_kwargs": {"max_dynamic_patch": 0}},
         "mm_processor_kwargs.max_dynamic_patch"),
        ({"media_io_kwargs": {"video": {"num_frames": -1}}}, "media_io_kwargs.video.num_frames"),
        ({"max_completion_tokens": 4, "max_tokens": 0}, "max_tokens"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused_even_where_it_changes_nothing(said, param):
    with pytest.raises(BodyError, match="needed: a whole number of at least 1") as found:
        read(ask(text("Why?"), **said))
    assert found.value.param == param


def test_frames_may_be_said_for_all_videos_at_once():
    video = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    own = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA", "num_frames": 3}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {
        "messages": [{"role": "user", "content": [video, own, picture]}],
        "media_io_kwargs": {"video": {"num_frames": 5}},
        "mm_processor_kwargs": {"max_dynamic_patch": 2},
    }
    call = read_body(body, SamplingSettings(), MediaRules(allow_videos=True))
    assert [(p.num_frames, p.max_tiles) for p in call.pictures] == [(5, None), (3, None), (None, 2)]
    with pytest.raises(BodyError, match=r"media_io_kwargs\.video\.fps"):
        read_body(
            {**body, "media_io_kwargs": {"video": {"fps": 2}}}, SamplingSettings(),
            MediaRules(allow_videos=True),
        )  # fmt: skip
