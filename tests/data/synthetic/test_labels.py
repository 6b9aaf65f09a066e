import pytest
import torch

from internvl35.config import TileSettings
from internvl35.data.synthetic import MARK_LABELS, Mark, draw
from internvl35.data.synthetic.colours import COLOURS
from internvl35.data.synthetic.labels import COLOUR_NAMES, GLYPHS, SHAPES
from internvl35.data.synthetic.patch_labels import label_patches

TILES = TileSettings(tile_size=192, max_tiles=4)
PATCH = 16


def test_every_label_is_listed_once_and_glyphs_come_first() -> None:
    assert len(set(MARK_LABELS)) == len(MARK_LABELS)
    assert MARK_LABELS[:11] == (*(f"glyph:{digit}" for digit in range(10)), "glyph:A")
    assert MARK_LABELS[len(GLYPHS)] == f"colour:{COLOUR_NAMES[0]}"
    assert MARK_LABELS[len(GLYPHS) + len(COLOUR_NAMES)] == f"shape:{SHAPES[0]}"
    assert len(set(GLYPHS)) == len(GLYPHS)
    assert set(COLOURS) <= set(COLOUR_NAMES)


def test_a_mark_without_a_label_is_refused() -> None:
    with pytest.raises(AssertionError, match="no label glyph:AB"):
        Mark("glyph:AB", (0, 0, 1, 1))


def test_each_printed_character_is_labelled_in_the_patch_it_stands_in() -> None:
    for index in range(40):
        drawing = draw("reading", "validation", index, 0.0)
        labels = label_patches(drawing.marks[0], 192, 192, TILES, PATCH)
        assert labels.shape == (1, 12, 12, len(MARK_LABELS))
        for mark in drawing.marks[0]:
            left, top, right, bottom = mark.box
            found = labels[0, :, :, MARK_LABELS.index(mark.label)].nonzero().tolist()
            middle = [int((top + bottom) / 2 / PATCH), int((left + right) / 2 / PATCH)]
            assert middle in found
        present = {mark.label for mark in drawing.marks[0]}
        labelled = torch.nonzero(labels.flatten(0, 2).sum(0)).flatten().tolist()
        assert {MARK_LABELS[place] for place in labelled} == present


def test_a_picture_that_is_one_tile_after_shrinking_is_labelled_in_its_own_scale() -> None:
    mark = Mark("glyph:A", (120.0, 100.0, 140.0, 125.0))  # of 240 by 200 pixels
    labels = label_patches([mark], 240, 200, TILES, PATCH)
    assert labels.shape[0] == 1
    found = labels[0, :, :, MARK_LABELS.index("glyph:A")].nonzero().tolist()
    assert found == [[6, 6], [7, 6]]
