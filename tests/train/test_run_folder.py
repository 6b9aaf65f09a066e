"""The folder of a run: names without a race, args.json, a log that survives kills, links."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl35.errors import ConfigError, DataError
from internvl35.train.arguments import build_settings
from internvl35.train.run_folder import (
    ARGUMENTS_FILE,
    LOG_FILE,
    STEP_KEY,
    LogFile,
    RunFolder,
    collect_arguments,
    make_run_folder,
    read_arguments,
    read_log,
    read_settings,
    step_of,
    write_json,
)

NOON = datetime(2026, 11, 23, 12, 0, 5)
SETTINGS = build_settings({"lora_rank": 16, "dataset": ["a.jsonl", "b"], "hub_token": "hf_secret"})
FACTS = {"internvl35_version": "0.1", "command": "sft", "world_size": 2, "resolved": {"rate": 1e-4}}


def test_runs_are_counted_from_zero_and_dated(tmp_path):
    output = tmp_path / "output" / "tiny"
    names = [make_run_folder(output, True, NOON).name for _ in range(3)]
    assert names == ["v0-20261123-120005", "v1-20261123-120005", "v2-20261123-120005"]


def test_the_number_goes_on_from_the_highest(tmp_path):
    for name in ("v9-20250101-000000", "v10-20250101-000000", "v99-notes", "checkpoint-100"):
        (tmp_path / name).mkdir()
    assert make_run_folder(tmp_path, True, NOON).name == "v11-20261123-120005"


def test_many_that_begin_at_once_get_a_number_each(tmp_path):
    moments = [NOON.replace(second=second % 4) for second in range(24)]
    with ThreadPoolExecutor(24) as pool:
        folders = list(pool.map(lambda now: make_run_folder(tmp_path, True, now), moments))
    numbers = [int(folder.name.split("-")[0][1:]) for folder in folders]
    assert sorted(numbers) == list(range(24))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f.name for f in folders)


def test_processes_that_begin_at_once_get_a_number_each(tmp_path):
    code = (
        "import sys; from pathlib import Path;"
        "from internvl35.train.run_folder import make_run_folder;"
        "[make_run_folder(Path(sys.argv[1]), True) for _ in range(10)]"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
        for _ in range(3)
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    numbers = [int(path.name.split("-")[0][1:]) for path in tmp_path.iterdir()]
    assert sorted(numbers) == list(range(30))


def test_a_claim_that_a_kill_left_behind_costs_a_number_and_nothing_else(tmp_path):
    (tmp_path / ".v0").touch()
    assert make_run_folder(tmp_path, True, NOON).name == "v1-20261123-120005"


def test_without_a_version_the_folder_itself_is_taken_once(tmp_path):
    folder = make_run_folder(tmp_path / "run", False)
    assert folder == tmp_path / "run"
    assert make_run_folder(folder, False) == folder  # nothing was done there yet
    (folder / "checkpoint-5").mkdir()
    with pytest.raises(ConfigError, match=r"holds a run already; go on with it by resume_from"):
        make_run_folder(folder, False)


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r"no run folder can be made in .*choose another output_dir"
    ):
        make_run_folder(tmp_path / "file", True)


def test_arguments_come_back_as_the_settings_without_the_secret(tmp_path):
    RunFolder(tmp_path).write_arguments(SETTINGS, FACTS)
    written = read_arguments(tmp_path)
    assert written == json.loads((tmp_path / ARGUMENTS_FILE).read_text())
    assert {name: written[name] for name in FACTS} == FACTS
    assert written["lora_rank"] == 16
    assert "hf_secret" not in (tmp_path / ARGUMENTS_FILE).read_text()
    assert read_settings(tmp_path) == build_settings({"hub_token": None}, SETTINGS)


def test_a_checkpoint_without_arguments_has_those_of_its_run(tmp_path):
    RunFolder(tmp_path).write_arguments(SETTINGS, FACTS)
    (tmp_path / "checkpoint-5").mkdir()
    assert read_arguments(tmp_path / "checkpoint-5")["lora_rank"] == 16


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_folder_without_arguments_is_refused(tmp_path, text):
    folder = tmp_path / "run" / "checkpoint-5"
    folder.mkdir(parents=True)
    if text is not None:
        (folder / ARGUMENTS_FILE).write_text(text)
    with pytest.raises(DataError, match=r"args\.json"):
        read_arguments(folder)


def test_arguments_with_a_setting_that_there_is_not_are_refused(tmp_path):
    write_json(tmp_path / ARGUMENTS_FILE, {"lora_rnk": 8})
    with pytest.raises(ConfigError, match="did you mean lora_rank"):
        read_settings(tmp_path)


def test_facts_are_known_by_name():
    with pytest.raises(AssertionError, match="no facts of a run"):
        collect_arguments(SETTINGS, {"word_size": 2})


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(DataError, match="cannot be written"):
        write_json(tmp_path / "none" / "a.json", {})


def line(step, total=20, **figures):
    return {"loss": 1 / step, STEP_KEY: f"{step}/{total}", **figures}


def test_a_log_takes_one_object_a_line(tmp_path):
    log = LogFile(tmp_path / LOG_FILE)
    log.append(line(5))
    log.append({"best_metric": 0.5, "global_step": 5})
    texts = (tmp_path / LOG_FILE).read_text().splitlines()
    assert [json.loads(text) for text in texts] == [
        line(5), {"best_metric": 0.5, "global_step": 5},
    ]  # fmt: skip
    assert log.lines == [line(5)]


def test_a_number_that_json_does_not_know_becomes_null(tmp_path):
    log = LogFile(tmp_path / LOG_FILE)
    log.append(line(5, grad_norm=float("nan"), norm=float("inf")))
    assert json.loads((tmp_path / LOG_FILE).read_text()) == line(5, grad_norm=None, norm=None)


@given(
    num_lines=st.integers(0, 12), cut=st.integers(0, 40), last_step=st.integers(0, 14),
    has_summary=st.booleans(),
)  # fmt: skip
def test_a_resumed_log_is_what_the_run_had_written_until_then(
    tmp_path_factory, num_lines, cut, last_step, has_summary
):
    path = tmp_path_factory.mktemp("log") / LOG_FILE
    lines = [line(step) for step in range(1, num_lines + 1)]
    text = "".join(json.dumps(item) + "\n" for item in lines)
    if has_summary:
        text += json.dumps({"global_step": num_lines, "log_history": lines}) + "\n"
    path.write_text(text + json.dumps(line(num_lines + 1))[:cut])  # cut short by the kill
    whole = cut >= len(json.dumps(line(num_lines + 1)))
    known = [*lines, line(num_lines + 1)] if whole else lines
    expected = [item for item in known if step_of(item) <= last_step]
    log = LogFile(path, last_step)
    assert log.lines == read_log(path) == expected
    log.append(line(last_step + 1))
    assert read_log(path) == [*expected, line(last_step + 1)]


def test_a_new_run_in_an_old_folder_begins_a_new_log(tmp_path):
    LogFile(tmp_path / LOG_FILE).append(line(5))
    assert LogFile(tmp_path / LOG_FILE).lines == []
    assert (tmp_path / LOG_FILE).read_text() == ""


def test_a_log_on_a_full_disk_says_what_to_do(tmp_path):
    log = LogFile(tmp_path / LOG_FILE)
    log.path.unlink()
    log.path.mkdir()
    with pytest.raises(DataError, match="free space, then resume from the last checkpoint"):
        log.append(line(5))
    with pytest.raises(DataError, match="cannot be written"):
        LogFile(tmp_path / "none" / LOG_FILE)


@pytest.mark.parametrize(
    "value", [{}, {STEP_KEY: "x/5"}, {STEP_KEY: "5"}, {STEP_KEY: 5}, {"global_step": 5}]
)
def test_what_has_no_step_is_no_line_of_figures(value):
    assert step_of(value) is None


def test_a_link_leads_to_the_newest(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "step").write_text(str(step))
        folder.link_checkpoint("last", tmp_path / f"checkpoint-{step}")
        assert (tmp_path / "last" / "step").read_text() == str(step)
    assert os.readlink(tmp_path / "last") == "checkpoint-10"  # so that the folder can be moved


def test_a_link_never_replaces_a_folder(tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(DataError, match="set create_checkpoint_symlink to false"):
        RunFolder(tmp_path).link_checkpoint("best", tmp_path / "checkpoint-5")
