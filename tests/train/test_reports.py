"""What a run tells while it goes: lines, the bar, logging.jsonl, TensorBoard, curves."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from internvl35.errors import ConfigError, DataError
from internvl35.train import packages, reports
from internvl35.train.reports import TrainingReport, describe_figures, describe_time
from internvl35.train.run_folder import RunFolder


class Clock:
    """Ten seconds a step."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


FIGURES = {
    "loss": 0.25, "grad_norm": 1.5, "learning_rate": 1e-4, "token_acc": 0.5,
    "tokens_per_s": 12345.0, "tiles_per_s": 6.25, "memory(GiB)": 2.125, "train_speed(s/it)": 10.0,
}  # fmt: skip


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def open_report(tmp_path, clock, monkeypatch):
    """Make a report of a run of 20 steps, ten an epoch, and the screen that it writes to."""

    def make(*, is_terminal=False, draws=False, **options):
        if not draws:  # which takes most of the time
            monkeypatch.setattr(reports, "plot_figures", lambda *_: None)
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=is_terminal, width=200, color_system=None)
        report = TrainingReport(
            RunFolder(tmp_path),
            20,
            epoch_at=lambda step: step / 10,
            console=console,
            clock=clock,
            **options,
        )
        return report, screen

    return make


def read_lines(folder):
    return [json.loads(text) for text in (folder / "logging.jsonl").read_text().splitlines()]


def test_a_line_says_where_the_run_is_and_how_long_it_will_take(tmp_path, open_report, clock):
    report, screen = open_report()
    with report:
        clock.now += 50
        report.log_step(5, FIGURES)
    expected = {
        **FIGURES, "epoch": 0.5, "global_step/max_steps": "5/20", "elapsed_time": "50s",
        "remaining_time": "2m 30s",
    }  # fmt: skip
    assert read_lines(tmp_path) == [expected]
    assert report.history == [expected]
    assert screen.getvalue().splitlines() == [
        "step 5/20  loss 0.2500  acc 50.0%  norm 1.50  lr 1.00e-04  tokens/s 12,345  tiles/s 6.2  "
        "GiB 2.1  left 2m 30s"
    ]


def test_an_evaluation_has_names_of_its_own(tmp_path, open_report, clock):
    report, screen = open_report()
    with report:
        clock.now += 100
        report.log_eval(10, {"loss": 0.5, "eval_token_acc": 0.75})
    (line,) = read_lines(tmp_path)
    assert {name: line[name] for name in ("eval_loss", "eval_token_acc", "epoch")} == {
        "eval_loss": 0.5, "eval_token_acc": 0.75, "epoch": 1.0,
    }  # fmt: skip
    assert "loss" not in line
    assert screen.getvalue() == "step 10/20  eval_loss 0.5000  eval_acc 75.0%  left 1m 40s\n"


def test_the_last_line_sums_up_the_run(tmp_path, open_report, clock):
    report, _ = open_report()
    with report:
        clock.now += 200
        report.log_step(20, FIGURES)
        report.finish(20, {"best_metric": 0.5, "last_model_checkpoint": "checkpoint-20"})
    *lines, last = read_lines(tmp_path)
    assert last == {
        "best_metric": 0.5, "last_model_checkpoint": "checkpoint-20", "global_step": 20,
        "elapsed_time": "3m 20s", "log_history": lines,
    }  # fmt: skip


def test_a_resumed_run_goes_on_in_the_same_log(tmp_path, open_report, clock):
    report, _ = open_report()
    with report:
        for step in (5, 10):
            clock.now += 50
            report.log_step(step, FIGURES)
    with (tmp_path / "logging.jsonl").open("a") as file:
        file.write('{"loss": 0.2, "global_st')  # cut short by a kill
    report, _ = open_report(first_step=5, seconds_before=50.0)
    with report:
        clock.now += 10
        report.log_step(6, FIGURES)
        assert [line["global_step/max_steps"] for line in report.history] == ["5/20", "6/20"]
    last = read_lines(tmp_path)[-1]
    assert (last["elapsed_time"], last["remaining_time"]) == ("1m 0s", "2m 20s")


