"""Encoding of texts and pictures that the store of vectors lacks, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.errors import PictureError
from tactful.understanding.encoder import Encoder, has_words
from tactful.understanding.picture_encoder import PictureEncoder
from tactful.understanding.picture_store import PictureStore
from tactful.understanding.vector_store import VectorStore, content_key

Progress = Callable[[int, int], None]
"""Called with the number of different contents that are done, and their total."""

_BATCH = 256
_Rows = tuple[Sequence[bytes], NDArray[np.float32]]  # keys of contents, and their vectors
_Encode = Callable[[Sequence[bytes]], _Rows]


class Done(NamedTuple):
    """Result of an encoding: numbers of different contents, and the keys of all of them."""

    new: int  # encoded now
    kept: int  # encoded before
    keys: frozenset[bytes]


def quiet(done: int, total: int) -> None:
    """Report nothing."""


def text_key(text: str) -> bytes:
    """Return the key of a text's vector."""
    return content_key(text.encode("utf-8", "surrogatepass"))


def encode_texts(
    texts: Sequence[str], encoder: Encoder, store: VectorStore, *, progress: Progress = quiet
) -> Done:
    """Encode the texts that the store lacks; a killed call goes on with the next.

    Args:
        texts: of items.
        encoder: of texts.
        store: opened to write.
        progress: called after each batch.

    Raises:
        StorageError: if the store cannot be written.
    """
    by_key = {text_key(text): text for text in texts if has_words(text)}

    def encode(keys: Sequence[bytes]) -> _Rows:
        return keys, encoder.encode([by_key[key] for key in keys])

    return _encode([*by_key], encode, encoder.name, store, progress)


def encode_pictures(
    contents: Sequence[bytes],
    encoder: PictureEncoder,
    pictures: PictureStore,
    store: VectorStore,
    *,
    progress: Progress = quiet,
) -> Done:
    """Encode the pictures that the store lacks; a killed call goes on with the next.

    Args:
        contents: hashes of the contents; those that are not kept are left out.
        encoder: of pictures.
        pictures: where they are kept.
        store: opened to write.
        progress: called after each batch.

    Raises:
        StorageError: if a store cannot be read or written.
    """

    def encode(keys: Sequence[bytes]) -> _Rows:
        kept = pictures.get(keys)  # without those that were deleted meanwhile
        files = [*kept.values()]
        try:
            return [*kept], encoder.encode(files)
        except PictureError:  # a file was damaged where it lies: the others count
            return [*kept], np.vstack([_encoded_alone(encoder, file) for file in files])

    held = pictures.held(contents)
    wanted = [content for content in dict.fromkeys(contents) if content in held]
    return _encode(wanted, encode, encoder.name, store, progress)


def _encoded_alone(encoder: PictureEncoder, picture: bytes) -> NDArray[np.float32]:
    try:
        return encoder.encode([picture])
    except PictureError as error:
        if isinstance(error.__cause__, MemoryError):  # it is tried again
            raise
        return np.zeros((1, encoder.dimensions), np.float32)


def _encode(
    keys: Sequence[bytes], encode: _Encode, name: str, store: VectorStore, progress: Progress
) -> Done:
    missing = store.missing(name, keys)
    kept = len(keys) - len(missing)
    progress(kept, len(keys))
    for begin in range(0, len(missing), _BATCH):
        part = missing[begin : begin + _BATCH]
        store.put(name, *encode(part))
        progress(kept + begin + len(part), len(keys))
    return Done(len(missing), kept, frozenset(keys))
