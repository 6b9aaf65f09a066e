from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from internvl35.data.meta import is_meta_file, open_meta
from internvl35.data.records import RowDefaults
from internvl35.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.jsonl").write_text('{"query": "1"}\n{"query": "2"}\n')
    (tmp_path / "pictures").mkdir()
    return tmp_path


def write(folder: Path, value: Any) -> Path:
    path = folder / "meta.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_the_official_list_is_read(folder: Path) -> None:
    path = write(
        folder,
        {
            "one": {
                "root": "pictures/", "annotation": "a.jsonl", "repeat_time": 2.5, "length": 2,
                "data_augment": True, "max_dynamic_patch": 6,
            },
            "two": {"root": str(folder), "annotation": str(folder / "a.jsonl")},
            "three": {"annotation": "a.jsonl", "data_augment": False},
        },
    )  # fmt: skip
    assert is_meta_file(path)
    shares = open_meta(path, defaults=RowDefaults(columns={"x": "y"}))
    assert [share.repeat for share in shares] == [2.5, 1.0, 1.0]
    assert [share.table.root for share in shares] == [folder / "pictures", folder, folder]
    assert [len(share.table) for share in shares] == [2, 2, 2]
    assert [
        (share.table.defaults.data_augment, share.table.defaults.max_dynamic_patch)
        for share in shares
    ] == [(True, 6), (None, None), (False, None)]
    assert all(share.table.defaults.columns == {"x": "y"} for share in shares)


def test_paths_may_start_from_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "lists").mkdir()
    monkeypatch.chdir(folder)
    path = write(folder / "lists", {"one": {"root": "pictures", "annotation": "a.jsonl"}})
    (share,) = open_meta(path)
    assert share.table.root == Path("pictures")
    assert len(share.table) == 2


def test_a_comma_too_many_is_pointed_at(folder: Path) -> None:
    path = write(folder, '{\n  "one": {"annotation": "a.jsonl"},\n}\n')
    assert is_meta_file(path)
    with pytest.raises(DataError, match=r"line 3, column 1.*drop the comma behind the last entry"):
        open_meta(path)


def test_a_length_that_is_not_the_number_of_rows_is_reported(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(folder, {"one": {"annotation": "a.jsonl", "length": 5, "colour": 1}})
    with caplog.at_level(logging.WARNING):
        open_meta(path)
    assert "has 2 rows where its entry says 5" in caplog.text
    assert "'colour' mean nothing here" in caplog.text


def test_a_root_that_is_told_goes_before_the_folder_of_the_file(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    media = tmp_path_factory.mktemp("media")
    (media / "pictures").mkdir()
    entries = {
        "one": {"root": "pictures", "annotation": "a.jsonl"}, "two": {"annotation": "a.jsonl"},
        "three": {"root": str(folder), "annotation": "a.jsonl"},
    }  # fmt: skip
    shares = open_meta(write(folder, entries), root=media)
    assert [share.table.root for share in shares] == [media / "pictures", media, folder]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], "it is a list; needed: an object with 'annotation'"),
        ({}, "annotation is None; needed: a path"),
        ({"annotation": 5}, "annotation is 5"),
        ({"annotation": "b.jsonl"}, "b.jsonl is no file"),
        ({"annotation": "a.jsonl", "root": 5}, "root is 5"),
        ({"annotation": "a.jsonl", "repeat_time": 0}, "repeat_time is 0; needed: a number above 0"),
        ({"annotation": "a.jsonl", "repeat_time": "2"}, "repeat_time is '2'"),
        ({"annotation": "a.jsonl", "repeat_time": True}, "repeat_time is True"),
        ({"annotation": "a.jsonl", "data_augment": "no"}, "data_augment is 'no'"),
        ({"annotation": "a.jsonl", "max_dynamic_patch": 0}, "max_dynamic_patch is 0"),
        ({"annotation": "a.jsonl", "max_dynamic_patch": 10**9}, "needed: .* 1 to 1024"),
        ({"annotation": "~nobody-of-this-name/a.jsonl"}, "is no file"),
        ({"annotation": "a.jsonl", "repeat_time": 1e12}, "repeat_time is 1000000000000.0"),
    ],
)
def test_an_entry_that_is_wrong_is_named(folder: Path, entry: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"meta.json, entry 'one': .*{message}"):
        open_meta(write(folder, {"one": entry}))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.json", '[{"annotation": "x"}]'),
        ("rows.json", '{"images": [], "annotations": []}'),
        ("rows.json", '{"annotation": "a yellow box", "image": "x.png"}\n'),
        ("rows.jsonl", '{"a": {"annotation": "x"}}'),
        ("rows.json", ""),
    ],
)
def test_other_files_are_no_lists_of_sets(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert not is_meta_file(tmp_path / name)
    assert not is_meta_file(tmp_path / "missing.json")
