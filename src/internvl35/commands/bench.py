"""``internvl35 bench``: measures what runs.

Loads are sent by :mod:`internvl35.serve.bench`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from internvl35.commands.answer_screen import show_bar
from internvl35.commands.options import spread_settings
from internvl35.commands.terminal import note
from internvl35.errors import ConfigError, DataError, ServerError
from internvl35.serve.bench.settings import BenchSettings, Outcome

app = typer.Typer(
    name="bench", help="Measure what runs.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _keep_as_group() -> None:
    """Measure what runs."""


@app.command("serve")
@spread_settings
def bench_serve(
    load: BenchSettings,
    output: Annotated[
        Path,
        typer.Option(metavar="FILE.json", help="File for the figures; a picture goes beside it."),
    ] = Path("bench_serve.json"),
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File whose first line is the API key to send."),
    ] = None,
) -> None:
    """Send a load with pictures to a server of OpenAI's API and tell how it is answered."""
    key = None if api_key_file is None else _read_key(api_key_file)
    picture = output.with_suffix(".png")
    for path in (output, picture):
        if not path.parent.is_dir():
            raise DataError(f"{path.parent} is no folder; make it, or name another --output")
    try:
        from internvl35.serve.bench.run import run_load
    except ModuleNotFoundError as error:
        raise ServerError(
            f"{error.name} is not installed; run pip install 'internvl35[serve]'"
        ) from error
    from internvl35.serve.bench.report import describe_report, make_report, plot_report

    with show_bar(load.num_requests, 0, is_shown=True) as advance:

        def show(outcome: Outcome) -> None:
            advance()

        name, outcomes = asyncio.run(run_load(load, key, show))
    report = make_report(load, name, outcomes)
    try:
        output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{output} cannot be written: {error}") from error
    plot_report(report, picture)
    for line in describe_report(report):
        typer.echo(line)
    note(f"figures in {output}, drawn in {picture}")


def _read_key(path: Path) -> str:
    try:
        lines = path.read_text("utf-8").split()
    except (OSError, ValueError) as error:
        raise ConfigError(f"api_key_file {str(path)!r} cannot be read as UTF-8 text") from error
    if not lines:
        raise ConfigError(f"api_key_file {str(path)!r} holds no key; write one a line")
    return lines[0]
