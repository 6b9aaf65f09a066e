"""Commands run in this process, and what they leave behind in libraries put back."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator

import pytest
from PIL import Image
from transformers.utils import logging

from internvl35 import cli


@pytest.fixture(autouse=True)
def libraries_as_before() -> Iterator[None]:
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(verbosity)
    if has_bars:
        logging.enable_progress_bar()


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
