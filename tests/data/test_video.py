"""Frames of videos that are made here, each frame showing its own number in shades of grey."""

from __future__ import annotations

import io
import math
import random
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl35.config import TileSettings
from internvl35.data.frames import VideoSettings
from internvl35.data.sources import SourceSettings
from internvl35.data.tiles import make_pixel_values
from internvl35.data.video import load_video, read_frames, sample_frame_indices
from internvl35.errors import ConfigError, MediaError

WIDTH, HEIGHT, DIGITS = 64, 48, 4


def draw_number(number):
    """Draw a number below 256 as four bars of four shades, lowest digit left."""
    levels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for digit in range(DIGITS):
        left = digit * WIDTH // DIGITS
        levels[:, left : left + WIDTH // DIGITS] = 30 + 60 * (number >> 2 * digit & 3)
    return levels


def read_number(image):
    levels = np.asarray(image.convert("L")).astype(float)
    bars = levels[12:36].reshape(24, DIGITS, -1)[:, :, 4:-4].mean(axis=(0, 2))
    return sum(round((bar - 30) / 60) << 2 * digit for digit, bar in enumerate(bars))


def make_video(num_frames, container="mp4", codec="mpeg4", *, gop=12):
    buffer = io.BytesIO()
    # Key frames come as gop says, and not wherever the picture changes much.
    options = {"sc_threshold": "1000000000"} if codec == "mpeg4" else {}
    try:
        with av.open(buffer, "w", format=container) as file:
            stream = file.add_stream(codec, rate=25, options=options)
            stream.width, stream.height, stream.gop_size = WIDTH, HEIGHT, gop
            stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
            file.start_encoding()
            for number in range(num_frames):
                frame = av.VideoFrame.from_ndarray(draw_number(number), format="rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
    except (av.codec.codec.UnknownCodecError, av.error.EncoderNotFoundError):
        pytest.skip(f"this build of PyAV has no {codec}")
    return buffer.getvalue()


def make_audio(*, has_cover=False):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=44_100)
        if has_cover:
            cover = file.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
            cover.disposition = int(av.stream.Disposition.attached_pic.value)
            picture = av.VideoFrame.from_ndarray(draw_number(1), format="rgb24")
            file.mux(cover.encode(picture))
            file.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44_100
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return buffer.getvalue()


def damage(data, numbers):
    """Overwrite the frames with these numbers, for codecs without reordering."""
    damaged = bytearray(data)
    with av.open(io.BytesIO(data)) as file:
        packets = [packet for packet in file.demux(file.streams.video[0]) if packet.size]
        for number in numbers:
            place, size = packets[number].pos, packets[number].size
            position = data.index(bytes(packets[number]), place)
            damaged[position : position + size] = random.Random(number).randbytes(size)
    return bytes(damaged)


def turn(data, matrix):
    """Write a turn into the track header of an mp4."""
    place = data.index(b"tkhd") + 44
    return data[:place] + struct.pack(">9i", *matrix) + data[place + 36 :]


def sample_exactly(first, last, num_segments):
    length = Fraction(last - first, num_segments)
    return [
        math.floor(first + length / 2 + round(length * part))  # Python rounds half to even, too
        for part in range(num_segments)
    ]


@pytest.mark.parametrize(
    ("num_frames", "num_segments", "indices"),
    [
        (300, 8, [18, 55, 93, 130, 168, 205, 242, 280]),
        (1, 4, [0, 0, 0, 0]),
        (2, 8, [0, 0, 0, 0, 0, 1, 1, 1]),
        (60, 2, [14, 44]),
        (61, 2, [15, 45]),
        (100, 1, [49]),
    ],
)
def test_recorded_videos_give_the_frames_of_the_released_code(num_frames, num_segments, indices):
    assert sample_frame_indices(num_frames, 25.0, num_segments) == indices


def test_sampling_equals_exact_arithmetic():
    for num_segments in (8, 16, 32):  # powers of two, with which floats are exact
        for num_frames in range(1, 2000, 7):
            expected = sample_exactly(0, num_frames - 1, num_segments)
            assert sample_frame_indices(num_frames, 25.0, num_segments) == expected


def test_sampling_differs_from_the_rule_of_the_hf_processor_as_often_as_recorded():
    num_cases = num_different = 0
    for num_segments in (8, 16, 32):
        for num_frames in range(num_segments, 2000):
            length = num_frames / num_segments
            hf = np.arange(length / 2, num_frames, length).astype(int).tolist()
            num_cases += 1
            num_different += sample_frame_indices(num_frames, 25.0, num_segments) != hf
    assert (num_cases, num_different) == (5944, 5727)


@pytest.mark.parametrize(
    ("bound", "fps", "first", "last"),
    [
        ((1.0, 2.0), 25.0, 25, 50),
        ((0.0, 100.0), 25.0, 0, 99),
        ((-3.0, 2.0), 25.0, 0, 50),
        ((0.5, 1.5), 25.0, 12, 38),  # 12.5 and 37.5 frames, rounded half to even
        ((2.0, 2.0), 25.0, 50, 50),
        ((1.0, 2.0), 29.97, 30, 60),
    ],
)
def test_a_bound_is_a_stretch_of_whole_frames(bound, fps, first, last):
    assert sample_frame_indices(100, fps, 8, bound) == sample_exactly(first, last, 8)


@given(st.integers(1, 5000), st.integers(1, 600), st.floats(0, 50), st.floats(0, 200))
def test_indices_are_in_the_bound_and_never_fall(num_frames, num_segments, start_s, length_s):
    whole = sample_frame_indices(num_frames, 25.0, num_segments)
    assert len(whole) == num_segments
    assert whole == sorted(whole)
    assert 0 <= whole[0] <= whole[-1] < num_frames
    first = round(start_s * 25)
    if first >= num_frames:
        return
    part = sample_frame_indices(num_frames, 25.0, num_segments, (start_s, start_s + length_s))
    assert part == sorted(part)
    assert first <= part[0] <= part[-1] <= min(round((start_s + length_s) * 25), num_frames - 1)


@pytest.mark.parametrize(
    ("bound", "fps", "message"),
    [
        ((10.0, 20.0), 25.0, "bound is 10 to 20 s; needed: a stretch of the video, which has 2 s"),
        ((1.5, 1.0), 25.0, "bound is 1.5 to 1 s"),
        ((-5.0, -1.0), 25.0, "bound is -5 to -1 s"),
        ((math.nan, 1.0), 25.0, "two finite numbers"),
        ((0.0, math.inf), 25.0, "two finite numbers"),
        ((0.0, 1.0), 0.0, "frame rate of the video is not known"),
    ],
)
def test_a_bound_outside_the_video_is_refused(bound, fps, message):
    with pytest.raises(MediaError, match=message):
        sample_frame_indices(50, fps, 8, bound)


def test_no_frames_cannot_be_sampled():
    with pytest.raises(MediaError, match="8 frames were asked of a video with 0"):
        sample_frame_indices(0, 25.0, 8)
    with pytest.raises(MediaError, match="0 frames were asked"):
        sample_frame_indices(9, 25.0, 0)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp4", "libx264"),
        ("mp4", "mpeg4"),
        ("mov", "libx264"),
        ("matroska", "libx264"),
        ("webm", "libvpx-vp9"),
        ("webm", "libvpx"),
        ("avi", "mpeg4"),
        ("avi", "libx264"),  # stores no presentation times
        ("avi", "mjpeg"),
        ("mpegts", "libx264"),
        ("mpeg", "mpeg2video"),
        ("flv", "libx264"),
        ("h264", "libx264"),  # no container at all
        ("gif", "gif"),
    ],
)
def test_the_frames_taken_are_those_asked_for_in_every_container(container, codec):
    data = make_video(60, container, codec)
    for num_segments in (5, 60):
        found = read_frames(data, num_segments)
        assert found.num_frames == 60
        assert found.num_bad == 0
        assert found.fps == pytest.approx(25)
        assert list(found.indices) == sample_frame_indices(60, 25.0, num_segments)
        assert [read_number(frame) for frame in found.frames] == list(found.indices)
        expected = [index / 25 for index in found.indices]
        assert found.timestamps_s == pytest.approx(expected, abs=0.01)


