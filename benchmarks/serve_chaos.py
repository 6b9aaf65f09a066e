"""Faults while a gateway is under load, and counts of what became of the requests.

Which processes there are is left to a :class:`Fleet`, so that the same cases run on servers without
networks, in tests, and on a checkpoint.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Protocol

from benchmarks.serve_load import Counts, Load
from benchmarks.serve_proxy import Fault, FaultyProxy


class Fleet(Protocol):
    """A gateway, two vision and two language servers, each a process of its own."""

    @property
    def url(self) -> str:
        """Of the gateway, without a path."""
        ...

    @property
    def proxies(self) -> Mapping[str, FaultyProxy]:
        """In front of ``vision-0`` and ``language-0``."""
        ...

    def stop(self, name: str, number: signal.Signals) -> None:
        """Send a process a signal: ``gateway``, ``vision-0`` and so on."""
        ...

    async def wait_gone(self, name: str) -> None:
        """Wait until a process has ended."""
        ...

    async def start(self, name: str) -> None:
        """Start a process again, where the one before listened."""
        ...

    async def wait_ready(self) -> None:
        """Wait until the gateway answers and every server is up."""
        ...


Case = Callable[[Fleet, Load], Awaitable[Counts]]
"""Runs a load and does something meanwhile."""


async def run_quiet(fleet: Fleet, load: Load) -> Counts:
    """Do nothing."""
    return await load.run(fleet.url)


def kill(name: str) -> Case:
    """Make a case of ``kill -9``, twice; a process is started again after each."""

    async def run(fleet: Fleet, load: Load) -> Counts:
        counts = Counts()
        asking = asyncio.create_task(load.run(fleet.url, counts))
        for share in (0.2, 0.5):
            await _reach(counts, share * load.num_requests, asking)
            fleet.stop(name, signal.SIGKILL)
            await fleet.wait_gone(name)
            await fleet.start(name)
        return await asking

    return run


def drain(*names: str) -> Case:
    """Make a case of SIGTERM to one process after the other, each started again when it is gone."""

    async def run(fleet: Fleet, load: Load) -> Counts:
        counts = Counts()
        asking = asyncio.create_task(load.run(fleet.url, counts))
        for place, name in enumerate(names, 1):
            await _reach(counts, load.num_requests * place / (len(names) + 2), asking)
            fleet.stop(name, signal.SIGTERM)
            await fleet.wait_gone(name)
            await fleet.start(name)
            await _wait_up(fleet, name)
        return await asking

    return run


def disturb(fault: Fault) -> Case:
    """Make a case of frames to and from one vision and one language server that go wrong."""

    async def run(fleet: Fleet, load: Load) -> Counts:
        counts = Counts()
        asking = asyncio.create_task(load.run(fleet.url, counts))
        await _reach(counts, 0.1 * load.num_requests, asking)
        for proxy in fleet.proxies.values():
            proxy.do(fault)
        try:
            return await asking
        finally:
            for proxy in fleet.proxies.values():
                proxy.do("cut")  # what is half broken begins anew
                proxy.do("none")

    return run


async def run_crowd(fleet: Fleet, load: Load) -> Counts:
    """Ask everything at the same time."""
    return await replace(load, at_once=load.num_requests).run(fleet.url)


async def run_leaving(fleet: Fleet, load: Load) -> Counts:
    """Let half of the clients go away."""
    return await replace(load, leave_share=0.5).run(fleet.url)


CASES: Mapping[str, Case] = {
    "quiet": run_quiet,
    "vision_killed": kill("vision-0"),
    "language_killed": kill("language-0"),
    "gateway_killed": kill("gateway"),
    "slow_peers": disturb("slow"),
    "half_open_sockets": disturb("stall"),
    "broken_connections": disturb("cut"),
    "corrupted_frames": disturb("corrupt"),
    "duplicated_frames": disturb("duplicate"),
    "reordered_frames": disturb("reorder"),
    "truncated_frames": disturb("truncate"),
    "clients_leave": run_leaving,
    "simultaneous": run_crowd,
    "drain": drain("vision-1", "language-1"),
    "gateway_drain": drain("gateway"),
    "rolling_restart": drain("vision-0", "vision-1", "language-0", "language-1"),
}
"""By name, as figures list them."""

MAY_BREAK = {
    "language_killed", "gateway_killed", "half_open_sockets", "broken_connections",
    "corrupted_frames", "duplicated_frames", "reordered_frames", "truncated_frames",
}  # fmt: skip
"""Cases in which a stream whose first part was told may end with an error."""

MAY_REFUSE = {"simultaneous", "gateway_drain"}
"""Cases in which a request may be told to come again."""


def find_faults(name: str, counts: Counts) -> list[str]:
    """Name what must not be in a case's counts."""
    wrong = {"lost", "doubled", "wrong"}
    wrong |= set() if name in MAY_BREAK else {"broken"}
    wrong |= set() if name in MAY_REFUSE else {"refused"}
    found = [f"{count} {key}" for key in sorted(wrong) if (count := getattr(counts, key))]
    return found if counts.answered else [*found, "nothing answered"]


async def _reach(counts: Counts, number: float, asking: asyncio.Task[Counts]) -> None:
    """Wait until so many requests have ended."""
    while counts.sent < number and not asking.done():
        await asyncio.sleep(0.005)


async def _wait_up(fleet: Fleet, name: str) -> None:
    if name != "gateway":
        await fleet.wait_ready()
