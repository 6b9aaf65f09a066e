from __future__ import annotations

import base64
from pathlib import Path

import pytest
from PIL import Image

from internvl35.data.row_media import MediaFolder, read_media, read_video
from internvl35.errors import DataError

FOLDER = MediaFolder(Path("/data/set"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a/b.png", Path("/data/set/a/b.png")),
        ("/else/b.png", Path("/else/b.png")),
        (Path("b.png"), Path("/data/set/b.png")),
        ("https://host/b.png?x=1", "https://host/b.png?x=1"),
        ("data:image/png;base64,AAAA", "data:image/png;base64,AAAA"),
        (b"\x89PNG", b"\x89PNG"),
        ({"bytes": b"GIF8", "path": "x.gif"}, b"GIF8"),
        ({"bytes": None, "path": "x.gif"}, Path("/data/set/x.gif")),
        ({"bytes": base64.b64encode(b"abc").decode()}, b"abc"),
        ({"base64": base64.b64encode(b"abc").decode()}, b"abc"),
        ({"url": "http://host/x"}, "http://host/x"),
    ],
)
def test_a_picture_of_a_row_becomes_a_source(value: object, expected: object) -> None:
    assert read_media(value, FOLDER) == expected


def test_a_picture_in_memory_stays_as_it_is() -> None:
    picture = Image.new("RGB", (2, 2))
    assert read_media(picture, FOLDER) is picture


def test_a_video_may_be_a_list_of_frames() -> None:
    assert read_video(["1.png", {"bytes": b"x"}], FOLDER) == (Path("/data/set/1.png"), b"x")
    assert read_video("a.mp4", FOLDER) == Path("/data/set/a.mp4")
    with pytest.raises(DataError, match="a video is an empty list"):
        read_video([], FOLDER)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "cannot be of type int"),
        (["a.png"], "cannot be of type list"),
        (" ", "is an empty text"),
        ({"width": 3}, r"a mapping with the keys \['width'\]"),
        ({"bytes": "no base64!"}, "not valid base64"),
        ({"path": 7}, "cannot be of type int"),
    ],
)
def test_what_is_no_picture_is_refused(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_media(value, FOLDER)


def test_a_relative_path_is_looked_for_in_the_working_directory_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    (tmp_path / "here.png").touch()
    folder = MediaFolder(tmp_path / "set")
    assert folder.locate("here.png") == Path("here.png")
    (tmp_path / "set" / "here.png").touch()
    assert folder.locate("here.png") == tmp_path / "set" / "here.png"


class TestRowsOfAHub:
    """What rows that others wrote may name."""

    @pytest.fixture
    def confined(self, tmp_path: Path) -> MediaFolder:
        (tmp_path / "set").mkdir()
        (tmp_path / "secret.png").touch()
        (tmp_path / "set" / "ok.png").touch()
        (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
        (tmp_path / "settings").mkdir()
        return MediaFolder(tmp_path / "set", confined_to=(tmp_path / "set",))

    def test_a_file_of_the_set_is_found(self, confined: MediaFolder, tmp_path: Path) -> None:
        inside = tmp_path / "set" / "ok.png"
        for path in ("ok.png", "./ok.png", "../set/ok.png", str(inside)):
            assert confined.locate(path).resolve() == inside

    @pytest.mark.parametrize(
        "path", ["../secret.png", "/etc/passwd", "link.png", "a/../../x", ".."]
    )
    def test_a_file_outside_is_refused(self, confined: MediaFolder, path: str) -> None:
        with pytest.raises(DataError, match="not among the files fetched for this data set"):
            confined.locate(path)

    def test_a_folder_with_the_same_beginning_is_outside(
        self, confined: MediaFolder, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match="not among the files fetched"):
            read_media({"path": str(tmp_path / "settings" / "x.png")}, confined)

    def test_the_working_directory_is_outside(
        self, confined: MediaFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert confined.locate("secret.png") == tmp_path / "set" / "secret.png"  # not there

    @pytest.mark.parametrize("path", ["a\0b", "loop/x"])
    def test_what_is_no_path_is_refused(
        self, confined: MediaFolder, tmp_path: Path, path: str
    ) -> None:
        (tmp_path / "set" / "loop").symlink_to("loop")
        with pytest.raises(DataError, match=r"is not a path|not among the files"):
            confined.locate(path)
