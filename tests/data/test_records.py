from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl35.data.messages import Message
from internvl35.data.records import Record, RowDefaults, read_record
from internvl35.errors import DataError

ROOT = Path("/set")
SHARED = Path(__file__).parents[3] / "shared"


def read(row: dict[str, Any], **defaults: Any) -> Record:
    return read_record(row, origin="rows.jsonl:3", root=ROOT, defaults=RowDefaults(**defaults))


def talk(*texts: str, system: str | None = None) -> tuple[Message, ...]:
    head = () if system is None else (Message("system", system),)
    roles = ("user", "assistant") * len(texts)
    return (*head, *(Message(role, text) for role, text in zip(roles, texts, strict=False)))


KEYS = (
    "messages", "conversations", "role", "content", "from", "value", "type", "text", "images",
    "image", "videos", "video", "image_url", "url", "path", "bytes", "source", "data", "objects",
    "ref", "bbox", "bbox_type", "image_id", "tools", "tool_calls", "function", "name", "arguments",
    "history", "query", "prompt", "completion", "response", "instruction", "input", "system",
    "loss", "thinking", "max_dynamic_patch", "data_augment",
)  # fmt: skip
WORDS = ("user", "assistant", "tool_call", "image", "<image>", "<bbox><ref-object>", "{}", "[1]")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.floats() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=12,
)

ASK = {"role": "user", "content": "Q"}
ANSWER = {"role": "assistant", "content": "A"}

NESTED: list[Any] = []
for _ in range(100_000):
    NESTED = [NESTED]


def test_the_announced_row_is_read() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "<image><image>What is the difference?"},
            {"role": "assistant", "content": "The first one is a kitten."},
        ],
        "images": ["/xxx/x.jpg", "/xxx/x.png"],
    }
    record = read(row)
    assert record.messages == talk(
        "<image>\n<image>\nWhat is the difference?", "The first one is a kitten."
    )
    assert record.images == (Path("/xxx/x.jpg"), Path("/xxx/x.png"))
    assert record.origin == "rows.jsonl:3"
    assert record.extra == {}


def test_the_row_in_the_announcement_is_read() -> None:
    file = SHARED / "announcement" / "finetune_commands.sh"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    line = next(line for line in file.read_text().splitlines() if line.startswith('# {"messages"'))
    record = read(json.loads(line[2:]))
    assert [message.role for message in record.messages] == ["user", "assistant"]
    assert len(record.images) == 2


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": [ASK, ANSWER]}, talk("Q", "A")),
        ({"conversations": [ASK, ANSWER]}, talk("Q", "A")),
        ({"conversation": [ASK, ANSWER]}, talk("Q", "A")),
        ({"messages": json.dumps([ASK, ANSWER])}, talk("Q", "A")),
        ({"messages": [ASK, ANSWER], "system": "S"}, talk("Q", "A", system="S")),
        (
            {"messages": [{"role": "system", "content": "S"}, ASK, ANSWER]},
            talk("Q", "A", system="S"),
        ),
        ({"query": "Q", "response": "A"}, talk("Q", "A")),
        ({"query": "Q", "response": "A", "system_prompt": "S"}, talk("Q", "A", system="S")),
        ({"Question": "Q", "Answer": 5}, talk("Q", "5")),
        ({"problem": "Q", "solution": "A"}, talk("Q", "A")),
        ({"question": "Q", "answers": ["A", "B"]}, talk("Q", "A")),
        ({"query": "Q2", "response": "A2", "history": [["Q", "A"]]}, talk("Q", "A", "Q2", "A2")),
        ({"instruction": "Q", "input": "I", "output": "A"}, talk("Q\nI", "A")),
        ({"instruction": "Q", "input": "", "output": "A"}, talk("Q", "A")),
        ({"instruction": "Q", "output": "A"}, talk("Q", "A")),
        ({"prompt": [ASK], "completion": [ANSWER]}, talk("Q", "A")),
        ({"prompt": [ASK], "reward_model": {"ground_truth": 1}}, talk("Q")),
        ({"query": "Q"}, talk("Q")),
    ],
)
def test_the_usual_shapes_of_text_rows_are_read(
    row: dict[str, Any], messages: tuple[Message, ...]
) -> None:
    assert read(row).messages == messages


