import pytest

from internvl35.data.messages import Message, Part, image_marks, mark_images, video_marks
from internvl35.errors import PromptError


def test_one_picture_gets_no_label_and_several_are_numbered():
    assert image_marks(0) == ""
    assert image_marks(1) == "<image>\n"
    assert image_marks(3) == "Image-1: <image>\nImage-2: <image>\nImage-3: <image>\n"


@pytest.mark.parametrize(
    ("label", "marks"),
    [
        ("Frame1: <image>\n", "Frame1: <image>\nFrame2: <image>\n"),
        ("Frame-1: <image>\n", "Frame-1: <image>\nFrame-2: <image>\n"),
        ("Frame1: <image>", "Frame1: <image>Frame2: <image>"),
    ],
)
def test_frames_count_on_in_each_of_the_three_forms(label, marks):
    assert video_marks(2, label) == marks
    assert video_marks(12, label).count("12") == 1


def test_frames_are_labelled_as_the_announcement_labels_them():
    announced = "".join([f"Frame{i + 1}: <image>\n" for i in range(11)])
    assert video_marks(11) == announced


def test_pictures_are_put_in_front_only_of_a_question_without_marks():
    assert mark_images("What?", 0) == "What?"
    assert mark_images("What?", 1) == "<image>\nWhat?"
    assert mark_images("What?", 2) == "Image-1: <image>\nImage-2: <image>\nWhat?"
    assert mark_images("Look: <image> What?", 1) == "Look: <image> What?"


def test_parts_keep_a_literal_mark_as_text():
    message = Message.from_parts([Part.IMAGE, "\nWhat is ", Part.IMAGE, "<image> in HTML?"])
    assert message.text == "\nWhat is <image> in HTML?"
    assert message.split_at_images() == ["", "\nWhat is ", "<image> in HTML?"]


def test_parts_without_a_picture_have_no_place_for_one():
    assert Message.from_parts(["What is ", "<image>?"]).split_at_images() == ["What is <image>?"]


def test_two_pictures_may_follow_one_another():
    message = Message.from_parts([Part.IMAGE, Part.IMAGE])
    assert message.split_at_images() == ["", "", ""]


@pytest.mark.parametrize("places", [(5,), (2, 1), (-1,)])
def test_places_outside_the_text_or_out_of_order_are_refused(places):
    with pytest.raises(PromptError, match="do not fit a text of 4 characters"):
        Message("user", "text", image_places=places).split_at_images()


def test_only_a_user_shows_pictures():
    assert Message("assistant", "write <image> there").split_at_images() == ["write <image> there"]
    with pytest.raises(PromptError, match="message of the assistant has 1 pictures"):
        Message("assistant", "text", image_places=(0,)).split_at_images()
