"""Open a picture from any source as plain 8-bit RGB (section 2.1).

Cutting it into tiles is left to :mod:`internvl35.data.tiles`, finding its bytes to
:mod:`internvl35.data.sources`. Of animations and files of several pictures, the first one is taken.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from internvl35.config import TileSettings
from internvl35.data.sources import MediaSource, SourceSettings, describe_content, open_media
from internvl35.data.tiles import Resizer, make_pixel_values
from internvl35.errors import ConfigError, MediaError

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = MediaSource | Image.Image | NDArray[Any]
"""What a picture may be given as."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are opened, by Pillow's names."""

PILLOW_MAX_PIXELS = 178_956_970
"""Pixels above which Pillow itself refuses a picture, by a global that this package never sets."""

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SWAPPING = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)

# What Pillow's decoders raise on damaged files. The warning is one only where warnings are errors.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    MemoryError,
    AssertionError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True)
class ImageSettings:
    """How pictures are opened."""

    max_pixels: int = 89_478_485
    """Most pixels of a picture, at most 178,956,970; decoding takes up to 16 bytes for each."""
    max_side: int = 65_535
    """Longest side in pixels: resizing a strip takes memory by its length, not by its area."""
    formats: tuple[str, ...] = FORMATS
    """Formats that are opened, of PNG, JPEG, WEBP, GIF, BMP and TIFF."""
    apply_exif_orientation: bool = True
    """Whether a picture is turned as its EXIF data says; the released example code does not."""
    alpha: Literal["white", "black", "drop"] = "white"
    """Background that shows through; ``drop`` ignores alpha as the released example code does."""
    source: SourceSettings = field(default_factory=SourceSettings)
    """Which sources are read, and how much of them."""

    def __post_init__(self) -> None:
        """Refuse settings that no picture could meet."""
        if not 1 <= self.max_pixels <= PILLOW_MAX_PIXELS:
            raise ConfigError(
                f"max_pixels is {self.max_pixels}; needed: 1 to {PILLOW_MAX_PIXELS}, Pillow's limit"
            )
        if self.max_side < 1:
            raise ConfigError(f"max_side is {self.max_side}; it must be at least 1")
        unknown = sorted(set(self.formats) - set(FORMATS))
        if unknown or not self.formats:
            raise ConfigError(f"formats are {self.formats}; known: {', '.join(FORMATS)}")
        if self.alpha not in ("white", "black", "drop"):
            raise ConfigError(f"alpha is {self.alpha!r}; known: white, black, drop")


DEFAULT_IMAGES = ImageSettings()
"""What people expect: pictures upright, transparent parts white."""

REFERENCE_IMAGES = ImageSettings(apply_exif_orientation=False, alpha="drop")
"""What the released example code does with orientation and alpha."""


def open_image(source: ImageSource, settings: ImageSettings = DEFAULT_IMAGES) -> Image.Image:
    """Open a picture.

    Sixteen bits a channel become eight by their high byte; floats from 0 to 1 are scaled.

    Args:
        source: path, URL, data URI, bytes, open binary file, Pillow picture, or array ``(H, W)``,
            ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)``, uint8 or float from 0 to 1.
        settings: limits and conversions.

    Returns:
        A decoded picture in mode RGB that shares no memory with the source.

    Raises:
        MediaError: if there is no picture, or it is damaged, too large or of an unknown kind.
    """
    if isinstance(source, np.ndarray):
        return _convert(_read_array(source, settings), "the array", settings)
    if isinstance(source, Image.Image):
        label = "the picture"
        _check_size(*source.size, label, settings)
        return _convert(source, label, settings)
    with open_media(source, settings.source) as (file, label):
        return _decode(file, label, settings)


def measure_image(source: ImageSource, settings: ImageSettings = DEFAULT_IMAGES) -> tuple[int, int]:
    """Tell the size that :func:`open_image` gives a picture, from its header where that says it.

    The picture itself is not decoded, so damage behind the header is not found.

    Args:
        source: anything that :func:`open_image` takes.
        settings: limits, and whether EXIF data turns pictures.

    Returns:
        Width and height in pixels, of the picture as it is turned upright.

    Raises:
        MediaError: if there is no picture, or it is too large or of an unknown kind.
    """
    if isinstance(source, np.ndarray):
        return _read_array(source, settings).size
    if isinstance(source, Image.Image):
        _check_size(*source.size, "the picture", settings)
        return _upright_size(source, settings)
    with (
        open_media(source, settings.source) as (file, label),
        _open_header(file, label, settings) as image,
    ):
        try:
            if image.format == "PNG" and _has_late_metadata(file):
                image.load()
            return _upright_size(image, settings)
        except _DECODER_ERRORS as error:
            raise _damaged(label, image.format or "") from error


def load_image(
    image_file: ImageSource,
    input_size: int = 448,
    max_num: int = 12,
    *,
    settings: ImageSettings = DEFAULT_IMAGES,
    resizer: Resizer = "pillow",
) -> Tensor:
    """Turn a picture into pixel values, with the signature and the results of the released code.

    Results differ from the released code only for pictures with an EXIF orientation or alpha
    (``settings=REFERENCE_IMAGES`` gives its results for those, too) and for 16-bit grey, which
    the released code turns nearly white.

    Args:
        image_file: anything that :func:`open_image` takes.
        input_size: side of a tile in pixels.
        max_num: most tiles, thumbnail not counted.
        settings: how the picture is opened.
        resizer: see :func:`internvl35.data.tiles.make_pixel_values`.

    Returns:
        Pixel values ``(N, 3, input_size, input_size)``, float32, thumbnail last.

    Raises:
        MediaError: if the picture cannot be opened.
        ConfigError: if ``input_size`` or ``max_num`` is below 1.
    """
    tile_settings = TileSettings(tile_size=input_size, max_tiles=max_num)
    return make_pixel_values(open_image(image_file, settings), tile_settings, resizer)


