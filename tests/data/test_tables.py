from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl35.data import tables
from internvl35.data.tables import JsonLinesTable, JsonListTable, open_file
from internvl35.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
CELLS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('",\n'), min_size=1
)


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@settings(max_examples=40)
@given(
    rows=st.lists(st.dictionaries(TEXTS, TEXTS), min_size=1, max_size=6), blank=st.integers(0, 2)
)
def test_every_line_is_the_row_that_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], blank: int
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    # a line break of another kind inside a text does not end a line
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    write(path, ("\n" + " \r\n" * blank).join(lines))
    table = open_file(path)
    assert [dict(table[index]) for index in range(len(table))] == rows
    places = [1 + (1 + blank) * index for index in range(len(rows))]
    assert [table.locate(index) for index in range(len(rows))] == [
        f"rows.jsonl:{place}" for place in places
    ]


def test_byte_order_mark_and_line_ends_of_windows_are_no_part_of_rows(tmp_path: Path) -> None:
    table = open_file(
        write(tmp_path / "r.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": "\xc3\xa9"}\r\n')
    )
    assert [dict(table[0]), dict(table[1])] == [{"a": 1}, {"a": "é"}]
    assert table.locate(1) == "r.jsonl:3"


def test_a_broken_line_is_a_bad_row_and_no_more(tmp_path: Path) -> None:
    lines = [
        b'{"a": 1}', b'{"a": ', b"[1]", b'{"a": "\xff"}', b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}", b'{"b": 2}',
    ]  # fmt: skip
    table = open_file(write(tmp_path / "r.jsonl", b"\n".join(lines)))
    assert len(table) == 7
    assert dict(table[0]) == {"a": 1}
    assert dict(table[6]) == {"b": 2}
    for index, message in {
        1: "the line is not valid JSON: Expecting value at character 7",
        2: "the line holds a list; needed: a JSON object",
        3: r"the line is not UTF-8 \(byte 8\)",
        4: "JSON that cannot be read",
        5: "JSON that cannot be read",
    }.items():
        with pytest.raises(DataError, match=message):
            table[index]
        assert table.locate(index) == f"r.jsonl:{index + 1}"


def test_an_overlong_line_is_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROW_BYTES", 20)
    lines = ['{"a": 1}', json.dumps({"a": "x" * 100}), '{"b": 2}']
    table = open_file(write(tmp_path / "r.jsonl", "\n".join(lines)))
    assert dict(table[2]) == {"b": 2}
    with pytest.raises(DataError, match="has 21 bytes or more; at most 20 are read"):
        table[1]
    items = open_file(write(tmp_path / "r.json", f"[{','.join(lines)}]"))
    assert dict(items[2]) == {"b": 2}
    with pytest.raises(DataError, match="the item has 109 bytes or more; at most 20"):
        items[1]


@pytest.mark.parametrize(
    "make", [json.dumps, lambda rows: json.dumps({"n": 1, "data": rows}, indent=1)]
)
def test_a_json_list_is_read_item_by_item(tmp_path: Path, make: Any) -> None:
    rows = [{"a": ']\\"[,'}, {"b": [1, {"c": []}]}, {}]
    table = open_file(write(tmp_path / "rows.json", make(rows)))
    assert isinstance(table, JsonListTable)
    assert [dict(table[index]) for index in range(3)] == rows
    assert table.locate(2) == "rows.json item 3"


def test_json_lines_under_the_other_ending_are_recognised(tmp_path: Path) -> None:
    table = open_file(write(tmp_path / "rows.json", '{"a": 1}\n{"a": 2}\n'))
    assert isinstance(table, JsonLinesTable)
    assert dict(table[1]) == {"a": 2}


@settings(max_examples=40)
@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=5))
def test_every_csv_row_is_the_one_that_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    for ending, delimiter in ((".csv", ","), (".tsv", "\t")):
        buffer = io.StringIO()
        csv.writer(buffer, delimiter=delimiter).writerows([["x", "y", "z"], *rows])
        path = write(tmp_path_factory.mktemp("csv") / f"r{ending}", buffer.getvalue())
        table = open_file(path)
        read = [list(table[index].values()) for index in reversed(range(len(table)))]
        assert read[::-1] == rows


