"""Several processes for one command: environment variables decide, torchrun starts them.

What the processes do together is left to :mod:`internvl35.train.distributed`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import typer

from internvl35.errors import ConfigError

LAUNCH_VARIABLES = {
    "NPROC_PER_NODE": "--nproc_per_node",
    "NNODES": "--nnodes",
    "NODE_RANK": "--node_rank",
    "MASTER_ADDR": "--master_addr",
    "MASTER_PORT": "--master_port",
}
"""Environment variables to torchrun's options; one of the first two asks for it."""

_ASKING = ("NPROC_PER_NODE", "NNODES")
_INSIDE = "TORCHELASTIC_RUN_ID"
_WORDS = {"auto", "gpu", "cpu"}


def is_main_process(environment: Mapping[str, str]) -> bool:
    """Whether this process is the one of its run that talks to the user."""
    return environment.get("RANK", "0") == "0"


def torchrun_options(environment: Mapping[str, str], arguments: Sequence[str]) -> list[str] | None:
    """Say how a command is started in several processes.

    Args:
        environment: variables of this process.
        arguments: the command's name and what follows it.

    Returns:
        What torchrun is to be given, or None where one process is enough or this process is one of
        several already.

    Raises:
        ConfigError: if a number of processes or machines is none.
    """
    if _INSIDE in environment or not any(environment.get(name) for name in _ASKING):
        return None
    for name in _ASKING:
        value = environment.get(name) or "1"
        is_number = value.isdecimal() and int(value) >= 1
        if not is_number and not (name == "NPROC_PER_NODE" and value in _WORDS):
            raise ConfigError(
                f"environment variable {name} is {value!r}; needed: a number of at least 1"
            )
    options = [
        f"{option}={environment[name]}"
        for name, option in LAUNCH_VARIABLES.items()
        if environment.get(name)
    ]
    has_others = (environment.get("NNODES") or "1") != "1"
    if not has_others and not environment.get("MASTER_PORT"):
        options.append("--standalone")  # finds a free port, so that two runs do not collide
    return [*options, "--module", "internvl35.cli", *arguments]


def launch_processes(arguments: Sequence[str]) -> None:
    """Run a command in several processes if the environment asks for it; else do nothing.

    Args:
        arguments: the command's name and what follows it.

    Raises:
        ConfigError: if a number of processes or machines is none.
        Exit: when the processes have ended; with 2 if one of them found a user's mistake.
    """
    options = torchrun_options(os.environ, arguments)
    if options is None:
        return
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(options))
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        raise typer.Exit(2 if 2 in codes else 1) from error
    raise typer.Exit
