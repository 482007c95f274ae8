"""Items near the meaning of a text or near a picture: encoded in processes, compared in memory."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.changes import EngineItems
from tactful.catalogue.request_context import FeatureSource
from tactful.config.settings import Settings
from tactful.errors import PictureError, StorageError
from tactful.schemas.problems import ProblemError
from tactful.search.meaning import Meaning, Near
from tactful.search.vector_changes import VectorChanges
from tactful.understanding.encoder import has_words
from tactful.understanding.item_vectors import (
    ItemVectors,
    Part,
    contents_of,
    item_image,
    item_text,
    store_path,
)
from tactful.understanding.picture_store import PictureStore, picture_path
from tactful.understanding.query_encoder import QueryEncoder
from tactful.understanding.query_messages import Kind, Ready
from tactful.understanding.vector_store import VectorStore
from tactful.util.framed_process import ProcessUnavailable
from tactful_streaming.contract.log_entries import Item

logger = logging.getLogger(__name__)

_ENCODED = 256  # characters of a query: a long one would hold up those of others

FindNear = Callable[[], Near]
"""Finds the items nearest to one query, in any thread."""


Pairs = list[tuple[str, float]]
"""Ids of items with their cosine, the nearest first."""


class ItemsAlike(NamedTuple):
    """Items near one by encoders, itself among them; None where there is no answer."""

    meaning: Pairs | None
    pictures: Pairs | None


@dataclass(frozen=True)
class _Items:
    """The items of a server, and its settings."""

    settings: Settings
    source: FeatureSource
    reading: AbstractContextManager[object]


class NearItems:
    """Finds items by the vector of a query, on the event loop.

    A process starts with the first query of its kind. Vectors of items are read, and their index is
    built, in a thread, while searches find what was there before.
    """

    def __init__(
        self, settings: Settings, source: FeatureSource, reading: AbstractContextManager[object]
    ) -> None:
        """Start nothing; `reading` is held while the engine is read."""
        self._settings = settings
        items, chosen = _Items(settings, source, reading), settings.understanding
        self._texts = _Space(items, "text") if chosen.text_model else None
        self._pictures = _Space(items, "picture") if chosen.picture_model else None

    async def text(self, text: str) -> tuple[FindNear | None, str | None]:
        """Return how to find items near a text, or None and maybe why there are none."""
        if self._texts is None or not has_words(text):
            return None, None
        seconds = self._settings.understanding.query_s
        try:
            vector = await self._texts.encoder.text(text[:_ENCODED], seconds=seconds)
        except ProcessUnavailable as error:
            return None, f"found by words alone, as {error}"
        return await self._texts.finder(vector), None

    async def picture(self, data: bytes) -> FindNear:
        """Return how to find items whose pictures are near a picture.

        Raises:
            ProblemError: if the server has no encoder, the picture is refused, or the process has
                no time for it.
        """
        if self._pictures is None:
            raise ProblemError(
                "not_found",
                "pictures are not searched: [understanding] picture_model names no encoder",
            )
        try:
            vector = await self._pictures.encoder.picture(data)
        except PictureError as error:
            raise ProblemError("invalid", str(error), field="$.picture") from None
        except ProcessUnavailable as error:
            pause = math.ceil(error.retry_after)
            raise ProblemError("overloaded", str(error), retry_after=pause) from None
        return await self._pictures.finder(vector)

    async def alike(self, item: Item) -> ItemsAlike:
        """Return items near one by its words, and by its picture.

        None without an encoder, or while it does not answer; nothing for an item without words or
        a picture that is kept.
        """
        meaning = pictures = None
        if self._texts is not None:
            meaning = await _by_words(self._texts, item_text(item))
        if self._pictures is not None:
            try:
                data = await asyncio.to_thread(self._picture_of, item)
                pictures = await _pairs(None if data is None else await self.picture(data))
            except (ProblemError, StorageError):
                logger.warning("neighbours by picture were not found", exc_info=True)
        return ItemsAlike(meaning, pictures)

    def _picture_of(self, item: Item) -> bytes | None:
        """Read the picture of an item; None for none."""
        with closing(PictureStore(picture_path(self._settings.storage.data))) as pictures:
            (content,) = contents_of([item_image(item)], pictures)
            return pictures.get([content]).get(content)

    async def stop(self) -> None:
        """End the processes."""
        for space in (self._texts, self._pictures):
            if space is not None:
                await space.encoder.close()

    def close(self) -> None:
        """End the threads after the present part of their work."""
        for space in (self._texts, self._pictures):
            if space is not None:
                space.close()


class _Space:
    """Vectors of items and queries by one encoder."""

    def __init__(self, items: _Items, kind: Kind) -> None:
        self.encoder = QueryEncoder(items.settings, kind)
        self._items = items
        self._kind = kind
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"item-vectors-{kind}")
        self._meaning: Meaning | None = None
        self._model: Ready | None = None  # whose vectors `_meaning` has
        self._vectors: ItemVectors | None = None
        self._refreshing: asyncio.Future[None] | None = None

    async def finder(self, vector: NDArray[np.float32]) -> FindNear:
        """Return how to find the items near a vector, after changed vectors are being read."""
        model = self.encoder.ready
        assert model is not None
        is_first = self._meaning is None or model != self._model
        if self._meaning is None or is_first:  # it may have been replaced where it lies
            if self._meaning is not None:
                self._meaning.close()
            self._meaning, self._model = self._opened(model), model
        meaning = self._meaning
        if is_first or self._refreshing is None or self._refreshing.done():
            loop = asyncio.get_running_loop()
            self._refreshing = loop.run_in_executor(self._thread, _refresh, meaning)
        if is_first:  # a moment, in which small catalogues are read
            pause = self._items.settings.understanding.query_s
            await asyncio.wait({self._refreshing}, timeout=pause)
        return lambda: meaning.near(vector)

    def close(self) -> None:
        if self._meaning is not None:
            self._meaning.close()
        self._thread.shutdown(cancel_futures=True)
        if self._vectors is not None:
            self._vectors.close()

    def _opened(self, model: Ready) -> Meaning:
        data, part = (
            self._items.settings.storage.data,
            Part(self._kind, model.name, model.dimensions),
        )
        if self._vectors is not None:
            self._thread.submit(self._vectors.close)  # it may be in use there
        vectors, pictures = VectorStore(store_path(data)), PictureStore(picture_path(data))
        self._vectors = ItemVectors(vectors, pictures, [part])
        feed = EngineItems(self._items.source)
        changes = VectorChanges(feed, self._items.reading, self._vectors)
        return Meaning(changes, model.dimensions)


async def _by_words(space: _Space, text: str) -> Pairs | None:
    """Return the items near a whole text; a first call waits until the process has started."""
    if not has_words(text):
        return []
    try:
        vector = await space.encoder.text(text)
    except ProcessUnavailable as error:
        logger.warning("neighbours by meaning were not found: %s", error)
        return None
    return await _pairs(await space.finder(vector))


async def _pairs(find: FindNear | None) -> Pairs:
    if find is None:
        return []
    near = await asyncio.to_thread(find)
    return [*zip(near.item_ids, near.cosines, strict=True)]


def _refresh(meaning: Meaning) -> None:
    try:
        meaning.refresh()
    except Exception:  # items are found by words, and the next search tries again
        logger.exception("vectors of items were not read")