def _decode(file: BinaryIO, label: str, settings: ImageSettings) -> Image.Image:
    with _open_header(file, label, settings) as image:
        return _convert(image, label, settings)


def _open_header(file: BinaryIO, label: str, settings: ImageSettings) -> Image.Image:
    """Open a picture without decoding it, and check its size."""
    # Messages of Pillow are not repeated: some hold memory addresses.
    head = file.read(512)
    kind = describe_content(head)
    file.seek(0)
    known = ", ".join(settings.formats)
    try:
        image = Image.open(file, formats=settings.formats)
    except Image.DecompressionBombError as error:
        raise MediaError(
            f"{label} has more pixels than Pillow opens ({PILLOW_MAX_PIXELS}); make it smaller"
        ) from error
    except UnidentifiedImageError as error:
        if kind.upper() in settings.formats:
            raise _damaged(label, kind) from error
        raise MediaError(
            f"{label} is {kind}, not a picture that is opened here ({known})"
        ) from error
    except _DECODER_ERRORS as error:
        raise _damaged(label, kind) from error
    _check_size(*image.size, label, settings)
    return image


def _damaged(label: str, kind: str) -> MediaError:
    kind = f"{kind} " if kind.upper() in FORMATS else ""
    return MediaError(f"{label} is a damaged or truncated {kind}picture")


def _check_size(width: int, height: int, label: str, settings: ImageSettings) -> None:
    if width < 1 or height < 1:
        raise MediaError(f"{label} is {width}x{height} pixels; needed: at least 1x1")
    if width * height > settings.max_pixels:
        raise MediaError(
            f"{label} is {width}x{height} = {width * height} pixels; "
            f"at most {settings.max_pixels} are opened (max_pixels)"
        )
    if max(width, height) > settings.max_side:
        raise MediaError(
            f"{label} is {width}x{height} pixels; "
            f"at most {settings.max_side} a side are opened (max_side)"
        )


def _convert(image: Image.Image, label: str, settings: ImageSettings) -> Image.Image:
    """Decode, turn upright, and bring to RGB."""
    try:
        image.load()
        if settings.apply_exif_orientation:
            image = _turn_upright(image)
        return _to_rgb(image, label, settings)
    except MemoryError as error:
        raise MediaError(
            f"{label} ({image.width}x{image.height}) does not fit in memory"
        ) from error
    except _DECODER_ERRORS as error:
        raise _damaged(label, image.format or "") from error


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        turn = _find_turn(image.getexif())
    except _DECODER_ERRORS:
        return image  # the picture is whole, only its EXIF data is not
    return image if turn is None else image.transpose(turn)


def _find_turn(exif: Image.Exif) -> Image.Transpose | None:
    orientation = exif.get(_ORIENTATION_TAG, 1)
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _upright_size(image: Image.Image, settings: ImageSettings) -> tuple[int, int]:
    """Tell the size of a picture once it is turned, without decoding it."""
    width, height = image.size
    is_turned = _ORIENTATION_TAG in getattr(image, "tag_v2", ())  # by Pillow itself, in TIFF files
    if not settings.apply_exif_orientation or is_turned:
        return width, height
    try:
        # the method of the base class: that of PNG pictures decodes them
        turn = _find_turn(Image.Image.getexif(image))
    except _DECODER_ERRORS:
        return width, height
    return (height, width) if turn in _SWAPPING else (width, height)


def _has_late_metadata(file: BinaryIO) -> bool:
    """Tell whether a PNG file has data that may turn it behind its pixels, where few have any."""
    start = file.tell()
    position, has_pixels, is_late = 8, False, False
    while not is_late:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        is_late = has_pixels and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
        has_pixels = has_pixels or kind == b"IDAT"
        position += 12 + length
    file.seek(start)
    return is_late


def _to_rgb(image: Image.Image, label: str, settings: ImageSettings) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_scale_levels(np.asarray(image), label)).convert("RGB")
    if image.mode == "La":  # the only mode without a way to RGB
        image = image.convert("LA")
    if settings.alpha == "drop" or not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    background = Image.new("RGBA", picture.size, settings.alpha)
    return Image.alpha_composite(background, picture).convert("RGB")


def _scale_levels(levels: NDArray[Any], label: str) -> NDArray[np.uint8]:
    """Bring levels of 16 bits, or floats from 0 to 1, to 8 bits."""
    low, high = levels.min(), levels.max()
    if np.issubdtype(levels.dtype, np.floating):
        if not (low >= 0 and high <= 1):  # not "or": NaN must fail, too
            raise MediaError(
                f"{label} has floats from {low:g} to {high:g}; needed: 0 to 1, or uint8"
            )
        return np.round(levels * np.float32(255)).astype(np.uint8)
    if not (low >= 0 and high <= 65_535):
        raise MediaError(f"{label} has levels from {low} to {high}; needed: 0 to 65535")
    return (levels >> 8).astype(np.uint8)


def _read_array(array: NDArray[Any], settings: ImageSettings) -> Image.Image:
    shape = array.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise MediaError(f"the array has shape {shape}; needed: (H, W), (H, W, 3) or (H, W, 4)")
    _check_size(shape[1], shape[0], "the array", settings)
    if len(shape) == 3 and shape[2] == 1:
        array = array[:, :, 0]
    if np.issubdtype(array.dtype, np.floating):
        array = _scale_levels(array, "the array")
    if array.dtype != np.uint8:
        raise MediaError(f"the array is of type {array.dtype}; needed: uint8, or float from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(array))
