"""Servers behind names: each address is one, and who comes and goes is followed."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from fake_servers import FAST, GATEWAY, FakeVision, identity, run, until

from internvl35.errors import ConfigError
from internvl35.serve.dvd.names import NamedPool
from internvl35.serve.dvd.peers import PeerAddress
from internvl35.serve.link_server import LinkServer, ListenSettings

NAME = "eyes.test"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names and their addresses; others are asked of the machine."""
    names: dict[str, list[str]] = {}
    ask = asyncio.BaseEventLoop.getaddrinfo

    async def getaddrinfo(loop: Any, host: str, port: int, **options: Any) -> Any:
        if not host.endswith(".test"):
            return await ask(loop, host, port, **options)
        if host not in names:
            raise socket.gaierror("name or service not known")
        return [one for address in names[host] for one in await ask(loop, address, port, **options)]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return names


@asynccontextmanager
async def listening(*hosts: str, **options: Any) -> AsyncIterator[int]:
    """Vision servers at several addresses of this machine, all at one port."""
    async with AsyncExitStack() as stack:
        port = 0
        for host in hosts:
            own = replace(identity("vision", host), secret=GATEWAY.secret)
            listen = ListenSettings(host, port)
            server = LinkServer(FakeVision(), own, listen, FAST.link, **options)
            await server.start()
            stack.push_async_callback(server.close)
            port = server.port
        yield port


@asynccontextmanager
async def following(name: str, port: int, **options: Any) -> AsyncIterator[NamedPool]:
    names = [PeerAddress(name, port)]
    pool = NamedPool("vision", names, GATEWAY, FAST, **options, every_s=0.05)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def up(pool: NamedPool) -> set[str]:
    return {peer.address.host for peer in pool.peers if peer.state == "up"}


def test_a_name_with_several_addresses_is_several_servers_and_is_followed(known) -> None:
    async def main() -> None:
        async with listening("127.0.0.1", "127.0.0.2") as port:
            known[NAME] = ["127.0.0.1", "127.0.0.2"]
            async with following(NAME, port) as pool:
                await until(lambda: up(pool) == {"127.0.0.1", "127.0.0.2"})
                known[NAME] = ["127.0.0.1", "127.0.0.3"]
                await until(lambda: len(pool.peers) == 3)  # who is connected may finish
                known[NAME] = ["127.0.0.1"]
                await until(lambda: {one.address.host for one in pool.peers} == up(pool))
                assert up(pool) == {"127.0.0.1", "127.0.0.2"}

    run(main())


def test_a_name_that_is_not_known_yet_is_asked_again_and_later_keeps_its_addresses(known) -> None:
    async def main() -> None:
        async with listening("127.0.0.1") as port, following(NAME, port) as pool:
            await asyncio.sleep(0.1)
            assert pool.peers == ()
            known[NAME] = ["127.0.0.1"]
            await until(lambda: up(pool) == {"127.0.0.1"})
            peers = pool.peers
            del known[NAME]
            await asyncio.sleep(0.2)
            assert pool.peers == peers

    run(main())


def test_a_server_with_addresses_of_both_kinds_is_one(known) -> None:
    async def main() -> None:
        known[NAME] = ["::1", "127.0.0.1"]
        async with listening("127.0.0.1") as port, following(NAME, port) as pool:
            await until(lambda: up(pool) == {"127.0.0.1"})
            assert len(pool.peers) == 1

    run(main())


def test_a_name_is_given_once() -> None:
    with pytest.raises(ConfigError, match="each once"):
        NamedPool("vision", [PeerAddress(NAME, 1)] * 2, GATEWAY)


def test_certificates_bear_the_name_and_not_the_address(known, tmp_path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=eyes", "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", "key", "-out", "own"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    client = ssl.create_default_context(cafile=tmp_path / "own")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "own")
    server.verify_mode = ssl.CERT_REQUIRED
    for context in (client, server):
        context.load_cert_chain(tmp_path / "own", tmp_path / "key")
    known[NAME], known["other.test"] = ["127.0.0.1"], ["127.0.0.1"]

    async def main() -> None:
        async with listening("127.0.0.1", context=server) as port:
            async with following(NAME, port, context=client) as pool:
                await until(lambda: up(pool) == {"127.0.0.1"})
            async with following("other.test", port, context=client) as pool:
                await until(lambda: pool.peers and pool.peers[0].error)
                assert "certificate" in str(pool.peers[0].error)

    run(main())
