"""Pictures of every kind, good and bad, become plain RGB or a clear error."""

from __future__ import annotations

import base64
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl35.config import TileSettings
from internvl35.data.images import (
    REFERENCE_IMAGES,
    ImageSettings,
    load_image,
    measure_image,
    open_image,
)
from internvl35.data.tiles import IMAGENET_MEAN, IMAGENET_STD, count_tiles
from internvl35.errors import ConfigError, MediaError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def draw_noise(width=40, height=30, seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_oriented(image, orientation, kind="PNG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, kind, exif=exif)


def png_header(width, height):
    """Return a PNG that promises many pixels and holds none."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(name, data):
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    rows = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body) + rows + chunk(b"IEND", b"")


def compute_released_pixel_values(picture, side, max_tiles):
    """Follow the released example code step by step: grid, resize, crop, thumbnail, normalize."""
    width, height = picture.size
    grids = sorted(
        {(c, r) for c in range(1, 13) for r in range(1, 13) if c * r <= max_tiles},
        key=lambda grid: grid[0] * grid[1],
    )
    best, best_distance = (1, 1), float("inf")
    for grid in grids:
        distance = abs(width / height - grid[0] / grid[1])
        is_large = width * height > 0.5 * side * side * grid[0] * grid[1]
        if distance < best_distance or (distance == best_distance and is_large):
            best, best_distance = grid, distance
    columns, rows = best
    canvas = picture.resize((columns * side, rows * side))
    tiles = []
    for place in range(columns * rows):
        left, top = (place % columns) * side, (place // columns) * side
        tiles.append(canvas.crop((left, top, left + side, top + side)))
    if len(tiles) > 1:
        tiles.append(picture.resize((side, side)))
    levels = torch.stack([torch.from_numpy(np.array(tile)).permute(2, 0, 1) for tile in tiles])
    mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    return levels.float().div(255).sub(mean).div(std)


@pytest.mark.parametrize(
    ("size", "max_num"), [((40, 30), 12), ((200, 30), 6), ((30, 200), 12), ((50, 50), 1)]
)
def test_load_image_gives_the_bits_of_the_released_code(tmp_path, size, max_num):
    path = tmp_path / "picture.jpg"
    draw_noise(*size).save(path, quality=90)
    expected = compute_released_pixel_values(Image.open(path).convert("RGB"), 28, max_num)
    assert torch.equal(load_image(str(path), 28, max_num), expected)


def test_load_image_has_the_defaults_of_the_released_code(tmp_path):
    path = tmp_path / "picture.png"
    draw_noise(640, 480).save(path, compress_level=1)
    values = load_image(path)
    assert values.shape == (13, 3, 448, 448)
    assert values.dtype == torch.float32
    assert torch.equal(values[-1], compute_released_pixel_values(draw_noise(640, 480), 448, 1)[0])


def test_every_source_of_a_picture_gives_the_same_pixels(tmp_path):
    picture = draw_noise()
    data = encode(picture)
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    at_its_end = io.BytesIO()
    at_its_end.write(data)
    array = np.asarray(picture)
    sources = [
        path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), at_its_end, uri,
        picture, array, (array / 255).astype(np.float32), array / 255, array[:, ::-1][:, ::-1],
    ]  # fmt: skip
    for source in sources:
        opened = open_image(source)
        assert opened.mode == "RGB"
        assert opened.tobytes() == picture.tobytes()
    with path.open("rb") as file:
        assert open_image(file).tobytes() == picture.tobytes()
        assert not file.closed


def test_the_opened_picture_shares_nothing_with_its_source():
    picture, array = draw_noise(), np.zeros((4, 4, 3), dtype=np.uint8)
    opened, from_array = open_image(picture), open_image(array)
    picture.paste(RED, (0, 0, 40, 30))
    array[:] = 9
    assert opened.tobytes() == draw_noise().tobytes()
    assert from_array.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_that_is_opened_gives_its_colour(kind):
    opened = open_image(encode(Image.new("RGB", (8, 6), RED), kind))
    assert opened.size == (8, 6)
    assert np.abs(np.asarray(opened).astype(int) - RED).max() <= 5


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (8, 6), colour) for colour in (RED, GREEN, BLUE)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(np.asarray(open_image(data)).astype(int) - RED).max() <= 5


# What each orientation does to a picture whose corners are red, green / blue, white.
@pytest.mark.parametrize(
    ("orientation", "top_left", "top_right"),
    [
        (1, RED, GREEN),
        (2, GREEN, RED),
        (3, (255, 255, 255), BLUE),
        (4, BLUE, (255, 255, 255)),
        (5, RED, BLUE),
        (6, BLUE, RED),
        (7, (255, 255, 255), GREEN),
        (8, GREEN, (255, 255, 255)),
        (9, RED, GREEN),  # no such orientation
    ],
)
def test_pictures_are_turned_upright_unless_asked_not_to(orientation, top_left, top_right):
    corners = np.array([[RED, GREEN], [BLUE, (255, 255, 255)]], dtype=np.uint8)
    data = encode_oriented(Image.fromarray(corners), orientation)
    upright = open_image(data)
    assert (upright.getpixel((0, 0)), upright.getpixel((1, 0))) == (top_left, top_right)
    as_stored = open_image(data, REFERENCE_IMAGES)
    assert (as_stored.getpixel((0, 0)), as_stored.getpixel((1, 0))) == (RED, GREEN)


def test_a_photo_on_its_side_is_tiled_as_it_is_seen():
    data = encode_oriented(draw_noise(90, 30), 6, "JPEG")
    assert open_image(data).size == (30, 90)
    assert open_image(data, REFERENCE_IMAGES).size == (90, 30)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [None, *range(1, 10)])
@pytest.mark.parametrize("settings_", [ImageSettings(), REFERENCE_IMAGES])
def test_the_measured_size_is_that_of_the_opened_picture(kind, orientation, settings_):
    picture = draw_noise(40, 30)
    data = (
        encode(picture, kind)
        if orientation is None
        else encode_oriented(picture, orientation, kind)
    )
    assert measure_image(data, settings_) == open_image(data, settings_).size


def test_turning_data_behind_the_pixels_of_a_png_counts():
    stored = encode_oriented(draw_noise(40, 30), 6)
    start = stored.index(b"eXIf") - 4
    length = 12 + struct.unpack(">I", stored[start : start + 4])[0]
    chunk, end = stored[start : start + length], stored.index(b"IEND") - 4
    moved = stored[:start] + stored[start + length : end] + chunk + stored[end:]
    assert open_image(moved).size == measure_image(moved) == (30, 40)


def test_pictures_and_arrays_in_memory_are_measured():
    picture = draw_noise(40, 30)
    turned = Image.open(io.BytesIO(encode_oriented(picture, 6)))
    assert measure_image(picture) == measure_image(np.asarray(picture)) == (40, 30)
    assert measure_image(turned) == open_image(turned).size == (30, 40)


def test_measuring_reads_no_pixels():
    whole = encode(draw_noise(400, 300))
    assert measure_image(whole[: len(whole) // 2]) == (400, 300)
    with pytest.raises(MediaError, match="more pixels than Pillow opens"):
        measure_image(png_header(100_000, 100_000), ImageSettings())
    with pytest.raises(MediaError, match="not a picture"):
        measure_image(b"hello there")


def test_damaged_exif_data_leaves_the_picture_as_stored():
    data = encode(draw_noise(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert open_image(data).size == (40, 30)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_transparent_parts_show_the_background_that_is_set(mode):
    picture = Image.new(mode, (4, 4), (0,) * len(Image.new(mode, (1, 1)).getbands()))
    assert open_image(picture).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(picture, ImageSettings(alpha="black")).getpixel((0, 0)) == (0, 0, 0)
    assert open_image(picture, ImageSettings(alpha="drop")).getpixel((0, 0)) == (0, 0, 0)


def test_half_transparent_red_on_white_is_pink_and_without_alpha_red():
    data = encode(Image.new("RGBA", (4, 4), (255, 0, 0, 128)))
    assert open_image(data).getpixel((0, 0)) == (255, 127, 127)
    assert open_image(data, REFERENCE_IMAGES).getpixel((0, 0)) == RED


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_transparency_shows_white(kind):
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    opened = open_image(encode(palette, kind, transparency=0))
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((3, 3)) == BLUE
    dropped = open_image(encode(palette, kind, transparency=0), REFERENCE_IMAGES)
    assert dropped.getpixel((0, 0)) == RED


def test_opaque_pictures_are_the_same_with_every_setting_of_alpha():
    data = encode(draw_noise().convert("RGBA"))
    for alpha in ("white", "black", "drop"):
        assert open_image(data, ImageSettings(alpha=alpha)).tobytes() == draw_noise().tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind):
    levels = np.array([[0, 255, 256, 32_768, 65_280, 65_535]], dtype=np.uint16)
    opened = np.asarray(open_image(encode(Image.fromarray(levels), kind)))
    assert opened[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255]
    assert (opened == opened[:, :, :1]).all()


def test_whole_numbers_and_floats_of_32_bits_are_scaled_or_refused():
    wide = np.array([[0, 256, 65_535]], dtype=np.int32)
    assert np.asarray(open_image(Image.fromarray(wide)))[0, :, 0].tolist() == [0, 1, 255]
    with pytest.raises(MediaError, match="levels from 0 to 65536; needed: 0 to 65535"):
        open_image(Image.fromarray(wide + np.array([[0, 0, 1]], dtype=np.int32)))
    floats = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert np.asarray(open_image(Image.fromarray(floats)))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(MediaError, match="floats from 0 to 100"):
        open_image(encode(Image.fromarray(floats * 100), "TIFF"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV", "LAB", "CMYK"])
def test_every_colour_mode_becomes_rgb(mode):
    white = Image.new("RGB", (4, 4), "white")
    neutral = Image.new("LAB", (4, 4), (255, 128, 128))
    picture = neutral if mode == "LAB" else white.convert(mode)
    assert min(open_image(picture).getpixel((0, 0))) >= 254


def test_a_cmyk_jpeg_keeps_its_colours():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(np.asarray(open_image(encode(red, "JPEG"))).astype(int) - RED).max() <= 5


@pytest.mark.parametrize(
    ("array", "pixel"),
    [
        (np.full((3, 4), 7, np.uint8), (7, 7, 7)),
        (np.full((3, 4, 1), 7, np.uint8), (7, 7, 7)),
        (np.full((3, 4, 3), 7, np.uint8), (7, 7, 7)),
        (np.full((3, 4, 4), (7, 7, 7, 0), np.uint8), (255, 255, 255)),
        (np.full((3, 4), 0.2, np.float64), (51, 51, 51)),
        (np.full((3, 4, 3), 0.2, np.float16), (51, 51, 51)),
    ],
)
def test_arrays_of_every_shape_are_pictures(array, pixel):
    opened = open_image(array)
    assert opened.size == (4, 3)
    assert opened.getpixel((0, 0)) == pixel


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\)"),
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((1, 3, 4, 3), np.uint8), "needed: "),
        (np.zeros((0, 4, 3), np.uint8), "4x0 pixels"),
        (np.zeros((3, 4, 3), np.int64), "type int64; needed: uint8"),
        (np.zeros((3, 4, 3), bool), "type bool; needed: uint8"),
        (np.full((3, 4, 3), 255.0), "floats from 255 to 255; needed: 0 to 1"),
        (np.full((3, 4, 3), -0.1), "needed: 0 to 1"),
        (np.full((3, 4, 3), np.nan), "floats from nan"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array, message):
    with pytest.raises(MediaError, match=message):
        open_image(array)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (3, 20_000), (1, 65_535)])
def test_tiny_and_narrow_pictures_are_opened_and_tiled(size):
    picture = Image.new("RGB", size, RED)
    values = load_image(encode(picture), 28)
    assert len(values) == count_tiles(*size, TileSettings(tile_size=28))
    assert torch.isfinite(values).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_pictures_are_called_so(kind, share):
    data = encode(draw_noise(), kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MediaError, match="damaged or truncated") as caught:
            open_image(data[: int(len(data) * share)])
    assert "0x" not in str(caught.value)  # no memory addresses


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", r"empty.png is empty \(0 bytes\)"),
        ("words.jpg", b"This is only text.\n", "words.jpg is text, not a picture"),
        ("umlauts.jpg", "Grüße, 你好".encode() * 60, "umlauts.jpg is text, not a picture"),
        ("page.png", b"<!DOCTYPE html><html>", "page.png is text, not a picture"),
        ("drawing.png", b'<svg xmlns="x"></svg>', "drawing.png is an SVG drawing"),
        ("paper.png", b"%PDF-1.7\n%\xe2\xe3", "paper.png is a PDF document"),
        ("film.png", b"\0\0\0\x20ftypisom\0\0\x02\0", "film.png is an MP4 or QuickTime file"),
        ("random.png", bytes(range(256)), "random.png is data of an unknown kind"),
    ],
)
def test_files_that_are_no_pictures_are_told_what_they_are(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MediaError, match=message):
        open_image(path)


def test_only_formats_that_are_set_are_opened():
    png_only = ImageSettings(formats=("PNG",))
    assert open_image(encode(draw_noise()), png_only).size == (40, 30)
    with pytest.raises(MediaError, match=r"is JPEG, not a picture that is opened here \(PNG\)"):
        open_image(encode(draw_noise(), "JPEG"), png_only)
    with pytest.raises(MediaError, match=r"unknown kind, .*\(PNG, JPEG, WEBP, GIF, BMP, TIFF\)"):
        open_image(encode(draw_noise(), "ICO"))


def test_too_many_pixels_are_refused_from_the_header_alone():
    with pytest.raises(MediaError, match="has more pixels than Pillow opens"):
        open_image(png_header(30_000, 30_000))
    with pytest.raises(MediaError, match="9000x9000 = 81000000 pixels; at most 1000000"):
        open_image(png_header(9000, 9000), ImageSettings(max_pixels=1_000_000))
    with pytest.raises(MediaError, match="65536x1 pixels; at most 65535 a side"):
        open_image(png_header(65_536, 1))
    limit = ImageSettings(max_pixels=99)
    for source in (Image.new("RGB", (10, 10)), np.zeros((10, 10), np.uint8)):
        with pytest.raises(MediaError, match="10x10 = 100 pixels; at most 99"):
            open_image(source, limit)


def test_warnings_that_are_errors_do_not_hide_a_bomb():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MediaError):
            open_image(png_header(10_000, 10_000))


def test_no_global_of_pillow_is_touched():
    before = Image.MAX_IMAGE_PIXELS
    open_image(encode(draw_noise()))
    with pytest.raises(MediaError):
        open_image(png_header(30_000, 30_000))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_pixels": 0}, "max_pixels is 0"),
        ({"max_pixels": 10**9}, "Pillow's limit"),
        ({"max_side": 0}, "max_side is 0"),
        ({"formats": ("PSD",)}, "known: PNG"),
        ({"formats": ()}, "known: PNG"),
        ({"alpha": "pink"}, "known: white, black, drop"),
    ],
)
def test_settings_that_no_picture_could_meet_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        ImageSettings(**changes)


SEEDS = [
    *(encode(draw_noise(12, 9), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")),
    encode(draw_noise(12, 9).convert("P"), transparency=3),
    encode_oriented(draw_noise(12, 9), 6, "JPEG"),
    encode(draw_noise(12, 9), "TIFF", compression="tiff_lzw"),
]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SEEDS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6)
)
def test_damaged_files_give_a_picture_or_a_media_error(data, damage):
    damaged = bytearray(data)
    for place, value in damage:
        damaged[int(place**2 * (len(damaged) - 1))] = value  # headers more often than pixels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            opened = open_image(bytes(damaged), ImageSettings(max_pixels=1_000_000))
        except MediaError:
            return
    assert opened.mode == "RGB"
