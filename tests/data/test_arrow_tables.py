from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from internvl35.data import arrow_tables
from internvl35.data.arrow_tables import (
    ArrowTable,
    choose_subsets,
    first_line,
    import_datasets,
    load_folder,
    open_parquet,
    open_saved,
    pick_splits,
)
from internvl35.data.records import DEFAULTS, RowDefaults, read_record
from internvl35.errors import ConfigError, DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)


def png(colour: int = 9) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2, 2), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def make_rows(second: dict[str, Any] | None = None) -> Any:
    """Pictures, classes and lists of pictures as the library stores them."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "images": datasets.List(datasets.Image()),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "turns": datasets.List({"role": datasets.Value("string")}),
        }
    )  # fmt: skip
    rows = {
        "image": [{"bytes": png(1), "path": None}, second or {"bytes": png(3), "path": None}],
        "images": [[{"bytes": png(2), "path": None}], []],
        "label": [1, None],
        "turns": [[{"role": "user"}], []],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_rows_come_as_they_are_stored() -> None:
    table = ArrowTable(make_rows({"bytes": None, "path": "b.png"}), "owner/name[train]")
    assert len(table) == 2
    assert table[0] == {
        "image": {"bytes": png(1), "path": None},
        "images": [{"bytes": png(2), "path": None}],
        "label": "dog",
        "turns": [{"role": "user"}],
    }
    assert table[1]["image"] == {"bytes": None, "path": "b.png"}
    assert table[1]["label"] is None
    assert table.locate(1) == "owner/name[train] row 2"


@pytest.mark.skipif(not hasattr(datasets, "Json"), reason="this datasets has no JSON columns")
def test_json_columns_come_as_what_they_say() -> None:
    features = datasets.Features({"messages": datasets.List(datasets.Json())})
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": [{"text": "A"}]}]
    table = ArrowTable(datasets.Dataset.from_dict({"messages": [turns]}, features=features), "x")
    assert table[0] == {"messages": turns}


def test_a_table_survives_pickling(tmp_path: Path) -> None:
    make_rows().save_to_disk(str(tmp_path / "saved"))
    (table,) = open_saved(tmp_path / "saved")
    copy = pickle.loads(pickle.dumps(table))
    assert copy[0] == table[0]
    assert (copy.name, copy.root) == ("saved", tmp_path / "saved")


def test_a_parquet_file_is_read(tmp_path: Path) -> None:
    make_rows().to_parquet(str(tmp_path / "rows.parquet"))
    table = open_parquet(tmp_path / "rows.parquet")
    record = read_record(
        dict(table[0]) | {"query": "Q", "response": "A"}, origin=table.locate(0), root=table.root
    )
    assert record.images == (png(2),)
    assert record.origin == "rows.parquet row 1"
    assert open_parquet(tmp_path / "rows.parquet").stamp == table.stamp


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match=r"rows\.parquet cannot be read as Parquet: \w+"):
        open_parquet(tmp_path / "rows.parquet")


def test_saved_splits_are_read(tmp_path: Path) -> None:
    parts = {"train": make_rows(), "test": make_rows()}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    assert [table.name for table in open_saved(tmp_path / "saved")] == ["saved[train]"]
    both = open_saved(tmp_path / "saved", splits=("train", "validation", "test"))
    assert [table.name for table in both] == ["saved[train]", "saved[test]"]
    with pytest.raises(DataError, match="cannot be loaded: FileNotFoundError"):
        open_saved(tmp_path)


def test_a_folder_of_pictures_is_read(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        (tmp_path / "set" / kind / "1.png").write_bytes(png())
    (table,) = load_folder(tmp_path / "set", "set", ())
    rows = [table[index] for index in range(len(table))]
    assert [row["label"] for row in rows] == ["cat", "dog"]
    paths = [Path(row["image"]["path"]) for row in rows]
    assert paths == [tmp_path / "set" / kind / "1.png" for kind in ("cat", "dog")]


def test_subsets_are_folders_or_what_the_readme_declares(tmp_path: Path) -> None:
    for name in ("print", "hand"):
        (tmp_path / name).mkdir()
        make_rows().to_parquet(str(tmp_path / name / "train-0.parquet"))
    tables = load_folder(tmp_path, "set", ("hand", "print"))
    assert [table.name for table in tables] == ["set:hand[train]", "set:print[train]"]
    with pytest.raises(DataError, match="set has no subset 'other'; it has default"):
        load_folder(tmp_path, "set", ("other",))
    with pytest.raises(DataError, match="has no subset"):
        load_folder(tmp_path, "set", ("..",))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: print/*.parquet\n"
        "- config_name: two\n  data_files: hand/*.parquet\n---\n"
    )
    assert [table.name for table in load_folder(tmp_path, "set", ("all",))] == [
        "set:one[train]", "set:two[train]",
    ]  # fmt: skip
    with pytest.raises(DataError, match="set has the subsets one, two; name one: set:one"):
        load_folder(tmp_path, "set", ())


@pytest.mark.parametrize("is_foreign", [False, True])
def test_rows_are_those_that_the_folder_has_now(tmp_path: Path, *, is_foreign: bool) -> None:
    def read(place: str, *words: str) -> ArrowTable:
        folder = tmp_path / place / "set"
        if words:
            (folder / "rows").mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps({"word": word}) + "\n" for word in words)
            (folder / "rows" / "train.jsonl").write_text(text)
            (folder / "README.md").write_text(
                "---\nconfigs:\n- config_name: hand\n  data_files: rows/*.jsonl\n---\n"
            )
        defaults = RowDefaults(confined_to=(folder,)) if is_foreign else DEFAULTS
        (table,) = load_folder(folder, "set", ("hand",), defaults=defaults)
        return table

    def words(table: ArrowTable) -> list[str]:
        return [table[index]["word"] for index in range(len(table))]

    first = read("one", "old")
    assert words(first) == ["old"]
    (tmp_path / "one" / "set" / "output.log").write_text("no file of the set")
    assert read("one").stamp == first.stamp
    other, changed = read("two", "another"), read("one", "new", "newer")
    assert (words(other), words(changed)) == (["another"], ["new", "newer"])
    assert len({first.stamp, other.stamp, changed.stamp}) == 3


def test_rows_behind_links_are_those_of_now_and_a_link_may_lead_back(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    rows = tmp_path / "elsewhere" / "train.jsonl"
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "rows").symlink_to(tmp_path / "elsewhere")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: hand\n  data_files: rows/train.jsonl\n---\n"
    )
    found = []
    for word in ("old", "newer"):
        rows.write_text(json.dumps({"word": word}) + "\n")
        (table,) = load_folder(folder, "set", ("hand",))
        found.append(table[0]["word"])
    (folder / "again").symlink_to(folder)
    assert len(load_folder(folder, "set", ("hand",))) == 1
    assert found == ["old", "newer"]


def test_a_folder_with_nothing_to_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.py").write_text("raise SystemExit('code of a data set was run')")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_folder(tmp_path, "set", ())


@pytest.mark.parametrize(
    ("wanted", "known", "expected"),
    [
        ((), ["only"], ["only"]),
        ((), ["a", "default"], ["default"]),
        (("all",), ["a", "b"], ["a", "b"]),
        (("all",), ["all", "b"], ["all"]),
        (("b", "a"), ["a", "b"], ["b", "a"]),
    ],
)
def test_subsets_are_chosen(wanted: tuple[str, ...], known: list[str], expected: list[str]) -> None:
    assert choose_subsets(wanted, known, "x/y") == expected


@pytest.mark.parametrize(
    ("available", "wanted", "expected"),
    [
        (["test", "train"], (), ["train"]),
        (["test"], (), ["test"]),
        (["test", "train"], ("train", "validation", "test"), ["train", "test"]),
    ],
)
def test_splits_are_picked(
    available: list[str], wanted: tuple[str, ...], expected: list[str]
) -> None:
    assert pick_splits(available, wanted, "x") == expected


def test_splits_without_one_for_training_are_refused() -> None:
    with pytest.raises(DataError, match="x has the splits dev, test but none named 'train'"):
        pick_splits(["dev", "test"], (), "x")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_tables.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'internvl35\[train\]'"):
        import_datasets()


def test_a_library_that_runs_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(ConfigError, match=r"may run code of data sets; install 4\.0"):
        import_datasets()


def test_an_error_is_told_in_one_line() -> None:
    assert first_line(ValueError("one\ntwo")) == "ValueError: one"
    assert first_line(KeyError()) == "KeyError"
