"""Checks of the encoders of texts and pictures: installed, the known ones, and at work."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import closing
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tactful.config.settings import Settings
from tactful.errors import ConfigError, PictureError, StorageError
from tactful.understanding.encoder import Encoder
from tactful.understanding.item_vectors import store_path
from tactful.understanding.picture_encoder import PictureEncoder, open_picture_encoder
from tactful.understanding.picture_store import PictureStore, picture_path
from tactful.understanding.text_encoders import open_text_encoder
from tactful.understanding.vector_store import VectorStore
from tactful.util.extras import missing_module

_TEXTS = ("shoes", "red leather", "皮鞋")

Finding = tuple[Literal["ok", "warning"], str]


def check_text_encoder(settings: Settings) -> Finding:
    """Load the encoder of texts, whose weights are compared, and encode some words."""

    def encode() -> tuple[Encoder, NDArray[np.float32]]:
        encoder = open_text_encoder(settings)
        assert encoder is not None
        return encoder, encoder.encode(_TEXTS)

    return _found(settings, encode, "texts", "words")


def check_picture_encoder(settings: Settings) -> Finding:
    """Load the encoder of pictures, encode a drawn one, and open the pictures of the items."""
    try:
        with closing(PictureStore(picture_path(settings.storage.data))) as kept:
            kept.held([b""])
    except StorageError as error:
        return "warning", str(error)

    def encode() -> tuple[PictureEncoder, NDArray[np.float32]]:
        encoder = open_picture_encoder(settings)
        assert encoder is not None
        return encoder, encoder.encode([_drawn()])

    return _found(settings, encode, "pictures", "words and events")


def _found(
    settings: Settings,
    encode: Callable[[], tuple[Encoder | PictureEncoder, NDArray[np.float32]]],
    contents: str,
    others: str,
) -> Finding:
    try:
        encoder, rows = encode()
        with closing(VectorStore(store_path(settings.storage.data))) as store:
            count = store.count(encoder.name)
    except (ConfigError, PictureError, StorageError) as error:  # a server works without
        return "warning", f"{error}; new items are placed by their {others} alone"
    except ImportError as error:
        return "warning", missing_module(error) or str(error)
    told = f"{encoder.name}, {encoder.dimensions} dimensions; {count:,} {contents} are encoded"
    if not rows.any():
        cause = "it computes no finite numbers, or knows no common word"
        return "warning", f"{told}; but a test gave no vector: {cause}"
    return "ok", told


def _drawn() -> bytes:
    """Return the file of a picture: a dark bar on white."""
    from PIL import Image

    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[16:48, 28:36] = 40
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