def test_on_a_terminal_a_bar_shows_the_latest_figures(open_report, clock):
    report, screen = open_report(is_terminal=True)
    with report:
        clock.now += 10
        report.log_step(1, FIGURES)
        clock.now += 10
        report.advance(2, {"loss": 0.125})
    shown_at_last = screen.getvalue()
    for shown in ("2/20", "loss 0.1250", "tokens/s 12,345", "tiles/s 6.2", "GiB 2.1",
                  "left 3m 0s"):  # fmt: skip
        assert shown in shown_at_last
    assert "step 1/20" not in screen.getvalue()  # no plain lines beside the bar


def test_elsewhere_there_is_no_bar(open_report):
    report, screen = open_report()
    with report:
        report.advance(2, {"loss": 0.125})
    assert screen.getvalue() == ""


def test_every_figure_has_a_curve_even_if_the_run_breaks_off(tmp_path, open_report):
    report, _ = open_report(draws=True)
    report.log_step(1, {"loss": 0.5, "tokens_per_s": 5.0})
    report.log_eval(1, {"loss": 0.5})

    def break_off():
        with report:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    names = {path.name for path in (tmp_path / "images").iterdir()}
    assert names == {"train_loss.png", "eval_loss.png", "train_tokens_per_s.png"}


def test_curves_that_cannot_be_drawn_do_not_cost_the_run(tmp_path, open_report):
    (tmp_path / "images").touch()
    report, screen = open_report(draws=True)
    with report:
        report.log_step(1, FIGURES)
    assert "no curves: curves cannot be drawn" in screen.getvalue()


def test_tensorboard_holds_every_figure_by_part_and_step(tmp_path, open_report):
    report, _ = open_report(report_to=("tensorboard",))
    with report:
        report.log_step(5, FIGURES)
        report.log_step(10, {"loss": 0.125})
        report.log_eval(10, {"loss": 0.5})
    report, _ = open_report(report_to=("tensorboard",), first_step=5)
    with report:
        report.log_step(10, {"loss": 0.0625})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "runs"))
    events.Reload()
    values = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert values == [(5, 0.25), (10, 0.0625)]  # what came after the resumed step is undone
    assert events.Scalars("eval/loss") == []
    assert {f"train/{name}" for name in FIGURES} <= set(events.Tags()["scalars"])


def test_without_tensorboard_the_extra_is_named(tmp_path, open_report, monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'internvl35\[train\]', or set report_to"):
        open_report(report_to=("tensorboard",))
    report, _ = open_report(report_to=("none",))
    report.close()


def test_a_full_disk_stops_the_run_with_advice(tmp_path, open_report):
    report, _ = open_report()
    (tmp_path / "logging.jsonl").unlink()
    (tmp_path / "logging.jsonl").mkdir()
    with pytest.raises(DataError, match="free space"):
        report.log_step(1, FIGURES)
    report.close()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 0s"), (3599.7, "1h 0m 0s"), (7507, "2h 5m 7s"),
     (float("inf"), "?")],
)  # fmt: skip
def test_times_are_put_into_words(seconds, words):
    assert describe_time(seconds) == words


def test_figures_that_nobody_needs_to_see_are_left_out():
    assert describe_figures({"epoch": 1.0, "train_speed(s/it)": 3.0, "loss": 2.0}) == "loss 2.0000"


def test_the_screen_is_stderr(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reports, "plot_figures", lambda *_: None)
    with TrainingReport(RunFolder(tmp_path), 20, epoch_at=float) as report:
        report.log_step(5, {"loss": 1.0})
        report.tell("[bold]no markup[/bold]")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "loss 1.0000" in printed.err
    assert "[bold]no markup[/bold]" in printed.err
