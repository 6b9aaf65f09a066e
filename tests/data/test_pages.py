"""Pages of a data set show its pictures, its texts and its sizes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from internvl35.config import TileSettings
from internvl35.data import pages
from internvl35.data.check import check_records
from internvl35.data.encoding import Encoder, EncodingSettings
from internvl35.data.messages import Message
from internvl35.data.pages import (
    Sample,
    draw_histograms,
    draw_samples,
    draw_tiles,
    restore_levels,
    take_samples,
)
from internvl35.data.records import Record
from internvl35.data.tiles import cut_tiles, normalize_tiles
from internvl35.errors import DataError


def picture(color="red", width=28, height=14):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, "PNG")
    return buffer.getvalue()


def row(number, images=()):
    messages = (
        Message("user", "<image>\n" * len(images) + f"question {number}"),
        Message("assistant", f"answer {number}"),
        Message("user", "and?"),
        Message("assistant", "no more"),
    )
    return Record(messages, tuple(images), origin=f"x:{number}")


@pytest.fixture(scope="module")
def encoder(small_tokenizer):
    settings = EncodingSettings(system="none")
    return Encoder(
        small_tokenizer, TileSettings(tile_size=14), tokens_per_tile=4, settings=settings
    )


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, before they are pixels."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )
    return figures


def texts_of(figure):
    return [
        text.get_text()
        for axes in figure.axes
        for text in (axes.title, *axes.texts)
        if text.get_text()
    ]


def test_samples_are_spread_over_the_good_rows(encoder):
    records = [row(number) for number in range(100)]
    samples = take_samples(records, encoder, range(10, 90), count=5)
    assert [sample.title for sample in samples] == ["x:10", "x:30", "x:50", "x:69", "x:89"]
    assert (samples[0].question, samples[0].answer) == ("question 10", "answer 10")
    assert samples[0].image is None
    assert len(take_samples(records, encoder, [3, 4], count=12)) == 2
    assert take_samples(records, encoder, [], count=12) == []


def test_a_sample_shows_the_first_of_its_pictures(encoder):
    (sample,) = take_samples([row(1, [picture("red"), picture("blue")])], encoder, [0])
    assert sample.num_images == 2
    assert sample.image.getpixel((0, 0)) == (255, 0, 0)


def test_a_row_that_cannot_be_read_any_more_is_left_out(encoder):
    records = [row(1), row(2, ["gone.png"])]
    assert [sample.title for sample in take_samples(records, encoder, [0, 1])] == ["x:1"]


def test_a_page_of_samples_shows_pictures_questions_and_answers(tmp_path, drawn):
    shown = Image.new("RGB", (40, 20), "red")
    long = "\n".join(f"line {number}" for number in range(20))
    samples = [
        Sample("x:1", shown, 3, "<image>\nwhat is $x^2$?", "a {cat}"),
        Sample("x:2", None, 0, long, "b\x1b[31m"),
        *[Sample(f"x:{number}", shown, 1, "q", "a") for number in range(3, 8)],
    ]
    draw_samples(samples, tmp_path / "samples.png")
    with Image.open(tmp_path / "samples.png") as page:
        colors = {color for _, color in page.convert("RGB").getcolors(1 << 24)}
        assert (255, 0, 0) in colors
    texts = texts_of(drawn[0])
    assert {"x:1 (1 of 3 pictures)", "what is $x^2$?", "a {cat}", "no picture", "b[31m"} <= set(
        texts
    )
    assert "line 0\nline 1\nline 2\nline 3\nline 4\n..." in texts
    assert sum(bool(axes.images) for axes in drawn[0].axes) == 6


def test_histograms_have_a_bar_a_bin(encoder, tmp_path, drawn):
    report = check_records([row(1), row(2, [picture()]), row(3, [picture()])], encoder)
    draw_histograms(report, tmp_path / "h.png")
    tokens, tiles = drawn[0].axes
    assert [patch.get_height() for patch in tiles.patches] == [1, 0, 0, 2]
    assert [patch.get_x() + patch.get_width() / 2 for patch in tiles.patches] == [0, 1, 2, 3]
    assert sum(patch.get_height() for patch in tokens.patches) == 3
    assert (tiles.get_title(), tiles.get_xlabel()) == ("6 tiles", "tiles of a row")


def test_there_is_no_histogram_of_nothing(encoder, tmp_path):
    report = check_records([row(1, ["gone.png"])], encoder)
    with pytest.raises(DataError, match="no row can be trained on"):
        draw_histograms(report, tmp_path / "h.png")


def test_tiles_come_back_from_their_pixel_values():
    levels = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    tiles = cut_tiles(Image.fromarray(levels), TileSettings(tile_size=14))
    restored = restore_levels(normalize_tiles(tiles))
    assert (restored == np.stack([np.asarray(tile) for tile in tiles])).all()


def test_tiles_are_drawn_in_order_and_named(tmp_path, drawn):
    values = torch.zeros(14, 3, 14, 14)
    draw_tiles(values, [3, 1, 10], tmp_path / "tiles.png", has_thumbnails=True)
    shown = [axes for axes in drawn[0].axes if axes.images]
    assert [axes.get_title() for axes in shown] == [
        "1: 1 of 3", "1: 2 of 3", "1: thumbnail", "2: 1 of 1",
        *[f"3: {number} of 10" for number in range(1, 10)], "3: thumbnail",
    ]  # fmt: skip
    rows = [axes.get_subplotspec().rowspan.start for axes in shown]
    assert rows == [0, 0, 0, 1, *[2] * 8, 3, 3]


def test_one_picture_needs_no_number_and_without_thumbnails_none_is_named(tmp_path, drawn):
    draw_tiles(torch.zeros(2, 3, 14, 14), [2], tmp_path / "tiles.png", has_thumbnails=False)
    assert [axes.get_title() for axes in drawn[0].axes] == ["1 of 2", "2 of 2"]


def test_a_folder_that_does_not_exist_is_told(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        draw_tiles(torch.zeros(1, 3, 14, 14), [1], tmp_path / "no" / "t.png", has_thumbnails=True)


def test_a_machine_without_the_fonts_still_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(pages.font_manager, "get_font_names", list)
    draw_samples([Sample("x:1", None, 0, "q", "a")], tmp_path / "samples.png")
    assert (tmp_path / "samples.png").stat().st_size > 0