def test_a_bound_takes_frames_of_its_stretch_only():
    found = read_frames(make_video(100), 4, (1.0, 2.0))
    assert [read_number(frame) for frame in found.frames] == sample_exactly(25, 50, 4)
    assert min(found.timestamps_s) >= 1.0
    assert max(found.timestamps_s) <= 2.0


def test_every_source_of_a_video_gives_the_same_frames(tmp_path):
    data = make_video(20)
    path = tmp_path / "film.mp4"
    path.write_bytes(data)
    misnamed = tmp_path / "film.txt"
    misnamed.write_bytes(data)
    expected = [frame.tobytes() for frame in read_frames(data, 4).frames]
    for source in (path, str(path), misnamed, io.BytesIO(data), memoryview(data)):
        assert [frame.tobytes() for frame in read_frames(source, 4).frames] == expected


@pytest.mark.parametrize("container", ["mp4", "avi", "webm", "mpegts"])
def test_a_video_of_one_frame_gives_it_as_often_as_asked(container):
    codec = "libvpx-vp9" if container == "webm" else "mpeg4"
    found = read_frames(make_video(1, container, codec), 4)
    assert found.num_frames == 1
    assert [read_number(frame) for frame in found.frames] == [0, 0, 0, 0]


def test_frames_between_those_asked_for_are_not_decoded_where_an_index_leads_past_them():
    data = make_video(120, codec="mpeg4", gop=10)
    # Frames 14, 44, 74, 103 are asked for; of the groups between them every frame is damaged.
    damaged = damage(data, [*range(20, 40), *range(50, 70), *range(80, 100)])
    found = read_frames(damaged, 4)
    assert [read_number(frame) for frame in found.frames] == [14, 44, 74, 103]
    assert found.num_bad == 0


