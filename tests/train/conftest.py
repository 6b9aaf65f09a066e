"""Small runs of fine-tuning on a random checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_settings, write_rows

from internvl35.train import plots, reports
from internvl35.train.settings import FinetuneSettings

MakeSettings = Callable[..., FinetuneSettings]


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rows in the announcement's form."""
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def make_settings(
    random_checkpoint: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> MakeSettings:
    """Settings of a run into a folder, with changes; no curves are drawn, which takes longest."""
    monkeypatch.setattr(reports, "plot_figures", lambda *_: None)

    def make(output: Path, **changes: Any) -> FinetuneSettings:
        return small_settings(random_checkpoint, rows, output, **changes)

    return make


@pytest.fixture
def curves(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw curves all the same."""
    monkeypatch.setattr(reports, "plot_figures", plots.plot_figures)
