"""The measurement of the embedded checkpoint: what it writes, and that a kill costs one family."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from benchmarks.kept_answers import hash_weights
from benchmarks.tiny_answers import Measurement, keep_answers
from PIL import Image

from benchmarks import tiny

NUM = 6
ARGUMENTS = [
    "--families", "counting", "sums", "--pictures", str(NUM), "--sampled-pictures", "2",
    "--no-speed",
]  # fmt: skip


@pytest.fixture
def run(monkeypatch, results, make_chat):
    def call(*extra, **options):
        chat = make_chat(["counting", "sums"], NUM, **options)
        thinking = make_chat(["sums"], NUM, wrong=[0, 1, 2])
        monkeypatch.setattr(tiny, "load", lambda model: chat)
        monkeypatch.setattr(tiny, "with_thinking", lambda chat: thinking)
        return tiny.main([*ARGUMENTS, *extra]), chat, thinking

    return call


def test_figures_sheet_and_facts_are_written(run, results):
    status, chat, thinking = run(wrong=[5])
    assert status == 0
    content = json.loads((results / "tiny.json").read_text())
    assert (content["model"], content["pictures"], content["device"]) == ("tiny", NUM, "cpu")
    assert content["weights"] == hash_weights("tiny")
    assert content["command"].startswith("python -m")
    counting, sums = content["families"]["counting"], content["families"]["sums"]
    assert counting["direct"]["figures"]["right"]["value"] == pytest.approx(5 / 6, abs=1e-4)
    assert "thinking" not in counting
    assert sums["thinking"]["figures"]["right"]["value"] == 0.5
    assert sums["without_thinking"]["right"]["n"] == NUM  # every sum comes with reasoning
    assert counting["sampled"]["direct"]["pass@8"]["value"] == 1
    assert sums["sampled"]["thinking"]["pass@8"]["value"] == 0
    assert counting["direct"]["calibration"]["auroc"] == 1
    assert content["mean_right"] == pytest.approx(5 / 6, abs=1e-4)
    assert sum(held["n"] for held in content["calibration"]["bins"]) == 2 * NUM
    assert "pace" not in content  # absolute speed is kept from a GPU alone
    assert chat.asked.count("counting") == NUM + 2 * 8
    assert len(thinking.asked) == NUM + 2 * 8
    assert Image.open(results / "tiny_answers.png").format == "PNG"


def test_a_killed_measurement_goes_on_behind_the_last_finished_family(run, results):
    with pytest.raises(KeyboardInterrupt):
        run(wrong=[5], dies_at="sums")
    assert not (results / "tiny.json").exists()
    assert len(list(results.glob("*.partial.json"))) == 1
    _, chat, _ = run(wrong=[5])
    assert set(chat.asked) == {"sums"}
    resumed = json.loads((results / "tiny.json").read_text())
    assert list(results.glob("*.partial.json")) == []
    run(wrong=[5])  # without a kill
    assert json.loads((results / "tiny.json").read_text()) == resumed


def test_without_writing_nothing_is_left(run, results):
    run("--no-write")
    assert [path.name for path in results.glob("*")] == []


def test_a_check_fails_if_an_aim_is_missed(run, capsys):
    assert run("--no-write", "--check")[0] == 0
    status, _, _ = run("--no-write", "--check", wrong=range(NUM))
    assert status == 1
    assert "missed: counting right 0.0%, aim 95%" in capsys.readouterr().out
    assert run("--no-write", wrong=range(NUM))[0] == 0


def test_unknown_families_and_no_pictures_are_refused(capsys):
    for arguments in (["--families", "cats"], ["--pictures", "0"]):
        with pytest.raises(SystemExit):
            tiny.parse(arguments)
    assert "cats" in capsys.readouterr().err


def test_answers_of_another_measurement_are_not_taken_over(results):
    first = Measurement("tiny", ("counting",), num_pictures=5)
    keep_answers(results, first).keep("counting", tiny.FamilyAnswers([]))
    # families may be added to a measurement, pictures may not
    for same in (first, replace(first, families=("shapes",))):
        assert keep_answers(results, same).done == {"counting": tiny.FamilyAnswers([])}
    assert keep_answers(results, replace(first, num_pictures=6)).done == {}


def test_other_weights_have_another_name(tmp_path):
    names = set()
    for value in (b"a", b"b"):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "model.safetensors").write_bytes(value)
        names.add(hash_weights(str(tmp_path)))
    assert len(names) == 2
