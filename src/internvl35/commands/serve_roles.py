"""``internvl35 serve`` as a group: alone it answers, and each of its commands is one role.

What they do stands in :mod:`internvl35.commands.serve`, :mod:`internvl35.commands.serve_split` and
:mod:`internvl35.commands.serve_parts`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import typer

from internvl35.commands import serve, serve_parts, serve_split
from internvl35.errors import ConfigError

app = typer.Typer(name="serve", invoke_without_command=True)


def alone(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command be what a group does if none of the group's commands is named.

    Args:
        command: as ``spread_settings`` makes it.

    Returns:
        A callback of a group; it refuses options that stand in front of one of its commands, which
        would have no effect.
    """

    def run(context: typer.Context, **given: Any) -> None:
        if context.invoked_subcommand is None:
            command(**given)
            return
        sources = {name: context.get_parameter_source(name) for name in given}
        for name, source in sources.items():
            if source is not None and source.name == "COMMANDLINE":
                raise ConfigError(
                    f"--{name.replace('_', '-')} stands in front of {context.invoked_subcommand}; "
                    "options of a role stand behind it"
                )

    signature = inspect.signature(command)
    own = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    run.__doc__ = command.__doc__
    run.__annotations__ = {**command.__annotations__, "context": typer.Context}
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[own, *signature.parameters.values()]
    )
    return run


app.callback()(alone(serve.serve))
app.command("gateway")(serve_split.serve_gateway)
app.command("vision")(serve_parts.serve_vision)
app.command("language")(serve_parts.serve_language)
