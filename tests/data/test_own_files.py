from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import EntryNotFoundError

from internvl35.data.arrow_tables import load_folder
from internvl35.data.own_files import check_folder, check_repository, load_own
from internvl35.data.records import RowDefaults
from internvl35.errors import DataError

ROW = '{"query": "Q", "response": "A"}\n'


def declare(folder: Path, data_files: str, name: str = "README.md") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = f"configs:\n- config_name: default\n  data_files: {data_files}\n"
    (folder / name).write_text(f"---\n{text}---\n# Card\n" if name == "README.md" else text)


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "data_files",
    [
        "{outside}", "../rows.jsonl", "a/../../rows.jsonl", "~/rows.jsonl", "[{outside}]",
        "[{{split: train, path: {outside}}}]", "[{{split: train, path: [a.jsonl, {outside}]}}]",
        "http://127.0.0.1:9/rows.jsonl", "hf://datasets/other/private/rows.jsonl",
        "zip://a::b.zip",
    ],
)  # fmt: skip
def test_a_set_that_declares_files_of_others_is_refused(
    tmp_path: Path, data_files: str, name: str
) -> None:
    outside = tmp_path / "rows.jsonl"
    outside.write_text(ROW)
    folder = tmp_path / "set"
    declare(folder, data_files.format(outside=outside), name)
    with pytest.raises(DataError, match=r"set declares the file '.*', which is not one of its own"):
        load_folder(folder, "set", (), defaults=RowDefaults(confined_to=(folder,)))


def test_a_folder_in_place_of_files_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_dir: ../b\n---\n")
    with pytest.raises(DataError, match=r"'../b'"):
        check_folder(tmp_path, "set")


def test_files_of_its_own_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    declare(folder, "part/*.jsonl")
    (folder / "part").mkdir()
    (folder / "part" / "rows.jsonl").write_text(ROW)
    (table,) = load_folder(folder, "set", (), defaults=RowDefaults(confined_to=(folder,)))
    assert table[0] == {"query": "Q", "response": "A"}


def test_a_link_that_leads_out_of_the_set_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "secret.jsonl").write_text(ROW)
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "rows.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(DataError, match=r"rows\.jsonl', which is not one of its own"):
        load_folder(folder, "set", (), defaults=RowDefaults(confined_to=(folder,)))


@pytest.mark.parametrize(
    "text",
    [
        "", "no front matter", "---\n: [\n---\n", "---\nconfigs: 3\n---\n", "---\n- a\n---\n",
        "---\nconfigs: [1, {data_files: 2}]\n---\n",
        "---\nconfigs:\n- data_files: &a [*a, b.jsonl]\n---\n",
    ],
)  # fmt: skip
def test_a_card_that_declares_nothing_is_no_matter(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    check_folder(tmp_path, "set")


def test_a_repository_is_refused_by_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def download(place: str, name: str, **options: Any) -> str:
        asked.append((place, name, options))
        if name != "README.md":
            raise EntryNotFoundError("no such file")
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    declare(tmp_path, "train.jsonl")
    check_repository("owner/name", revision="v1", token="t")
    assert [name for _, name, _ in asked] == ["README.md", ".huggingface.yaml"]
    assert asked[0][2] == {"repo_type": "dataset", "revision": "v1", "token": "t"}
    declare(tmp_path, "/etc/rows.jsonl")
    with pytest.raises(DataError, match=r"owner/name declares the file '/etc/rows.jsonl'"):
        check_repository("owner/name", revision=None, token=None)


@pytest.mark.parametrize(
    "file",
    [
        "/etc/rows.jsonl", "https://elsewhere/rows.jsonl", "hf://datasets/owner/name2@1/rows.jsonl",
        "hf://datasets/owner/name@1/../../other/name@1/rows.jsonl",
    ],
)  # fmt: skip
def test_files_that_the_library_found_elsewhere_are_not_fetched(file: str) -> None:
    class Builder:
        config = SimpleNamespace(data_files={"train": ["hf://datasets/owner/name@1/a.jsonl", file]})

        def download_and_prepare(self) -> None:
            raise AssertionError("fetched")

    library = SimpleNamespace(load_dataset_builder=lambda path, **where: Builder())
    with pytest.raises(DataError, match="not one of its own"):
        load_own(library, "owner/name", "owner/name")
