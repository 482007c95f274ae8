"""Pictures of strangers: decoded alike in every format, or refused with a reason."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.errors import PictureError
from tactful.understanding import pictures
from tactful.understanding.pictures import FORMATS, decode_picture

Image = pytest.importorskip("PIL.Image")

SIDE = 16


def picture(
    kind: str, mode: str = "RGB", size: tuple[int, int] = (40, 20), **options: Any
) -> bytes:
    """Encode a picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", size, (250, 0, 0))
    image.paste((0, 0, 250), (size[0] // 2, 0, *size))
    file = io.BytesIO()
    image.convert(mode).save(file, kind, **options)
    return file.getvalue()


def png_head(width: int, height: int) -> bytes:
    """Make a PNG that states a size and has next to no data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1_000))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_picture(kind: str) -> None:
    pixels = decode_picture(picture(kind), SIDE, media_type=FORMATS[kind])
    assert pixels.shape == (SIDE, SIDE, 3) and pixels.dtype == np.uint8
    assert (pixels[0] > 240).all() and (pixels[-1] > 240).all(), "white above and below"
    left, right = pixels[8, 3].astype(int), pixels[8, 12].astype(int)
    assert left[0] > 200 > 60 > left[2] and right[2] > 200 > 60 > right[0]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16"])
def test_every_mode_is_read(mode: str) -> None:
    source = "L" if mode in ("LA", "I;16") else mode
    data = picture("PNG", source)
    if mode == "I;16":
        file = io.BytesIO()
        Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(file, "PNG")
        data = file.getvalue()
        assert decode_picture(data, 8).mean() == pytest.approx(40_000 / 257, abs=1)
    assert decode_picture(data, SIDE).shape == (SIDE, SIDE, 3)


def test_transparent_parts_are_white() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(file, "PNG")
    assert (decode_picture(file.getvalue(), 8) == 255).all()


def test_a_turned_photograph_is_turned_back() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    pixels = decode_picture(picture("JPEG", size=(40, 40), exif=exif), SIDE).astype(int)
    assert pixels[3, 8, 0] > 200 and pixels[12, 8, 2] > 200, "red above, blue below"


def test_a_photograph_with_a_second_picture_is_read() -> None:
    """Telephones add a map of the depth, or the picture in more colours."""
    file = io.BytesIO()
    first, second = (Image.new("RGB", (40, 20), shade) for shade in ((250, 0, 0), (0, 0, 250)))
    first.save(file, "MPO", save_all=True, append_images=[second])
    for media_type in ("", "image/jpeg", "image/jpg"):
        pixels = decode_picture(file.getvalue(), SIDE, media_type=media_type)
        assert pixels[8, 8, 0] > 200 > 60 > pixels[8, 8, 2]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_is_reduced_in_strips_is_the_same(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = picture(kind, size=(131, 257), exif=exif)
    whole = decode_picture(data, 8).astype(int)
    monkeypatch.setattr(pictures, "_STRIP", 1)
    assert np.abs(decode_picture(data, 8).astype(int) - whole).max() == 0
    assert whole[1, 4, 0] > 200 and whole[6, 4, 2] > 200, "turned: red above, blue below"


def animated(kind: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 200)]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "media_type", "reason"),
    [
        (b"", "", "empty"),
        (b"x" * (pictures.MOST_BYTES + 1), "", "bytes"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", "", "SVG"),
        (b"\xef\xbb\xbf \n<?xml version='1.0'?><svg/>", "", "SVG"),
        (picture("PNG"), "image/jpeg", "image/png"),
        (picture("BMP"), "", "unknown format"),
        (picture("TIFF"), "", "unknown format"),
        (b"%PDF-1.7 hello", "", "unknown format"),
        (animated("GIF"), "", "animated"),
        (animated("PNG"), "", "animated"),
        (animated("WEBP"), "", "animated"),
        (png_head(60_000, 60_000), "", "pixels"),
        (png_head(1, 30_000), "", "pixels"),
        (png_head(3_000, 3_000), "", "damaged"),
        (picture("JPEG")[:-200], "", "damaged"),
        (picture("PNG")[:-30], "", "damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_what_is_refused_has_a_reason(data: bytes, media_type: str, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode_picture(data, SIDE, media_type=media_type)


@given(
    st.sampled_from([picture(kind) for kind in FORMATS]),
    st.lists(st.tuples(st.integers(0, 2_000), st.binary(max_size=6)), max_size=4),
    st.integers(0, 2_000),
)
@settings(max_examples=150, deadline=None)
def test_damage_anywhere_is_refused_or_decoded(
    data: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    for place, bytes_there in changes:
        place %= len(data)
        data = data[:place] + bytes_there + data[place + len(bytes_there) :]
    try:
        pixels = decode_picture(data[: max(len(data) - cut % 40, 1)], SIDE)
    except PictureError as error:
        assert "send" in str(error) or "pixels" in str(error)
    else:
        assert pixels.shape == (SIDE, SIDE, 3)


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(PictureError):
        decode_picture(data, SIDE)
