"""Pictures of items in requests: checked, kept by their content, and replaced by references.

`image` of an item is one of these:

    data:image/png;base64,…   the file itself
    https://shop.example/…    its address, if the settings allow fetching; it is fetched later
    sha256:…                  a picture that was sent before, as answers name it
"""

from __future__ import annotations

import asyncio
import binascii
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from tactful.errors import PictureError
from tactful.understanding.picture_store import PictureStore, content_of, reference_of
from tactful.understanding.pictures import MOST_BYTES, shrunk
from tactful.understanding.vector_store import content_key
from tactful_streaming.contract.decode_requests import Rejection
from tactful_streaming.contract.log_entries import Item

_LONGEST_ADDRESS = 2_048  # characters
_DATA = re.compile(r"data:(image/[a-z0-9.+-]{1,64});base64,")
_MOST_S = 10.0  # of decoding in one request
_ADVICE = "send a data: URL in base64, or the address of a picture"

Numbered = tuple[int, Item]
"""An item, and its place in the request."""


class _Image(NamedTuple):
    """The image of an item in a request."""

    reference: str | UnsetType  # what the item keeps
    content: bytes = b""  # hash of the file; empty for an address
    data: bytes | None = None  # the file, if it was sent
    media_type: str = ""


class PictureIntake:
    """Takes the pictures of one server's requests, one after the other in a thread of its own.

    So no more than one picture is decoded at a time, whatever is sent.
    """

    def __init__(
        self,
        path: Path,
        *,
        fetches: bool,
        clock: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open nothing yet: the file is made for the first picture.

        Args:
            path: file of the pictures.
            fetches: whether addresses are accepted.
            clock: epoch milliseconds.
            monotonic: seconds.
        """
        self._path = path
        self._fetches = fetches
        self._clock = clock
        self._monotonic = monotonic
        self._store: PictureStore | None = None
        self._thread = ThreadPoolExecutor(1, "tactful-pictures")

    async def take(self, items: Sequence[Numbered]) -> tuple[Sequence[Numbered], list[Rejection]]:
        """Return the items with references in place of pictures, and refusals of the others.

        Raises:
            StorageError: if the pictures cannot be kept.
        """
        if all(item.image is UNSET for _, item in items):
            return items, []
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._take, items)

    def close(self) -> None:
        """Close the file, once nothing is taken any more."""
        self._thread.shutdown()
        if self._store is not None:
            self._store.close()

    def _take(self, items: Sequence[Numbered]) -> tuple[list[Numbered], list[Rejection]]:
        if self._store is None:
            self._store = PictureStore(self._path, writes=True)
        until = self._monotonic() + _MOST_S
        refused: list[Rejection] = []
        given = [(index, item, self._given(index, item, refused)) for index, item in items]
        contents = [it.content for _, _, it in given if it is not None and it.content]
        kept = self._store.use(contents, self._clock()) if contents else set()
        taken: list[Numbered] = []
        fresh: dict[bytes, bytes] = {}
        for index, item, image in given:
            if image is None:
                continue
            try:
                if image.content and image.content not in kept and image.content not in fresh:
                    fresh[image.content] = self._shrunk(image, until)
            except PictureError as error:
                refused.append(_rejection(index, error))
            else:
                taken.append((index, msgspec.structs.replace(item, image=image.reference)))
        if fresh:
            self._store.put(fresh, self._clock())
        return taken, sorted(refused, key=lambda it: it.index)

    def _given(self, index: int, item: Item, refused: list[Rejection]) -> _Image | None:
        """Return the image of an item; None if it is refused, which is noted."""
        if item.image is UNSET:
            return _Image(UNSET)
        try:
            return self._read(item.image)
        except PictureError as error:
            refused.append(_rejection(index, error))
            return None

    def _read(self, image: str) -> _Image:
        if image.startswith("data:"):
            return _read_data(image)
        if content := content_of(image):
            return _Image(image, content)
        if not image.startswith(("http://", "https://")):
            raise PictureError(f"`image` is none of a picture: {_ADVICE}")
        if not self._fetches:
            raise PictureError(
                "addresses of pictures are not fetched: set understanding.fetch_pictures, or send "
                "a data: URL in base64"
            )
        if len(image) > _LONGEST_ADDRESS:
            raise PictureError(f"the address has more than {_LONGEST_ADDRESS:,} characters")
        return _Image(image)

    def _shrunk(self, image: _Image, until: float) -> bytes:
        if image.data is None:
            raise PictureError(f"no picture {str(image.reference)[:20]}… is kept: {_ADVICE}")
        if self._monotonic() > until:
            raise PictureError(
                f"the pictures of this request took more than {_MOST_S:g} s: send the item "
                "again, with fewer others"
            )
        return shrunk(image.data, media_type=image.media_type)


def _read_data(image: str) -> _Image:
    head = _DATA.match(image[:100])
    if head is None:
        raise PictureError("`image` begins with data:, but not with data:image/…;base64,")
    if len(image) > MOST_BYTES * 4 // 3 + 100:
        raise PictureError(f"the picture has more than {MOST_BYTES:,} bytes")
    try:
        data = binascii.a2b_base64(image[head.end() :], strict_mode=True)
    except ValueError as error:  # also of characters that are none of ASCII
        raise PictureError(f"the picture is no base64: {error}") from error
    content = content_key(data)
    return _Image(reference_of(content), content, data, head[1])


def _rejection(index: int, error: PictureError) -> Rejection:
    return Rejection(index=index, code="bad_picture", message=str(error))
