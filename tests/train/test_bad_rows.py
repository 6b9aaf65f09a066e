"""Rows that cannot be used count once, whoever finds them and however often."""

import errno
import json
from pathlib import Path

import pytest

from internvl35.errors import DataError
from internvl35.train.bad_rows import BadRows
from internvl35.train.distributed import Workers


def test_a_row_counts_once_and_its_reason_is_kept_once(tmp_path):
    path = tmp_path / "bad.jsonl"
    bad = BadRows(100, 0.02, path)
    for _ in range(3):
        bad.note([(7, "a.jsonl:8: broken"), (9, "a.jsonl:10: absent")])
    bad.note([])
    bad.check()
    assert (bad.num_bad, bad.rows) == (2, [7, 9])
    reasons = [json.loads(line)["reason"] for line in path.read_text().splitlines()]
    assert reasons == ["a.jsonl:8: broken", "a.jsonl:10: absent"]
    bad.note([(0, "a.jsonl:1: empty"), (1, "a.jsonl:2: empty")])
    with pytest.raises(DataError) as caught:
        bad.check()
    assert str(caught.value) == (
        "4 of 100 rows cannot be used, more than max_bad_share (0.02) allows; the first: a.jsonl:8:"
        f" broken | a.jsonl:10: absent | a.jsonl:1: empty; all of them: {path}"
    )


def test_rows_of_an_earlier_part_of_a_run_count_without_being_noted_again(tmp_path):
    bad = BadRows(10, 1.0, tmp_path / "bad.jsonl")
    bad.restore([3, 4])
    bad.note([(3, "known")])
    assert bad.rows == [3, 4]
    assert not (tmp_path / "bad.jsonl").exists()


def test_rows_that_another_process_found_count_here_too(monkeypatch):
    one, other = BadRows(4, 0.5), BadRows(4, 0.5)
    one.note([(0, "x"), (1, "y")])
    other.note([(1, "y"), (3, "z")])
    flags = [bad._is_bad.copy() for bad in (one, other)]

    def add_up(self, tensor):
        return tensor.copy_(tensor.new_tensor((flags[0].astype(int) + flags[1]).tolist()))

    monkeypatch.setattr(Workers, "add_up", add_up)
    for bad in (one, other):
        bad.share(Workers(0, 2))
        assert bad.rows == [0, 1, 3]
        with pytest.raises(DataError, match="3 of 4 rows cannot be used"):
            bad.check()


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(DataError, match=r"bad\.jsonl cannot be written: .*No space.*free space"):
        BadRows(4, 0.5, tmp_path / "bad.jsonl").note([(0, "x")])
