"""Rows are measured once: by several processes alike, and kept for a run that is gone on with."""

import errno

import numpy as np
import pytest

from internvl35.data.encoding import RowSize
from internvl35.errors import DataError, MediaError
from internvl35.train import measure
from internvl35.train.bad_rows import BadRows
from internvl35.train.distributed import Workers
from internvl35.train.measure import fingerprint, load_sizes, measure_rows, save_sizes

NUM_ROWS = 11


class Numbers:
    """Row n has n + 1 tokens; row 3 names a picture that is not there."""

    def measure(self, record):
        if record == 3:
            raise MediaError("rows.jsonl:4: absent.png is not there")
        return RowSize(record + 1, record % 3, record // 2)


def run(workers=None, **options):
    bad = BadRows(NUM_ROWS, 0.1)
    found = []
    sizes = measure_rows(
        range(NUM_ROWS), Numbers(), bad, workers or Workers(), on_progress=found.append, **options
    )
    return sizes, bad, found


@pytest.mark.parametrize("num_processes", [0, 2])
def test_every_row_has_its_sizes_and_bad_ones_none(num_processes, monkeypatch):
    monkeypatch.setattr(measure, "_CHUNK", 4)
    sizes, bad, found = run(num_processes=num_processes)
    good = [row for row in range(NUM_ROWS) if row != 3]
    assert sizes.good.tolist() == good
    assert sizes.tokens[good].tolist() == [row + 1 for row in good]
    assert sizes.tiles[good].tolist() == [row % 3 for row in good]
    assert sizes.targets[good].tolist() == [row // 2 for row in good]
    assert (bad.rows, bad.first) == ([3], ["MediaError: rows.jsonl:4: absent.png is not there"])
    assert found == [4, 8, 11]


def test_processes_measure_a_share_each(monkeypatch):
    whole = run()[0].tokens
    monkeypatch.setattr(Workers, "add_up", lambda self, tensor: tensor)  # as if alone
    parts = [run(Workers(rank, 3))[0].tokens for rank in range(3)]
    assert np.array_equal(sum(parts), whole)
    assert [np.flatnonzero(part).tolist() for part in parts] == [
        [0, 1, 2],
        [4, 5, 6, 7],
        [8, 9, 10],
    ]


def test_sizes_are_kept_with_what_they_belong_to(tmp_path):
    sizes, path, digest = run()[0], tmp_path / "sizes.safetensors", fingerprint({"seed": 1})
    assert digest != fingerprint({"seed": 2})
    assert load_sizes(path) is None
    save_sizes(path, sizes, digest)
    kept = load_sizes(path)
    assert kept is not None
    for name in ("tokens", "tiles", "targets"):
        assert np.array_equal(getattr(kept[0], name), getattr(sizes, name))
    assert kept[1] == digest
    path.write_bytes(b"half")
    assert load_sizes(path) is None


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(measure.os, "replace", fail)
    with pytest.raises(DataError, match=r"sizes\.safetensors cannot be written: .*free space"):
        save_sizes(tmp_path / "sizes.safetensors", run()[0], "x")
