"""Decoding of pictures of strangers, within limits of bytes, pixels and frames.

A picture is refused from its head alone where that suffices, so that a small file cannot take much
memory or time. Formats that hold programs or other files, as SVG does, are not read.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tactful.errors import PictureError

if TYPE_CHECKING:
    from PIL import Image

MOST_BYTES = 10_000_000
"""Bytes of a file."""

MOST_PIXELS = 25_000_000
"""Pixels of a picture: 100 MB while it is decoded, and twice that of WebP."""

FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""Formats that are read, with their media types."""

KEPT_SIDE = 256
"""Most pixels of a side of a picture that is kept."""

_LONGEST_SIDE = 20_000
_STRIP = 1_000_000  # pixels that are converted at a time
_MOST_SCANS = 100  # of a JPEG file: each is a pass over all pixels, whatever its length
_JPEG = ("JPEG", "MPO")
_Made = TypeVar("_Made")
_MARKUP = (b"<svg", b"<?xml", b"<!doctype", b"<html")


def media_type_of(text: str) -> str:
    """Return a media type without parameters, by its registered name.

    >>> media_type_of("image/JPG; charset=binary")
    'image/jpeg'
    """
    named = text.partition(";")[0].strip().lower()
    return "image/jpeg" if named == "image/jpg" else named


def decode_picture(data: bytes, side: int, *, media_type: str = "") -> NDArray[np.uint8]:
    """Decode a picture and scale it to a square, shape (side, side, 3), on white.

    Args:
        data: the file.
        side: pixels of the result; the picture is fitted into it and centred.
        media_type: what the sender says that it is; empty for nothing.

    Raises:
        PictureError: if it is empty, too large, of another format than those of `FORMATS` or than
            `media_type`, animated, or damaged.
    """
    from PIL import ImageOps

    def fit(picture: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(ImageOps.pad(picture, (side, side), color=(255, 255, 255)), np.uint8)

    return _decoded(data, side, media_type, fit)


def shrunk(data: bytes, *, media_type: str = "") -> bytes:
    """Return a picture as a JPEG file of at most 256 pixels a side, without its metadata.

    Args:
        data: the file.
        media_type: what the sender says that it is; empty for nothing.

    Raises:
        PictureError: as `decode_picture` does.
    """

    def shrink(picture: Image.Image) -> bytes:
        picture.thumbnail((KEPT_SIDE, KEPT_SIDE))
        picture.info = {}  # of which comments would be written
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        return file.getvalue()

    return _decoded(data, KEPT_SIDE, media_type, shrink)


def _decoded(
    data: bytes, side: int, media_type: str, make: Callable[[Image.Image], _Made]
) -> _Made:
    """Decode a file to colours on white, about twice as large as `side`, and make something."""
    try:
        from PIL import Image
    except ImportError as error:
        raise PictureError(
            "pictures cannot be read here: pip install 'tactful[understanding]'"
        ) from error

    _check_file(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a bomb, which is refused below, and of metadata
            return make(_read(io.BytesIO(data), side, media_type))
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(f"the picture has more than {MOST_PIXELS:,} pixels: {error}") from error
    except MemoryError as error:
        raise PictureError("there is not enough memory to read the picture: try again") from error
    except Exception as error:  # decoders raise a dozen types for damaged files
        raise PictureError(
            f"the picture is damaged or of an unknown format ({type(error).__name__}): send a "
            "whole JPEG, PNG, WebP or GIF file"
        ) from error


def _check_file(data: bytes) -> None:
    """Refuse a file by its length and its first bytes."""
    if not data:
        raise PictureError("the picture is empty: send the bytes of a JPEG, PNG, WebP or GIF file")
    if len(data) > MOST_BYTES:
        raise PictureError(
            f"the picture has {len(data):,} bytes, more than {MOST_BYTES:,}: send a smaller one"
        )
    if data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_MARKUP):
        raise PictureError("SVG and other markup is not read: send it as PNG")
    if data[:2] == b"\xff\xd8" and data.count(b"\xff\xda") > _MOST_SCANS:
        raise PictureError(f"the picture has more than {_MOST_SCANS} scans: send a plain JPEG file")


def _read(file: io.BytesIO, side: int, media_type: str) -> Image.Image:
    from PIL import Image, ImageOps

    with Image.open(file, formats=[*FORMATS]) as image:
        _check_head(image, media_type)
        if image.format in _JPEG:
            image.draft("RGB", (2 * side, 2 * side))  # decodes no more than the result needs
        image.load()
        return ImageOps.exif_transpose(_reduced(image, side))


def _check_head(image: Any, media_type: str) -> None:
    """Refuse a picture by its format, size and frames, before its pixels are decoded."""
    has_more = image.format == "MPO"  # a JPEG file with further pictures, as telephones write it
    found = FORMATS["JPEG" if has_more else image.format]
    if media_type and media_type_of(media_type) != found:
        raise PictureError(f"the picture is {found}, and not {media_type!r}: send the right type")
    width, height = image.size
    if width * height > MOST_PIXELS or max(width, height) > _LONGEST_SIDE:
        raise PictureError(
            f"the picture has {width:,} × {height:,} pixels: at most {MOST_PIXELS:,} in all and "
            f"{_LONGEST_SIDE:,} on a side are read"
        )
    if getattr(image, "is_animated", False) and not has_more:
        raise PictureError("the picture is animated: send one frame")


def _reduced(image: Image.Image, side: int) -> Image.Image:
    """Return a picture in colours on white, reduced to about twice `side` if it is larger.

    Strips of rows are converted one after the other, so there is no copy of all pixels.
    """
    from PIL import Image

    (width, height), factor = image.size, max(1, max(image.size) // (2 * side))
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = factor * max(1, _STRIP // (width * factor))
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        small.paste(_on_white(strip).reduce(factor), (0, top // factor))
    small.info = image.info  # it says how the picture is turned
    return small


def _on_white(image: Image.Image) -> Image.Image:
    """Return a picture in three colours of eight bits, with white behind transparent parts."""
    from PIL import Image

    if image.mode.startswith("I"):  # sixteen bits
        values = np.asarray(image, np.float64) / 257.0
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, clear).convert("RGB")
    return image.convert("RGB")
