"""Fetching of the pictures that items name by their addresses, some at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tactful.errors import PictureError
from tactful.understanding.encode import Progress, quiet
from tactful.understanding.fetch_picture import Fetching, fetch_picture
from tactful.understanding.picture_store import Fetched, PictureStore
from tactful.understanding.pictures import shrunk
from tactful.understanding.vector_store import content_key

_AT_ONCE = 4
_AGAIN_MS = 86_400_000  # a refused address is tried again after a day


class Fetches(NamedTuple):
    """Result of fetching: how many pictures are new, and all refusals by their addresses."""

    new: int
    refused: dict[str, str]


def fetch_pictures(
    images: Sequence[str],
    pictures: PictureStore,
    *,
    clock: Callable[[], int],
    limits: Fetching | None = None,
    progress: Progress = quiet,
) -> Fetches:
    """Fetch the pictures of addresses that were not fetched yet; a killed call goes on.

    Refusals of earlier calls, which are tried again after a day, are returned, too.

    Args:
        images: references and addresses of items.
        pictures: opened to write.
        clock: epoch milliseconds.
        limits: of one picture.
        progress: called with the number of addresses that are done, and their total.

    Raises:
        StorageError: if a picture cannot be kept.
    """
    addresses = [it for it in dict.fromkeys(images) if it.startswith(("http://", "https://"))]
    known, now = pictures.fetched(addresses), clock()
    wanted = [it for it in addresses if it not in known or _is_due(known[it], now)]
    refused = {it: known[it].problem for it in addresses if it in known and not known[it].content}
    new = 0
    with ThreadPoolExecutor(_AT_ONCE, "tactful-fetch") as threads:
        for begin in range(0, len(wanted), _AT_ONCE):
            part = wanted[begin : begin + _AT_ONCE]
            files = [threads.submit(fetch_picture, address, limits) for address in part]
            for address, file in zip(part, files, strict=True):
                refused.pop(address, None)
                try:  # one at a time, for its memory
                    data, media_type = file.result()
                    content, picture = content_key(data), shrunk(data, media_type=media_type)
                except PictureError as error:
                    refused[address] = str(error)
                    pictures.note(address, Fetched(None, str(error), clock()))
                    continue
                pictures.put({content: picture}, clock())
                pictures.note(address, Fetched(content, "", clock()))
                new += 1
            progress(begin + len(part), len(wanted))
    return Fetches(new, refused)


def _is_due(fetched: Fetched, now: int) -> bool:
    return fetched.content is None and fetched.at <= now - _AGAIN_MS
