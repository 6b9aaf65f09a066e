"""A decoding process does its job or dies alone; what it is given survives the way."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from internvl35.config import TileSettings
from internvl35.data.frames import VideoSettings
from internvl35.data.images import ImageSettings, open_image
from internvl35.data.sources import SourceSettings
from internvl35.data.tiles import cut_tiles, make_pixel_values, normalize_levels
from internvl35.errors import MediaError
from internvl35.serve.media_worker import (
    HEAD,
    DecodeJob,
    _limit_memory,
    answer_apart,
    decode,
    pack,
    read_job,
)

TILES = TileSettings(tile_size=56, max_tiles=6)
JOB = DecodeJob("image", TILES, ImageSettings(), VideoSettings(), 30.0, 2**30)
VIDEO = DecodeJob("video", TileSettings(56, 1, 1), ImageSettings(), VideoSettings(), 30.0, 2**30, 3)


def save(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def draw(width, height):
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def make_video(num_frames):
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(num_frames):
            frame = av.VideoFrame.from_image(draw(64, 48))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def read(reply):
    text_size, size = HEAD.unpack(reply[: HEAD.size])
    text, data = reply[HEAD.size : HEAD.size + text_size], reply[HEAD.size + text_size :]
    assert len(data) == size
    return json.loads(text), data


def test_a_picture_comes_back_as_the_tiles_that_a_chat_cuts():
    picture = draw(150, 90)
    said, data = read(answer_apart(JOB, save(picture)))
    assert said == {"sizes": [[150, 90]], "timestamps_s": []}
    levels = np.frombuffer(data, np.uint8).reshape(-1, 3, 56, 56)
    assert normalize_levels(levels).equal(make_pixel_values(picture, TILES))
    assert len(levels) == len(cut_tiles(picture, TILES))


def test_a_video_comes_back_as_one_tile_a_frame():
    said, data = read(answer_apart(VIDEO, make_video(30)))
    assert said["sizes"] == [[64, 48]] * 3
    assert said["timestamps_s"] == sorted(said["timestamps_s"])
    assert len(data) == 3 * 3 * 56 * 56


@pytest.mark.parametrize(
    "job",
    [
        JOB,
        VIDEO,
        DecodeJob(
            "video",
            TileSettings(28, 2, 3, use_thumbnail=False),
            ImageSettings(
                max_pixels=7, formats=("PNG",), alpha="black", source=SourceSettings(hosts=("a.b",))
            ),
            VideoSettings(max_frames=9, formats=("mov",), codecs=("h264", "vp9")),
            1.5,
            77,
            4,
            (0.5, 2.0),
        ),
    ],
)
def test_a_job_is_read_as_it_was_written(job):
    assert read_job(job.write()) == job


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no picture", "the picture is text, not a picture that is opened here"),
        (save(draw(20, 20))[:-40], "the picture is a damaged or truncated PNG picture"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_picture_is_told_to_its_sender(data, message):
    said, rest = read(answer_apart(JOB, data))
    assert message in said["error"]
    assert not rest


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width, height):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000)))


def test_a_bomb_is_refused_by_its_header():
    said, _ = read(answer_apart(JOB, bomb(9000, 10_000)))
    assert "90000000 pixels" in said["error"]


def test_a_picture_that_takes_more_memory_than_allowed_fails_alone():
    # 196 MB, from a small file: more than a process that has run many tests has lying about
    large = save(Image.new("RGB", (7000, 7000)))
    small = DecodeJob("image", TILES, ImageSettings(), VideoSettings(), 30.0, 2**24)
    said, _ = read(answer_apart(small, large))
    assert said["error"] == "the picture (7000x7000) does not fit in memory"
    assert read(answer_apart(JOB, large))[0]["sizes"] == [[7000, 7000]]


def test_the_memory_of_a_job_is_what_the_system_grants_it():
    def limits(job, _):
        return {"limits": resource.getrlimit(resource.RLIMIT_AS), "now": os.getpid()}, b""

    said, _ = read(answer_apart(JOB, b"", limits))
    low, high = said["limits"]
    assert low == high
    assert 2**30 <= low < 2**30 + 2**45
    assert said["now"] != os.getpid()


def test_a_limit_that_the_server_itself_has_is_not_lifted():
    def limit_twice(job, _):
        before = resource.getrlimit(resource.RLIMIT_AS)
        _limit_memory(2**50)
        return {"is_kept": before == resource.getrlimit(resource.RLIMIT_AS)}, b""

    assert read(answer_apart(JOB, b"", limit_twice))[0] == {"is_kept": True}


def test_a_job_that_never_ends_is_killed_by_the_system():
    def spin(job, _):
        while True:
            time.sleep(0)

    quick = DecodeJob("image", TILES, ImageSettings(), VideoSettings(), 0.05, 2**30)
    assert read(answer_apart(quick, b"", spin)) == ({"fault": "time"}, b"")


def test_a_decoder_that_crashes_takes_only_its_own_process():
    def crash(job, _):
        os.kill(os.getpid(), signal.SIGSEGV)
        return {}, b""

    assert read(answer_apart(JOB, b"", crash)) == ({"fault": "exit status -11"}, b"")


def test_no_more_is_taken_back_than_the_job_can_have():
    def flood(job, _):
        return {}, bytes(64 * 2**20)

    assert read(answer_apart(JOB, b"", flood))[0] == {"fault": "more was written than fits"}


@pytest.mark.parametrize("error", [RuntimeError, ZeroDivisionError, KeyError])
def test_of_faults_only_the_kind_is_told(error):
    def fail(job, _):
        raise error("0x7f00deadbeef /secret/path")

    assert read(answer_apart(JOB, b"", fail)) == ({"fault": error.__name__}, b"")


def test_a_job_sees_no_file_that_others_are_read_from(tmp_path):
    with (tmp_path / "jobs").open("wb") as file:
        number = file.fileno()

        def look(job, _):
            try:
                os.fstat(number)
            except OSError:
                return {"is_open": False}, b""
            return {"is_open": True}, b""

        assert read(answer_apart(JOB, b"", look))[0] == {"is_open": False}


RIGHTS = """
import ctypes, json, os, sys
from internvl35.serve.media_worker import _give_up_rights
child = os.fork()
if child == 0:
    os._exit(1 if ctypes.CDLL(None).unshare(0x50000000) else 0)
can_leave = os.waitpid(child, 0)[1] == 0
before = os.readlink("/proc/self/ns/net")
_give_up_rights()
try:
    with open(sys.argv[1], "w") as file:
        file.write("x")
    wrote = True
except OSError:
    wrote = False
has_left = before != os.readlink("/proc/self/ns/net")
print(json.dumps([can_leave, has_left, wrote]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="namespaces are Linux's")
def test_a_decoding_process_writes_no_files_and_has_no_network_where_that_can_be(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RIGHTS, str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=True,
    )
    can_leave, has_left, wrote = json.loads(done.stdout)
    assert has_left == can_leave
    assert not wrote


def test_a_message_says_how_long_it_is():
    assert pack({"a": 1}, b"xy") == HEAD.pack(8, 2) + b'{"a": 1}xy'


def test_sizes_are_those_of_the_upright_picture():
    picture = draw(40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif)
    said, _ = decode(JOB, file.getvalue())
    assert said["sizes"] == [open_image(file.getvalue()).size] == [(20, 40)]
    with pytest.raises(MediaError):
        decode(JOB, file.getvalue()[:50])
