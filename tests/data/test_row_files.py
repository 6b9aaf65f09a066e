from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from internvl35.data.records import Record, read_record
from internvl35.data.row_files import write_rows
from internvl35.data.tables import open_file
from internvl35.errors import DataError


def png(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def read(row: dict[str, Any], root: Path = Path("/set")) -> Record:
    return read_record(row, origin="x", root=root)


def read_back(path: Path) -> list[Record]:
    table = open_file(path)
    return [
        read_record(table[index], origin="x", root=table.root, defaults=table.defaults)
        for index in range(len(table))
    ]


def test_written_rows_are_read_back_as_they_were(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"query": "Q", "response": "A", "system": "S", "solution": "42"},
        {"query": "<image>Q <image>", "response": "A", "images": ["a.png", "http://h/b.png"]},
        {
            "conversations": [
                {"from": "human", "value": "<image>Q"}, {"from": "gpt", "value": "A"},
            ],
            "image": "/else/a.png", "max_dynamic_patch": 3, "data_augment": True,
        },
        {"query": "Q", "response": "A", "videos": ["v.mp4", ["1.png", "2.png"]]},
        {
            "query": "<image><ref-object>?", "response": "<bbox>", "image": "a.png",
            "objects": {"ref": ["x"], "bbox": [[0.1, 0.2, 0.3, 0.4]], "bbox_type": "norm1",
                        "image_id": [0]},
        },
        {
            "messages": [
                {"role": "user", "content": "Q"},
                {"role": "assistant", "content": "C", "loss": False, "reasoning_content": "T"},
                {"role": "tool", "content": "R"},
                {"role": "assistant", "content": "A"},
            ],
            "tools": [{"name": "f"}],
        },
        {"text": "Plain text"},
    ]  # fmt: skip
    records = [read(row) for row in rows]
    path = tmp_path / "val_dataset.jsonl"
    assert write_rows(records, path) == len(rows)
    assert read_back(path) == records
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["val_dataset.jsonl"]


def test_pictures_in_memory_are_saved_beside_the_rows(tmp_path: Path) -> None:
    images = [png(10), Image.new("RGB", (4, 4), (1, 2, 3)), np.zeros((2, 2, 3), np.uint8), b"?"]
    record = read({"query": "Q", "response": "A", "images": images[:2], "videos": [[png(7)]]})
    record = Record(record.messages, (*record.images, *images[2:]), record.videos)
    path = tmp_path / "val_dataset.jsonl"
    write_rows([record], path)
    row = json.loads(path.read_text())
    assert row["images"] == [
        "val_images/000001-0.png", "val_images/000001-1.png", "val_images/000001-2.png",
        "val_images/000001-3.bin",
    ]  # fmt: skip
    assert row["videos"] == [["val_images/000001-v0-0.png"]]
    assert (tmp_path / row["images"][0]).read_bytes() == png(10)
    with Image.open(tmp_path / row["images"][1]) as picture:
        assert picture.getpixel((0, 0)) == (1, 2, 3)


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    bad = Record(read({"query": "Q", "response": "A"}).messages, (object(),))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a source of type object cannot be written"):
        write_rows([bad], path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]
    assert path.read_text() == "old"


def test_columns_without_a_form_in_json_are_kept_as_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows([read({"query": "Q", "response": "A", "sound": b"abc", "at": Path("x")})], path)
    row = json.loads(path.read_text())
    assert row["sound"] == {"bytes": "YWJj"}
    assert row["at"] == "x"


def test_half_a_character_in_a_column_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows([read({"query": "Q", "response": "A", "note": "cut \ud83d off"})], path)
    assert read_back(path)[0].extra == {"note": "cut \ud83d off"}
