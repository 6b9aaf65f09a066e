"""``internvl35 data draw`` as it is typed."""

from __future__ import annotations

import json


def test_what_is_drawn_can_be_checked_and_trained_on(run, tmp_path):
    code, out, err = run(
        "data", "draw", tmp_path / "drawn", "--rows", 4, "--family", "counting", "--family",
        "talk", "--enlarge", 2,
    )  # fmt: skip
    assert code == 0, err
    path = tmp_path / "drawn" / "rows.jsonl"
    assert out == f"rows: {path}\n"
    code, out, err = run("data", "check", path, "--json", "--workers", 0)
    assert code == 0, err
    report = json.loads(out)
    assert (report["rows"], report["bad"], report["images"]) == (4, 0, 2)
    assert report["tiles"]["max"] > 1


def test_what_cannot_be_drawn_is_a_user_s_mistake(run, tmp_path):
    code, _, err = run("data", "draw", tmp_path, "--family", "cats")
    assert code == 2
    assert "families cats cannot be drawn" in err
