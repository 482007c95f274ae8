"""Pictures of strangers at the door: any text, within limits of time and memory."""

import asyncio
import base64
import io
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.understanding.test_pictures import picture, png_head
from tests.platform.understanding.tiny_picture_model import plain_picture

from tactful.errors import PictureError
from tactful.understanding.picture_intake import PictureIntake
from tactful.understanding.picture_store import PictureStore, content_of, reference_of
from tactful.understanding.pictures import FORMATS, KEPT_SIDE, decode_picture, shrunk
from tactful.understanding.vector_store import content_key
from tactful_streaming.contract.decode_requests import Rejection
from tactful_streaming.contract.log_entries import Item

Image = pytest.importorskip("PIL.Image")


def url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def take(intake: PictureIntake, images: Sequence[str]) -> tuple[list[Item], list[Rejection]]:
    items = [(n, Item(item_id=str(n), timestamp=0, image=it)) for n, it in enumerate(images)]
    taken, refused = asyncio.run(intake.take(items))
    return [item for _, item in taken], refused


_files = [picture(kind) for kind in FORMATS]
_images = st.one_of(
    st.text(max_size=40),
    st.binary(max_size=60).map(url),
    st.builds(
        lambda file, cut, kind: url(file[:cut], kind),
        st.sampled_from(_files),
        st.integers(0, 1_000),
        st.sampled_from([*FORMATS.values()]),
    ),
    st.builds(str.__add__, st.sampled_from(["data:image/png;base64,", "sha256:"]), st.text()),
    st.from_regex(r"(data:image/[a-z]{1,4};base64,|https?://|sha256:)[ -~]{0,30}", fullmatch=True),
)


@given(st.lists(_images, max_size=5))
@settings(max_examples=60, deadline=None)
def test_whatever_comes_is_kept_by_reference_or_refused(images: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.db"
        intake = PictureIntake(path, fetches=False, clock=lambda: 1)
        taken, refused = take(intake, images)
        assert len(taken) + len(refused) == len(images)
        contents = [content_of(item.image) for item in taken]
        store = PictureStore(path)
        assert store.held([it for it in contents if it]) == {*contents}
        store.close()
        assert all(it.code == "bad_picture" and it.message for it in refused)
        intake.close()


def test_addresses_are_taken_only_where_they_are_fetched(tmp_path: Path) -> None:
    intake = PictureIntake(tmp_path / "p.db", fetches=True, clock=lambda: 1)
    address = "https://shop.example/a.png"
    taken, refused = take(intake, [address, "https://" + "a" * 3_000, "ftp://shop.example/a.png"])
    assert [it.image for it in taken] == [address] and [it.index for it in refused] == [1, 2]
    intake.close()


def test_a_request_of_bombs_ends_in_time(tmp_path: Path) -> None:
    ticks = itertools.count(0.0, 3.0)  # each look at the clock is three seconds later
    intake = PictureIntake(
        tmp_path / "p.db", fetches=False, clock=lambda: 1, monotonic=lambda: next(ticks)
    )
    files = [plain_picture((n, 0, 0)) for n in range(6)]
    taken, refused = take(intake, [*map(url, files), url(files[0])])
    assert len(taken) == 4, "three that were decoded in time, and one that was known"
    assert [it.index for it in refused] == [3, 4, 5]
    assert all("fewer others" in it.message for it in refused)
    intake.close()


def test_a_jpeg_of_countless_scans_is_refused_unread() -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 9, 9)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    assert decode_picture(data, 16).shape == (16, 16, 3)
    scan = data.rindex(b"\xff\xda")
    with pytest.raises(PictureError, match="scans"):
        decode_picture(data[:scan] + data[scan:-2] * 200 + data[-2:], 16)


def test_what_is_kept_is_small_and_says_nothing_else() -> None:
    exif = Image.Exif()
    exif[0x010F] = "camera of Ada"
    data = picture("JPEG", size=(900, 300), exif=exif, comment=b"secret") + b"<script>"
    kept = shrunk(data, media_type="image/jpeg")
    with Image.open(io.BytesIO(kept)) as image:
        assert image.format == "JPEG" and image.size == (KEPT_SIDE, 85)
        assert not image.getexif() and "comment" not in image.info
    assert b"Ada" not in kept and b"secret" not in kept and b"script" not in kept
    with Image.open(io.BytesIO(shrunk(picture("PNG", size=(9, 4))))) as image:
        assert image.size == (9, 4), "nothing is enlarged"


_MEASURED = """
import resource, sys
from PIL import Image
from tactful.errors import PictureError
from tactful.understanding.pictures import shrunk
Image.init()
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    shrunk(data)
except PictureError:
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow  # decodes pictures of the largest size, each in a process of its own
@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA", "I;16", "wide", "huge"])
def test_the_largest_pictures_take_bounded_memory(kind: str) -> None:
    sizes = {"wide": (20_000, 1_250), "huge": (60_000, 60_000)}
    if kind in sizes:
        data = png_head(*sizes[kind])
    else:
        file = io.BytesIO()
        Image.new(kind, (5_000, 5_000)).save(file, "PNG", compress_level=1)
        data = file.getvalue()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED], input=data, capture_output=True, check=True
    )
    assert int(done.stdout) < 160_000, "kilobytes: 25 million pixels of four bytes, and a strip"


def test_pictures_that_are_known_are_noted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction for each would be written to the disk a thousand times in one request."""
    intake = PictureIntake(tmp_path / "p.db", fetches=False, clock=lambda: 1)
    files = [plain_picture((n, 0, 0)) for n in range(4)]
    calls: list[int] = []
    plain = PictureStore.use

    def use(store: PictureStore, contents: Iterable[bytes], now: int) -> set[bytes]:
        calls.append(now)
        return plain(store, contents, now)

    monkeypatch.setattr(PictureStore, "use", use)
    first, _ = take(intake, [*map(url, files)])
    unknown = f"sha256:{'0' * 64}"
    again, refused = take(intake, ["x", *[str(it.image) for it in first], unknown, url(files[0])])
    assert len(calls) == 2 and [it.image for it in again[:4]] == [it.image for it in first]
    assert [it.index for it in refused] == [0, 5] and again[4].image == first[0].image
    intake.close()


def test_references_are_read_back() -> None:
    content = content_key(b"x")
    assert content_of(reference_of(content)) == content
    for wrong in ("", "sha256:", f"sha256:{'0' * 63}", f"SHA256:{'0' * 64}", 3, msgspec.UNSET):
        assert content_of(wrong) is None
