from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from internvl35.data.dataset_settings import DatasetSettings
from internvl35.data.mixture import RecordSet, select_records
from internvl35.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def make_file(path: Path, num_rows: int, **columns: Any) -> str:
    rows = [
        {"query": f"{path.stem} {number}", "response": "A"} | columns for number in range(num_rows)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def texts(records: RecordSet) -> list[str]:
    return [record.messages[0].text for record in records]


def test_rows_are_counted_split_and_read_when_asked_for(tmp_path: Path) -> None:
    name = make_file(tmp_path / "a.jsonl", 50, image="p.png")
    train, val = select_records(DatasetSettings((f"{name}#20",), split_dataset_ratio=0.2))
    assert (len(train), len(val)) == (16, 4)
    assert len({*texts(train), *texts(val)}) == 20
    record = train[-1]
    assert record.images == (tmp_path / "p.png",)
    assert record.origin == train.locate(15)
    number = int(record.origin.removeprefix("a.jsonl:"))
    assert record.messages[0].text == f"<image>\na {number - 1}"
    assert train.raw(15)["image"] == "p.png"


def test_every_process_comes_to_the_same_rows(tmp_path: Path) -> None:
    names = [make_file(tmp_path / f"{stem}.jsonl", 30) for stem in "ab"]
    script = (
        "import sys; from internvl35.data.mixture import *\n"
        f"s = DatasetSettings(tuple({names!r}), split_dataset_ratio=0.1, interleave_prob=(1, 3))\n"
        "train, val = select_records(s)\n"
        "print(train.fingerprint, val.fingerprint)\n"
        "assert 'torch' not in sys.modules and 'datasets' not in sys.modules"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PYTHONHASHSEED": "5"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    settings = DatasetSettings(tuple(names), split_dataset_ratio=0.1, interleave_prob=(1, 3))
    train, val = select_records(settings)
    assert run.stdout.split() == [train.fingerprint, val.fingerprint]


def test_the_seed_decides_which_rows_are_drawn(tmp_path: Path) -> None:
    name = make_file(tmp_path / "a.jsonl", 100)
    first, _ = select_records(DatasetSettings((f"{name}#20",)))
    other, _ = select_records(DatasetSettings((f"{name}#20",), data_seed=7))
    assert set(texts(first)) != set(texts(other))
    assert first.fingerprint != other.fingerprint
    plain, _ = select_records(DatasetSettings((f"{name}#3",), dataset_shuffle=False))
    assert texts(plain) == ["a 0", "a 1", "a 2"]


def test_several_sets_are_all_used(tmp_path: Path) -> None:
    names = [make_file(tmp_path / f"{stem}.jsonl", 30) for stem in "abc"]
    train, val = select_records(
        DatasetSettings((*names[:2], f"{names[2]}#5"), split_dataset_ratio=0.1)
    )
    assert [sum(text.startswith(stem) for text in texts(train)) for stem in "abc"] == [27, 27, 4]
    assert [sum(text.startswith(stem) for text in texts(val)) for stem in "abc"] == [3, 3, 1]
    assert [text[0] for text in texts(train)] != sorted(text[0] for text in texts(train))
    plain, _ = select_records(DatasetSettings(tuple(names), dataset_shuffle=False))
    assert texts(plain) == [f"{stem} {number}" for stem in "abc" for number in range(30)]


def test_sets_can_take_turns_by_weight(tmp_path: Path) -> None:
    names = [make_file(tmp_path / f"{stem}.jsonl", 40) for stem in "ab"]
    settings = DatasetSettings(tuple(names), interleave_prob=(0.2, 0.8))
    train, _ = select_records(settings)
    assert sum(text[0] == "b" for text in texts(train)) == 40
    assert 2 <= sum(text[0] == "a" for text in texts(train)) <= 20
    both, _ = select_records(
        DatasetSettings(tuple(names), interleave_prob=(0.2, 0.8), stopping_strategy="all_exhausted")
    )
    assert {*texts(both)} == {f"{stem} {number}" for stem in "ab" for number in range(40)}


def test_a_set_of_its_own_is_evaluated_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name, other = (make_file(tmp_path / f"{stem}.jsonl", 20) for stem in "ab")
    settings = DatasetSettings((name,), (f"{other}#5",), split_dataset_ratio=0.5)
    train, val = select_records(settings)
    assert (len(train), len(val)) == (20, 5)
    assert "split_dataset_ratio is not used" in caplog.text


def test_rows_to_evaluate_on_keep_the_order_of_their_files(tmp_path: Path) -> None:
    names = [make_file(tmp_path / f"{stem}.jsonl", 9) for stem in "ab"]
    _, val = select_records(DatasetSettings((), tuple(names)))
    assert texts(val) == [f"{stem} {number}" for stem in "ab" for number in range(9)]
    train, val = select_records(DatasetSettings((f"{names[0]}#8",), split_dataset_ratio=0.3))
    assert texts(val) == sorted(texts(val))
    assert texts(train) != sorted(texts(train))
    assert texts(train.in_order()) == sorted(texts(train))


def test_a_set_that_is_named_twice_keeps_its_parts_apart(tmp_path: Path) -> None:
    name = make_file(tmp_path / "a.jsonl", 40)
    train, val = select_records(
        DatasetSettings((name, f"{name}#20", f"{name}#100"), split_dataset_ratio=0.2)
    )
    assert not set(texts(train)) & set(texts(val))


def test_a_list_of_sets_is_repeated_behind_the_split(tmp_path: Path) -> None:
    make_file(tmp_path / "a.jsonl", 20)
    make_file(tmp_path / "b.jsonl", 20)
    entries = {
        "a": {"root": str(tmp_path), "annotation": "a.jsonl", "repeat_time": 3},
        "b": {"root": str(tmp_path), "annotation": "b.jsonl", "repeat_time": 0.5},
    }
    (tmp_path / "meta.json").write_text(json.dumps(entries))
    train, val = select_records(
        DatasetSettings((str(tmp_path / "meta.json"),), split_dataset_ratio=0.1)
    )
    assert not set(texts(train)) & set(texts(val))
    assert len(train) + len(val) in range(63, 71)  # 70 rows in all; those for evaluation once
    assert len(set(texts(train))) + len(val) == 30


def test_a_bad_row_says_where_it_is_and_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": "Q", "response": "A"}\n\nnonsense\n{"messages": 5}\n')
    train, _ = select_records(DatasetSettings((str(path),), dataset_shuffle=False))
    assert len(train) == 3
    assert train[0].messages[0].text == "Q"
    with pytest.raises(DataError, match=r"^a\.jsonl:3: the line is not valid JSON"):
        train[1]
    with pytest.raises(DataError, match=r"^a\.jsonl:4: messages must be a list"):
        train[2]


def test_columns_and_the_root_of_pictures_can_be_given(tmp_path: Path) -> None:
    name = make_file(tmp_path / "a.jsonl", 3, caption="C", image="p.png")
    settings = DatasetSettings((name,), columns='{"caption": "response"}')
    train, _ = select_records(settings, media_root=Path("/pictures"))
    assert train[0].messages[1].text == "C"
    assert train[0].images == (Path("/pictures/p.png"),)


def test_a_record_set_is_a_sequence_and_survives_pickling(tmp_path: Path) -> None:
    names = [make_file(tmp_path / f"{stem}.jsonl", 10) for stem in "ab"]
    train, _ = select_records(DatasetSettings(tuple(names), dataset_shuffle=False))
    assert texts(train[8:12]) == ["a 8", "a 9", "b 0", "b 1"]
    assert texts(train.take([19, 0, 0])) == ["b 9", "a 0", "a 0"]
    assert train.take([19, 0, 0]).row_ids.tolist() == [19, 0, 0]
    assert texts(pickle.loads(pickle.dumps(train))) == texts(train)
    with pytest.raises(IndexError):
        train[20]


def test_nothing_is_selected_without_a_name() -> None:
    train, val = select_records(DatasetSettings())
    assert (len(train), len(val)) == (0, 0)


def test_too_few_rows_name_the_set(tmp_path: Path) -> None:
    name = make_file(tmp_path / "a.jsonl", 1)
    with pytest.raises(DataError, match=r"a\.jsonl': 1 row cannot be split"):
        select_records(DatasetSettings((name,), split_dataset_ratio=0.1))
    both = (name, make_file(tmp_path / "b.jsonl", 5))
    settings = DatasetSettings(both, split_dataset_ratio=1, interleave_prob=(1, 1))
    with pytest.raises(DataError, match=r"no rows to train on in .*needed: some in each set"):
        select_records(settings)


def test_real_questions_with_pictures_are_read() -> None:
    path = SHARED / "mmbench" / "samples.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    records, _ = select_records(DatasetSettings((str(path),)))
    assert len(records) == 27
    for record in records:
        (image,) = record.images
        assert Path(str(image)).is_file()
        assert record.messages[0].text.startswith("<image>\n")
        assert record.messages[1].text in set("ABCD")
        assert set(record.extra["options"]) <= set("ABCD")


def test_columns_lead_to_real_answers_under_other_names() -> None:
    path = SHARED / "ocrbench" / "OCRBench.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    names = json.dumps({"image_path": "images"})
    records, _ = select_records(DatasetSettings((str(path),), columns=names, dataset_shuffle=False))
    assert records[0].messages[0].text == "<image>\nwhat is written in the image?"
    assert records[0].messages[1].text == "CENTRE"
    assert records[0].images == (path.parent / "IIIT5K/test/918_1.png",)
    assert all(len(record.messages) == 2 for record in records)
