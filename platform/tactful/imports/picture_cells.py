"""Cells that name pictures of items: files beside the imported one become ``data:`` URLs."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOST_BYTES = 2_500_000
"""Bytes of a file: as base64 it fits into one request."""

_ELSEWHERE = ("data:", "sha256:", "http://", "https://")


def picture_reader(folder: Path | None) -> Callable[[Any], str]:
    """Return a function that reads a cell to what an item takes as `image`.

    Args:
        folder: folder of the imported file, below which files of pictures may be; None for none.
    """

    def read(value: Any) -> str:
        text = str(value).strip()
        if text.startswith(_ELSEWHERE):
            return text
        if folder is None:
            raise ValueError("is no data: URL and no address of a picture")
        return _data_url(folder, text)

    return read


def _data_url(folder: Path, name: str) -> str:
    """Read a file, which must be below the folder, also where it is a link."""
    root = folder.resolve()
    try:
        file = (root / name).resolve()
        if not file.is_relative_to(root):
            raise ValueError("is no file below the folder of the imported one")
        media_type, _ = mimetypes.guess_type(file.name)
        if media_type is None or not media_type.startswith("image/"):
            raise ValueError("has no name of a picture, such as blue.png or blue.jpg")
        if not file.is_file():  # a pipe would block for ever
            raise ValueError("is no file")
        with file.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except RuntimeError as error:  # before Python 3.13
        raise ValueError("cannot be read: it is a link to itself") from error
    if len(data) > MOST_BYTES:
        raise ValueError(f"has more than {MOST_BYTES:,} bytes: make it smaller")
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
