"""Curves of runs as pictures."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from internvl35.errors import DataError
from internvl35.train.plots import (
    plot_curve,
    plot_figures,
    smooth,
    smooth_exponentially,
)


def a_run(num_lines=50):
    for number in range(1, num_lines + 1):
        line = {"samples": 10 * number, "loss": 4 / number, "patch_loss": 1.0,
                "patch_acc": number / 100, "grad_norm": 7.0}  # fmt: skip
        if number > 20:
            line["token_acc"] = 0.9
        if number % 25 == 0:
            line["eval_counting"] = 0.5
        yield line


def test_losses_and_shares_right_stand_over_samples(tmp_path, monkeypatch):
    drawn = {}
    original = Axes.plot

    def note(self, x, y, *arguments, **options):
        drawn[options["label"]] = (list(x), list(y))
        return original(self, x, y, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", note)
    plot_curve(list(a_run()), tmp_path / "curve.png")
    assert set(drawn) == {"loss", "patch loss", "patch acc", "token acc", "counting"}
    assert drawn["counting"] == ([250, 500], [0.5, 0.5])
    assert drawn["patch acc"][0] == [10 * number for number in range(1, 51)]
    assert drawn["token acc"][0][0] == 210
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 600


def test_a_run_that_has_hardly_begun_can_be_drawn(tmp_path):
    plot_curve([{"samples": 8, "loss": 1.0}], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 0


def test_a_run_without_figures_and_a_folder_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(DataError, match="train at least one step"):
        plot_curve([], tmp_path / "curve.png")
    with pytest.raises(DataError, match="cannot be written"):
        plot_curve(list(a_run(2)), tmp_path / "missing" / "curve.png")


def test_a_value_is_averaged_with_those_before_it():
    assert smooth([1.0, 3.0, 5.0, 1.0], 2) == [1.0, 2.0, 4.0, 3.0]
    assert smooth([1.0, 3.0], 1) == [1.0, 3.0]


def test_every_figure_of_a_fine_tuning_run_has_a_picture_raw_and_smoothed(tmp_path, monkeypatch):
    drawn = []
    original = Axes.plot

    def note(self, x, y, *arguments, **options):
        drawn.append((self, list(x), list(y)))
        return original(self, x, y, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", note)
    lines = [
        {"loss": float(step % 3), "memory(GiB)": 2.0, "epoch": step / 10, "elapsed_time": "5s",
         "is_odd": True, "grad_norm": None, "global_step/max_steps": f"{step}/30"}
        for step in range(1, 31)
    ]  # fmt: skip
    lines.append({"eval_loss": 1.0, "global_step/max_steps": "30/30"})
    lines.append({"global_step": 30, "best_metric": 1.0})
    plot_figures(lines, tmp_path / "images")
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == ["eval_loss.png", "train_loss.png", "train_memory_GiB.png"]
    raw, smoothed = drawn[:2]
    losses = [float(step % 3) for step in range(1, 31)]
    assert raw[1:] == (list(range(1, 31)), losses)
    assert smoothed[2] == smooth_exponentially(losses, 0.9)
    with Image.open(tmp_path / "images" / "train_loss.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (800, 500))


def test_older_values_weigh_less():
    values = np.random.default_rng(0).normal(size=40)
    weights = 0.9 ** np.arange(40)[::-1]
    expected = [
        np.average(values[:end], weights=weights[-end:]) for end in range(1, len(values) + 1)
    ]
    np.testing.assert_allclose(smooth_exponentially(values.tolist(), 0.9), expected, rtol=1e-12)
    assert smooth_exponentially([3.0, 1.0], 0.0) == [3.0, 1.0]


def test_curves_on_a_full_disk_are_an_error_of_their_own(tmp_path):
    (tmp_path / "images").touch()
    with pytest.raises(DataError, match="curves cannot be drawn"):
        plot_figures([{"loss": 1.0, "global_step/max_steps": "1/2"}], tmp_path / "images")
