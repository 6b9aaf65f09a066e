"""The program that decodes what strangers send: one forked process a picture, killed when in doubt.

It reads jobs from its standard input and writes tiles to its standard output, as JSON and raw
bytes. It knows no secrets, opens no files and needs no network. Starting it and checking what it
says is left to :mod:`internvl35.serve.media_pool`. No counterpart in the paper.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from internvl35.config import TileSettings
from internvl35.data.frames import VideoSettings
from internvl35.data.images import ImageSettings, open_image
from internvl35.data.sources import SourceSettings
from internvl35.data.tiles import cut_tiles, stack_tiles
from internvl35.data.video import read_frames
from internvl35.errors import MediaError
from internvl35.serve.media import MediaKind

HEAD = struct.Struct(">IQ")
"""In front of every job and every reply: bytes of JSON, and raw bytes behind it."""

MAX_JSON_BYTES = 1 << 16
"""Most bytes of JSON of a job or a reply."""

_LABELS = {"image": "the given data", "video": "the open file"}

_NEW_USER, _NEW_NETWORK, _NO_NEW_RIGHTS = 0x1000_0000, 0x4000_0000, 38


@dataclass(frozen=True)
class DecodeJob:
    """How one picture or video is decoded."""

    kind: MediaKind
    """What it should be."""
    tiles: TileSettings
    """How it, or each frame, is cut."""
    images: ImageSettings
    """How a picture is opened."""
    videos: VideoSettings
    """How a video is read."""
    timeout_s: float
    """Seconds after which the system kills the process."""
    max_memory_bytes: int
    """Memory that the process may take beyond what it has at its start; on Linux."""
    num_frames: int = 1
    """Frames taken of a video."""
    bound: tuple[float, float] | None = None
    """First and last second of a video."""

    @property
    def max_tiles(self) -> int:
        """Most tiles that can come of it."""
        if self.kind == "video":
            return self.num_frames
        return self.tiles.max_tiles + (1 if self.tiles.use_thumbnail else 0)

    def write(self) -> bytes:
        """Write it as JSON."""
        return json.dumps(asdict(self)).encode()


def read_job(text: bytes) -> DecodeJob:
    """Read a job that :meth:`DecodeJob.write` wrote.

    Args:
        text: JSON.

    Returns:
        The job.
    """
    given = json.loads(text)
    images, videos = given["images"], given["videos"]
    for settings in (images, videos):
        source = settings["source"]
        hosts = source["hosts"]
        source["hosts"] = None if hosts is None else tuple(hosts)
        settings["source"] = SourceSettings(**source)
    images["formats"] = tuple(images["formats"])
    videos |= {name: tuple(videos[name]) for name in ("formats", "codecs")}
    bound = given["bound"]
    given |= {
        "tiles": TileSettings(**given["tiles"]),
        "images": ImageSettings(**images),
        "videos": VideoSettings(**videos),
        "bound": None if bound is None else (bound[0], bound[1]),
    }
    return DecodeJob(**given)


def decode(job: DecodeJob, data: bytes) -> tuple[dict[str, Any], bytes]:
    """Decode and cut a picture or a video.

    Args:
        job: how.
        data: the file.

    Returns:
        ``sizes`` of the picture or of each frame and ``timestamps_s`` of the frames; and the
        levels of the tiles ``(N, 3, tile, tile)``.

    Raises:
        MediaError: if it cannot be decoded or a limit is met.
    """
    pictures: tuple[Image.Image, ...]
    times: tuple[float, ...]
    if job.kind == "image":
        pictures, times = (open_image(data, job.images),), ()
    else:
        found = read_frames(io.BytesIO(data), job.num_frames, job.bound, job.videos)
        pictures, times = found.frames, found.timestamps_s
    tiles = [tile for picture in pictures for tile in cut_tiles(picture, job.tiles)]
    levels = np.ascontiguousarray(stack_tiles(tiles))
    sizes = [picture.size for picture in pictures]
    return {"sizes": sizes, "timestamps_s": times}, levels.tobytes()


def answer_apart(
    job: DecodeJob,
    data: bytes,
    work: Callable[[DecodeJob, bytes], tuple[dict[str, Any], bytes]] = decode,
) -> bytes:
    """Do a job in a process of its own that ends with it, within its limits.

    Args:
        job: how.
        data: the file.
        work: what is done.

    Returns:
        A reply: of ``work``, or ``error`` (the sender's), or ``fault`` (what became of the
        process).
    """
    most = HEAD.size + MAX_JSON_BYTES + job.max_tiles * 3 * job.tiles.tile_size**2
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        _work_and_exit(job, data, work, target)
    os.close(target)
    with open(source, "rb") as file:
        reply = file.read(most + 1)
    if len(reply) > most:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if len(reply) > most:
        return pack({"fault": "more was written than fits"})
    if status == -signal.SIGALRM:
        return pack({"fault": "time"})
    return reply if status == 0 else pack({"fault": f"exit status {status}"})


def pack(said: dict[str, Any], data: bytes = b"") -> bytes:
    """Put JSON and raw bytes behind their lengths.

    Args:
        said: JSON values.
        data: raw bytes.

    Returns:
        A message.
    """
    text = json.dumps(said).encode()
    return HEAD.pack(len(text), len(data)) + text + data


def _work_and_exit(
    job: DecodeJob,
    data: bytes,
    work: Callable[[DecodeJob, bytes], tuple[dict[str, Any], bytes]],
    target: int,
) -> None:
    """Do a job in a child process, and end that process."""
    status = 1
    try:
        os.closerange(3, target)  # jobs of others come by one of these
        os.closerange(target + 1, 1 << 12)
        # of the system, so that decoders written in C end, too, even if nobody waits for them
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, job.timeout_s)
        _limit_memory(job.max_memory_bytes)
        try:
            reply = pack(*work(job, data))
        except MediaError as error:  # whose label is that of all bytes, or of all open files
            name = "the picture" if job.kind == "image" else "the sent file"
            reply = pack({"error": str(error).replace(_LABELS[job.kind], name, 1)})
        except MemoryError:
            reply = pack({"error": "it takes more memory to decode than is allowed"})
        except Exception as error:  # noqa: BLE001  # the process ends with it
            reply = pack({"fault": type(error).__name__})
        with open(target, "wb") as file:
            file.write(reply)
        status = 0
    finally:
        os._exit(status)


def _limit_memory(num_bytes: int) -> None:
    """Let this process take so many bytes more; only Linux keeps to it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    most = pages * resource.getpagesize() + num_bytes
    granted = resource.getrlimit(resource.RLIMIT_AS)[1]
    if granted != resource.RLIM_INFINITY:
        most = min(most, granted)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _give_up_rights() -> None:
    """Take from this process and its children what decoding does not need."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # pipes are no files
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        system = ctypes.CDLL(None)
        system.prctl(_NO_NEW_RIGHTS, 1, 0, 0, 0)
        system.unshare(_NEW_USER | _NEW_NETWORK)  # refused by many containers


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise SystemExit(0)  # who gave the jobs is gone
    return data


def main() -> None:
    """Do jobs from standard input until it ends."""
    Image.init()  # once, and not in every child
    _give_up_rights()
    jobs = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)  # where a library prints to
    while True:
        text_size, data_size = HEAD.unpack(_read_exactly(jobs, HEAD.size))
        job = read_job(_read_exactly(jobs, text_size))
        replies.write(answer_apart(job, _read_exactly(jobs, data_size)))
        replies.flush()


if __name__ == "__main__":
    main()
