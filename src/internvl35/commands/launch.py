"""Several processes for one command: environment variables decide, torchrun starts them.

A failure is told once, by the process that started the others: what ended first, not what came of
it.

What the processes do together is left to :mod:`internvl35.train.distributed`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import Signals
from typing import Any

import typer

from internvl35.errors import ConfigError, InternVLError

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

_LAUNCHED = "INTERNVL35_LAUNCHED"
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_CONSEQUENCE = InternVLError.__name__
"""Kind of the error of a process that another one left alone."""


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
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ[_LAUNCHED] = "1"  # for the processes that are started
    try:
        run(parse_args(options))
    except ChildFailedError as error:
        text, code = describe_end(error.failures.values())
        typer.echo(text, err=True)
        raise typer.Exit(code) from error
    except SignalException as error:
        raise typer.Exit(128 + error.sigval) from error
    raise typer.Exit


def hand_over_failure(kind: str, text: str, environment: Mapping[str, str]) -> bool:
    """Leave it to the process that started this one to tell of a failure.

    Args:
        kind: name of the error's class.
        text: the whole line.
        environment: variables of this process.

    Returns:
        Whether there is such a process, and it has been told.
    """
    path = environment.get(_ERROR_FILE)
    if _LAUNCHED not in environment or not path:
        return False
    now = time.time_ns()
    facts = {"message": text, "timestamp": now // 10**9, "time_ns": now, "kind": kind}
    with suppress(OSError):
        Path(path).write_text(json.dumps(facts), encoding="utf-8")
        return True
    return False


def describe_end(failures: Iterable[Any]) -> tuple[str, int]:
    """Say why several processes have ended.

    Args:
        failures: torchrun's, one a process, among them those that were ended with the others.

    Returns:
        What to tell, and the exit code.
    """
    found = sorted(failures, key=lambda failure: failure.local_rank)
    told = [failure for failure in found if "kind" in failure.error_file_data]
    causes = [f for f in told if f.error_file_data["kind"] != _CONSEQUENCE] or told
    if causes:
        first = min(causes, key=lambda failure: failure.error_file_data["time_ns"])
        kind = first.error_file_data["kind"]
        # where all found the same, the main process, which knows most, comes first
        chosen = next(f for f in causes if f.error_file_data["kind"] == kind)
        return str(chosen.error_file_data["message"]), chosen.exitcode
    killed = [f for f in found if f.exitcode < 0 and -f.exitcode != Signals.SIGTERM]
    for failure in killed:
        name = Signals(-failure.exitcode).name
        return (
            f"process {failure.local_rank} was killed ({name}), perhaps for lack of memory; lower "
            "dataloader_num_workers or start fewer processes"
        ), 1
    first = next((f for f in found if f.exitcode > 0), found[0])
    return f"process {first.local_rank} has ended with exit code {first.exitcode}", 1
