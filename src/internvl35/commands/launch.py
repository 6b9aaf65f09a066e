"""Several processes for one command: environment variables decide, torchrun starts them.

What the processes do together is left to :mod:`internvl35.train.distributed`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

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


def torchrun_command(environment: Mapping[str, str], arguments: Sequence[str]) -> list[str] | None:
    """Say how a command is started in several processes.

    Args:
        environment: variables of this process.
        arguments: the command's name and what follows it.

    Returns:
        Program and arguments, or None where one process is enough or is one of several already.

    Raises:
        ConfigError: if a number of processes or machines is none.
    """
    if _INSIDE in environment or not any(environment.get(name) for name in _ASKING):
        return None
    for name in _ASKING:
        value = environment.get(name, "1")
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
    has_others = environment.get("NNODES", "1") != "1"
    if not has_others and not environment.get("MASTER_PORT"):
        options.append("--standalone")  # finds a free port, so that two runs do not collide
    program = [sys.executable, "-m", "torch.distributed.run", *options]
    return [*program, "--module", "internvl35.cli", *arguments]


def launch_processes(arguments: Sequence[str]) -> None:
    """Become torchrun if the environment asks for several processes; else do nothing.

    Args:
        arguments: the command's name and what follows it.

    Raises:
        ConfigError: if a number of processes or machines is none.
    """
    command = torchrun_command(os.environ, arguments)
    if command is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)
