"""Find the bytes of a picture or a video wherever they are: file, URL, bytes, data URI, open file.

Decoding them is left to :mod:`internvl35.data.images` and :mod:`internvl35.data.video`. URLs are
fetched only where a setting says so, and then only from addresses of the public internet.
"""

from __future__ import annotations

import base64
import http.client
import io
import ipaddress
import os
import re
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias
from urllib.parse import SplitResult, quote, unquote_to_bytes, urljoin, urlsplit

from internvl35.errors import ConfigError, MediaError

MediaSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""What a picture or a video may be given as; a string is a path, a URL or a data URI."""

CHUNK_BYTES = 1 << 16
"""Bytes read at a time from a connection or an open file."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")

_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (8, b"WEBP", "WebP"),
    (4, b"ftypheic", "a HEIF picture"),
    (4, b"ftypmif1", "a HEIF picture"),
    (4, b"ftypavif", "an AVIF picture"),
    (4, b"jP  ", "a JPEG 2000 picture"),
    (4, b"ftyp", "an MP4 or QuickTime file"),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM file"),
    (8, b"AVI ", "an AVI file"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
)


@dataclass(frozen=True)
class SourceSettings:
    """Which sources are read, and how much of them."""

    max_bytes: int = 256 * 2**20
    """Most bytes taken into memory, that is of any source but files that can seek."""
    allow_paths: bool = True
    """Whether a string or path object may name a file of this machine."""
    allow_urls: bool = False
    """Whether http and https URLs are fetched."""
    hosts: tuple[str, ...] | None = None
    """Hosts that URLs may lead to, redirects included, at ports 80 and 443: ``example.org``,
    ``example.org:8080`` for one more port, ``*.example.org`` for all below, ``*`` for all; None
    for all hosts at all ports."""
    allow_private_addresses: bool = False
    """Whether URLs may lead to addresses that are not of the public internet."""
    timeout_s: float = 20.0
    """Seconds that fetching one URL may take, redirects included."""
    max_redirects: int = 3
    """Redirects followed from one URL; each is checked like the first."""

    def __post_init__(self) -> None:
        """Refuse settings that no source could meet."""
        if self.max_bytes < 1:
            raise ConfigError(f"max_bytes is {self.max_bytes}; it must be at least 1")
        if self.timeout_s <= 0:
            raise ConfigError(f"timeout_s is {self.timeout_s}; it must be above 0")
        if self.max_redirects < 0:
            raise ConfigError(f"max_redirects is {self.max_redirects}; it must be at least 0")
        for entry in self.hosts or ():
            if not re.fullmatch(r"(\*|(\*\.)?[\w-]+(\.[\w-]+)*)(:\d{1,5})?", entry, re.ASCII):
                raise ConfigError(
                    f"hosts holds {entry!r}; needed: example.org, example.org:8080, *.example.org "
                    "or *, without scheme and path"
                )


@contextmanager
def open_media(source: MediaSource, settings: SourceSettings) -> Iterator[tuple[BinaryIO, str]]:
    """Open a source for reading.

    Args:
        source: path, ``http(s)`` URL, ``data:`` URI, bytes, or a file opened in binary mode (it is
            read from its beginning and left open).
        settings: which sources are read, and how much of them.

    Yields:
        A seekable binary file at its beginning, never empty, and a name for it in messages.

    Raises:
        MediaError: if the source is missing, empty, too large, not allowed or of no known kind.
    """
    label = _name_source(source)
    if isinstance(source, (str, os.PathLike)) and scheme_of(source) == "":
        if not settings.allow_paths:
            raise MediaError(f"{label} names a file; files are not allowed here (allow_paths)")
        with _open_path(source, label) as file:
            yield file, label
        return
    yield _open_other(source, label, settings), label


def describe_content(head: bytes) -> str:
    """Say in words what the first bytes of a file look like, for messages."""
    for offset, magic, words in _KINDS:
        if head[offset : offset + len(magic)] == magic:
            return words
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # a character cut in two by the end of the sample is fine
            return "data of an unknown kind"
        text = head[: error.start].decode("utf-8")
    if any(ord(character) < 32 and character not in "\t\r\n\f\x1b" for character in text):
        return "data of an unknown kind"
    return "an SVG drawing" if "<svg" in text else "text"


def scheme_of(source: str | os.PathLike[str]) -> str:
    """Tell what kind of address a source is.

    Args:
        source: a path or a string.

    Returns:
        ``data``, or what stands before ``://``; empty for a path.
    """
    if not isinstance(source, str):
        return ""
    if source[:5].lower() == "data:":
        return "data"
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", source)
    return match.group(1).lower() if match else ""


