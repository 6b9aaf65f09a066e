"""Drawings made larger, so that they take several tiles and hold little in each.

Drawing them is left to the families. Training sees some, and they are what the router of Flash
models is measured on. No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from internvl35.data.synthetic.drawing import Drawing
from internvl35.data.synthetic.labels import Mark


def enlarge(drawing: Drawing, factor: float) -> Drawing:
    """Enlarge all pictures of a drawing; questions and answers stay.

    Args:
        drawing: of any family.
        factor: new sides as a multiple of the old ones.

    Returns:
        The same drawing with larger pictures, and marks in their places.
    """
    images = tuple(
        image.resize(
            (round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC
        )
        for image in drawing.images
    )
    marks = tuple(tuple(_enlarged(mark, factor) for mark in part) for part in drawing.marks)
    return replace(drawing, images=images, marks=marks)


def _enlarged(mark: Mark, factor: float) -> Mark:
    left, top, right, bottom = mark.box
    return Mark(mark.label, (left * factor, top * factor, right * factor, bottom * factor))
