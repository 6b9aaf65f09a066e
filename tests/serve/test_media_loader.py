"""Media of requests are loaded in order and under every limit; URLs are served on this machine."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import socket
import threading
from contextlib import aclosing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from internvl35.config import TileSettings
from internvl35.data.images import ImageSettings
from internvl35.data.tiles import Grid, make_pixel_values, normalize_levels
from internvl35.errors import BusyError, ConfigError, MediaError, ServerError
from internvl35.serve.fields import BodyError
from internvl35.serve.media import (
    LoadedMedia,
    MediaItem,
    MediaItemError,
    MediaLoader,
    MediaSettings,
)
from internvl35.serve.media_loader import SafeMediaLoader

TILES = TileSettings(tile_size=28, max_tiles=4)
OFF = MediaSettings()
WHERE = "messages[0].content[1].image_url"


def draw(width, height, seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def save(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def address(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


class CountingPool:
    """Notes jobs; each takes the file, waits for its turn, and gives as many tiles as bytes."""

    def __init__(self):
        self.jobs, self.read, self.running, self.most = [], [], 0, 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def decode(self, job, read):
        self.jobs.append(job)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            data = await read()
            self.read.append(data)
            await self.may_end.wait()
            if data == b"bad":
                raise MediaError("it is bad")
            levels = np.zeros((len(data), 3, 28, 28), np.uint8)
            return LoadedMedia(levels, (Grid(1, 1),), (len(data),))
        finally:
            self.running -= 1

    async def close(self):
        self.may_end.set()


def load(items, settings=OFF, work=None):
    """Load through a counting pool; return the results, or what ``work`` returns, and the pool."""

    async def all_of_it():
        pool = CountingPool()
        loader = SafeMediaLoader(TILES, settings, pool=pool)
        try:
            if work is not None:
                return await work(loader, pool), pool
            return [loaded async for loaded in loader.load(items, "r1")], pool
        finally:
            await loader.close()

    return asyncio.run(all_of_it())


def data_item(data=b"xyz", **more):
    return MediaItem(address(data), where=WHERE, **more)


def test_pictures_come_as_the_tiles_that_a_chat_cuts_them_into():
    pictures = [draw(90, 40), draw(30, 30), draw(40, 90)]

    async def all_of_it():
        loader: MediaLoader = SafeMediaLoader(TILES, replace(OFF, num_workers=1))
        items = [MediaItem(address(save(picture))) for picture in pictures]
        items[2] = replace(items[2], max_tiles=1)
        found = [loaded async for loaded in loader.load(items)]
        try:
            with pytest.raises(MediaItemError, match=r"image_url: the picture is a damaged") as bad:
                await anext(loader.load([data_item(save(pictures[0])[:200])]))
            return found, bad.value
        finally:
            await loader.close()

    found, bad = asyncio.run(all_of_it())
    tiles = [TILES, TILES, replace(TILES, max_tiles=1)]
    for loaded, picture, settings in zip(found, pictures, tiles, strict=True):
        assert normalize_levels(loaded.levels).equal(make_pixel_values(picture, settings))
        assert sum(loaded.num_tiles) == len(loaded.levels)
    assert isinstance(bad, BodyError)
    assert isinstance(bad, MediaError)
    assert bad.param == WHERE


def test_results_keep_the_order_and_few_are_worked_on_ahead():
    items = [data_item(bytes(n)) for n in range(1, 8)]
    found, pool = load(items)
    assert [len(loaded.levels) for loaded in found] == list(range(1, 8))
    assert pool.most == 2


def test_closing_early_ends_what_is_under_way():
    async def work(loader, pool):
        stream = loader.load([data_item(bytes(n)) for n in (1, 2, 3)])
        await anext(stream)
        pool.may_end.clear()
        await asyncio.sleep(0)
        await stream.aclose()
        return pool.running, len(pool.jobs)

    (running, num_jobs), _ = load([], work=work)
    assert running == 0
    assert num_jobs <= 3


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (MediaItem("https://host.test/x.png", where=WHERE), "URLs are not fetched here"),
        (MediaItem("HTTP://host.test/x.png", where=WHERE), "URLs are not fetched here"),
        (MediaItem("file:///etc/passwd", where=WHERE), "it is no address"),
        (MediaItem("/etc/passwd", where=WHERE), "it is no address"),
        (MediaItem("ftp://host.test/x", where=WHERE), "it is no address"),
        (MediaItem("", where=WHERE), "it is no address"),
        (data_item(max_tiles=0), "0 tiles are asked for; needed: 1 to 4"),
        (data_item(max_tiles=5), "5 tiles are asked for; needed: 1 to 4"),
        (data_item(kind="video", num_frames=0), "0 frames are asked for; needed: 1 to 128"),
        (data_item(kind="video", num_frames=10**9), "needed: 1 to 128"),
        (data_item(kind="video", bound=(2.0, 1.0)), "needed: 0 <= first <= last"),
        (data_item(kind="video", bound=(0.0, float("nan"))), "needed: 0 <= first <= last"),
        (data_item(kind="video", bound=(-1.0, 1.0)), "needed: 0 <= first <= last"),
    ],
)
def test_what_a_body_may_not_ask_is_refused_before_anything_is_loaded(item, message):
    async def work(loader, pool):
        with pytest.raises(MediaItemError, match=message) as refused:
            await anext(loader.load([data_item(), item]))
        return refused.value

    refused, pool = load([], work=work)
    assert str(refused).startswith(f"{WHERE}: ")
    assert refused.param == WHERE
    assert pool.jobs == []


@pytest.mark.parametrize(
    ("kind", "settings"), [("image", {"max_images": 2}), ("video", {"max_videos": 2})]
)
def test_too_many_are_refused_before_the_first_is_loaded(kind, settings):
    async def work(loader, pool):
        items = [data_item(kind=kind, num_frames=1 if kind == "video" else None)] * 3
        with pytest.raises(MediaItemError, match=f"3 {kind}s in one request; at most 2"):
            await anext(loader.load(items))

    assert load([], replace(OFF, **settings), work)[1].jobs == []


@pytest.mark.parametrize(
    ("settings", "sizes", "message"),
    [
        ({"max_image_bytes": 9}, [9, 10], "larger than the 9 bytes of max_bytes"),
        ({"max_total_bytes": 20}, [9, 9, 9], "larger than"),
        ({"max_total_tiles": 20}, [9, 9, 9], "have more than 20 tiles in all"),
    ],
)
def test_sizes_of_one_and_of_all_are_limited(settings, sizes, message):
    async def work(loader, pool):
        stream = loader.load([data_item(bytes(size)) for size in sizes])
        found = [len((await anext(stream)).levels) for _ in sizes[1:]]
        with pytest.raises(MediaItemError, match=message):
            await anext(stream)
        return found

    found, pool = load([], replace(OFF, **settings), work)
    assert found == sizes[:-1]
    assert sum(map(len, pool.read)) <= sum(sizes)


def test_a_video_is_asked_for_a_tile_a_frame_of_listed_kinds():
    _, pool = load([data_item(kind="video"), data_item(kind="video", num_frames=3, bound=(0, 2))])
    first, second = pool.jobs
    assert (first.tiles.max_tiles, first.num_frames, first.bound) == (1, 8, None)
    assert (second.num_frames, second.bound) == (3, (0, 2))
    assert "jpeg2000" not in first.videos.codecs
    assert first.videos.formats == ("mov", "matroska")
    assert first.images.formats == ("PNG", "JPEG", "WEBP", "GIF")


def test_the_loader_keeps_how_pictures_are_opened_but_not_their_limits():
    async def all_of_it():
        pool = CountingPool()
        images = ImageSettings(alpha="drop", max_pixels=1, formats=("TIFF",))
        loader = SafeMediaLoader(TILES, OFF, images, pool)
        await anext(loader.load([data_item()]))
        return pool.jobs[0].images

    found = asyncio.run(all_of_it())
    assert (found.alpha, found.max_pixels) == ("drop", OFF.max_pixels)
    assert "TIFF" not in found.formats


def test_more_requests_than_allowed_are_asked_to_come_again():
    async def work(loader, pool):
        pool.may_end.clear()
        stream = loader.load([data_item()])
        first = asyncio.create_task(anext(stream))
        while not pool.running:
            await asyncio.sleep(0)
        with pytest.raises(BusyError, match="ask again later"):
            await anext(loader.load([data_item()]))
        pool.may_end.set()
        await first
        await stream.aclose()
        return len((await anext(loader.load([data_item()]))).levels)

    assert load([], replace(OFF, max_requests=1), work)[0] == 3


def test_nothing_is_loaded_after_the_end():
    async def work(loader, pool):
        await loader.close()
        with pytest.raises(ServerError, match="stopping"):
            await anext(loader.load([data_item()]))

    load([], work=work)


class Handler(BaseHTTPRequestHandler):
    release = threading.Event()

    def do_GET(self):
        if self.path == "/slow":
            self.release.wait(20)
        if self.path in ("/hop", "/away"):
            self.send_response(302)
            self.send_header("Location", "/good" if self.path == "/hop" else "http://evil.test/")
            self.end_headers()
            return
        body = {"/good": b"good", "/large": bytes(5000), "/bad": b"bad"}.get(self.path)
        self.send_response(404 if body is None else 200)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def port():
    Handler.release.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1]
    Handler.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


def local(port, **more):
    hosts = (f"127.0.0.1:{port}",)
    return replace(OFF, hosts=hosts, allow_private_addresses=True, max_image_bytes=1000, **more)


def url_item(port, path, host="127.0.0.1"):
    return MediaItem(f"http://{host}:{port}/{path}", where=WHERE)


def test_urls_of_listed_hosts_are_fetched(port):
    items = [url_item(port, "good"), data_item(b"xyz"), url_item(port, "hop")]
    found, pool = load(items, local(port))
    assert [len(loaded.levels) for loaded in found] == [4, 3, 4]
    assert sorted(pool.read) == [b"good", b"good", b"xyz"]


@pytest.mark.parametrize("path", ["missing", "large", "away"])
def test_why_a_url_gives_nothing_stands_in_the_log_alone(port, path, caplog):
    caplog.set_level(logging.INFO, "internvl35.serve.media_loader")

    async def work(loader, pool):
        with pytest.raises(MediaItemError) as refused:
            await anext(loader.load([url_item(port, f"{path}?token=secret")], "req-7"))
        return str(refused.value)

    told, pool = load([], local(port), work)
    reason = told.removeprefix(f"{WHERE}: ")
    assert reason.startswith("it cannot be fetched from its URL")
    assert "req-7" in caplog.text
    assert "secret" not in caplog.text + told
    assert pool.read == []


def test_all_reasons_read_alike_to_the_sender(port, monkeypatch):
    """Else the answers would map the network that the server stands in."""

    def look_up(host, *_, **__):
        if host == "unknown.test":
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def work(loader, pool):
        told = set()
        for host in ("unknown.test", "inner.test", "unlisted.example"):
            with pytest.raises(MediaItemError) as refused:
                await anext(loader.load([MediaItem(f"https://{host}/x")]))
            told.add(str(refused.value))
        return told

    told, _ = load([], replace(OFF, hosts=("*.test",)), work)
    assert len(told) == 1


def test_a_name_server_that_never_answers_holds_one_place_and_no_request(monkeypatch):
    release, is_asked = threading.Event(), threading.Event()

    def look_up(*_, **__):
        is_asked.set()
        release.wait(20)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("internvl35.serve.media_loader._GRACE_S", 0.0)
    settings = replace(OFF, hosts=("*",), fetch_timeout_s=0.05, max_wait_s=0.05, max_fetches=1)

    async def work(loader, pool):
        with pytest.raises(MediaItemError, match="cannot be fetched"):
            await anext(loader.load([MediaItem("https://host.test/x")]))
        assert is_asked.is_set()
        with pytest.raises(BusyError, match="being fetched"):
            await anext(loader.load([MediaItem("https://host.test/x")]))
        release.set()
        for _ in range(1000):
            try:
                await anext(loader.load([MediaItem("https://host.test/x")]))
            except MediaItemError:
                return True
            except BusyError:
                continue
        return False

    try:
        assert load([], settings, work)[0]
    finally:
        release.set()


def test_slow_urls_do_not_hold_up_data(port):
    async def work(loader, pool):
        slow = asyncio.create_task(anext(loader.load([url_item(port, "slow")])))
        async with aclosing(loader.load([data_item()])) as stream:
            loaded = await anext(stream)
        assert not slow.done()
        Handler.release.set()
        with pytest.raises(MediaItemError):
            await slow
        return len(loaded.levels)

    assert load([], local(port, max_fetches=1), work)[0] == 3


def test_a_damaged_picture_of_a_url_is_told_with_its_place(port):
    async def work(loader, pool):
        with pytest.raises(MediaItemError, match="it is bad") as refused:
            await anext(loader.load([url_item(port, "bad")]))
        return refused.value.param

    assert load([], local(port), work)[0] == WHERE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_images": 0}, "max_images is 0"),
        ({"max_redirects": -1}, "max_redirects is -1"),
        ({"decode_timeout_s": 0.0}, "decode_timeout_s is 0"),
        ({"fetch_timeout_s": float("inf")}, "below a day"),
        ({"max_wait_s": float("nan")}, "below a day"),
        ({"video_codecs": ()}, "video_codecs is empty"),
        ({"image_formats": ("EPS",)}, "known: PNG"),
        ({"hosts": ("http://host",)}, "hosts holds"),
    ],
)
def test_settings_that_would_lift_a_limit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        SafeMediaLoader(TILES, replace(OFF, **changes))