def test_a_conversations_row_keeps_its_texts() -> None:
    row = {
        "id": 7, "image": "a.png", "width": 3, "height": 4,
        "conversations": [
            {"from": "system", "value": "S"},
            {"from": "human", "value": "<image>Q"},
            {"from": "gpt", "value": "A"},
            {"from": "human", "value": "Q2"},
            {"from": "gpt", "value": "A2"},
        ],
    }  # fmt: skip
    record = read(row)
    assert record.messages == talk("<image>Q", "A", "Q2", "A2", system="S")
    assert record.images == (Path("/set/a.png"),)
    assert record.extra == {"id": 7, "width": 3, "height": 4}


@pytest.mark.parametrize("key", ["conversations", "messages"])
def test_missing_marks_stand_in_front_of_the_first_question(key: str) -> None:
    names = ("from", "value") if key == "conversations" else ("role", "content")
    turns = [
        dict(zip(names, turn, strict=True))
        for turn in (("system", "S"), ("user", "Q <image>"), ("assistant", "A"), ("user", "R"))
    ]
    record = read({key: turns, "images": ["1.png", "2.png", "3.png"]})
    assert record.messages[1].text == "<image>\n<image>\nQ <image>"
    assert [Path(str(image)).name for image in record.images] == ["1.png", "2.png", "3.png"]


def test_a_video_row_gets_its_mark() -> None:
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    record = read({"video": "v.mp4", "conversations": turns})
    assert record.messages == talk("<video>\nQ", "A")
    assert record.videos == (Path("/set/v.mp4"),)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"videos": ["a.mp4", "b.mp4"]}, (ROOT / "a.mp4", ROOT / "b.mp4")),
        ({"videos": [["1.png", "2.png"]]}, ((ROOT / "1.png", ROOT / "2.png"),)),
        ({"video": ["1.png", "2.PNG"]}, ((ROOT / "1.png", ROOT / "2.PNG"),)),
        ({"video": ["a.mp4", "b.mp4"]}, (ROOT / "a.mp4", ROOT / "b.mp4")),
        ({"video": b"data"}, (b"data",)),
    ],
)
def test_videos_are_files_or_lists_of_frames(
    columns: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    record = read({"query": "Q", "response": "A", **columns})
    assert record.videos == expected
    assert record.messages[0].text.count("<video>\n") == len(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<image>Q", "<image>\nQ"),
        ("<image>\nQ", "<image>\nQ"),
        ("<image> Q", "<image> Q"),
        ("<image>", "<image>\n"),
        ("  <image>Q", "  <image>Q"),
        ("Compare <image>with this", "Compare <image>with this"),
    ],
)
def test_a_mark_that_begins_a_question_gets_a_line_break(text: str, expected: str) -> None:
    record = read({"query": text, "response": "A", "image": "a.png"})
    assert record.messages[0].text == expected


def test_openai_parts_are_read() -> None:
    content = [
        {"type": "text", "text": "Look: "},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "image_url", "image_url": "https://host/b.png"},
        {"type": "input_image", "image_url": "c.png"},
        {"type": "video", "video": "d.mp4"},
        {"type": "text", "text": "And?"},
    ]
    turns = [
        {"role": "developer", "content": [{"type": "text", "text": "S"}]},
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "A"}], "weight": 0},
    ]
    record = read({"messages": turns})
    assert record.messages == (
        Message("system", "S"),
        Message("user", "Look: <image>\n<image>\n<image>\n<video>\nAnd?"),
        Message("assistant", "A", has_loss=False),
    )
    assert record.images == (
        "data:image/png;base64,AA==", "https://host/b.png", Path("/set/c.png"),
    )  # fmt: skip
    assert record.videos == (Path("/set/d.mp4"),)


def test_anthropic_blocks_are_read() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "Q"}]
    answer = [{"type": "thinking", "thinking": "T"}, {"type": "text", "text": "A"}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    record = read({"messages": turns})
    assert record.messages == (
        Message("user", "<image>\nQ"), Message("assistant", "A", thinking="T"),
    )  # fmt: skip
    assert record.images == (b"hi",)


def test_pictures_in_parts_and_in_a_column_keep_their_places() -> None:
    content = [
        {"type": "image", "image": "inline.png"},
        {"type": "image"},
        {"type": "text", "text": "<image> and"},
    ]
    row = {
        "messages": [{"role": "user", "content": content}],
        "images": ["0.png", "1.png", "2.png"],
    }
    record = read(row)
    assert record.messages[0].text == "<image>\n<image>\n<image>\n<image> and"
    names = [Path(str(image)).name for image in record.images]
    assert names == ["0.png", "inline.png", "1.png", "2.png"]


def test_tools_and_their_calls_are_read() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    call = {"name": "add", "arguments": {"a": 1}}
    turns = [
        ASK,
        {"role": "assistant", "content": "Let me see."},
        {"role": "tool_call", "content": json.dumps(call)},
        {"role": "tool_call", "content": call},
        {"role": "tool_response", "content": "2"},
        {"role": "function", "content": {"result": 3}},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": call}],
        },
        {"role": "tool", "content": "an <image> of 3"},
        ANSWER,
    ]
    record = read({"messages": turns, "tools": tools})
    written = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert record.messages == (
        Message("user", "Q"),
        Message("assistant", f"Let me see.\n{written}\n{written}"),
        Message("tool", "2"),
        Message("tool", '{"result": 3}'),
        Message("assistant", written),
        Message("tool", "an <image> of 3"),  # text: only users show pictures
        Message("assistant", "A"),
    )
    assert json.loads(record.tools or "") == tools
    assert read({"messages": turns, "tools": json.dumps(tools)}).tools == record.tools


