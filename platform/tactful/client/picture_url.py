"""Pictures of items as requests take them: ``data:`` URLs."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

_BEGINNINGS = {b"\xff\xd8": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp"}


def picture_url(data: bytes) -> str:
    """Return the file of a picture as a ``data:`` URL; its type is read from its first bytes.

    >>> picture_url(b"GIF89a")
    'data:image/gif;base64,R0lGODlh'
    """
    kinds = (kind for begin, kind in _BEGINNINGS.items() if data.startswith(begin))
    return f"data:image/{next(kinds, 'png')};base64,{base64.b64encode(data).decode('ascii')}"


def with_picture_url(
    item: Mapping[str, Any] | msgspec.Struct,
) -> Mapping[str, Any] | msgspec.Struct:
    """Return an item with a ``data:`` URL, if its `image` is bytes; else the item itself."""
    if isinstance(item, Mapping) and isinstance(item.get("image"), bytes):
        return {**item, "image": picture_url(item["image"])}
    return item
