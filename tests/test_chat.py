"""The small chat API: one question, many, streams, conversations, pictures and videos."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from one_pass import score_tokens
from PIL import Image

from internvl35 import Conversation, Question, SamplingSettings, Video, load
from internvl35.chat import Chat
from internvl35.config import TileSettings
from internvl35.data.messages import Message
from internvl35.data.prompt import PromptSettings
from internvl35.errors import CheckpointError, ConfigError, MediaError, PromptError
from internvl35.generate.answers import Completion, Sample
from internvl35.generate.runner import generate, generation_options
from internvl35.replies import make_reply

SHORT = SamplingSettings(max_tokens=10)


@pytest.fixture(scope="module")
def chat(random_checkpoint):
    return load(random_checkpoint, dtype=torch.float32)


@pytest.fixture(scope="module")
def wide():
    noise = np.random.default_rng(0).integers(0, 255, (60, 150, 3), dtype=np.uint8)
    return Image.fromarray(noise)  # 3x1 tiles of 56 pixels and a thumbnail


@pytest.fixture(scope="module")
def square():
    return Image.new("RGB", (50, 50), (200, 30, 30))


def _video(path, num_frames=20):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(num_frames):
            frame = np.full((64, 64, 3), number * 10, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_tokens_and_tiles_are_counted_as_the_model_sees_them(chat, wide):
    reply = chat.ask("What is it?", [wide], sampling=SHORT)
    assert reply.num_tiles == 4
    assert reply.num_visual_tokens == 16
    prompt = reply.conversation.messages[0].text
    assert prompt == "<image>\nWhat is it?"
    without = chat.ask("What is it?", sampling=SHORT)
    marks = len(chat.tokenizer.encode("<img></img>", add_special_tokens=False))
    newline = len(chat.tokenizer.encode("\n", add_special_tokens=False))
    assert reply.num_prompt_tokens - without.num_prompt_tokens == 16 + marks + newline


def test_the_same_question_gets_the_same_answer_alone_streamed_and_in_a_batch(chat, wide, square):
    questions = [
        Question("What is it?", [wide]),
        Question("Hello, who are you?"),
        Question("Describe the two images", [square, wide]),
    ]
    batch = chat.ask_batch(questions, SHORT)
    for question, reply in zip(questions, batch, strict=True):
        alone = chat.ask(question.text, question.images, sampling=SHORT)
        assert alone.text == reply.text
        assert alone.num_new_tokens == reply.num_new_tokens
        stream = chat.stream(question.text, question.images, sampling=SHORT)
        assert "".join(piece.text for piece in stream) == alone.text
        assert stream.reply is not None
        assert stream.reply.text == alone.text


def test_replies_of_a_batch_say_how_likely_their_tokens_were(chat, wide, square):
    questions = [Question("What is it?", [wide]), Question("Hello"), Question("Who?", [square])]
    plain = chat.ask_batch(questions, SHORT)
    assert {reply.logprobs for reply in plain} == {None}
    for question, reply, before in zip(
        questions, chat.ask_batch(questions, SHORT, has_logprobs=True), plain, strict=True
    ):
        assert reply.text == before.text
        assert len(reply.logprobs) == reply.num_new_tokens
        _, request = chat._prepare(question)
        (ids,) = generate(chat.model, [request], generation_options(SHORT), chat.rules)
        # one pass over prompt and answer gives the same numbers, without padding or a cache
        assert reply.logprobs == pytest.approx(score_tokens(chat, request, ids), abs=1e-4)


def test_temperature_does_not_change_how_likely_a_token_is(chat):
    sampling = SamplingSettings(max_tokens=6, temperature=50.0, top_k=1)
    (warm,) = chat.ask_batch([Question("Hello")], sampling, has_logprobs=True)
    (greedy,) = chat.ask_batch(
        [Question("Hello")], SamplingSettings(max_tokens=6), has_logprobs=True
    )
    assert warm.logprobs == pytest.approx(greedy.logprobs)


def test_an_empty_batch_has_no_replies(chat):
    assert chat.ask_batch([]) == []


def test_a_picture_changes_the_answer(chat, wide, square):
    answers = {chat.ask("What is it?", [image], sampling=SHORT).text for image in (wide, square)}
    assert len(answers) == 2


def test_a_conversation_goes_on_with_its_pictures(chat, square):
    first = chat.ask("What is it?", [square], sampling=SHORT)
    second = chat.ask("And why?", conversation=first.conversation, sampling=SHORT)
    assert [m.role for m in second.conversation.messages] == ["user", "assistant"] * 2
    assert second.num_tiles == 1
    assert first.conversation.messages == second.conversation.messages[:2]
    alone = chat.ask("And why?", sampling=SHORT)
    assert second.num_prompt_tokens > alone.num_prompt_tokens + first.num_prompt_tokens / 2


def test_a_literal_mark_without_pictures_stays_text(chat):
    reply = chat.ask("What does <image> or <IMG_CONTEXT> mean?", sampling=SHORT)
    assert reply.num_visual_tokens == 0


def test_marks_and_images_that_do_not_match_are_an_error_with_both_numbers(chat, square):
    with pytest.raises(PromptError, match=r"2.*1"):
        chat.ask("<image> and <image>", [square], sampling=SHORT)


def test_frames_of_a_video_are_labelled_and_come_before_the_question(chat, tmp_path):
    path = _video(tmp_path / "clip.mp4")
    reply = chat.ask("What moves?", video=Video(path, num_frames=3), sampling=SHORT)
    assert reply.conversation.messages[0].text == (
        "Frame1: <image>\nFrame2: <image>\nFrame3: <image>\nWhat moves?"
    )
    assert reply.num_tiles == 3


def test_pictures_beside_a_video_come_first(chat, tmp_path, square):
    path = _video(tmp_path / "clip.mp4")
    reply = chat.ask("Same?", [square], video=Video(path, num_frames=2), sampling=SHORT)
    assert reply.conversation.messages[0].text == (
        "<image>\nFrame1: <image>\nFrame2: <image>\nSame?"
    )
    with pytest.raises(PromptError, match="2 <image> marks but 1 images"):
        chat.ask("<image> <image>", [square], video=Video(path, num_frames=2), sampling=SHORT)


def test_an_answer_cut_at_max_tokens_says_so(chat):
    reply = chat.ask("Hello", sampling=SamplingSettings(max_tokens=2))
    assert (reply.finish_reason, reply.num_new_tokens) == ("length", 2)


def test_a_seed_gives_the_same_draw_and_leaves_the_global_generator_alone(chat):
    sampling = SamplingSettings(max_tokens=10, temperature=1.5, seed=3)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    answers = {chat.ask("Hello", sampling=sampling).text for _ in range(2)}
    assert len(answers) == 1
    assert torch.equal(torch.rand(1), expected)
    others = SamplingSettings(max_tokens=10, temperature=1.5, seed=4)
    assert chat.ask("Hello", sampling=others).text not in answers


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(chat):
    whole = chat.ask("Hello", sampling=SamplingSettings(max_tokens=24)).text
    middle = whole[len(whole) // 2 : len(whole) // 2 + 2]
    reply = chat.ask("Hello", sampling=SamplingSettings(max_tokens=24, stop=(middle,)))
    assert reply.text == whole.split(middle)[0].strip()
    assert reply.finish_reason == "stop"
    assert reply.num_new_tokens < 24


def test_a_stream_never_shows_the_beginning_of_a_stop_text(chat):
    whole = chat.ask("Hello", sampling=SamplingSettings(max_tokens=24)).text
    for start in range(2, len(whole) - 8, 3):
        sampling = SamplingSettings(max_tokens=24, stop=(whole[start : start + 6],))
        stream = chat.stream("Hello", sampling=sampling)
        shown = "".join(piece.text for piece in stream)
        assert stream.reply is not None
        assert shown.strip() == stream.reply.text


def test_loading_takes_the_template_of_the_checkpoint_and_any_system_prompt(random_checkpoint):
    chat = load(random_checkpoint, system_prompt="none", is_thinking=False)
    assert chat.builder.settings.template == "internvl2_5"
    own = load(random_checkpoint, system_prompt="Count things.")
    difference = len(own.tokenizer.encode("Count things.", add_special_tokens=False))
    first, second = (c.ask("Hello", sampling=SHORT).num_prompt_tokens for c in (chat, own))
    assert second > first + difference


def test_a_stream_that_is_closed_stops_generating(chat):
    stream = chat.stream("Hello", sampling=SamplingSettings(max_tokens=500))
    next(stream)
    stream.close()
    assert stream.reply is None
    assert list(stream) == []


def test_tokens_of_pictures_are_never_sampled(random_checkpoint):
    chat = load(random_checkpoint, dtype=torch.float32)
    head = chat.model.language_model.lm_head.weight
    with torch.no_grad():  # without a ban these three would always win
        for token_id in chat.rules.banned_token_ids:
            head[token_id] = head.abs().amax() * torch.sign(head[5]) * 50
            head[token_id] *= torch.randn(head.shape[1]).sign()
    for seed in range(5):
        sampling = SamplingSettings(max_tokens=8, temperature=2.0, seed=seed)
        text = chat.ask("Hello", sampling=sampling).text
        assert "IMG_CONTEXT" not in text
        assert "img>" not in text


def test_reasoning_is_told_apart_from_the_answer(chat):
    written = Sample((), "<think>\nhello who\n</think>\n\nHello ", "stop")
    asked = Conversation((Message("user", "Hello"),))
    reply = make_reply(asked, Completion("a", chat.prepare(asked), (written,), 0), seconds=1.0)
    assert (reply.thinking, reply.text) == ("hello who", "Hello")
    said = reply.conversation.messages[-1]
    assert (said.thinking, said.text) == ("hello who", "Hello")


def test_the_system_prompt_can_be_left_out(chat, random_checkpoint):
    settings = PromptSettings(system_prompt="none")
    bare = Chat(chat.model, chat.tokenizer, prompt=settings)
    official = chat.ask("Hello", sampling=SHORT).num_prompt_tokens
    assert bare.ask("Hello", sampling=SHORT).num_prompt_tokens < official


def test_max_tiles_limits_what_a_picture_costs(random_checkpoint, wide):
    chat = load(random_checkpoint, dtype=torch.float32, max_tiles=1)
    assert chat.ask("What is it?", [wide], sampling=SHORT).num_tiles == 1
    with pytest.raises(ConfigError, match="max_tiles is 0"):
        load(random_checkpoint, max_tiles=0)


def test_a_prompt_longer_than_the_model_is_refused_with_both_numbers(chat):
    with pytest.raises(PromptError, match="at most 2048"):
        chat.ask("hello " * 3000, sampling=SHORT)


def test_a_picture_that_cannot_be_read_is_a_media_error(chat, tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("no picture")
    with pytest.raises(MediaError, match=r"text\.jpg"):
        chat.ask("What is it?", [path], sampling=SHORT)


def test_a_tokenizer_of_another_checkpoint_is_refused(chat):
    model = chat.model
    rows = model.language_model.model.embed_tokens.weight
    small = torch.nn.Embedding(100, rows.shape[1])
    old = model.get_input_embeddings()
    model.set_input_embeddings(small)
    try:
        with pytest.raises(CheckpointError, match="100 rows"):
            Chat(model, chat.tokenizer)
    finally:
        model.set_input_embeddings(old)


def test_tiles_can_be_cut_otherwise_than_the_checkpoint_says(chat, wide):
    tiles = TileSettings(tile_size=56, max_tiles=2, use_thumbnail=False)
    reply = Chat(chat.model, chat.tokenizer, tiles=tiles).ask("It?", [wide], sampling=SHORT)
    assert reply.num_tiles == 2
