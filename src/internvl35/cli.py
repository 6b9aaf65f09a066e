"""The entry point ``internvl35``: puts the commands together, turns every ending into an exit code.

What a command does is left to :mod:`internvl35.commands`. Exit codes: 0 done, 1 a fault of this
package, 2 a mistake that the user can put right, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from internvl35.commands import (
    batch,
    bench,
    chat,
    convert,
    data,
    data_draw,
    export,
    finetune,
    infer,
    models,
    recipes,
    serve_roles,
    train,
    train_flash,
    vico,
)
from internvl35.commands.flags import FlagCommand
from internvl35.commands.launch import hand_over_failure
from internvl35.commands.terminal import printable
from internvl35.errors import InternVLError

DEBUG_FLAG = "--debug"
"""Shows the trace of an error; accepted in front of a command and behind it."""

app = typer.Typer(
    name="internvl35",
    help="InternVL3.5: chat about pictures and videos, fine-tune, look after checkpoints.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("chat")(chat.chat)
app.command("batch")(batch.batch)
app.add_typer(serve_roles.app)
app.command("models")(models.list_models)
app.command("convert")(convert.convert)
data.app.command("draw", cls=data.DashedCommand)(data_draw.draw)
app.add_typer(data.app)
app.add_typer(bench.app)
app.command("sft", cls=FlagCommand)(finetune.sft)
app.command("pt", cls=FlagCommand)(finetune.pt)
app.command("vico", cls=FlagCommand)(vico.vico)
app.command("infer", cls=FlagCommand)(infer.infer)
app.command("export", cls=FlagCommand)(export.export)
app.command("recipes")(recipes.show_recipes)
train.app.command("flash")(train_flash.train_flash)
app.add_typer(train.app)


def _print_version(is_asked: bool) -> None:
    if not is_asked:
        return
    from importlib.metadata import PackageNotFoundError, version

    def find(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    python = ".".join(str(part) for part in sys.version_info[:3])
    others = ", ".join(f"{package} {find(package)}" for package in ("torch", "transformers"))
    typer.echo(f"internvl35 {find('internvl35')} (Python {python}, {others})")
    raise typer.Exit


@app.callback()
def _accept_global_options(
    debug: Annotated[
        bool, typer.Option(DEBUG_FLAG, help="Show the whole trace of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print versions and leave."
        ),
    ] = False,
) -> None:
    """Declare the global options; :func:`main` takes ``--debug`` out before it comes here."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit.

    Args:
        arguments: what follows the program's name; the process's own where None.

    Raises:
        SystemExit: always, with the exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    given, is_debug = _take_debug_flag(given)
    try:
        app(given, prog_name="internvl35", obj={DEBUG_FLAG: is_debug})
    except InternVLError as error:
        if is_debug:
            raise
        _fail(error, code=2)
    except KeyboardInterrupt:
        _leave(130)
    except Exception as error:  # the process boundary
        if is_debug:
            raise
        _fail(error, code=1, hint=f" (unexpected; run it again with {DEBUG_FLAG} to see where)")


def _take_debug_flag(arguments: list[str]) -> tuple[list[str], bool]:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [item for item in arguments[:end] if item != DEBUG_FLAG]
    return kept + arguments[end:], len(kept) < end


def _fail(error: Exception, code: int, hint: str = "") -> None:
    text = printable(" ".join(str(error).split()), sys.stderr.encoding)
    rank = os.environ.get("RANK", "")  # of a process that is one of several
    where = f"process {rank}: " if rank else ""
    line = f"{where}{type(error).__name__}: {text}{hint}"
    if not hand_over_failure(type(error).__name__, line, os.environ):
        typer.echo(line, err=True)
    _leave(code)


def _leave(code: int) -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # Taking replicas down while others still wait for them can take for ever, and torchrun
        # would not hear of the failure until then.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