@pytest.mark.parametrize(
    ("keys", "has_loss"),
    [
        ({}, None), ({"loss": True}, True), ({"loss": False}, False), ({"loss": None}, None),
        ({"loss_scale": 0}, False), ({"loss_scale": 1.0}, True), ({"weight": 1}, True),
        ({"loss": True, "loss_scale": 1}, True),
    ],
)  # fmt: skip
def test_a_message_says_whether_it_carries_loss(
    keys: dict[str, Any], has_loss: bool | None
) -> None:
    assert read({"messages": [ASK, ANSWER | keys]}).messages[1].has_loss is has_loss


@pytest.mark.parametrize(
    ("row", "messages", "num_images"),
    [
        ({"messages": [{"role": "assistant", "content": "Text"}]}, "Text", 0),
        ({"text": "Text"}, "Text", 0),
        (
            {"conversations": [{"from": "pretrain", "value": "a<image>b"}], "image": "x.png"},
            "a<image>b",
            1,
        ),
        ({"text": "Caption", "image": {"bytes": b"x", "path": None}}, "<image>\nCaption", 1),
    ],
)
def test_text_without_a_question_is_for_pre_training(
    row: dict[str, Any], messages: str, num_images: int
) -> None:
    record = read(row)
    assert record.messages == (Message("assistant", messages),)
    assert len(record.images) == num_images


def test_objects_are_read_where_a_text_has_a_place_for_them() -> None:
    objects = {"ref": ["x"], "bbox": [[1, 2, 3, 4]], "image_id": [0]}
    row = {"query": "<image>Where is <ref-object>?", "response": "<bbox>", "image": "a.png"}
    record = read(row | {"objects": objects})
    assert record.objects is not None
    assert record.objects.boxes == (((1.0, 2.0, 3.0, 4.0),),)
    assert record.objects.image_numbers == (0,)
    plain = read({"query": "Q", "response": "A", "objects": objects})
    assert plain.objects is None
    assert plain.extra == {"objects": objects}


def test_columns_are_renamed_as_asked() -> None:
    row = {"caption": "A", "prompt_en": "Q", "picture": "p.png", "text": "other", "answer": "no"}
    names = {"caption": "response", "prompt_en": "query", "picture": "images", "absent": "system"}
    record = read(row, columns=names)
    assert record.messages == talk("<image>\nQ", "A")
    assert record.images == (Path("/set/p.png"),)
    assert record.extra == {"text": "other", "answer": "no"}


def test_two_columns_can_change_places() -> None:
    row = {"query": "A", "response": "Q"}
    assert read(row, columns={"query": "response", "response": "query"}).messages == talk("Q", "A")


def test_a_set_can_ask_the_same_of_every_row() -> None:
    record = read(
        {"image": {"bytes": b"x"}, "text": "x^2"}, query="Read.", columns={"text": "response"}
    )
    assert record.messages == talk("<image>\nRead.", "x^2")


def test_tiles_and_augmentation_come_from_the_row_or_its_table() -> None:
    row = {"query": "Q", "response": "A"}
    assert read(row).max_dynamic_patch is None
    record = read(row, max_dynamic_patch=6, data_augment=True)
    assert (record.max_dynamic_patch, record.data_augment) == (6, True)
    row |= {"max_dynamic_patch": 2, "data_augment": False}
    record = read(row, max_dynamic_patch=6, data_augment=True)
    assert (record.max_dynamic_patch, record.data_augment) == (2, False)