def test_damaged_frames_are_counted_and_the_nearest_good_ones_taken():
    data = damage(make_video(30, "avi", "mjpeg"), [10, 11, 12, 13])
    found = read_frames(data, 30)
    assert found.num_bad == 4
    expected = {10: 9, 11: 9, 12: 14, 13: 14}
    taken = [read_number(frame) for frame in found.frames]
    assert taken == [expected.get(index, index) for index in found.indices]
    shown = [round(time_s * 25) for time_s in found.timestamps_s]
    assert shown == taken  # times are those of the frames taken


@pytest.mark.parametrize("numbers", [range(5), range(25, 30)])
def test_a_damaged_beginning_or_end_is_bridged(numbers):
    data = damage(make_video(30, "avi", "mjpeg"), numbers)
    found = read_frames(data, 30)
    assert found.num_bad == 5
    good = [number for number in range(30) if number not in numbers]
    assert {read_number(frame) for frame in found.frames} <= set(good)


def test_a_damaged_key_frame_sends_the_search_back_to_the_frame_before():
    data = damage(make_video(60, "mp4", "mpeg4", gop=30), [30])
    found = read_frames(data, 1, (1.2, 1.2))
    assert found.indices == (30,)
    assert [read_number(frame) for frame in found.frames] == [29]
    assert found.num_bad == 1


def test_a_video_with_nothing_but_damaged_frames_is_refused():
    data = make_video(10, "avi", "mjpeg")
    with pytest.raises(MediaError, match=r"no frame of the video .* 10 are damaged"):
        read_frames(damage(data, range(10)), 4)


def test_a_truncated_film_gives_the_frames_that_are_left():
    data = make_video(60, "webm", "libvpx-vp9")
    found = read_frames(data[: len(data) // 2], 4)
    assert 0 < found.num_frames < 60
    assert [read_number(frame) for frame in found.frames] == list(found.indices)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", r"is empty \(0 bytes\)"),
        ("words.mp4", b"This is only text.\n" * 50, "cannot be opened .* begins like text"),
        ("zeros.mp4", bytes(10_000), "cannot be opened as a video"),
        ("sound.mp4", "audio", "holds no video, only audio$"),
        ("music.m4a", "music", "holds no video, only audio$"),
        ("cut.mp4", "cut", "an MP4 or QuickTime file|or is truncated"),
        ("none.mp4", "none", "without frames|cannot be opened|no video"),
    ],
)
def test_files_that_hold_no_video_are_refused(tmp_path, name, content, message):
    if content in ("audio", "music"):
        content = make_audio(has_cover=content == "music")
    elif content == "cut":
        content = make_video(10)
        content = content[: len(content) // 2]
    elif content == "none":
        content = make_video(0)
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MediaError, match=message) as caught:
        read_frames(path, 4)
    assert str(path) in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat"])
