"""Chats with Flash models: pictures, turns, videos, streams and batches, and what replies count."""

from __future__ import annotations

from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from flash_models import FULL, SHORT, make_flash_model
from one_pass import score_tokens
from PIL import Image

from internvl35 import AutoTokenizer, FlashSettings, Question, SamplingSettings, Video, load
from internvl35.chat import Chat
from internvl35.data.prompt import CONTENT_TOKENS, PromptSettings
from internvl35.dropin import InternVLChatModel
from internvl35.errors import ConfigError, PromptError
from internvl35.generate.routing import route
from internvl35.generate.runner import generate

GREEDY = {"max_new_tokens": 8, "do_sample": False}
BRIEF = SamplingSettings(max_tokens=8)
OFF, ALL = FlashSettings("off"), FlashSettings("all")
RELEASED, ABSOLUTE = FlashSettings("released"), FlashSettings("absolute")
SAVING = FULL - SHORT


@pytest.fixture(scope="module")
def tokenizer(random_checkpoint):
    return AutoTokenizer.from_pretrained(random_checkpoint)


@pytest.fixture(scope="module")
def chat(tokenizer):
    return Chat(make_flash_model(InternVLChatModel), tokenizer)


@pytest.fixture(scope="module")
def pictures():
    """One of five tiles, of which some are empty, one of three, and one of a single tile."""
    rng = np.random.default_rng(1)
    large, middle, small = (
        rng.integers(0, 255, size, dtype=np.uint8)
        for size in ((220, 230, 3), (110, 240, 3), (100, 100, 3))
    )
    large[:110, :115] = 255
    return [Image.fromarray(levels) for levels in (large, middle, small)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    rng = np.random.default_rng(2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(12):
            frame = rng.integers(0, 20 * number + 1, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_counts_are_those_after_compression(chat, pictures):
    full, none = (chat.ask("It?", pictures, sampling=BRIEF, flash=one) for one in (OFF, ALL))
    assert (full.num_tiles, full.num_visual_tokens) == (9, 9 * FULL)
    assert (full.num_compressed_tiles, full.routing) == (0, None)
    assert (none.num_tiles, none.num_visual_tokens) == (9, 9 * SHORT)
    assert none.num_compressed_tiles == 9
    assert full.num_prompt_tokens - none.num_prompt_tokens == 9 * SAVING
    some = chat.ask("It?", pictures, sampling=BRIEF)
    assert 0 < some.num_compressed_tiles < 9
    assert sum(some.routing.is_compressed) == some.num_compressed_tiles
    assert full.num_prompt_tokens - some.num_prompt_tokens == SAVING * some.num_compressed_tiles
    assert some.num_visual_tokens == 9 * FULL - SAVING * some.num_compressed_tiles


def test_a_flash_model_is_routed_as_released_if_nothing_is_said(chat, pictures):
    plain = chat.ask("It?", pictures, sampling=BRIEF)
    named = chat.ask("It?", pictures, sampling=BRIEF, flash=FlashSettings("released", 0.3, 0.2))
    assert (plain.text, plain.routing) == (named.text, named.routing)
    other = chat.ask("It?", pictures, sampling=BRIEF, flash=FlashSettings("released", 0.9, 0.2))
    assert other.num_compressed_tiles < plain.num_compressed_tiles


def test_a_single_tile_is_compressed_by_absolute_alone(chat, pictures):
    low = FlashSettings("absolute", absolute_threshold=0.0)
    policies = (FlashSettings("released", 0.0, 0.0), low)
    released, absolute = (
        chat.ask("It?", pictures[2:], sampling=BRIEF, flash=policy) for policy in policies
    )
    assert (released.num_tiles, released.num_compressed_tiles) == (1, 0)
    assert absolute.num_compressed_tiles == 1


@pytest.mark.parametrize("flash", [None, OFF, ALL, RELEASED, ABSOLUTE], ids=str)
def test_a_question_gets_the_same_answer_alone_streamed_and_in_any_batch(
    chat, pictures, clip, flash
):
    questions = [
        Question("What is it?", pictures[:1], flash=flash),
        Question("Hello", flash=flash),
        Question("Describe the two images", pictures[1:], flash=flash),
        Question("What moves?", video=Video(clip, num_frames=3), flash=flash),
        Question("Same?", pictures[2:], video=Video(clip, num_frames=2), flash=flash),
        Question("What else?", pictures[:2], flash=ABSOLUTE),
    ]
    alone = [chat.ask_batch([question], BRIEF)[0] for question in questions]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 4], [2, 2, 0]):
        for number, reply in zip(
            order, chat.ask_batch([questions[n] for n in order], BRIEF), strict=True
        ):
            expected = alone[number]
            assert reply.text == expected.text
            assert reply.routing == expected.routing
            assert reply.num_prompt_tokens == expected.num_prompt_tokens
    for question, expected in zip(questions, alone, strict=True):
        stream = chat.stream(
            question.text, question.images, video=question.video, sampling=BRIEF,
            flash=question.flash,
        )  # fmt: skip
        assert "".join(piece.text for piece in stream) == expected.text
        assert stream.reply.routing == expected.routing


def test_a_batch_has_settings_for_questions_that_have_none(chat, pictures):
    questions = [Question("It?", pictures), Question("It?", pictures, flash=OFF)]
    found = chat.ask_batch(questions, BRIEF, flash=ALL)
    assert [reply.num_compressed_tiles for reply in found] == [9, 0]
    with pytest.raises(ConfigError, match="flash is False; needed: FlashSettings"):
        chat.ask_batch([Question("It?", pictures, flash=False)], BRIEF, flash=ALL)


def test_pictures_of_earlier_turns_are_compressed_again(chat, pictures):
    first = chat.ask("What is it?", pictures[:1], sampling=BRIEF, flash=ALL)
    second = chat.ask(
        "And this?", pictures[2:], conversation=first.conversation, sampling=BRIEF, flash=ALL
    )
    assert second.num_visual_tokens == SHORT * 6
    undone = chat.ask("Why?", conversation=second.conversation, sampling=BRIEF, flash=OFF)
    assert undone.num_visual_tokens == FULL * 6


def test_a_later_turn_never_reroutes_an_earlier_picture_under_absolute(chat, pictures):
    first = chat.ask("It?", pictures[:1], sampling=BRIEF, flash=ABSOLUTE)
    second = chat.ask(
        "And?", pictures[1:], conversation=first.conversation, sampling=BRIEF, flash=ABSOLUTE
    )
    assert second.routing.is_compressed[:5] == first.routing.is_compressed
    assert second.routing.scores[:5] == first.routing.scores


def test_grids_of_pictures_and_frames_are_kept_with_the_conversation(chat, pictures, clip):
    reply = chat.ask("It?", pictures, video=Video(clip, num_frames=2), sampling=BRIEF)
    assert reply.conversation.grids == ((2, 2), (2, 1), (1, 1), (1, 1), (1, 1))
    assert [len(tiles) for tiles in reply.conversation.pictures] == [5, 3, 1, 1, 1]


def test_log_probabilities_are_those_of_one_pass_over_the_short_prompt(chat, pictures):
    question = Question("It?", pictures)
    (reply,) = chat.ask_batch([question], BRIEF, has_logprobs=True)
    _, request = chat._prepare(question)
    (routed,) = route(chat.model, [request])
    (ids,) = generate(chat.model, [routed], GREEDY, chat.rules)
    # one pass over prompt and answer, without padding or a cache
    assert reply.logprobs == pytest.approx(score_tokens(chat, routed, ids), abs=1e-4)
    assert reply.logprobs != pytest.approx(score_tokens(chat, request, ids), abs=1e-3)


def test_a_prompt_that_fits_once_its_tiles_are_compressed_is_answered(chat, tokenizer, pictures):
    full = chat.ask("It?", pictures, sampling=BRIEF, flash=OFF).num_prompt_tokens
    tight = Chat(
        chat.model, tokenizer, prompt=PromptSettings(max_tokens=full - 9 * SAVING), tiles=chat.tiles
    )
    assert tight.ask("It?", pictures, sampling=BRIEF, flash=ALL).num_prompt_tokens == (
        full - 9 * SAVING
    )
    for flash, found in ((OFF, full), (RELEASED, full - 8 * SAVING)):
        with pytest.raises(PromptError, match=f"has {found} tokens but at most"):
            tight.ask("It?", pictures, sampling=BRIEF, flash=flash)
    looser = replace(tight.builder.settings, max_tokens=full - 8 * SAVING)
    with pytest.raises(PromptError, match=r"the prompt has \d+ tokens but at most"):
        Chat(chat.model, tokenizer, prompt=looser).ask("It?", pictures, flash=RELEASED)


def test_compressing_is_refused_on_a_model_without_a_router(random_checkpoint, pictures):
    base = load(random_checkpoint, dtype=torch.float32)
    for ask in (base.ask, base.stream):
        with pytest.raises(ConfigError, match="no router"):
            ask("It?", pictures, sampling=BRIEF, flash=ALL)
    with pytest.raises(ConfigError, match="no router"):
        base.ask_batch([Question("It?", pictures, flash=RELEASED)], BRIEF)
    assert base.ask("It?", pictures, sampling=BRIEF, flash=OFF).num_compressed_tiles == 0


# The announcement's calls -------------------------------------------------------------------------


def without_tags(text):
    """What the released code shows of an answer: special tokens fall away."""
    for tag in CONTENT_TOKENS:
        text = text.replace(tag, "")
    return text.strip()


@pytest.fixture(scope="module")
def tiles(chat, pictures):
    prepared = chat._prepare(Question("It?", pictures))[0]
    return prepared.pictures


@pytest.mark.parametrize("flash", [None, OFF, ALL, ABSOLUTE], ids=str)
def test_the_announcements_calls_route_as_the_chat_does(chat, tokenizer, pictures, tiles, flash):
    options = GREEDY if flash is None else {**GREEDY, "flash": flash}
    sizes, pixel_values = [len(one) for one in tiles], torch.cat(tiles)
    question = "Image-1: <image>\nImage-2: <image>\nImage-3: <image>\nIt?"
    expected = chat.ask("It?", pictures, sampling=BRIEF, flash=flash)
    model = chat.model
    found = model.chat(tokenizer, pixel_values, question, options, num_patches_list=sizes)
    assert found == without_tags(expected.text)
    streamed = model.stream_chat(tokenizer, pixel_values, question, options, num_patches_list=sizes)
    assert "".join(streamed).strip() == found


def test_batch_chat_routes_each_sample_on_its_own(chat, tokenizer, tiles):
    questions = ["<image>\nIt?", "Hello", "<image> or <image>?"]
    sizes = [len(one) for one in tiles]
    found = chat.model.batch_chat(tokenizer, torch.cat(tiles), questions, GREEDY, sizes)
    assert found == [
        chat.model.chat(tokenizer, tiles[0], questions[0], GREEDY),
        chat.model.chat(tokenizer, None, questions[1], GREEDY),
        chat.model.chat(
            tokenizer, torch.cat(tiles[1:]), questions[2], GREEDY, num_patches_list=sizes[1:]
        ),
    ]


def test_a_history_is_routed_with_its_pictures(chat, tokenizer, pictures, tiles):
    again = chat.ask("It?", pictures[:1], sampling=BRIEF)
    first, history = chat.model.chat(tokenizer, tiles[0], "It?", GREEDY, return_history=True)
    assert first == without_tags(again.text)
    history = [(history[0][0], again.text)]
    found = chat.model.chat(tokenizer, tiles[0], "And?", GREEDY, history=history)
    expected = chat.ask("And?", conversation=again.conversation, sampling=BRIEF)
    assert expected.num_compressed_tiles > 0
    assert found == without_tags(expected.text)


def test_the_announcements_calls_refuse_to_compress_without_a_router(tokenizer, tiles):
    base = make_flash_model(InternVLChatModel, flash_mode=False)
    with pytest.raises(ConfigError, match="no router"):
        base.chat(tokenizer, tiles[0], "It?", {**GREEDY, "flash": ALL})
