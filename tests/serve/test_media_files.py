"""Files that strangers might send, through a real decoding process: tiles or one clear error."""

from __future__ import annotations

import asyncio
import base64
import io
import random
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from internvl35.config import TileSettings
from internvl35.serve.media import LoadedMedia, MediaItem, MediaItemError, MediaSettings
from internvl35.serve.media_loader import SafeMediaLoader

TILES = TileSettings(tile_size=28, max_tiles=12)
SETTINGS = MediaSettings(num_workers=1, max_pixels=1_000_000, max_frames=8, max_frame_pixels=60_000)
KINDS = ("PNG", "JPEG", "WEBP", "GIF")


def draw(width, height):
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def save(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def film(container="mp4", codec="mpeg4", size=(64, 48), num_frames=5):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = {"mjpeg": "yuvj420p", "jpeg2000": "rgb24"}.get(codec, "yuv420p")
        for _ in range(num_frames):
            out.mux(stream.encode(av.VideoFrame.from_image(draw(*size))))
        out.mux(stream.encode())
    return file.getvalue()


def load_all(files):
    """Load files one by one through one process; return results or errors, and its ids."""

    async def all_of_it():
        loader = SafeMediaLoader(TILES, SETTINGS)
        pool, results, processes = loader._pool, [], set()
        try:
            for kind, data in files:
                address = "data:;base64," + base64.b64encode(data).decode()
                try:
                    found = [one async for one in loader.load([MediaItem(address, kind)])]
                    results += found
                except MediaItemError as error:
                    results.append(str(error))
                processes |= {process.pid for process in pool._idle}
            return results, processes
        finally:
            await loader.close()

    results, processes = asyncio.run(all_of_it())
    assert len(results) == len(files)
    assert len(processes) == 1  # which none of the files could end
    return results


def test_pictures_of_every_shape_become_tiles():
    shapes = [(1, 1), (1, 2), (2, 1), (1, 30_000), (30_000, 1), (333, 7), (1000, 1000)]
    files = [("image", save(draw(*shape), "PNG")) for shape in shapes]
    for loaded, (width, height) in zip(load_all(files), shapes, strict=True):
        assert isinstance(loaded, LoadedMedia), (width, height, loaded)
        assert loaded.levels.shape == (sum(loaded.num_tiles), 3, 28, 28)
        assert (loaded.grids[0].columns > loaded.grids[0].rows) == (width > height)


def test_pictures_of_every_kind_and_colour_become_tiles():
    modes = {"PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"), "JPEG": ("RGB", "L", "CMYK")}
    files = []
    for kind in KINDS:
        for mode in modes.get(kind, ("RGB",)):
            picture = (
                Image.fromarray(np.full((40, 40), 40_000, np.uint16))
                if mode == "I;16"
                else draw(40, 40).convert(mode)
            )
            files.append(("image", save(picture, kind)))
    frames = [draw(40, 40), Image.new("RGB", (40, 40)), draw(20, 40).resize((40, 40))]
    files += [
        ("image", save(frames[0], kind, save_all=True, append_images=frames[1:]))
        for kind in ("GIF", "WEBP", "PNG")
    ]
    assert [loaded for loaded in load_all(files) if not isinstance(loaded, LoadedMedia)] == []


def test_other_kinds_of_files_are_refused_by_what_they_are():
    names = ["TIFF", "BMP", "PPM", "ICO", "TGA", "PCX", "EPS", "PDF", "SGI", "DDS", "JPEG2000"]
    files = [save(draw(64, 64), kind) for kind in names if kind in Image.SAVE]
    assert len(files) >= 10
    files += [
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"#EXTM3U\nfile:///etc/passwd\n",
        b"\x00" * 1000,
        b"PK\x03\x04" + bytes(100),
        film(),
    ]
    told = load_all([("image", data) for data in files])
    assert all(isinstance(one, str) and "not a picture that is opened here" in one for one in told)


def test_of_videos_only_listed_kinds_of_a_size_that_is_allowed_are_decoded():
    good = [film("mp4"), film("matroska"), film("mov")]
    bad = [
        film("avi"),
        film("mov", "mjpeg"),
        film("mov", "jpeg2000"),
        film(size=(320, 240)),
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        save(draw(64, 64), "GIF"),
        save(draw(64, 64), "PNG"),
        b"x",
    ]
    results = load_all([("video", data) for data in good + bad])
    assert [len(one.levels) for one in results[: len(good)]] == [8] * len(good)
    assert [one for one in results[len(good) :] if not isinstance(one, str)] == []
    assert not any("passwd" in one for one in results[len(good) :])


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_pictures_give_tiles_or_an_error_without_addresses(kind):
    chance, whole = random.Random(5), save(draw(48, 32), kind)
    files = [whole[: chance.randrange(len(whole))] for _ in range(10)]
    for _ in range(25):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        files.append(bytes(data))
    results = load_all([("image", data) for data in files])
    errors = [one for one in results if isinstance(one, str)]
    assert len(errors) >= 5
    assert not any("0x" in one or "object at" in one for one in errors)


def test_damaged_videos_give_tiles_or_an_error():
    chance, whole = random.Random(6), film()
    files = [whole[: chance.randrange(1, len(whole))] for _ in range(8)]
    for _ in range(12):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        files.append(bytes(data))
    results = load_all([("video", data) for data in files])
    assert any(isinstance(one, str) for one in results)
    assert all(len(one.levels) == 8 for one in results if not isinstance(one, str))


def test_a_decoding_process_loads_no_network():
    code = (
        "import sys, internvl35.serve.media_worker;"
        "print([name for name in ('torch', 'transformers', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
