"""Records become tokens and tiles: measured as they are encoded, and prompted as a chat is."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl35.chat import Chat
from internvl35.config import TileSettings
from internvl35.conversation import Question
from internvl35.conversation import Video as AskedVideo
from internvl35.data.encoding import Encoder, EncodingSettings, RowSize
from internvl35.data.grounding import Objects
from internvl35.data.images import open_image
from internvl35.data.messages import Message
from internvl35.data.records import Record
from internvl35.data.tiles import make_pixel_values
from internvl35.data.tokenizer import load_tokenizer
from internvl35.errors import ConfigError, DataError, InternVLError, MediaError, PromptError
from internvl35.model.composite import VisionLanguageModel

TILES = TileSettings(tile_size=14, max_tiles=12)


def picture(width=40, height=30, orientation=None, seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(levels).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def movie(num_frames=12, width=32, height=16):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            levels = np.full((height, width, 3), 20 * number, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(levels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def record(*texts, images=(), **fields):
    roles = ("user", "assistant")
    messages = [Message(roles[place % 2], text) for place, text in enumerate(texts)]
    return Record(tuple(messages), tuple(images), **fields)


def decode_loss(tokenizer, example):
    chosen = [i for i, has in zip(example.token_ids, example.loss_mask, strict=True) if has]
    return tokenizer.decode(chosen)


@pytest.fixture(scope="module")
def encode(small_tokenizer):
    """Make an encoder whose tiles have 14 pixels and 4 visual tokens."""

    def build(tiles=TILES, **settings):
        chosen = EncodingSettings(**{"system": "none", **settings})
        return Encoder(small_tokenizer, tiles, tokens_per_tile=4, settings=chosen)

    return build


@pytest.fixture(scope="module")
def clip():
    return movie()


# Sizes --------------------------------------------------------------------------------------------

PICTURES = {
    (width, height, turn): picture(width, height, turn)
    for width, height in ((14, 14), (60, 20), (9, 100), (33, 47))
    for turn in (None, 6)
}
pictures = st.sampled_from(sorted(PICTURES, key=str)).map(PICTURES.__getitem__)
words = st.text("ab 1é<>\n", max_size=12)


@st.composite
def records(draw):
    images, videos, texts = [], [], []
    for _ in range(draw(st.integers(1, 3))):
        marks = draw(st.lists(st.sampled_from(["<image>", "<video>\n", "<video>"]), max_size=2))
        for mark in marks:
            if mark == "<image>":
                images.append(draw(pictures))
            else:
                videos.append(tuple(draw(st.lists(pictures, min_size=1, max_size=5))))
        texts += [draw(words).join(["", *marks, ""]), draw(words)]
    limit = draw(st.none() | st.integers(1, 6))
    return record(*texts, images=images, videos=tuple(videos), max_dynamic_patch=limit)


def result_of(function, record):
    """What a function returns, or the kind and the words of its error."""
    try:
        return function(record)
    except InternVLError as error:
        return type(error), str(error)


@given(
    record=records(),
    max_length=st.integers(1, 400),
    max_num=st.integers(1, 2),
    share=st.booleans(),
    side=st.sampled_from(["delete", "left", "right"]),
    scale=st.sampled_from(["default", "last_round", "all"]),
)
def test_a_record_is_encoded_as_it_is_measured(
    encode, record, max_length, max_num, share, side, scale
):
    encoder = encode(
        max_length=max_length, video_max_num=max_num, share_tiles=share, video_segments=3,
        truncation_strategy=side, loss_scale=scale,
    )  # fmt: skip
    size, example = result_of(encoder.measure, record), result_of(encoder.encode, record)
    if isinstance(size, tuple):
        assert size == example  # the same error
        return
    assert size == RowSize(len(example.token_ids), example.num_tiles, sum(example.loss_mask))
    assert size.num_tokens <= max_length
    assert size.num_targets > 0
    context = encoder.builder.image_token_id
    assert list(example.token_ids).count(context) == 4 * size.num_tiles
    assert not any(
        has for i, has in zip(example.token_ids, example.loss_mask, strict=True) if i == context
    )


def test_measuring_opens_headers_alone(encode):
    half = picture(300, 200)[:3000]
    assert encode().measure(record("<image>", "a", images=[half])).num_tiles == 7
    with pytest.raises(MediaError, match="damaged or truncated"):
        encode().encode(record("<image>", "a", images=[half]))


def test_sizes_by_hand(encode, small_tokenizer):
    # 28x14 pixels are two tiles and a thumbnail, of 4 visual tokens each
    text = "<|im_start|>user\n<img></img>\nwhat?<|im_end|>\n<|im_start|>assistant\ncat<|im_end|>\n"
    num_text = len(small_tokenizer(text).input_ids)
    num_targets = len(small_tokenizer("cat<|im_end|>").input_ids)
    asked = record("<image>\nwhat?", "cat", images=[picture(28, 14)])
    assert encode().measure(asked) == RowSize(num_text + 12, 3, num_targets)


# The same prompt as a chat ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat(random_checkpoint):
    model = VisionLanguageModel.from_pretrained(random_checkpoint)
    return Chat(model, load_tokenizer(random_checkpoint))


def encoder_of(chat, **settings):
    config = chat.model.config
    return Encoder(
        chat.tokenizer,
        config.tile_settings,
        tokens_per_tile=config.tokens_per_tile,
        template=config.template,
        max_positions=2048,
        settings=EncodingSettings(**settings),
    )


@pytest.mark.parametrize("num_images", [0, 1])
def test_a_record_is_asked_as_a_chat_asks(chat, num_images):
    images = [picture(120, 60)][:num_images]
    text = "<image>\nWhat?" if num_images else "What?"
    encoded = encoder_of(chat).encode_prompt(record(text, "A cat.", images=images))
    _, request = chat._prepare(Question("What?", images))
    assert encoded.prompt == request.prompt
    assert encoded.expected == "A cat."
    if num_images:
        assert torch.equal(encoded.pixel_values, request.pixel_values)
    else:
        assert encoded.pixel_values is request.pixel_values is None


def test_several_pictures_are_asked_as_a_chat_asks_where_tiles_are_not_shared(chat):
    images = [picture(120, 60), picture(60, 70, seed=1)]
    marked = record("Image-1: <image>\nImage-2: <image>\nWhat?", "x", images=images)
    encoded = encoder_of(chat, share_tiles=False).encode_prompt(marked)
    _, request = chat._prepare(Question("What?", images))
    assert encoded.prompt == request.prompt
    assert torch.equal(encoded.pixel_values, request.pixel_values)


@pytest.mark.parametrize("text", ["<video>\nWhat?", "<video>What?"])
def test_a_video_is_asked_as_a_chat_asks(chat, clip, text):
    asked = replace(record(text, "x"), videos=(clip,))
    encoded = encoder_of(chat, video_segments=4).encode_prompt(asked)
    _, request = chat._prepare(Question("What?", (), AskedVideo(io.BytesIO(clip), 4)))
    assert encoded.prompt == request.prompt
    assert torch.equal(encoded.pixel_values, request.pixel_values)


def test_what_is_learnt_follows_the_prompt_of_the_chat(chat):
    asked = record("<image>\nWhat?", "A cat.", images=[picture(120, 60)])
    encoder = encoder_of(chat)
    example, prompt = encoder.encode(asked), encoder.encode_prompt(asked).prompt
    assert tuple(example.token_ids[: len(prompt)]) == prompt.token_ids
    assert not any(example.loss_mask[: len(prompt)])
    answer = chat.tokenizer("A cat.<|im_end|>").input_ids
    assert list(example.token_ids[len(prompt) : -1]) == answer  # the last is a line break
    assert all(example.loss_mask[len(prompt) : -1])
    assert example.loss_mask[-1] is False


def test_a_record_without_an_answer_can_be_asked_and_not_learnt(encode):
    asked = record("What?")
    assert encode().encode_prompt(asked).expected is None
    with pytest.raises(DataError, match="no answer to learn"):
        encode().measure(asked)


def test_a_text_of_pretraining_cannot_be_asked(encode):
    with pytest.raises(DataError, match="no question to be answered"):
        encode().encode_prompt(Record((Message("assistant", "Once"),)))


def test_a_prompt_that_is_too_long_cannot_be_asked(encode):
    with pytest.raises(PromptError, match="at most 5 fit; raise max_length"):
        encode(max_length=5).encode_prompt(record("What? " * 10, "x"))


# Tiles --------------------------------------------------------------------------------------------


def tiles_of(encoder, asked):
    return [span.num_tiles for span in encoder.preview(asked).image_spans]


def test_pictures_of_a_row_share_its_tiles_as_in_the_official_training(encode):
    wide = picture(140, 14)  # ten tiles and a thumbnail, where that many are allowed
    expected = {1: [11], 2: [7, 7], 3: [5, 5, 5], 5: [3] * 5, 12: [1] * 12, 13: [1] * 13}
    for num_images, num_tiles in expected.items():
        asked = record("<image>" * num_images, "a", images=[wide] * num_images)
        assert tiles_of(encode(), asked) == num_tiles  # max(1, 12 // num_images) and a thumbnail
    assert tiles_of(encode(share_tiles=False), asked) == [11] * 13


def test_a_row_may_set_its_own_number_of_tiles(encode):
    asked = record("<image>", "a", images=[picture(140, 14)])
    assert tiles_of(encode(), asked) == [11]
    assert tiles_of(encode(max_dynamic_patch=4), asked) == [5]
    assert tiles_of(encode(max_dynamic_patch=4), replace(asked, max_dynamic_patch=2)) == [3]
    least = replace(TILES, min_tiles=3)
    assert tiles_of(encode(least), replace(asked, max_dynamic_patch=2)) == [3]


def test_tiles_are_those_of_each_picture_in_order(encode):
    images = [picture(28, 14, seed=1), picture(14, 14, seed=2)]
    example = encode().encode(record("<image>", "a", "<image>", "b", images=images))
    expected = [make_pixel_values(open_image(image), TILES) for image in images]
    assert torch.equal(example.pixel_values, torch.cat(expected))


def test_a_row_without_pictures_has_no_pixels(encode):
    assert encode().encode(record("a", "b")).pixel_values is None


# Videos -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "begins"),
    [
        ("Frame1: <image>\n", "Frame1: <>\nFrame2: <>\nWhat?"),
        ("Frame-1: <image>\n", "Frame-1: <>\nFrame-2: <>\nWhat?"),
        ("Frame1: <image>", "Frame1: <>Frame2: <>\nWhat?"),
    ],
)
def test_frames_are_labelled_where_the_mark_stands(encode, small_tokenizer, clip, label, begins):
    encoder = encode(video_segments=2, frame_label=label)
    prompt = encoder.preview(replace(record("<video>\nWhat?", "a"), videos=(clip,)))
    text = small_tokenizer.decode(prompt.token_ids)
    text = text.replace("<img>" + "<IMG_CONTEXT>" * 4 + "</img>", "<>")
    assert text == f"<|im_start|>user\n{begins}<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"


def test_frames_are_the_middle_ones_of_equal_parts(encode, clip):
    example = encode(video_segments=2).encode(
        replace(record("<video>\nWhat?", "a"), videos=(clip,))
    )
    levels = (example.pixel_values[:, 0].mean(dim=(1, 2)) * 0.229 + 0.485) * 255
    # 12 frames of levels 0, 20, ...: from 0 to 11 in two parts, middles 2 and 8
    assert torch.allclose(levels, torch.tensor([40.0, 160.0]), atol=6)


def test_frames_given_as_pictures_are_all_taken_unless_they_are_many(encode):
    frames = tuple(picture(14, 14, seed=seed) for seed in range(5))
    asked = replace(record("<video>", "a"), videos=(frames,))
    few = encode(video_segments=8).encode(asked).pixel_values
    assert torch.equal(few, torch.cat([make_pixel_values(open_image(f), TILES) for f in frames]))
    assert len(encode(video_segments=2).encode(asked).pixel_values) == 2


def test_a_frame_may_have_several_tiles(encode, clip):
    asked = replace(record("<video>", "a"), videos=(clip,))
    assert encode(video_segments=2).measure(asked).num_tiles == 2
    assert encode(video_segments=2, video_max_num=2).measure(asked).num_tiles == 2 * 3


def test_a_video_that_is_none_is_found_by_measuring(encode):
    asked = replace(record("<video>", "a", origin="x:3"), videos=(b"no video at all",))
    with pytest.raises(MediaError, match="x:3: the given data cannot be opened as a video"):
        encode().measure(asked)


def test_pictures_and_videos_keep_the_order_of_their_marks(encode):
    still, frame = picture(28, 14), picture(14, 14)
    asked = record("<video>", "a", "<image><video>", "b", images=[still])
    asked = replace(asked, videos=((frame, frame), (frame,)))
    assert tiles_of(encode(), asked) == [1, 1, 3, 1]


# Loss ---------------------------------------------------------------------------------------------


def test_loss_is_on_the_answers_as_the_settings_say(encode, small_tokenizer):
    asked = record("one<image>", "two", "three", "four", images=[picture(14, 14)])
    expected = {
        "default": "two<|im_end|>four<|im_end|>",
        "last_round": "four<|im_end|>",
        "all": "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
        "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\nfour<|im_end|>\n",
    }
    for scale, text in expected.items():
        example = encode(loss_scale=scale).encode(asked)
        assert decode_loss(small_tokenizer, example) == text


def test_loss_of_a_row_is_where_the_released_training_code_puts_it(encode, small_tokenizer):
    # that code tokenizes turn by turn, and masks all but answers and the token that ends them
    turns = ["what is it?\n<image>", "a cat\n", "and?", " its name is Tom"]
    ids, labels = [], []
    for place, text in enumerate(turns):
        shown = text.replace("<image>", f"<img>{'<IMG_CONTEXT>' * 12}</img>")
        role = ("user", "assistant")[place % 2]
        turn = small_tokenizer(f"<|im_start|>{role}\n{shown}<|im_end|>\n").input_ids
        head = len(small_tokenizer("<|im_start|>assistant\n").input_ids)
        is_answer = role == "assistant"
        ids += turn
        labels += [is_answer and head <= place < len(turn) - 1 for place in range(len(turn))]
    example = encode().encode(record(*turns, images=[picture(28, 14)]))
    assert list(example.token_ids) == ids
    assert list(example.loss_mask) == labels


def test_the_template_is_the_checkpoints_unless_another_is_named(harmony_tokenizer):
    asked = record("a", "b")
    for template, named in (("internvl3_5_gpt_oss", None), ("internvl2_5", "internvl3_5_gpt_oss")):
        settings = EncodingSettings(template=named)
        encoder = Encoder(harmony_tokenizer, TILES, template=template, settings=settings)
        text = decode_loss(harmony_tokenizer, encoder.encode(asked))
        assert text == "<|channel|>final<|message|>b<|return|>"


def test_a_text_of_pretraining_shows_pictures_and_is_learnt_whole(encode, small_tokenizer):
    text = Record((Message("assistant", "a <image> b"),), (picture(14, 14),))
    example = encode().encode(text)
    assert small_tokenizer.decode(example.token_ids) == (
        "a <img><IMG_CONTEXT><IMG_CONTEXT><IMG_CONTEXT><IMG_CONTEXT></img> b"
    )
    assert decode_loss(small_tokenizer, example) == "a  b"


def test_a_row_without_a_token_that_carries_loss_is_bad(encode):
    silent = Record((Message("user", "a"), Message("assistant", "b", has_loss=False)))
    with pytest.raises(DataError, match="no token carries loss"):
        encode().measure(silent)


def test_tools_reach_the_system_turn(encode, small_tokenizer):
    asked = replace(record("a", "b"), tools='[{"name": "zoom"}]')
    assert '{"name": "zoom"}' in small_tokenizer.decode(encode().preview(asked).token_ids)


# Length -------------------------------------------------------------------------------------------


def test_rows_that_are_too_long_are_bad_by_default(encode):
    asked = record("word " * 20, "answer", origin="mine.jsonl:7")
    length = encode().measure(asked).num_tokens
    assert encode(max_length=length).measure(asked).num_tokens == length
    needed = rf"mine.jsonl:7: too long: {length} tokens, but at most {length - 1} are allowed"
    with pytest.raises(DataError, match=needed):
        encode(max_length=length - 1).measure(asked)


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_is_cut_at_one_end_and_pictures_are_kept(encode, small_tokenizer, side):
    asked = record("one two <image> three four", "five six seven", images=[picture(14, 14)])
    whole = encode().preview(asked)
    cut = encode(max_length=len(whole) - 6, truncation_strategy=side).preview(asked)
    visual = {
        small_tokenizer.convert_tokens_to_ids(t) for t in ("<img>", "<IMG_CONTEXT>", "</img>")
    }
    texts = [i for i in whole.token_ids if i not in visual]
    expected = texts[6:] if side == "left" else texts[:-6]
    assert [i for i in cut.token_ids if i not in visual] == expected
    (span,) = cut.image_spans
    assert (span.num_tiles, span.num_tokens) == (1, 4)
    around = cut.token_ids[span.start - 1 : span.start + 5]
    assert small_tokenizer.decode(around) == "<img>" + "<IMG_CONTEXT>" * 4 + "</img>"


def test_a_cut_that_takes_every_target_makes_a_row_bad(encode):
    asked = record("word " * 50, "answer")
    with pytest.raises(DataError, match="no token carries loss: it was taken off"):
        encode(max_length=20, truncation_strategy="right").measure(asked)
    assert encode(max_length=20, truncation_strategy="left").measure(asked).num_targets > 1


def test_pictures_that_alone_are_too_long_cannot_be_cut(encode):
    asked = record("<image>", "a", images=[picture(140, 14)])
    with pytest.raises(DataError, match="the pictures alone take 46 tokens, but at most 40"):
        encode(max_length=40, truncation_strategy="left").measure(asked)


def test_no_more_tokens_are_allowed_than_the_checkpoint_takes(small_tokenizer):
    assert Encoder(small_tokenizer, max_positions=100).max_tokens == 100
    with pytest.raises(ConfigError, match="max_length is 101 but the checkpoint takes at most 100"):
        Encoder(small_tokenizer, max_positions=100, settings=EncodingSettings(max_length=101))


# Augmentation, objects, sources -------------------------------------------------------------------


def test_augmentation_follows_the_data_set_before_the_settings(encode):
    plain = record("<image>", "a", images=[picture(28, 14)])
    as_it_is = encode().encode(plain, seed=1).pixel_values
    for wanted, own, is_changed in (
        (False, None, False), (True, None, True), (True, False, False), (False, True, True),
    ):  # fmt: skip
        encoder = encode(data_augment=wanted)
        found = encoder.encode(replace(plain, data_augment=own), seed=1)
        assert torch.equal(found.pixel_values, as_it_is) is not is_changed
        assert found.token_ids == encode().encode(plain).token_ids


def test_the_seed_decides_on_the_augmentation(encode):
    asked = record("<image>", "a", images=[picture(140, 14)])
    encoder = encode(data_augment=True)
    first, again, other = (encoder.encode(asked, seed=seed).pixel_values for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(
        encoder.encode_prompt(asked).pixel_values, encode().encode(asked).pixel_values
    )


def test_boxes_in_pixels_are_thousandths_of_the_upright_picture(encode, small_tokenizer):
    sideways = picture(40, 20, orientation=6)  # seen as 20 x 40
    asked = record("<image>\nWhere is <ref-object>?", "<bbox>", images=[sideways])
    asked = replace(asked, objects=Objects(("a cat",), (((5.0, 10.0, 15.0, 40.0),),)))
    text = small_tokenizer.decode(encode().preview(asked).token_ids)
    assert "<ref>a cat</ref>?" in text
    assert "<box>[[250, 250, 750, 1000]]</box>" in text
    assert encode().encode_prompt(asked).expected == "<box>[[250, 250, 750, 1000]]</box>"


def test_an_object_in_a_picture_that_is_not_there_is_refused(encode):
    objects = Objects((), (((0.0, 0.0, 1.0, 1.0),),), image_numbers=(1,))
    asked = replace(record("<image>", "<bbox>", images=[picture()]), objects=objects)
    with pytest.raises(DataError, match="names picture 1 but the row has 1"):
        encode().measure(asked)


def test_addresses_are_not_fetched_unless_that_is_allowed(encode):
    asked = record("<image>", "a", images=["http://127.0.0.1:9/x.png"])
    with pytest.raises(MediaError, match="not fetched unless allow_urls"):
        encode().measure(asked)
    with pytest.raises(MediaError, match="not of the public internet"):
        encode(allow_urls=True).measure(asked)


@pytest.mark.parametrize(
    ("asked", "kind", "needed"),
    [
        (record("<image>", "a", origin="o"), DataError, "o: 1 <image> marks but 0 images"),
        (record("a", "b", videos=((b"x",),), origin="o"), DataError, "o: 0 <video> marks but 1"),
        (record("<video><video>", "b", videos=((b"x",),)), DataError, "2 <video> marks but 1"),
        (record("<image>", "a", images=["none.png"], origin="o"), MediaError, "o: none.png does"),
        (record("a", origin="o"), DataError, "o: no answer to learn"),
        (Record((Message("assistant", "a"),) * 2, origin="o"), PromptError, "o: message 1 of 2"),
    ],
)
def test_every_reason_begins_with_the_origin(encode, asked, kind, needed):
    for run in (encode().measure, encode().encode):
        with pytest.raises(kind, match=needed):
            run(asked)


def test_an_encoder_can_be_sent_to_another_process(encode):
    asked = record("<image>", "a", images=[picture(28, 14)])
    encoder = encode(data_augment=True)
    sent = pickle.loads(pickle.dumps(encoder))
    ours, theirs = encoder.encode(asked, seed=3), sent.encode(asked, seed=3)
    assert (ours.token_ids, ours.loss_mask) == (theirs.token_ids, theirs.loss_mask)
    assert torch.equal(ours.pixel_values, theirs.pixel_values)


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({"max_length": 0}, "max_length is 0"),
        ({"max_dynamic_patch": 0}, "max_dynamic_patch is 0"),
        ({"video_segments": 0}, "video_segments is 0"),
        ({"video_max_num": -1}, "video_max_num is -1"),
        ({"truncation_strategy": "split"}, "known: delete, left, right"),
    ],
)
def test_settings_out_of_range_are_refused(changes, needed):
    with pytest.raises(ConfigError, match=needed):
        EncodingSettings(**changes)


def test_settings_are_named_without_heavy_libraries():
    heavy = "{'torch', 'transformers', 'tokenizers', 'PIL', 'av', 'datasets', 'peft'}"
    code = f"import internvl35.data.encoding, sys; print({heavy} & set(sys.modules))"
    source = Path(__file__).parents[2] / "src"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(source)},
    )  # fmt: skip
    assert run.stdout.strip() == "set()"
