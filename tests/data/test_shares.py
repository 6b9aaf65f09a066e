from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from internvl35.data.dataset_names import DatasetName
from internvl35.data.hub_tables import HubAccess
from internvl35.data.records import read_record
from internvl35.data.shares import open_shares
from internvl35.errors import DataError

ROW = '{"query": "Q", "response": "A", "image": "p.png"}\n'


def opened(path: Path, root: Path | None = None) -> list[str]:
    shares = open_shares(DatasetName(str(path), is_local=True), HubAccess(), root=root)
    return [share.table.name for share in shares]


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(ROW)


def test_files_of_rows_in_a_folder_are_read_one_behind_the_other(tmp_path: Path) -> None:
    fill(tmp_path, "b.jsonl", "a.jsonl", "sub/c.jsonl")
    (tmp_path / "notes.md").touch()
    assert opened(tmp_path) == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["train.jsonl", "test.jsonl", "val.jsonl"], ["train.jsonl"]),
        (
            ["my_train_1.jsonl", "train-2.jsonl", "other.jsonl"],
            ["my_train_1.jsonl", "train-2.jsonl"],
        ),
        (["a.jsonl", "a_val.jsonl"], ["a.jsonl"]),
        (["test.jsonl"], ["test.jsonl"]),
        (["latest.jsonl", "trainee.jsonl"], ["latest.jsonl", "trainee.jsonl"]),
    ],
)
def test_files_for_tests_are_not_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str], taken: list[str]
) -> None:
    fill(tmp_path, *names)
    with caplog.at_level(logging.WARNING):
        assert opened(tmp_path) == taken
    assert ("by their names" in caplog.text) == (len(taken) < len(names))


def test_a_folder_with_an_official_list_is_read_by_it(tmp_path: Path) -> None:
    fill(tmp_path, "rows/a.jsonl", "b.jsonl")
    entry = {"root": "pictures", "annotation": "rows/a.jsonl", "repeat_time": 2}
    (tmp_path / "meta.json").write_text(json.dumps({"a": entry}))
    assert opened(tmp_path) == ["a.jsonl"]
    assert opened(tmp_path / "meta.json") == ["a.jsonl"]


def test_pictures_are_looked_for_in_the_folder_or_where_told(tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl")
    for path in (tmp_path, tmp_path / "a.jsonl"):
        for root in (None, Path("/pictures")):
            name = DatasetName(str(path), is_local=True)
            (share,) = open_shares(name, HubAccess(), root=root)
            table = share.table
            record = read_record(table[0], origin="x", root=table.root, defaults=table.defaults)
            assert record.images == ((root or tmp_path) / "p.png",)


def test_pictures_with_a_list_of_captions_are_read(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,text\n1.png,one\n")
    (share,) = open_shares(DatasetName(str(tmp_path), is_local=True), HubAccess())
    table = share.table
    record = read_record(table[0], origin="x", root=table.root, defaults=table.defaults)
    assert record.images == (tmp_path / "1.png",)
    assert record.messages[0].text == "<image>\none"


def test_files_that_describe_a_folder_are_no_rows(tmp_path: Path) -> None:
    fill(tmp_path, "dataset_infos.json", "config.json", "rows.csv")
    (tmp_path / "rows.csv").write_text("query,response\nQ,A\n")
    assert opened(tmp_path) == ["rows.csv"]


def test_parquet_saved_sets_and_declared_subsets_go_to_their_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = datasets.Dataset.from_dict({"query": ["Q"], "response": ["A"]})
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    rows.save_to_disk(str(tmp_path / "saved"))
    fill(tmp_path / "declared", "x.jsonl", "y.jsonl")
    (tmp_path / "declared" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: y.jsonl\n---\nText"
    )
    assert opened(tmp_path / "rows.parquet") == ["rows.parquet"]
    assert opened(tmp_path / "saved") == ["saved"]
    assert opened(tmp_path / "declared") == [f"{tmp_path / 'declared'}[train]"]
    (share,) = open_shares(DatasetName(str(tmp_path / "saved"), is_local=True), HubAccess())
    assert share.table[0] == {"query": "Q", "response": "A"}
    for path in ("rows.parquet", "saved", "declared"):
        name = DatasetName(str(tmp_path / path), is_local=True)
        (share,) = open_shares(name, HubAccess(), root=Path("/pictures"))
        assert share.table.root == Path("/pictures")


def test_a_file_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.pkl").touch()
    with pytest.raises(DataError, match="of no known kind of data set"):
        opened(tmp_path / "rows.pkl")
