from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl35.data.json_lists import find_items

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=10,
)


def items_of(path: Path, start: int = 0) -> list[Any]:
    data = path.read_bytes()
    with path.open("rb") as file:
        starts, ends = find_items(file, start, path)
    return [json.loads(data[begin:end]) for begin, end in zip(starts, ends, strict=True)]


@settings(max_examples=60)
@given(
    items=st.lists(VALUES, max_size=5),
    before=st.dictionaries(st.text(max_size=4).filter(lambda key: key != "data"), VALUES),
    indent=st.sampled_from([None, 0, 2]),
    is_ascii=st.booleans(),
)
def test_items_are_those_that_a_whole_read_finds(
    tmp_path_factory: pytest.TempPathFactory,
    items: list[Any],
    before: dict[str, Any],
    indent: int | None,
    is_ascii: bool,
) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    for value in (items, before | {"data": items, "last": [1, "]"]}):
        path.write_text(json.dumps(value, indent=indent, ensure_ascii=is_ascii), "utf-8")
        assert items_of(path) == items


def test_a_list_may_begin_behind_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf [1, 2]")
    assert items_of(path, 3) == [1, 2]
