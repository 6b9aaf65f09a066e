"""Where pictures and videos may come from; URLs are tried against a server on this machine."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from internvl35.data.sources import SourceSettings, describe_content, open_media
from internvl35.errors import ConfigError, MediaError

DEFAULT = SourceSettings()
LOCAL = SourceSettings(allow_urls=True, allow_private_addresses=True, max_bytes=1000, timeout_s=30)


def read(source, settings=DEFAULT):
    with open_media(source, settings) as (file, _):
        return file.read()


class Handler(BaseHTTPRequestHandler):
    release = threading.Event()

    def do_GET(self):
        route = getattr(self, "answer_" + self.path.split("?")[0].strip("/").split("/")[0])
        route()

    def send(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def answer_good(self):
        self.send(200, {"Content-Length": "4"}, b"good")

    def answer_host(self):
        self.send(200, {}, self.headers["Host"].encode())

    def answer_missing(self):
        self.send(404, {})

    def answer_empty(self):
        self.send(200, {"Content-Length": "0"})

    def answer_promised(self):
        self.send(200, {"Content-Length": "1001"}, b"x" * 1001)

    def answer_unannounced(self):
        self.send(200, {}, b"x" * 5000)

    def answer_short(self):
        self.send(200, {"Content-Length": "100"}, b"x" * 10)

    def answer_hops(self):
        left = int(self.path.rsplit("/", 1)[1])
        self.send(302, {"Location": f"/hops/{left - 1}" if left else "/good"})

    def answer_file(self):
        self.send(301, {"Location": "file:///etc/passwd"})

    def answer_away(self):
        self.send(307, {"Location": "http://elsewhere.test/"})

    def answer_drip(self):
        self.send_response(200)
        self.end_headers()
        while not self.release.wait(0.02):
            try:
                self.wfile.write(b"x")
            except OSError:
                return

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        Handler.release.set()
        running.shutdown()


@contextmanager
def resolving(monkeypatch, *addresses) -> Iterator[list[str]]:
    """Let every host have these addresses, and note the hosts that are asked for."""
    asked: list[str] = []

    def look_up(host, port, *_, **__):
        asked.append(host)
        kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [
            (kind, socket.SOCK_STREAM, 6, "", (address, port))
            for kind, address in zip(kinds, addresses, strict=True)
        ]

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        yield asked


def test_paths_bytes_and_open_files_are_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    advanced = io.BytesIO(b"abc")
    advanced.read()
    for source in (path, str(path), b"abc", bytearray(b"abc"), memoryview(b"abc"), advanced):
        assert read(source) == b"abc"


def test_a_file_that_cannot_seek_is_read_up_to_the_limit():
    class Pipe(io.RawIOBase):
        def __init__(self, data):
            self.data = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.data.readinto(buffer)

    assert read(io.BufferedReader(Pipe(b"x" * 9)), SourceSettings(max_bytes=9)) == b"x" * 9
    with pytest.raises(MediaError, match="larger than the 8 bytes of max_bytes"):
        read(io.BufferedReader(Pipe(b"x" * 9)), SourceSettings(max_bytes=8))


@pytest.mark.parametrize(
    ("uri", "data"),
    [
        ("data:image/png;base64,AAEC", b"\0\1\2"),
        ("DATA:;base64,AA%45C\n", b"\0\1\2"[:0] + b"\x00\x01\x02"),
        ("data:,a%20b", b"a b"),
    ],
)
def test_data_uris_are_decoded(uri, data):
    assert read(uri) == data


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("data:image/png;base64", "has no comma"),
        ("data:image/png;base64,AAA", "not valid base64"),
        ("data:image/png;base64,A*==", "not valid base64"),
        ("data:image/png;base64,", "is empty"),
        ("data:," + "x" * 11, "larger than the 10 bytes"),
        ("data:," + "x" * 5000, "larger than the 10 bytes"),
        (b"x" * 11, "larger than the 10 bytes"),
        (b"", "the given data is empty"),
        (io.BytesIO(), "the open file is empty"),
        (io.StringIO("x"), "text mode; needed: binary mode"),
        ("/no/such/file.png", "/no/such/file.png does not exist"),
        ("/dev/null", "not a regular file"),
        ("a\0b.png", r"a\\x00b.png is not a path"),
        ("x" * 5000, "cannot be read: File name too long"),
        ("ftp://host/x.png", "scheme ftp; known: http, https and data"),
        ("file:///etc/passwd", "scheme file; known"),
        ("http://user:word@host/x.png?key=1", "^http://host/x.png is a URL; .* allow_urls"),
        (7, "cannot be of type int"),
        (None, "cannot be of type NoneType"),
    ],
)
def test_what_is_no_source_is_refused(source, message):
    with pytest.raises(MediaError, match=message):
        read(source, SourceSettings(max_bytes=10))


def test_directories_closed_files_and_forbidden_paths_are_refused(tmp_path):
    with pytest.raises(MediaError, match="is a directory"):
        read(tmp_path)
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(MediaError, match="cannot be read: ValueError"):
        read(closed)
    path = tmp_path / "file"
    path.write_bytes(b"x")
    for source in (path, str(path)):
        with pytest.raises(MediaError, match="allow_paths"):
            read(source, SourceSettings(allow_paths=False))


def test_a_url_is_fetched_only_where_it_is_allowed(server):
    assert read(f"{server}/good", LOCAL) == b"good"
    assert read(f"{server}/good/%7Ea b?q=a b", LOCAL) == b"good"
    with pytest.raises(MediaError, match="allow_urls"):
        read(f"{server}/good")
    with pytest.raises(MediaError, match="not of the public internet"):
        read(f"{server}/good", SourceSettings(allow_urls=True))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "the server answers 404"),
        ("empty", "is empty"),
        ("promised", "larger than the 1000 bytes"),
        ("unannounced", "larger than the 1000 bytes"),
        ("short", "ended after 10 of 100 bytes"),
        ("hops/9", "redirects more than 3 times"),
        ("file", r"leads to something else than http\(s\)"),
    ],
)
def test_answers_that_give_nothing_are_told(server, path, message):
    with pytest.raises(MediaError, match=message):
        read(f"{server}/{path}", LOCAL)


def test_redirects_are_followed_up_to_the_limit(server):
    assert read(f"{server}/hops/2", LOCAL) == b"good"
    with pytest.raises(MediaError, match="more than 3 times"):
        read(f"{server}/hops/3", LOCAL)


def test_a_server_that_sends_a_byte_now_and_then_is_left(server):
    impatient = SourceSettings(allow_urls=True, allow_private_addresses=True, timeout_s=0.3)
    with pytest.raises(MediaError, match=r"cannot be fetched within 0.3 s"):
        read(f"{server}/drip", impatient)


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("10.1.2.3",),
        ("169.254.169.254",),
        ("100.64.0.1",),
        ("0.0.0.0",),
        ("224.0.0.1",),
        ("::1",),
        ("fe80::1%eth0",),
        ("fd00::1",),
        ("::ffff:127.0.0.1",),
        ("64:ff9b::7f00:1",),
        ("2002:7f00:1::",),
        ("::7f00:1",),
        ("fec0::1",),
        ("8.8.8.8", "192.168.0.1"),
    ],
)
def test_hosts_with_any_address_that_is_not_public_are_refused(monkeypatch, addresses):
    with (
        resolving(monkeypatch, *addresses),
        pytest.raises(MediaError, match="not of the public internet"),
    ):
        read("http://host.test/x.png", SourceSettings(allow_urls=True))


def test_the_connection_goes_to_the_address_that_was_checked(server, monkeypatch):
    port = server.rsplit(":", 1)[1]
    with resolving(monkeypatch, "127.0.0.1") as asked:
        assert read(f"http://host.test:{port}/host", LOCAL) == f"host.test:{port}".encode()
    assert asked == ["host.test", "127.0.0.1"]  # the second is the address itself


def test_a_redirect_to_a_private_address_is_refused(server, monkeypatch):
    port = server.rsplit(":", 1)[1]
    checked: list[str] = []

    def look_up(host, port, *_, **__):
        checked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    # The first hop counts as public, so that only the second can be refused.
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(
        "internvl35.data.sources._is_public", lambda _: checked[-1] != "elsewhere.test"
    )
    with pytest.raises(MediaError, match="not of the public internet"):
        read(f"http://host.test:{port}/away", SourceSettings(allow_urls=True))
    assert checked[-1] == "elsewhere.test"


@pytest.mark.parametrize(
    ("hosts", "url", "is_fetched"),
    [
        ((), "http://host.test/x", False),
        (("host.test",), "http://host.test/x", True),
        (("host.test",), "http://HOST.test/x", True),
        (("HOST.test",), "https://host.test/x", True),
        (("host.test",), "http://host.test:8080/x", False),
        (("host.test:8080",), "http://host.test:8080/x", True),
        (("host.test:8080",), "http://host.test/x", False),
        (("host.test",), "http://host.test.evil.test/x", False),
        (("host.test",), "http://evilhost.test/x", False),
        (("host.test",), "http://host.test./x", False),
        (("*.host.test",), "http://a.b.host.test/x", True),
        (("*.host.test",), "http://host.test/x", False),
        (("*.host.test",), "http://evilhost.test/x", False),
        (("*",), "http://any.test/x", True),
        (("*",), "http://any.test:22/x", False),
        (("*:22",), "http://any.test:22/x", True),
    ],
)
def test_only_listed_hosts_and_ports_are_looked_up(monkeypatch, hosts, url, is_fetched):
    settings = SourceSettings(allow_urls=True, hosts=hosts)
    message = "not of the public internet" if is_fetched else "not allowed here"
    with resolving(monkeypatch, "127.0.0.1") as asked, pytest.raises(MediaError, match=message):
        read(url, settings)
    assert len(asked) == is_fetched


def test_a_redirect_to_a_host_that_is_not_listed_is_refused(server, monkeypatch):
    port = server.rsplit(":", 1)[1]
    settings = replace(LOCAL, hosts=(f"host.test:{port}",))
    with resolving(monkeypatch, "127.0.0.1") as asked:
        assert read(f"http://host.test:{port}/hops/1", settings) == b"good"
        asked.clear()
        with pytest.raises(MediaError, match="not allowed here"):
            read(f"http://host.test:{port}/away", settings)
    assert "elsewhere.test" not in asked


@pytest.mark.parametrize(
    "url",
    [
        "http:///x.png",
        "http://user@host/x.png",
        "http://good.test\\@host/x.png",
        "http://host:99999/x.png",
        "http://[::1/x.png",
        "http://good.test host/x.png",
        "http://good.test\0host/x.png",
        "http://good.test\x7fhost/x.png",
    ],
)
def test_urls_that_two_parsers_could_read_differently_are_refused(url, monkeypatch):
    with resolving(monkeypatch, "127.0.0.1"), pytest.raises(MediaError, match="leads to"):
        read(url, LOCAL)


def test_nothing_listening_is_told_without_details():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(MediaError, match="cannot be fetched: ConnectionRefusedError"):
        read(f"http://127.0.0.1:{port}/", LOCAL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_bytes": 0}, "max_bytes is 0"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"max_redirects": -1}, "max_redirects is -1"),
        ({"hosts": ("http://host.test",)}, "hosts holds 'http://host.test'"),
        ({"hosts": ("host.test/x",)}, "needed: example.org"),
        ({"hosts": ("a*.test",)}, "needed: example.org"),
        ({"hosts": ("",)}, "needed: example.org"),
    ],
)
def test_settings_that_no_source_could_meet_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        SourceSettings(**changes)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\x89PNG\r\n", "PNG"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
        (b"RIFF\0\0\0\0AVI LIST", "an AVI file"),
        (b"\0\0\0\x18ftypheic", "a HEIF picture"),
        (b"\x1a\x45\xdf\xa3", "a Matroska or WebM file"),
        ("é".encode() * 256, "text"),
        (("x" + "é" * 256).encode()[:512], "text"),
        (b"\xff\xfe\0\1", "data of an unknown kind"),
        (b"ab\0cd", "data of an unknown kind"),
    ],
)
def test_content_is_described_by_its_first_bytes(head, words):
    assert describe_content(head) == words
