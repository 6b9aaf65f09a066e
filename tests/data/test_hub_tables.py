from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from internvl35.data import hub_tables
from internvl35.data.arrow_tables import ArrowTable
from internvl35.data.dataset_names import DatasetName
from internvl35.data.hub_tables import HubAccess, open_hub_tables
from internvl35.data.records import Record, RowDefaults, read_record
from internvl35.errors import ConfigError, DataError

datasets = pytest.importorskip("datasets")

SUBSETS = ("human_handwrite", "small")


@pytest.fixture(autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a test asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


class Builder:
    """What the library returns for a set of the hub."""

    def __init__(self, loaded: Any, *files: str) -> None:
        self.loaded = loaded
        self.config = SimpleNamespace(data_files={"train": list(files)})
        self.is_prepared = False

    def download_and_prepare(self) -> None:
        self.is_prepared = True

    def as_dataset(self) -> Any:
        return self.loaded


def make_formulas(folder: Path) -> Path:
    """A folder in the form of the formula set: subsets declared, three splits, pictures inside."""
    configs = ""
    for subset in SUBSETS:
        configs += f"- config_name: {subset}\n  data_files:\n"
        for split in ("train", "validation", "test"):
            rows = {
                "image": [{"bytes": b"\x89PNG" + split.encode(), "path": None}],
                "text": [f"{subset} {split}"],
            }
            features = datasets.Features(
                {"image": datasets.Image(), "text": datasets.Value("string")}
            )
            path = folder / subset / f"{split}-0.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
            configs += f"  - split: {split}\n    path: {subset}/{split}-0.parquet\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return folder


def records_of(tables: list[Any]) -> list[Record]:
    return [
        read_record(table[row], origin=table.locate(row), root=table.root, defaults=table.defaults)
        for table in tables
        for row in range(len(table))
    ]


@pytest.mark.parametrize("place", ["linxy/LaTeX_OCR", "AI-ModelScope/LaTeX_OCR"])
def test_the_formula_set_is_read_from_hugging_face_under_either_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    # the library takes a folder of this name for the set, and so never asks the hub
    make_formulas(tmp_path / "linxy" / "LaTeX_OCR")
    monkeypatch.chdir(tmp_path)
    name = DatasetName(place, subsets=("human_handwrite",))
    records = records_of(open_hub_tables(name, HubAccess("hf")))
    assert [record.messages[1].text for record in records] == [
        "human_handwrite train", "human_handwrite validation", "human_handwrite test",
    ]  # fmt: skip
    assert {record.messages[0].text for record in records} == {
        "<image>\nUsing LaTeX to perform OCR on the image."
    }
    assert records[2].images == (b"\x89PNGtest",)
    assert records[0].origin == "linxy/LaTeX_OCR:human_handwrite[train] row 1"


def test_the_formula_set_is_read_from_modelscope_under_either_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_formulas(tmp_path / "snapshot")
    asked: list[Any] = []

    def download(dataset_id: str, **options: Any) -> str:
        asked.append((dataset_id, options))
        return str(folder)

    module = pytest.importorskip("modelscope.hub.snapshot_download")
    monkeypatch.setattr(module, "dataset_snapshot_download", download)
    name = DatasetName("linxy/LaTeX_OCR", subsets=("small",), hub="ms")
    tables = open_hub_tables(name, HubAccess("hf", "v1", "token"))
    assert [record.messages[1].text for record in records_of(tables)] == [
        "small train", "small validation", "small test",
    ]  # fmt: skip
    ((dataset_id, options),) = asked
    assert dataset_id == "AI-ModelScope/LaTeX_OCR"
    assert (options["revision"], options["token"]) == ("v1", "token")
    assert "*.py" in options["ignore_patterns"]
    assert tables[0].defaults.confined_to == (folder,)


def test_modelscope_takes_the_options_that_are_passed_to_it() -> None:
    from inspect import signature

    module = pytest.importorskip("modelscope.hub.snapshot_download")
    names = signature(module.dataset_snapshot_download).parameters
    assert {"dataset_id", "revision", "ignore_patterns"} <= set(names)


def test_another_set_gives_its_rows_for_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_formulas(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    defaults = RowDefaults(columns={"text": "response"})
    tables = open_hub_tables(DatasetName("owner/name", subsets=("all",)), HubAccess(), defaults)
    assert [table.name for table in tables] == [
        "owner/name:human_handwrite[train]", "owner/name:small[train]",
    ]  # fmt: skip
    with pytest.raises(DataError, match="has the subsets human_handwrite, small; name one"):
        open_hub_tables(DatasetName("owner/name"), HubAccess())


def test_rows_of_a_hub_name_no_files_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    rows = datasets.Dataset.from_dict({"query": ["Q"], "response": ["A"], "image": ["/etc/hosts"]})
    rows.to_parquet(str(tmp_path / "owner" / "name" / "train.parquet"))
    monkeypatch.chdir(tmp_path)
    tables = open_hub_tables(DatasetName("owner/name"), HubAccess())
    with pytest.raises(DataError, match="the row names the file '/etc/hosts', which is not among"):
        records_of(tables)


def test_a_subset_that_is_not_there_is_refused_before_anything_is_fetched() -> None:
    name = DatasetName("AI-ModelScope/LaTeX_OCR", subsets=("handwritten",))
    with pytest.raises(DataError, match="no subset 'handwritten'; it has default, human_handwrite"):
        open_hub_tables(name, HubAccess())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("refused"), "cannot be reached; go online once, or fetch the set"),
        (datasets.exceptions.DatasetNotFoundError("x"), "no data set 'owner/name'.*check the name"),
        (ValueError("BuilderConfig 'x' not found. Available: ['a']\nmore"), "Available: .'a'.\\)$"),
        (datasets.exceptions.DatasetGenerationError("x"), "DatasetGenerationError: x"),
    ],
)
def test_a_set_that_cannot_be_fetched_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def load(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    with pytest.raises(DataError, match=message):
        open_hub_tables(DatasetName("owner/name", subsets=("x",)), HubAccess())


def test_a_set_that_needs_code_is_taken_from_its_parquet_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []
    rows = datasets.Dataset.from_dict({"text": ["x"]})

    def load(place: str, **options: Any) -> Any:
        asked.append(options)
        if options["revision"] is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found name.py")
        return Builder({"train": rows})

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    (table,) = open_hub_tables(DatasetName("owner/name", subsets=("sub",)), HubAccess(token="t"))
    assert isinstance(table, ArrowTable)
    assert asked[1] == {"data_dir": "sub", "revision": "refs/convert/parquet", "token": "t"}
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *a, **o: load("", revision=None))
    with pytest.raises(DataError, match="scripts are no longer supported"):
        open_hub_tables(DatasetName("owner/name", subsets=("sub",)), HubAccess(revision="v2"))


def test_modelscope_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("modelscope.hub.snapshot_download")

    def download(*args: Any, **kwargs: Any) -> str:
        raise OSError("no route")

    monkeypatch.setattr(module, "dataset_snapshot_download", download)
    with pytest.raises(DataError, match=r"from ModelScope \(OSError: no route\); check"):
        open_hub_tables(DatasetName("owner/name", hub="ms"), HubAccess())


def test_a_missing_modelscope_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = hub_tables.importlib.util.find_spec
    stand_in = SimpleNamespace(find_spec=lambda name: None if name == "modelscope" else find(name))
    monkeypatch.setattr(hub_tables.importlib, "util", stand_in)
    monkeypatch.delitem(sys.modules, "modelscope", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'internvl35\[modelscope\]'"):
        open_hub_tables(DatasetName("owner/name", hub="ms"), HubAccess())
