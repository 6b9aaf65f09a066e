"""What the page on serving apart says is what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.serve_chaos import CASES, find_faults
from benchmarks.serve_load import Counts

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "decoupled.md").read_text(encoding="utf-8")
MEASURED = json.loads((ROOT / "benchmarks" / "results" / "serve.json").read_text("utf-8"))


def test_the_page_has_the_figures_of_the_wire():
    wire = MEASURED["wire"]
    for milliseconds in wire["wire_processor_ms_a_tile"].values():
        assert f"{milliseconds:.1f} ms" in PAGE
    assert f"{wire['encode_processor_ms_a_tile']:,.0f} ms" in PAGE
    assert f"{MEASURED['wire_share_of_encode']:.1%}".replace("%", " %") in PAGE
    keyed = wire["wire_processor_ms_a_tile"]["keyed_digest"]
    assert f"{keyed / 50:.2f} s a tile" in PAGE
    assert MEASURED["wire_share_of_encode"] == pytest.approx(
        keyed / wire["encode_processor_ms_a_tile"], rel=0.01
    )
    assert MEASURED["wire_share_of_encode"] <= 0.05


def test_no_case_lost_or_doubled_a_request():
    assert set(MEASURED["faults"]) == set(CASES)
    for name, counts in MEASURED["faults"].items():
        found = Counts(**counts)
        assert found.is_complete
        assert find_faults(name, found) == []


def test_an_hour_of_requests_fails_none_and_fills_no_memory():
    soak = MEASURED["soak"]
    assert soak["minutes"] > 59
    assert soak["requests"] == soak["answered"] + soak["left"]
    assert soak["failed"] == 0
    assert f"Of {soak['requests']:,} requests, {soak['left']} of them left, none failed" in PAGE
    for role in ("vision", "language", "gateway"):
        own = [one for name, one in soak["memory"].items() if name.startswith(role)]
        first, last = (sum(one[key] for one in own) / len(own) for key in ("start_mib", "end_mib"))
        assert f"{first:.0f} to {last:.0f} MiB ({role}" in PAGE
        assert last < 1.05 * first


def test_what_must_not_be_is_found():
    assert find_faults("quiet", Counts(sent=3, answered=1, lost=1, wrong=1)) == [
        "1 lost",
        "1 wrong",
    ]
    assert find_faults("drain", Counts(sent=2, answered=1, broken=1)) == ["1 broken"]
    assert find_faults("quiet", Counts(sent=1, refused=1)) == ["1 refused", "nothing answered"]
    assert find_faults("language_killed", Counts(sent=2, answered=1, broken=1)) == []
