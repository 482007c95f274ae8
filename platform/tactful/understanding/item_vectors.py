"""Vectors of items by their words and pictures, encoded once and read from the store."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tactful.config.settings import Settings
from tactful.errors import ConfigError, StorageError
from tactful.understanding.encode import Progress, encode_pictures, encode_texts, quiet, text_key
from tactful.understanding.encoder import MOST_CHARACTERS, Encoder
from tactful.understanding.picture_encoder import PictureEncoder, open_picture_encoder
from tactful.understanding.picture_store import PictureStore, content_of, picture_path
from tactful.understanding.text_encoders import open_text_encoder
from tactful.understanding.vector_store import FOLDER, VectorStore
from tactful_streaming.contract.log_entries import Item

_LOG = logging.getLogger(__name__)
_E = TypeVar("_E")
_PARTS = re.compile(r"(text|picture):(.+?):([1-9][0-9]{0,5})(?: \+ |$)")


class Part(NamedTuple):
    """An encoder of texts or pictures, by what the store knows of it."""

    kind: str  # `text` or `picture`
    name: str
    dimensions: int


class Encoders(NamedTuple):
    """Encoders of an installation."""

    text: Encoder | None = None
    picture: PictureEncoder | None = None


_NONE = Encoders()


def item_text(item: Item) -> str:
    """Return the words of an item: its title and the property `description`.

    >>> item_text(Item(item_id="i", timestamp=0, title="Mug", properties={"description": "Blue"}))
    'Mug. Blue'
    """
    parts = (item.title, item.properties.get("description"))
    return ". ".join(part for part in parts if isinstance(part, str) and part)[:MOST_CHARACTERS]


def item_image(item: Item) -> str:
    """Return the reference or the address of an item's picture; empty for none."""
    return item.image if isinstance(item.image, str) else ""


def contents_of(images: Sequence[str], pictures: PictureStore) -> list[bytes]:
    """Return the hash of each picture's content; empty where it is not kept.

    Raises:
        StorageError: if the file of the pictures is damaged.
    """
    known = {image: content for image in {*images} if (content := content_of(image))}
    fetched = pictures.fetched([image for image in {*images} if image and image not in known])
    known |= {image: it.content for image, it in fetched.items() if it.content}
    return [known.get(image, b"") for image in images]


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of items by one or more encoders, as far as the store has them.

    Attributes:
        store: the vectors.
        pictures: the pictures.
        encoded: encoders whose vectors are read, and joined in this order.
        encoders: encode items that the store lacks; without them such vectors are zero.
        progress: called with the number of different texts or pictures that are done, and their
            total.
    """

    store: VectorStore
    pictures: PictureStore
    encoded: Sequence[Part]
    encoders: Encoders = _NONE
    progress: Progress = quiet

    @property
    def name(self) -> str:
        """Name of all encoders, by which `parts_of` finds them again."""
        return name_of(self.encoded)

    @property
    def parts(self) -> list[int]:
        """Length of the vectors by each encoder."""
        return [part.dimensions for part in self.encoded]

    def of(self, items: Sequence[Item | None]) -> NDArray[np.float32]:
        """Return the joined vectors of each item; zero where nothing is encoded.

        Raises:
            StorageError: if a file is damaged.
        """
        texts = ["" if item is None else item_text(item) for item in items]
        images = ["" if item is None else item_image(item) for item in items]
        contents = contents_of(images, self.pictures)
        if self.encoders.text is not None:
            encode_texts(texts, self.encoders.text, self.store, progress=self.progress)
        if (encoder := self.encoders.picture) is not None:
            encode_pictures(contents, encoder, self.pictures, self.store, progress=self.progress)
        keys = {"text": [*map(text_key, texts)], "picture": contents}
        rows = [np.zeros((len(items), 0), np.float32)]
        for kind, name, dimensions in self.encoded:
            rows.append(self.store.get(name, keys[kind], dimensions))
        return np.hstack(rows)

    def version(self) -> int:
        """Return a number that changes when another process adds vectors."""
        return self.store.version()

    def close(self) -> None:
        """Close both files."""
        self.store.close()
        self.pictures.close()


def name_of(parts: Sequence[Part]) -> str:
    """Return the name of `ItemVectors` by these encoders."""
    return " + ".join(":".join(map(str, part)) for part in parts)


def parts_of(name: str) -> list[Part]:
    """Return the encoders of a name of `ItemVectors`; none for another text."""
    if _PARTS.sub("", name):
        return []
    return [Part(kind, part, int(size)) for kind, part, size in _PARTS.findall(name)]


def store_path(data: Path) -> Path:
    """Return the file of the vectors in a data directory."""
    return data / FOLDER / "vectors.db"


@contextmanager
def working_item_vectors(
    settings: Settings, *, progress: Progress = quiet
) -> Iterator[ItemVectors | None]:
    """Open the vectors of items by those encoders of the settings that work, and log the others.

    None if none does or the store cannot be opened: then words place items.
    """
    encoders = Encoders(
        _working(open_text_encoder, settings), _working(open_picture_encoder, settings)
    )
    with ExitStack() as stack:
        vectors = None
        try:
            vectors = stack.enter_context(_open_vectors(settings, encoders, progress))
        except StorageError as error:
            _LOG.warning("items are placed by their words alone: %s", error)
        yield vectors


def _working(open_encoder: Callable[[Settings], _E | None], settings: Settings) -> _E | None:
    try:
        return open_encoder(settings)
    except (ConfigError, ImportError) as error:
        _LOG.warning("items are placed without one of their encoders: %s", error)
        return None


@contextmanager
def open_item_vectors(
    settings: Settings, *, progress: Progress = quiet
) -> Iterator[ItemVectors | None]:
    """Open the vectors of items by the encoders of the settings, which encode absent ones.

    None if the settings name no encoder.

    Raises:
        ConfigError: if an encoder cannot be opened.
        StorageError: if a store cannot be opened.
    """
    encoders = Encoders(open_text_encoder(settings), open_picture_encoder(settings))
    with _open_vectors(settings, encoders, progress) as vectors:
        yield vectors


@contextmanager
def _open_vectors(
    settings: Settings, encoders: Encoders, progress: Progress
) -> Iterator[ItemVectors | None]:
    named = zip(("text", "picture"), encoders, strict=True)
    parts = [Part(kind, it.name, it.dimensions) for kind, it in named if it is not None]
    if not parts:
        yield None
        return
    data = settings.storage.data
    with ExitStack() as stack:
        store = stack.enter_context(closing(VectorStore(store_path(data), writes=True)))
        pictures = stack.enter_context(closing(PictureStore(picture_path(data))))
        yield ItemVectors(store, pictures, parts, encoders, progress)


def stored_vectors(settings: Settings) -> Callable[[str], ItemVectors] | None:
    """Return a function that opens the stored vectors by encoders; None without an encoder.

    It loads no encoder.
    """
    chosen = settings.understanding
    if not chosen.text_model and not chosen.picture_model:
        return None
    return partial(_open_stored, settings.storage.data)


def _open_stored(data: Path, name: str) -> ItemVectors:
    return ItemVectors(
        VectorStore(store_path(data)), PictureStore(picture_path(data)), parts_of(name)
    )
