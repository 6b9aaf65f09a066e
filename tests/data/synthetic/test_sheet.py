import numpy as np

from internvl35.data.synthetic import FAMILIES, contact_sheet, draw


def test_a_contact_sheet_has_a_cell_for_every_drawing() -> None:
    drawings = [draw(family, "test", 0) for family in FAMILIES]
    sheet = contact_sheet(drawings, columns=3, cell=100, is_thumbnail=True, with_boxes=True)
    rows = -(-len(drawings) // 3)
    assert sheet.mode == "RGB"
    assert sheet.size == (3 * 106 + 6, rows * 134 + 6)


def test_boxes_are_drawn_around_marks_only_when_asked_for() -> None:
    drawing = draw("reading", "test", 0, 0.0)
    pink = np.array([255, 0, 255])
    plain, boxed = (
        np.asarray(contact_sheet([drawing], columns=1, cell=192, with_boxes=with_boxes))
        for with_boxes in (False, True)
    )
    assert not (plain == pink).all(axis=2).any()
    left, top, _, _ = (int(edge) for edge in drawing.marks[0][0].box)
    assert (boxed[6 + top, 6 + left] == pink).all()
    assert drawing.images[0].getpixel((left, top)) != tuple(pink)  # the drawing itself stays
