"""Messages of a body become turns and pictures; what may be named is checked first."""

from __future__ import annotations

import pytest

from internvl35.data.messages import Message, insert_marks, mark_images, video_marks
from internvl35.data.row_turns import Slots
from internvl35.data.row_turns import read_messages as read_rows
from internvl35.errors import MediaError
from internvl35.serve.chat_messages import (
    AskedPicture,
    MediaRules,
    read_messages,
    spread_frames,
)
from internvl35.serve.fields import BodyError

DATA = "data:image/png;base64,AAAA"
PICTURE = {"type": "image_url", "image_url": {"url": DATA}}
VIDEO = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}


def text(said):
    return {"type": "text", "text": said}


def read_turn(content, role="user", **more):
    (message,), pictures = read_messages([{"role": role, "content": content, **more}], MediaRules())
    return message, pictures


@pytest.mark.parametrize("num_pictures", [0, 1, 2, 3])
@pytest.mark.parametrize("is_first", [True, False])
def test_pictures_with_one_text_are_placed_as_a_chat_places_them(num_pictures, is_first):
    parts = [PICTURE] * num_pictures
    parts = [text("What?"), *parts] if is_first else [*parts, text("What?")]
    message, pictures = read_turn(parts)
    asked = Message("user", mark_images("What?", num_pictures))
    assert message.split_at_images() == asked.split_at_images()
    assert pictures == (AskedPicture(DATA),) * num_pictures


@pytest.mark.parametrize(
    "parts",
    [
        [text("First: "), PICTURE, text("Second: "), PICTURE, text("Which?")],
        [PICTURE, text("a"), PICTURE, PICTURE, text("b")],
        [text("a"), text("b"), PICTURE],
        [PICTURE, PICTURE, text("a"), text("b")],
    ],
)
def test_among_several_texts_pictures_stand_as_in_rows_of_a_data_set(parts):
    message, pictures = read_turn(parts)
    (row,) = read_rows([{"role": "user", "content": parts}], Slots())
    assert message.split_at_images() == row.split_at_images()
    assert len(pictures) == parts.count(PICTURE)


def test_a_text_that_begins_with_a_break_gets_no_second_one():
    message, _ = read_turn(
        [text("Image-1: "), PICTURE, text("\nImage-2: "), PICTURE, text("\nIt?")]
    )
    assert message.split_at_images() == ["Image-1: ", "\nImage-2: ", "\nIt?"]


def test_a_literal_mark_stays_text():
    message, pictures = read_turn("Is <image> a tag?")
    assert (message.split_at_images(), pictures) == (["Is <image> a tag?"], ())
    message, _ = read_turn([PICTURE, text("Is <image> a tag?")])
    assert message.split_at_images() == ["", "\nIs <image> a tag?"]


@pytest.mark.parametrize("num_pictures", [0, 1, 2])
def test_a_video_behind_pictures_is_placed_as_a_chat_places_it(num_pictures):
    content = [*[PICTURE] * num_pictures, VIDEO, text("What?")]
    rules = MediaRules(allow_videos=True)
    messages, media = read_messages([{"role": "user", "content": content}], rules)
    assert [one.kind for one in media] == ["image"] * num_pictures + ["video"]
    counts = [None] * num_pictures + [3]
    (message,) = spread_frames(messages, counts, "Frame1: <image>\n")
    asked = mark_images("What?", num_pictures)
    asked = Message("user", insert_marks(asked, video_marks(3), num_pictures))
    assert message.split_at_images() == asked.split_at_images()


def test_frames_stand_where_their_video_stood_among_several_texts_and_turns():
    rules = MediaRules(allow_videos=True)
    entries = [
        {"role": "user", "content": [text("a"), VIDEO, text("b"), PICTURE, text("\nc")]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [VIDEO]},
    ]
    messages, _ = read_messages(entries, rules)
    first, answer, last = spread_frames(messages, [2, None, 1], "Frame1: <image>\n")
    assert first.split_at_images() == ["aFrame1: ", "\nFrame2: ", "\nb", "\nc"]
    assert answer == Message("assistant", "yes")
    assert last.split_at_images() == ["Frame1: ", "\n"]


def test_roles_and_reasoning_reach_the_turns():
    entries = [
        {"role": "developer", "content": [text("Be "), text("brief.")]},
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": "Yes", "reasoning_content": "Hm", "refusal": None},
        {"role": "user", "content": [PICTURE]},
    ]
    messages, pictures = read_messages(entries, MediaRules())
    assert messages[0] == Message("system", "Be brief.")
    assert messages[2] == Message("assistant", "Yes", thinking="Hm")
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert len(pictures) == 1