def test_rows_of_a_hub_may_not_name_files_of_this_machine() -> None:
    row = {"query": "Q", "response": "A", "image": "/etc/passwd"}
    with pytest.raises(DataError, match=r"rows\.jsonl:3: the row names the file '/etc/passwd'"):
        read(row, confined_to=(Path("/set"),))


def test_columns_without_a_meaning_are_kept() -> None:
    row = {"messages": [ASK], "solution": "42", "choices": ["a"], "nothing": None}
    assert read(row).extra == {"solution": "42", "choices": ["a"]}


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_any_row_is_read_or_refused(row: dict[str, Any]) -> None:
    try:
        record = read(row)
    except DataError:
        return
    assert record.messages
    shown = [m.text for m in record.messages if m.role == "user" or len(record.messages) == 1]
    assert sum(text.count("<image>") for text in shown) == len(record.images)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "no conversation in the columns"),
        ({"image": "a.png", "label": 1}, r"no conversation in the columns \['label'\]"),
        ({"messages": []}, "at least one message"),
        ({"messages": "hello"}, "at least one message"),
        ({"messages": "[1"}, "at least one message"),
        ({"messages": "[1,]"}, "the column messages is not valid JSON"),
        ({"messages": ["hello"]}, "a message is of type str"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "has the role 'robot'; known: system"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "has the role"),
        ({"messages": [{"content": "x"}]}, "has the role None"),
        ({"messages": [{"role": "user"}]}, "message 1: content is of type NoneType"),
        ({"messages": [ASK, {"role": "assistant", "content": True}]}, "message 2: content is of"),
        ({"messages": [ASK, ANSWER | {"loss_scale": 0.5}]}, "loss_scale is 0.5; only 0 and 1"),
        ({"messages": [ASK, ANSWER | {"loss": "yes"}]}, "loss is 'yes'; only 0 and 1"),
        ({"messages": [ASK, ANSWER | {"loss": True, "weight": 0}]}, "contradict each other"),
        ({"messages": [ASK | {"loss": True}]}, "a message of the user cannot carry loss"),
        ({"messages": [ASK, ANSWER | {"tool_calls": [{}]}]}, "a tool call has no name"),
        ({"messages": [ASK, ANSWER | {"tool_calls": 5}]}, "a tool call has no name"),
        ({"messages": [ASK, ANSWER | {"thinking": 3}]}, "thinking is of type int"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "has the type 'audio'"),
        ({"messages": [{"role": "user", "content": [5]}]}, "a part is of type int"),
        (
            {"messages": [ASK, {"role": "assistant", "content": [{"type": "image"}]}]},
            "message 2: only a message of the user may show images",
        ),
        (
            {"messages": [ASK, ANSWER, {"role": "tool", "content": [{"type": "image"}]}, ANSWER]},
            "message 3: only a message of the user may show images",
        ),
        ({"messages": [ASK], "system": 5}, "system is of type int"),
        (
            {"messages": [{"role": "system", "content": "S"}, ASK], "system": "T"},
            "a system column and another system message",
        ),
        ({"query": "<image>Q", "response": "A"}, "1 <image> marks but 0 images; add the missing"),
        ({"query": "<video>", "response": "A"}, "1 <video> marks but 0 videos"),
        ({"query": {"a": 1}, "response": "A"}, "the question is of type dict"),
        ({"query": "Q", "response": False}, "the answer is of type bool"),
        ({"query": "Q", "response": float("nan")}, "the answer is nan; needed: a text"),
        ({"query": "Q", "response": "A", "audios": ["a.wav"]}, "the row has audio, which"),
        ({"query": "Q", "response": "A", "history": NESTED}, "nested too deeply"),
        ({"query": "Q", "history": ["Q"]}, "history holds 'Q'; needed: pairs"),
        ({"query": "<bbox>", "response": "A"}, "marks but the row has no objects"),
        ({"query": "Q", "response": "A", "tools": "{"}, "tools is not valid JSON"),
        ({"query": "Q", "response": "A", "tools": {"a": 1}}, "tools is of type dict"),
        ({"query": "Q", "response": "A", "max_dynamic_patch": 0}, "max_dynamic_patch is 0"),
        ({"query": "Q", "response": "A", "max_dynamic_patch": 10**9}, "1 to 1024"),
        ({"query": "Q", "response": "A", "data_augment": 1}, "data_augment is 1"),
        ({"query": "Q", "response": "A", "images": [[]]}, "cannot be of type list"),
        ({"messages": [{"role": "system", "content": "S"}], "image": "a"}, "no user's message"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_understood_says_why_and_where(
    row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(row)
    assert str(caught.value).startswith("rows.jsonl:3: ")
