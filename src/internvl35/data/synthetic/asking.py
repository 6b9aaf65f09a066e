"""The one form in which a drawn question is put to a model, in training and in evaluation alike.

Marks and labels of pictures are those of :mod:`internvl35.data.messages`, so that a drawn task
looks like any other prompt of a checkpoint. Tiles and tokens are left to others. Paper section 2.1.
"""

from __future__ import annotations

from internvl35.data.messages import image_marks, video_marks
from internvl35.data.synthetic.drawing import Drawing, Turn


def question_text(drawing: Drawing, turn: Turn, *, is_first: bool) -> str:
    """Write what the user says in a turn.

    Args:
        drawing: what the turn is about.
        turn: any of its turns.
        is_first: whether the turn opens the conversation; the pictures stand in front of it.

    Returns:
        The question, with a mark for every picture where it is the first: one without a label,
        several labelled ``Image-1:`` and so on, the frames of a video ``Frame1:`` and so on.
    """
    num_images = len(drawing.images)
    if not is_first or not num_images:
        return turn.question
    marks = video_marks(num_images) if drawing.is_video else image_marks(num_images)
    return marks + turn.question