@pytest.mark.parametrize(
    ("picture", "max_tiles"),
    [
        ({"url": DATA}, None), ({"url": DATA, "detail": "auto"}, None),
        ({"url": DATA, "detail": "high"}, None), ({"url": DATA, "detail": "low"}, 1),
        ({"url": DATA, "max_dynamic_patch": 4}, 4),
        ({"url": DATA, "detail": "low", "max_dynamic_patch": 4}, 4),
    ],
)  # fmt: skip
def test_a_picture_may_say_how_closely_it_is_looked_at(picture, max_tiles):
    _, pictures = read_turn([{"type": "image_url", "image_url": picture}])
    assert pictures == (AskedPicture(DATA, max_tiles),)


@pytest.mark.parametrize(
    ("entries", "param", "message"),
    [
        ([], "messages", "messages is empty"),
        (None, "messages", "messages is empty"),
        (["hi"], "messages[0]", 'messages[0] is "hi"; needed: an object'),
        ([{"role": "cat", "content": ""}], "messages[0].role", 'is "cat"; known: system'),
        ([{"role": "user"}], "messages[0].content", "is null; needed: a text or a list"),
        ([{"role": "user", "content": []}], "messages[0].content", "is a list of 0"),
        ([{"role": "user", "content": [7]}], "messages[0].content[0]", "is 7; needed: an object"),
        (
            [{"role": "user", "content": [{"type": "text"}]}],
            "messages[0].content[0].text", "is missing",
        ),
        (
            [{"role": "user", "content": [{"type": "video_url"}]}],
            "messages[0].content[0].type", "a user's may be text and image_url",
        ),
        (
            [{"role": "system", "content": [PICTURE]}],
            "messages[0].content[0].type", "a system's may be text",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": DATA}]}],
            "messages[0].content[0].image_url", "needed: an object",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            "messages[0].content[0].image_url", "names no picture",
        ),
        (
            [{"role": "user", "content": [text("a") | {"textt": "b"}]}],
            "messages[0].content[0].textt", "is unknown; do you mean text?",
        ),
        (
            [{"role": "assistant", "content": None, "tool_calls": [{}]}],
            "messages[0].tool_calls[0].type", "known: function",
        ),
    ],
)  # fmt: skip
def test_other_forms_are_refused_at_their_place(entries, param, message):
    with pytest.raises(BodyError) as found:
        read_messages(entries, MediaRules())
    assert found.value.param == param
    assert message in str(found.value)


def test_files_are_found_below_the_folder_alone(tmp_path):
    root = tmp_path / "pictures"
    (root / "inner").mkdir(parents=True)
    (root / "inner" / "a b.png").touch()
    (tmp_path / "secret.png").touch()
    (root / "way_out").symlink_to(tmp_path / "secret.png")
    (tmp_path / "pictures2").mkdir()
    rules = MediaRules(root)
    wanted = (root / "inner" / "a b.png").resolve()
    for name in (
        "inner/a b.png", f"{root}/inner/a b.png", f"file://{root}/inner/a%20b.png",
        f"file://localhost{root}/inner/a%20b.png", "inner/../inner/a b.png",
    ):  # fmt: skip
        assert rules.find(name) == wanted
    for name in (
        "../secret.png", "/etc/passwd", "way_out", f"{tmp_path}/pictures2/x.png", "file:///etc/x",
        f"file://{root}/%2e%2e/secret.png", "inner/../../secret.png",
    ):  # fmt: skip
        with pytest.raises(MediaError, match="lies outside the folder"):
            rules.find(name)
    for name in ("a\0b", f"file://elsewhere{root}/x.png", f"file://{root}/x?y=1"):
        with pytest.raises(MediaError, match=r"is not a path|is no address"):
            rules.find(name)


def test_without_leave_neither_files_nor_addresses_are_named(tmp_path):
    for name, message in [
        ("a.png", "named as a file"), ("file:///a.png", "named as a file"),
        ("https://example.org/a.png", "URLs are not fetched"), ("HTTP://a/b", "not fetched"),
        ("ftp://example.org/a.png", "scheme ftp"), ("gopher://x", "scheme gopher"),
    ]:  # fmt: skip
        with pytest.raises(MediaError, match=message):
            MediaRules().find(name)
    assert MediaRules(allow_urls=True).find("https://a/b.png") == "https://a/b.png"
    assert MediaRules().find(DATA) == DATA
