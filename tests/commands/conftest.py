"""Commands run in this process, and what they leave behind in libraries put back."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers.utils import logging

from internvl35 import cli
from internvl35.model.composite import VisionLanguageModel
from internvl35.train import reports
from internvl35.train.adapters import add_adapters, save_adapters
from internvl35.train.settings import AdapterSettings, FreezeSettings


@pytest.fixture(autouse=True)
def libraries_as_before() -> Iterator[None]:
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(verbosity)
    if has_bars:
        logging.enable_progress_bar()


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs draw none, which takes longest; tests of runs and of curves stand elsewhere."""
    monkeypatch.setattr(reports, "plot_figures", lambda *_: None)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line; gives exit code, stdout and stderr."""

    def run_main(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(ending.value.code or 0), printed.out, printed.err

    return run_main


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Put bytes on stdin, as a pipe would."""

    def put(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return put


@pytest.fixture(scope="session")
def wide_picture(tmp_path_factory: pytest.TempPathFactory):
    """A picture that the random checkpoint cuts into three tiles and a thumbnail."""
    path = tmp_path_factory.mktemp("pictures") / "wide.png"
    Image.effect_noise((150, 50), 80).save(path)
    return path


@pytest.fixture(scope="session")
def saved_adapters(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on the random checkpoint, as a run would leave them, that change its answers."""
    folder = tmp_path_factory.mktemp("run") / "checkpoint-2"
    torch.manual_seed(5)
    model = VisionLanguageModel.from_pretrained(random_checkpoint)
    model.name_or_path = str(random_checkpoint)
    add_adapters(model, AdapterSettings(), FreezeSettings())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    save_adapters(model, folder)
    arguments = {"model": str(random_checkpoint), "command": "sft", "internvl35_version": "0.2"}
    (folder / "args.json").write_text(json.dumps(arguments))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 2}))
    return folder


@pytest.fixture
def adapter_checkpoint(saved_adapters: Path, tmp_path: Path) -> Path:
    """A copy of the adapters, to be changed at will."""
    return Path(shutil.copytree(saved_adapters, tmp_path / "v0" / "checkpoint-2"))
