"""Processes that a gateway keeps: started again when they die, ended with it, whatever ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from internvl35.serve.dvd.children import ChildCommand, Children, find_ports

COUNTS = """
import os, signal, sys, time
with open(sys.argv[1], "a") as file:
    print(os.getpid(), os.environ.get("COLOUR"), file=file)
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    time.sleep(1)
"""


def command(file: Path, kind: str = "meek", name: str = "child") -> ChildCommand:
    return ChildCommand(name, (sys.executable, "-c", COUNTS, str(file), kind), {"COLOUR": "blue"})


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


async def until(is_so) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_that_dies_is_started_again_and_all_end_in_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        files = [tmp_path / "one", tmp_path / "two"]
        children = Children([command(file, name=file.name) for file in files], 30)
        await children.start()
        await children.start()
        await until(lambda: all(map(lines_of, files)))
        first = int(lines_of(files[0])[0].split()[0])
        assert children.processes["one"] == first
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(lines_of(files[0])) == 2)
        assert len(lines_of(files[1])) == 1
        assert all(line.endswith(" blue") for file in files for line in lines_of(file))
        pids = list(children.processes.values())
        assert first not in pids
        await children.close()
        assert not any(map(is_alive, pids))
        assert children.processes == {}

    asyncio.run(main())


def test_a_child_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("internvl35.serve.dvd.children._GRACE_S", 0.1)

    async def main() -> None:
        children = Children([command(tmp_path / "one", "stubborn")], 0.1)
        await children.start()
        await until(lambda: lines_of(tmp_path / "one"))
        await asyncio.sleep(0.3)  # until it ignores signals
        pid = children.processes["child"]
        await children.close()
        assert not is_alive(pid)

    asyncio.run(main())


def test_a_command_ends_when_the_process_that_started_it_is_gone() -> None:
    """As the pipe does that its parent held open."""
    source = (
        "import runpy, sys, time\n"
        "import internvl35.cli\n"
        "internvl35.cli.main = lambda given: (print(given, flush=True), time.sleep(60))\n"
        "sys.argv = ['child', 'serve', 'vision']\n"
        "runpy.run_module('internvl35.commands.child', run_name='__main__')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "['serve', 'vision']\n"
        time.sleep(0.05)
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(30) == -signal.SIGTERM


def test_free_ports_differ() -> None:
    assert len(set(find_ports(8))) == 8
