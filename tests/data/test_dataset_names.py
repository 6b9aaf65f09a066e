from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl35.data.dataset_names import DatasetName, parse_dataset_name
from internvl35.errors import ConfigError, DataError

WORDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,12}", fullmatch=True)
NAMES = st.builds(
    DatasetName,
    place=st.builds(lambda owner, name: f"no-such-{owner}/{name}-set", WORDS, WORDS),
    hub=st.sampled_from([None, "hf", "ms"]),
    subsets=st.lists(WORDS.filter(lambda word: word != "all"), max_size=3).map(tuple)
    | st.just(("all",)),
    count=st.none() | st.integers(1, 2**31 - 1),
)


@given(NAMES)
def test_a_name_that_is_written_and_parsed_is_the_same(name: DatasetName) -> None:
    assert parse_dataset_name(str(name)) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "AI-ModelScope/LaTeX_OCR:human_handwrite#20000",
            DatasetName("AI-ModelScope/LaTeX_OCR", subsets=("human_handwrite",), count=20000),
        ),
        ("hf::a/b:x/y", DatasetName("a/b", hub="hf", subsets=("x", "y"))),
        ("MS::a/b:all#7", DatasetName("a/b", hub="ms", subsets=("all",), count=7)),
        ("hf::squad", DatasetName("squad", hub="hf")),
    ],
)
def test_a_hub_name_is_taken_apart(text: str, expected: DatasetName) -> None:
    assert parse_dataset_name(text) == expected


def test_what_exists_is_taken_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rows.jsonl", "odd#3", "odd:sub", "hf::x", "rows.jsonl#5", "a:b#c.jsonl"):
        (tmp_path / name).touch()
        assert parse_dataset_name(name) == DatasetName(name, is_local=True)
    # the longer name wins over the count only where it exists
    assert parse_dataset_name("rows.jsonl#6") == DatasetName("rows.jsonl", is_local=True, count=6)
    assert parse_dataset_name("odd:sub#2") == DatasetName("odd:sub", is_local=True, count=2)


def test_a_folder_has_subsets_and_a_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    assert parse_dataset_name(f"{tmp_path}:a/b#2") == DatasetName(
        str(tmp_path), is_local=True, subsets=("a", "b"), count=2
    )
    with pytest.raises(ConfigError, match="has no subsets; leave out a"):
        parse_dataset_name(f"{tmp_path}/rows.jsonl:a")


def test_the_home_folder_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.jsonl").touch()
    assert parse_dataset_name("~/rows.jsonl#9").place == str(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ConfigError, "is empty"),
        ("x::a/b", ConfigError, "unknown hub 'x'; known: hf::, ms::"),
        ("a/b#many", ConfigError, "asks for 'many' rows"),
        ("a/b#", ConfigError, "asks for '' rows"),
        ("a/b#0", ConfigError, "asks for 0 rows; needed: 1 to"),
        ("a/b#99999999999", ConfigError, "needed: 1 to 2147483647"),
        ("a/b#-5", ConfigError, "asks for '-5' rows"),
        ("a/b:", ConfigError, "names the subsets ''"),
        ("a/b:x//y", ConfigError, "names the subsets 'x//y'"),
        ("a/b:all/x", ConfigError, "or name:all"),
        ("missing.jsonl", DataError, "no such file or folder .looked at /"),
        ("./a/b", DataError, "no such file or folder"),
        ("a/b/c", DataError, "no such file or folder"),
        ("/nowhere", DataError, "no such file or folder"),
        ("squad", DataError, "neither a file or folder of this machine nor"),
        ("ms::squad", DataError, "nor a hub's owner/name"),
        ("a b/c", DataError, "nor a hub's owner/name"),
        ("hf::../x", DataError, "nor a hub's owner/name"),
        ("a/b\0", DataError, "nor a hub's owner/name"),
    ],
)
def test_nonsense_is_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_dataset_name(text)


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        name = parse_dataset_name(text)
    except (ConfigError, DataError):
        return
    assert name.place
