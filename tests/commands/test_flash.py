"""``internvl35 chat`` on a Flash checkpoint: policies, thresholds, and the drawn tiles."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from flash_models import FULL, SHORT, make_flash_model
from PIL import Image

from internvl35 import Conversation, FlashSettings, Reply, SamplingSettings, load
from internvl35.commands.dialogue import Dialogue
from internvl35.commands.flash import FlashOptions
from internvl35.commands.pictures import PictureOptions
from internvl35.commands.tile_sheet import (
    COMPRESSED,
    KEPT,
    LARGEST_TILE,
    MARGIN,
    SHEET_WIDTH,
    check_path,
    draw_tiles,
)
from internvl35.data.compression import TileRouting
from internvl35.data.tiles import Grid, normalize_tiles
from internvl35.data.tokenizer import load_tokenizer, save_tokenizer
from internvl35.errors import ConfigError

QUESTION = "What is it?"


@pytest.fixture(scope="module")
def checkpoint(random_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flash") / "checkpoint"
    tokenizer = load_tokenizer(random_checkpoint)
    place = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    make_flash_model(image_token_id=place).save_pretrained(folder, layout="remote-code")
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """Cut into two by two tiles and a thumbnail."""
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    levels = np.random.default_rng(1).integers(0, 255, (220, 230, 3), dtype=np.uint8)
    levels[:110, :115] = 255
    Image.fromarray(levels).save(path)
    return path


@pytest.fixture
def ask(run, checkpoint, picture):
    def with_model(*arguments):
        return run(
            "chat", "-m", checkpoint, "--dtype", "float32", "-i", picture, QUESTION,
            "--max-tokens", "6", *arguments,
        )  # fmt: skip

    return with_model


# The options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ((), None),
        (("--flash", "off"), FlashSettings("off")),
        (("--flash", "all"), FlashSettings("all")),
        (("--flash", "absolute"), FlashSettings("absolute")),
        (("--flash", "absolute", "--flash-threshold", "0"), FlashSettings("absolute", None, 0.0)),
        (("--flash-threshold", "0.01"), FlashSettings("released", None, 0.01)),
        (("--flash-quantile", "0.7"), FlashSettings("released", 0.7, None)),
    ],
)
def test_flags_choose_what_is_compressed(ask, checkpoint, picture, flags, settings):
    chat = load(checkpoint, dtype=torch.float32)
    expected = chat.ask(
        QUESTION, [picture], sampling=SamplingSettings(max_tokens=6), flash=settings
    )
    code, out, _ = ask("--json", *flags)
    found = json.loads(out)
    assert code == 0
    assert found["text"] == expected.text
    assert found["num_compressed_tiles"] == expected.num_compressed_tiles
    assert found["num_visual_tokens"] == 5 * FULL - (FULL - SHORT) * found["num_compressed_tiles"]
    if expected.routing is None:
        assert found["routing"] is None
    else:
        assert found["routing"]["is_compressed"] == list(expected.routing.is_compressed)


def test_options_become_settings_of_the_same_meaning():
    assert FlashOptions().settings() is None
    assert FlashOptions(show_tiles="a.png").settings() is None
    both = FlashOptions(flash_threshold=0.25, flash_quantile=0.75).settings()
    assert both == FlashSettings("released", relative_threshold=0.75, absolute_threshold=0.25)


MISTAKES = [
    (("--flash", "some"), "'some'"),
    (("--flash", "absolute", "--flash-threshold", "1.5"), "flash_threshold is 1.5; needed: 0 to 1"),
    (("--flash-quantile", "-0.1"), "flash_quantile is -0.1; needed: 0 to 1"),
    (("--flash", "all", "--flash-threshold", "0.5"), "--flash-threshold has no effect"),
    (("--flash", "absolute", "--flash-quantile", "0.5"), "--flash-quantile has no effect"),
    (("--show-tiles", "tiles.txt"), "needed: a file such as tiles.png"),
    (("--show-tiles", "nowhere/tiles.png"), "whose folder does not exist"),
]


@pytest.mark.parametrize(("flags", "found"), MISTAKES)
def test_a_mistake_is_told_before_anything_is_computed(ask, flags, found, monkeypatch):
    monkeypatch.setattr("internvl35.chat.load", None)
    code, out, err = ask(*flags)
    assert (code, out) == (2, "")
    assert found in err


def test_compressing_on_a_base_checkpoint_is_refused(run, random_checkpoint, picture):
    code, out, err = run("chat", "-m", random_checkpoint, "-i", picture, QUESTION, "--flash", "all")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("ConfigError: the policy is 'all' but the checkpoint has no router")


def test_tiles_cannot_be_shown_without_a_picture(run, checkpoint):
    code, _, err = run("chat", "-m", checkpoint, QUESTION, "--show-tiles", "tiles.png")
    assert code == 2
    assert "give --image or --video" in err


def test_show_tiles_writes_the_sheet_beside_the_answer(ask, tmp_path):
    path = tmp_path / "tiles.png"
    code, out, _ = ask("--flash", "all", "--show-tiles", path)
    assert code == 0
    assert out == ask("--flash", "all")[1]
    with Image.open(path) as sheet:
        colours = count_colours(sheet.convert("RGB"))
    assert colours[COMPRESSED] > 1000
    assert colours[KEPT] == 0


def test_a_conversation_draws_the_tiles_of_every_answer(checkpoint, picture, tmp_path, capsys):
    path = tmp_path / "tiles.png"
    options = FlashOptions("all", show_tiles=str(path))
    lines = iter(["Hello", f"/image {picture}", QUESTION])
    seen = []

    def read_line():
        seen.append(path.exists())
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    chat, brief = load(checkpoint, dtype=torch.float32), SamplingSettings(max_tokens=2)
    Dialogue(chat, PictureOptions(), brief, [], None, read_line, flash=options).run("flash")
    assert seen == [False, False, False, True]


# The sheet ----------------------------------------------------------------------------------------


def count_colours(image):
    pixels = np.asarray(image).reshape(-1, 3)
    return {colour: int((pixels == colour).all(axis=1).sum()) for colour in (COMPRESSED, KEPT)}


def reply_of(pictures, routing, grids):
    """A reply whose pictures are lists of tiles in one grey each."""
    tiles = tuple(
        normalize_tiles([Image.new("RGB", (28, 28), (level,) * 3) for level in levels])
        for levels in pictures
    )
    conversation = Conversation((), tiles, grids)
    num_tiles = sum(map(len, pictures))
    return Reply("", None, "stop", 9, 9, num_tiles, 1, 0.1, None, conversation, routing=routing)


def test_every_tile_stands_at_its_place_in_its_own_colours():
    levels = [10, 60, 110, 160, 210, 250, 128]
    choices = (True, False, False, True, False, False, True)
    routing = TileRouting(choices, (0.9, 0.1, 0.2, 0.8, 0.3, 0.4, 0.7))
    sheet = draw_tiles(reply_of([levels], routing, (Grid(3, 2),)), 256, 64)
    side = 560 // 3
    assert sheet.width == 2 * MARGIN + 4 * side + MARGIN
    top = sheet.height - MARGIN - 2 * side
    for place, (level, is_compressed) in enumerate(zip(levels, choices, strict=True)):
        row, column = divmod(place, 3) if place < 6 else (0, 3)
        left = MARGIN + column * side + (MARGIN if place == 6 else 0)
        centre = sheet.getpixel((left + side // 2, top + row * side + side // 2))
        colour = COMPRESSED if is_compressed else KEPT
        expected = (
            tuple(level + 0.35 * (one - level) for one in colour) if is_compressed else (level,) * 3
        )
        assert centre == pytest.approx(expected, abs=2)
        assert sheet.getpixel((left + side // 2, top + row * side)) == colour
        assert sheet.getpixel((left, top + row * side + side // 2)) == colour


def test_pictures_stand_side_by_side_and_rows_break():
    one = draw_tiles(reply_of([[90]], None, (Grid(1, 1),)), 256, 64)
    two = draw_tiles(reply_of([[90]] * 2, None, (Grid(1, 1),) * 2), 256, 64)
    many = draw_tiles(reply_of([[90]] * 20, None, (Grid(1, 1),) * 20), 256, 64)
    assert two.size == (one.width + LARGEST_TILE + MARGIN, one.height)
    assert many.width <= SHEET_WIDTH + 2 * MARGIN
    assert many.height == MARGIN + 4 * (one.height - MARGIN)
    assert count_colours(many)[KEPT] == 20 * count_colours(one)[KEPT]


def test_without_a_routing_or_grids_tiles_are_drawn_in_a_row_as_kept():
    sheet = draw_tiles(reply_of([[50, 60, 70]], None, ()), 256, 64)
    assert sheet.width == 2 * MARGIN + 3 * (560 // 3)
    assert count_colours(sheet)[COMPRESSED] == 0


def test_scores_and_tokens_are_written_on_the_tiles():
    def draw(score, is_compressed):
        routing = TileRouting((is_compressed,), None if score is None else (score,))
        return draw_tiles(reply_of([[90]], routing, (Grid(1, 1),)), 256, 64).tobytes()

    sheets = [draw(0.25, True), draw(0.26, True), draw(None, True), draw(0.25, False)]
    assert len(set(sheets)) == 4
    assert draw(0.25, True) == sheets[0]


@pytest.mark.parametrize("name", ["tiles.png", "tiles.JPG", "tiles.webp"])
def test_any_picture_format_that_can_be_written_is_taken(name, tmp_path):
    check_path(str(tmp_path / name))


@pytest.mark.parametrize("name", ["tiles", "tiles.", "tiles.docx"])
def test_other_endings_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="needed: a file such as"):
        check_path(str(tmp_path / name))
