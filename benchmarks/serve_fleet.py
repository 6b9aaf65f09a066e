"""A gateway with two vision and two language servers, processes that can be killed at any time."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess

import httpx

from benchmarks.serve_proxy import FaultyProxy
from internvl35.serve.dvd.children import find_ports

SERVERS = ("vision-0", "vision-1", "language-0", "language-1")
"""All but the gateway; the first of each kind stands behind a proxy."""

_PATIENCE_S = 120.0
"""Longest time that a process takes to end or to begin, on a machine that is busy."""

ServerProcess = Callable[[str, int], None]
"""Runs a server of a name at a port until SIGTERM."""
GatewayProcess = Callable[[int, Mapping[str, int]], None]
"""Runs a gateway at a port, with the ports of its servers by name, until SIGTERM."""


class ProcessFleet:
    """Meets ``Fleet`` of :mod:`benchmarks.serve_chaos`.

    Processes are forked from one that has imported everything, so that they start quickly and hold
    none of our connections.

    Args:
        run_server: runs in processes of servers; a function of a module.
        run_gateway: runs in the gateway's.
        preload: modules that are imported once.
    """

    def __init__(
        self, run_server: ServerProcess, run_gateway: GatewayProcess, preload: Sequence[str]
    ) -> None:
        """Start nobody yet."""
        port, *ports = find_ports(1 + len(SERVERS))
        self._url = f"http://127.0.0.1:{port}"
        self._proxies: dict[str, FaultyProxy] = {}
        self._port, self._ports = port, dict(zip(SERVERS, ports, strict=True))
        self._run_server, self._run_gateway = run_server, run_gateway
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._processes: dict[str, ForkServerProcess] = {}

    @property
    def url(self) -> str:
        """Of the gateway."""
        return self._url

    @property
    def proxies(self) -> Mapping[str, FaultyProxy]:
        """In front of the first server of each kind."""
        return self._proxies

    @property
    def pids(self) -> Mapping[str, int]:
        """Process numbers by name."""
        return {name: process.pid or 0 for name, process in self._processes.items()}

    def stop(self, name: str, number: signal.Signals) -> None:
        """Send a process a signal."""
        os.kill(self.pids[name], number)

    async def wait_gone(self, name: str) -> None:
        """Wait until a process has ended."""
        async with asyncio.timeout(_PATIENCE_S):
            while self._processes[name].is_alive():
                await asyncio.sleep(0.01)

    async def start(self, name: str) -> None:
        """Start a process where the one before listened."""
        if name == "gateway":
            seen = {**self._ports, **{one: proxy.port for one, proxy in self._proxies.items()}}
            process = self._context.Process(target=self._run_gateway, args=(self._port, seen))
        else:
            process = self._context.Process(target=self._run_server, args=(name, self._ports[name]))
        process.start()
        self._processes[name] = process

    async def wait_ready(self) -> None:
        """Wait until the gateway answers and every server is up."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                ups = [value for name, value in (await self.figures()).items() if "_up{" in name]
                if sum(ups) == len(SERVERS):
                    return
                await asyncio.sleep(0.02)

    async def figures(self) -> dict[str, float]:
        """All figures of the gateway by name and labels; none while it is away."""
        async with httpx.AsyncClient(base_url=self._url, trust_env=False) as client:
            try:
                lines = (await client.get("/metrics")).text.splitlines()
            except httpx.TransportError:
                return {}
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    async def wait_idle(self) -> None:
        """Wait until nothing is in work at the gateway or given to a server."""
        names = ("internvl35_requests", "internvl35_tiles_in_work", "internvl35_server_requests{")
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                found = await self.figures()
                left = [found[name] for name in found if name.startswith(names)]
                if left and not any(left):
                    return
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ProcessFleet]:
        """Start all processes, and end them."""
        before = os.environ.get("PYTHONPATH", "")
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # else nothing of ours is preloaded
        try:
            forkserver.ensure_running()
        finally:
            os.environ["PYTHONPATH"] = before
        try:
            for name in SERVERS:
                await self.start(name)
            for name in ("vision-0", "language-0"):
                self._proxies[name] = FaultyProxy(self._ports[name])
                await self._proxies[name].start()
            await self.start("gateway")
            await self.wait_ready()
            yield self
        finally:
            for process in self._processes.values():
                process.kill()
                process.join()
            for proxy in self._proxies.values():
                await proxy.close()