def _name_source(source: MediaSource) -> str:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "the given data"
    if not isinstance(source, (str, os.PathLike)):
        return "the open file"
    text = str(os.fspath(source))
    scheme = scheme_of(source)
    if scheme == "data":
        return "the data URI"
    if scheme:  # without query and user: they may hold secrets
        rest = text.split("://", 1)[1].split("?")[0].split("#")[0]
        text = f"{scheme}://{rest.rsplit('@', 1)[-1]}"
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return text if len(text) <= 200 else f"{text[:100]}...{text[-80:]}"


def _open_path(path: str | os.PathLike[str], label: str) -> BinaryIO:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(f"{label} is a directory; needed: a picture or video file")
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"{label} is not a regular file; needed: a picture or video file")
        if status.st_size == 0:
            raise MediaError(f"{label} is empty (0 bytes)")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise MediaError(f"{label} does not exist") from error
    except OSError as error:
        raise MediaError(f"{label} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a null character in a path
        raise MediaError(f"{label} is not a path") from error


def _open_other(source: MediaSource, label: str, settings: SourceSettings) -> BinaryIO:
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        if len(data) > settings.max_bytes:
            raise _too_large(label, settings)
    elif isinstance(source, str):
        scheme = scheme_of(source)
        if scheme == "data":
            data = _decode_data_uri(source, settings)
        elif scheme in ("http", "https"):
            data = _fetch(source, label, settings)
        else:
            raise MediaError(f"{label} has the scheme {scheme}; known: http, https and data")
    elif not isinstance(source, os.PathLike) and hasattr(source, "read"):
        return _open_file(source, label, settings)
    else:
        raise MediaError(
            f"a picture or video cannot be of type {type(source).__name__}; "
            "needed: a path, URL, data URI, bytes or a file opened in binary mode"
        )
    if not data:
        raise MediaError(f"{label} is empty (0 bytes)")
    return io.BytesIO(data)


def _open_file(file: BinaryIO, label: str, settings: SourceSettings) -> BinaryIO:
    try:
        is_seekable = file.seekable()
        if is_seekable:
            file.seek(0)
        probe = file.read(1)
        if not isinstance(probe, bytes):
            raise MediaError(f"{label} is in text mode; needed: binary mode ('rb')")
        if not probe:
            raise MediaError(f"{label} is empty (0 bytes)")
        if is_seekable:
            file.seek(0)
            return file
        data = probe + file.read(settings.max_bytes)
    except (OSError, ValueError, AttributeError) as error:
        raise MediaError(f"{label} cannot be read: {type(error).__name__}") from error
    if len(data) > settings.max_bytes:
        raise _too_large(label, settings)
    return io.BytesIO(data)


def _too_large(label: str, settings: SourceSettings) -> MediaError:
    return MediaError(f"{label} is larger than the {settings.max_bytes} bytes of max_bytes")


def _decode_data_uri(uri: str, settings: SourceSettings) -> bytes:
    label = "the data URI"
    if len(uri) > 3 * settings.max_bytes + 1000:  # before anything is copied; %XX takes three
        raise _too_large(label, settings)
    header, comma, payload = uri.partition(",")
    if not comma:
        raise MediaError(f"{label} has no comma; needed: data:image/png;base64,...")
    data = unquote_to_bytes(payload)
    if header.lower().endswith(";base64"):
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except ValueError as error:
            raise MediaError(f"{label} is not valid base64") from error
    if len(data) > settings.max_bytes:
        raise _too_large(label, settings)
    return data


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to an address that was checked, whatever the name resolves to by now."""

    def __init__(self, parts: SplitResult, address: str, port: int, deadline: float) -> None:
        super().__init__(
            parts.hostname or "", port, timeout=max(0.001, deadline - time.monotonic())
        )
        self._address = address
        self._is_tls = parts.scheme == "https"
        # http.client forgets its socket as soon as an answer says that it is the last one.
        self._live: socket.socket | None = None
        self._is_over = False

    def connect(self) -> None:
        self.sock = self._live = socket.create_connection((self._address, self.port), self.timeout)
        if self._is_tls:
            wrapped = ssl.create_default_context().wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self.sock = self._live = wrapped
            wrapped.do_handshake()
        if self._is_over:
            raise TimeoutError

    def interrupt(self) -> None:
        """End the reads and writes that another thread is waiting for."""
        self._is_over = True
        if self._live is not None:
            try:
                socket.socket.shutdown(self._live, socket.SHUT_RDWR)
            except OSError:
                return  # closed meanwhile


def _fetch(url: str, label: str, settings: SourceSettings) -> bytes:
    if not settings.allow_urls:
        raise MediaError(f"{label} is a URL; URLs are not fetched unless allow_urls is set")
    deadline = time.monotonic() + settings.timeout_s
    is_secure = False
    for _ in range(settings.max_redirects + 1):
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise MediaError(f"{label} leads to an address that cannot be read") from error
        is_host = re.fullmatch(r"[^\x00-\x20\x7f]+", parts.hostname or "")  # as http.client has it
        if parts.scheme not in ("http", "https") or not is_host or parts.username:
            raise MediaError(f"{label} leads to something else than http(s)://host/path")
        if is_secure and parts.scheme == "http":
            raise MediaError(f"{label} redirects from https to http")
        is_secure, host = parts.scheme == "https", parts.hostname or ""
        if settings.hosts is not None and not _is_listed(host, port, settings.hosts):
            raise MediaError(f"{label} leads to a host or port that is not allowed here (hosts)")
        address = _resolve(host, port, label, settings)
        connection = _PinnedConnection(parts, address, port, deadline)
        # A timeout on a socket starts anew with every byte; this one does not.
        timer = threading.Timer(max(0.0, deadline - time.monotonic()), connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            data, location = _get(connection, parts, label, settings)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
                raise _timed_out(label, settings) from error
            raise MediaError(f"{label} cannot be fetched: {type(error).__name__}") from error
        finally:
            timer.cancel()
            connection.close()
        if time.monotonic() >= deadline:
            raise _timed_out(label, settings)
        if not location:
            return data
        url = urljoin(url, location)
    raise MediaError(f"{label} redirects more than {settings.max_redirects} times")


def _is_listed(host: str, port: int, hosts: tuple[str, ...]) -> bool:
    """Tell whether a list of hosts allows one; ``host`` is in lower case."""
    for entry in hosts:
        name, _, named_port = entry.lower().partition(":")
        if named_port != str(port) and (named_port or port not in (80, 443)):
            continue
        if name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:])):
            return True
    return False


def _timed_out(label: str, settings: SourceSettings) -> MediaError:
    return MediaError(f"{label} cannot be fetched within {settings.timeout_s:g} s")


def _resolve(host: str, port: int, label: str, settings: SourceSettings) -> str:
    """Return an address of the host; every address it has must be allowed."""
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise MediaError(f"{label} cannot be fetched: the host {host!r} is not known") from error
    addresses = [str(answer[4][0]) for answer in answers]
    if not settings.allow_private_addresses and not all(map(_is_public, addresses)):
        raise MediaError(
            f"{label} leads to an address that is not of the public internet; "
            "set allow_private_addresses to fetch it"
        )
    return addresses[0]


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped or address.sixtofour or address.teredo or address in _NAT64
    ):
        return False  # these wrap an IPv4 address that could be any
    if address.is_reserved or getattr(address, "is_site_local", False):
        return False  # global by Python's lists: ::127.0.0.1 of old, and fec0::/10
    return address.is_global and not address.is_multicast


def _get(
    connection: _PinnedConnection, parts: SplitResult, label: str, settings: SourceSettings
) -> tuple[bytes, str]:
    """Send one request; return its body, or an empty one and where to go instead."""
    target = quote(parts.path or "/", safe="/%:=&~+!$,;'@()*")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:=&~+!$,;'@()*?")
    headers = {"Accept": "image/*,video/*;q=0.9,*/*;q=0.1", "Accept-Encoding": "identity"}
    connection.request("GET", target, headers=headers | {"User-Agent": "internvl35"})
    with connection.getresponse() as response:  # which closing the connection would leave open
        if response.status in (301, 302, 303, 307, 308):
            return b"", response.getheader("Location") or ""
        if response.status != 200:
            raise MediaError(f"{label} cannot be fetched: the server answers {response.status}")
        promised = response.length
        if promised is not None and promised > settings.max_bytes:
            raise _too_large(label, settings)
        body = bytearray()
        while chunk := response.read(CHUNK_BYTES):
            body += chunk
            if len(body) > settings.max_bytes:
                raise _too_large(label, settings)
        if promised is not None and len(body) < promised:
            raise MediaError(f"{label} ended after {len(body)} of {promised} bytes")
    return bytes(body), ""