def test_playlists_do_not_lead_to_other_files(tmp_path, name):
    (tmp_path / "film.ts").write_bytes(make_video(10, "mpegts"))
    text = {
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfilm.ts\n#EXT-X-ENDLIST\n",
        "list.ffconcat": "ffconcat version 1.0\nfile film.ts\n",
    }[name]
    path = tmp_path / name
    path.write_text(text)
    with av.open(str(path)) as file:  # FFmpeg by itself follows them
        assert len(file.streams.video) == 1
    with pytest.raises(MediaError, match="cannot be opened as a video"):
        read_frames(path, 4)


@pytest.mark.parametrize(
    ("matrix", "transpose"),
    [
        ((0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30), Image.Transpose.ROTATE_270),
        ((0, -1 << 16, 0, 1 << 16, 0, 0, 0, 0, 1 << 30), Image.Transpose.ROTATE_90),
        ((-1 << 16, 0, 0, 0, -1 << 16, 0, 0, 0, 1 << 30), Image.Transpose.ROTATE_180),
    ],
)
def test_a_film_taken_sideways_is_turned_upright_unless_asked_not_to(matrix, transpose):
    data = make_video(5)
    stored = read_frames(data, 1).frames[0]
    turned = turn(data, matrix)
    assert read_frames(turned, 1).frames[0].tobytes() == stored.transpose(transpose).tobytes()
    as_stored = read_frames(turned, 1, settings=VideoSettings(apply_rotation=False))
    assert as_stored.frames[0].tobytes() == stored.tobytes()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_frames": 3}, "4 frames were asked for; at most 3 are read"),
        (
            {"max_frame_pixels": WIDTH * HEIGHT - 1},
            r"no frame size, or one of more .* \(3071\)|64x48 pixels; at most 3071",
        ),
        ({"max_total_pixels": 4 * WIDTH * HEIGHT - 1}, "12288 pixels in all; at most 12287"),
        ({"max_packets": 9}, "more than the 9 frames of max_packets"),
        ({"source": SourceSettings(max_bytes=99)}, "larger than the 99 bytes"),
    ],
)
def test_limits_are_kept(limits, message):
    data = make_video(10)
    with pytest.raises(MediaError, match=message):
        read_frames(data, 4, settings=VideoSettings(**limits))


def test_only_listed_containers_and_decoders_are_used():
    listed = VideoSettings(formats=("mov",), codecs=("mpeg4",))
    assert len(read_frames(make_video(5), 2, settings=listed).frames) == 2
    for video in (make_video(5, "avi"), make_video(5, "matroska")):
        assert len(read_frames(video, 2).frames) == 2
        with pytest.raises(MediaError, match="of a kind that is not opened here"):
            read_frames(video, 2, settings=listed)
    other = make_video(5, "mp4", "mjpeg")
    assert len(read_frames(other, 2).frames) == 2
    with pytest.raises(MediaError):
        read_frames(other, 2, settings=listed)


def test_a_limit_below_one_is_refused():
    with pytest.raises(ConfigError, match="max_frames is 0"):
        VideoSettings(max_frames=0)


@pytest.mark.parametrize("max_num", [1, 12])
def test_load_video_gives_the_tiles_of_each_frame(tmp_path, max_num):
    path = tmp_path / "film.mp4"
    path.write_bytes(make_video(40))
    values, num_patches_list = load_video(str(path), (0.2, 1.4), 14, max_num, 3)
    frames = read_frames(path, 3, (0.2, 1.4)).frames
    expected = [make_pixel_values(frame, TileSettings(14, 1, max_num)) for frame in frames]
    assert num_patches_list == [len(tiles) for tiles in expected]
    assert num_patches_list == ([1] * 3 if max_num == 1 else [13] * 3)
    assert values.dtype == torch.float32
    assert torch.equal(values, torch.cat(expected))


def test_load_video_has_the_defaults_of_the_released_code():
    values, num_patches_list = load_video(make_video(3), num_segments=2)
    assert values.shape == (2, 3, 448, 448)
    assert num_patches_list == [1, 1]
    assert load_video.__defaults__ == (None, 448, 1, 32)


def test_load_video_tells_of_damaged_frames(caplog):
    data = damage(make_video(10, "avi", "mjpeg"), [4, 5])
    load_video(data, input_size=14, num_segments=10)
    assert "2 damaged frames skipped" in caplog.text
