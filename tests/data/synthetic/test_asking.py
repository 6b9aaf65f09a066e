"""How a drawn question is put to a model."""

from __future__ import annotations

import pytest
from PIL import Image

from internvl35 import SamplingSettings
from internvl35.chat import load
from internvl35.config import TileSettings
from internvl35.data.synthetic import FAMILIES, Drawing, Turn, draw
from internvl35.data.synthetic.asking import question_text
from internvl35.data.tiles import count_tiles

TURN = Turn("How many?", "2", "count")
LATER = Turn("And circles?", "1", "count")


def make_drawing(num_images: int, *, is_video: bool = False) -> Drawing:
    images = tuple(Image.new("RGB", (192, 192)) for _ in range(num_images))
    return Drawing("any", images, (TURN, LATER), is_video=is_video)


@pytest.mark.parametrize(
    ("num_images", "is_video", "expected"),
    [
        (0, False, "How many?"),
        (1, False, "<image>\nHow many?"),
        (2, False, "Image-1: <image>\nImage-2: <image>\nHow many?"),
        (1, True, "Frame1: <image>\nHow many?"),
        (3, True, "Frame1: <image>\nFrame2: <image>\nFrame3: <image>\nHow many?"),
    ],
)
def test_the_first_question_marks_every_picture(num_images, is_video, expected):
    drawing = make_drawing(num_images, is_video=is_video)
    assert question_text(drawing, TURN, is_first=True) == expected


def test_a_later_question_has_no_marks():
    assert question_text(make_drawing(2), LATER, is_first=False) == "And circles?"


def test_chat_puts_a_plain_question_about_pictures_the_same_way():
    chat = load("tiny")
    for num_images in (1, 2):
        drawing = make_drawing(num_images)
        replies = [
            chat.ask(text, drawing.images, sampling=SamplingSettings(max_tokens=1))
            for text in (TURN.question, question_text(drawing, TURN, is_first=True))
        ]
        plain, marked = (reply.conversation.messages[0].text for reply in replies)
        assert plain == marked


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frame_of_a_video_is_one_tile(family):
    # chat gives every frame of a video file one tile; drawn frames must not get more
    tiles = TileSettings(tile_size=192, max_tiles=4)
    for index in range(20):
        drawing = draw(family, "test", index)
        if drawing.is_video:
            assert all(count_tiles(*frame.size, tiles) == 1 for frame in drawing.images)
