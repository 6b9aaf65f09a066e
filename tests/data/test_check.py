"""A check of a data set counts what is there and names what is wrong."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl35.config import TileSettings
from internvl35.data.check import Bin, check_records, count_in_bins, summarize
from internvl35.data.encoding import Encoder, EncodingSettings
from internvl35.data.messages import Message
from internvl35.data.records import Record
from internvl35.errors import DataError


class Rows:
    """Records, some of which cannot be read; as a set of rows on disk would be."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        if isinstance(row, str):
            raise DataError(f"x:{index + 1}: {row}")
        return row


class Exiting:
    """Rows whose reading ends the process, as the system does when memory runs out."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        raise SystemExit(3)


def picture(width=28, height=14):
    buffer = io.BytesIO()
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


def row(number, question="what?", answer="red", images=()):
    messages = (Message("user", "<image>" * len(images) + question), Message("assistant", answer))
    return Record(messages, tuple(images), origin=f"x:{number}")


@pytest.fixture(scope="module")
def encoder(small_tokenizer):
    settings = EncodingSettings(system="none", max_length=60)
    return Encoder(
        small_tokenizer, TileSettings(tile_size=14), tokens_per_tile=4, settings=settings
    )


@pytest.fixture
def rows():
    return Rows(
        [
            row(1),
            "the line is no JSON",
            row(3, images=[picture()]),
            row(4, images=["gone.png"]),
            row(5, images=[picture()[:-30]]),
            row(6, question="why " * 50),
            row(7, images=[picture(14, 14)] * 2),
        ]
    )


def test_rows_are_counted_and_bad_ones_named(encoder, rows):
    report = check_records(rows, encoder)
    assert (report.num_rows, report.num_bad, report.num_images) == (7, 4, 3)
    assert report.bad_kinds == {"DataError": 2, "MediaError": 2}
    assert [(bad.number, bad.kind) for bad in report.first_bad] == [
        (2, "DataError"), (4, "MediaError"), (5, "MediaError"), (6, "DataError"),
    ]  # fmt: skip
    reasons = [bad.reason for bad in report.first_bad]
    assert reasons[0] == "x:2: the line is no JSON"
    assert reasons[1] == "x:4: gone.png does not exist"
    assert reasons[2] == "x:5: the given data is a damaged or truncated PNG picture"
    assert reasons[3].startswith("x:6: too long: ")
    assert report.good.tolist() == [0, 2, 6]
    sizes = [encoder.measure(rows[index]) for index in (0, 2, 6)]
    assert report.tokens.tolist() == [size.num_tokens for size in sizes]
    assert report.tiles.tolist() == [0, 3, 2]
    assert report.targets.tolist() == [size.num_targets for size in sizes]
    assert report.bad_share == 4 / 7


def test_a_fast_check_does_not_find_damage_behind_headers(encoder, rows):
    report = check_records(rows, encoder, is_fast=True)
    assert [bad.number for bad in report.first_bad] == [2, 4, 6]


def test_only_so_many_bad_rows_are_listed(encoder):
    report = check_records(Rows(["bad"] * 5), encoder, max_listed=2)
    assert (report.num_bad, len(report.first_bad), report.bad_share) == (5, 2, 1.0)
    assert report.to_json()["tokens"] == {"total": 0, "bins": []}


def test_several_processes_find_the_same(encoder, rows):
    many = Rows(rows.rows * 12)
    told = []
    report = check_records(many, encoder, num_processes=2, on_progress=told.append)
    alone = check_records(many, encoder)
    assert told == [32, 64, 84]
    assert json.dumps(report.to_json()) == json.dumps(alone.to_json())
    assert report.tokens.tolist() == alone.tokens.tolist()


def test_a_process_that_ends_is_told(encoder):
    with pytest.raises(DataError, match="a process that was checking rows has ended"):
        check_records(Exiting(), encoder, num_processes=1)


def test_the_report_can_be_written_as_json(encoder, rows):
    found = json.loads(json.dumps(check_records(rows, encoder).to_json()))
    assert (found["rows"], found["bad"], found["bad_share"]) == (7, 4, 0.571429)
    assert found["bad_rows"][0] == {
        "row": 2, "kind": "DataError", "reason": "x:2: the line is no JSON",
    }  # fmt: skip
    assert found["tiles"] == {
        "total": 5, "min": 0, "mean": 1.7, "median": 2.0, "p95": 2.9, "max": 3,
        "bins": [[0, 1, 1], [1, 2, 0], [2, 3, 1], [3, 4, 1]],
    }  # fmt: skip


def test_no_rows_have_no_bad_share(encoder):
    report = check_records(Rows([]), encoder)
    assert (report.num_rows, report.bad_share) == (0, 0.0)


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=50), st.integers(1, 15))
def test_every_value_is_in_the_bin_that_holds_it(values, max_bins):
    bins = count_in_bins(values, max_bins)
    assert 1 <= len(bins) <= max_bins
    assert [item.num_rows for item in bins] == [
        sum(item.low <= value < item.high for value in values) for item in bins
    ]
    assert sum(item.num_rows for item in bins) == len(values)
    width = bins[0].high - bins[0].low
    assert str(width).rstrip("0") in ("1", "2", "5")
    assert all(item.low % width == 0 for item in bins)
    assert [item.high for item in bins[:-1]] == [item.low for item in bins[1:]]


def test_bins_by_hand():
    assert count_in_bins([3, 3, 5]) == [Bin(3, 4, 2), Bin(4, 5, 0), Bin(5, 6, 1)]
    assert count_in_bins([0, 1999, 2000], max_bins=3) == [
        Bin(0, 1000, 1),
        Bin(1000, 2000, 1),
        Bin(2000, 3000, 1),
    ]


def test_figures_by_hand():
    found = summarize([1, 2, 3, 4])
    assert [found[key] for key in ("total", "min", "mean", "median", "max")] == [10, 1, 2.5, 2.5, 4]