def test_csv_rows_know_their_lines_and_leave_out_empty_cells(tmp_path: Path) -> None:
    table = open_file(write(tmp_path / "r.csv", 'a, b\n"1\n2",x\n\n,y\n1,2,3\n"open'))
    assert [table.locate(index) for index in range(4)] == [f"r.csv:{n}" for n in (2, 5, 6, 7)]
    assert [dict(table[0]), dict(table[1])] == [{"a": "1\n2", "b": "x"}, {"b": "y"}]
    with pytest.raises(DataError, match="has 3 cells where the first row names 2 columns"):
        table[2]
    with pytest.raises(DataError, match="has 1 cells"):
        table[3]


def test_a_quote_that_is_never_closed_spoils_one_row_only(tmp_path: Path) -> None:
    lines = ["a,b", 'x,"open', *["1,2"] * 100_000]
    table = open_file(write(tmp_path / "r.csv", "\n".join(lines)))
    assert dict(table[len(table) - 1]) == {"a": "1", "b": "2"}
    with pytest.raises(DataError, match="not valid CSV: field larger than field limit"):
        table[0]


def test_a_text_file_is_a_text_a_line(tmp_path: Path) -> None:
    table = open_file(write(tmp_path / "r.txt", "one \r\n\ntwo"))
    assert [dict(table[0]), dict(table[1])] == [{"text": "one "}, {"text": "two"}]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("r.jsonl", b"", "holds no rows"),
        ("r.jsonl", b"\n \n", "holds no rows"),
        ("r.jsonl", "{}".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("r.jsonl", gzip.compress(b"{}", mtime=0), "is compressed; unpack it first"),
        ("r.jsonl.gz", b"", "of no known kind of data set; known: .jsonl, .json.*unpack it first"),
        ("r.xlsx", b"", "of no known kind"),
        ("r.csv", b"a,b\n", "holds no rows"),
        ("r.csv", b"a,a\n1,2\n", "a different name for every column"),
        ("r.csv", b"a,\n1,2\n", "a different name for every column"),
        ("r.json", b"", "is empty"),
        ("r.json", b"[]", "holds no rows"),
        ("r.json", b"[ ]", "holds no rows"),
        ("r.json", b"5", "holds no list of rows"),
        ("r.json", b'{"data": {"x": [1]}}', "holds no list of rows"),
        ("r.json", b'{"x": "data", "y": []}', "holds no list of rows"),
        ("r.json", b'x[{"a": 1}]', "holds no list of rows"),
        (
            "r.json",
            b'[{"a": 1},\n{"a": 2},\n]',
            "r.json line 3: an item is missing; drop the comma",
        ),
        ("r.json", b'[{"a": 1},\n,{}]', "r.json line 2: an item is missing"),
        ("r.json", b'[{"a": 1}, {"a": ', "ends before its list of rows does"),
        ("r.json", b'[{"a": 1},\n{"a": "x}]', "r.json line 2: a quote that opens a text is never"),
    ],
)
def test_a_file_without_rows_is_refused(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_file(write(tmp_path / name, data))


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        open_file(tmp_path / "r.jsonl")


def test_a_table_survives_pickling_and_reads_from_any_place(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", "\n".join(json.dumps({"n": n}) for n in range(50)))
    table = pickle.loads(pickle.dumps(open_file(path)))
    assert [table[index]["n"] for index in (49, 0, 7)] == [49, 0, 7]


def test_the_stamp_changes_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", '{"a": 1}')
    before = open_file(path).stamp
    assert open_file(path).stamp == before
    write(path, '{"a": 1}\n{"a": 2}')
    assert open_file(path).stamp != before


@pytest.mark.parametrize(
    ("name", "num_rows"),
    [
        ("aime/aime24_nemo.jsonl", 30),
        ("mmbench/samples.jsonl", 27),
        ("ocrbench/OCRBench.json", 1000),
        ("screenspot/screenspot_web_v2.json", 437),
    ],
)
def test_real_files_are_read_whole(name: str, num_rows: int) -> None:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    table = open_file(path)
    assert len(table) == num_rows
    if path.suffix == ".json":
        assert [dict(table[index]) for index in range(num_rows)] == json.loads(path.read_text())
    else:
        lines = path.read_text().strip("\n").split("\n")
        assert [dict(table[index]) for index in range(num_rows)] == [*map(json.loads, lines)]


def test_line_ends_of_other_scripts_do_not_end_rows(tmp_path: Path) -> None:
    packed = SHARED / "mmlu_pro" / "mmlu_pro_test.jsonl.gz"  # holds U+0085 inside texts
    if not packed.is_file():
        pytest.skip(f"{packed} is not here")
    path = write(tmp_path / "rows.jsonl", gzip.decompress(packed.read_bytes()))
    assert len(open_file(path)) == 12_032
