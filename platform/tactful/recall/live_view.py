"""Views of catalogue, vectors and popularity, kept up to date for requests.

Training fixes the recall index; items come and change all the time. Every refresh applies the
changes since the last one, at their cost, and returns a new `CatalogueView`. A request works with
one view from its beginning to its end; columns that views share are written between two requests.
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.changes import ItemFeed, feed_of
from tactful.catalogue.request_context import FeatureSource
from tactful.errors import ModelError, StorageError
from tactful.recall.candidates import CatalogueView
from tactful.recall.index import RecallIndex
from tactful.recall.popularity import Popularity, count_popular
from tactful.recall.takers import TakenByMany
from tactful.recall.trending import Rising, Trending
from tactful.vectors.content import EncodedItems
from tactful.vectors.ivf_index import Changes, Snapshot
from tactful.vectors.updatable_index import LiveIndex
from tactful_streaming.contract.log_entries import Item

_LOG = logging.getLogger(__name__)

_POPULAR_S = 10.0
_SETTLED_S = 60.0
_REST = 20  # times as long as placing encoded items took, until it is done again
_FEW = 2_000
_UNREAD = -1  # in place of the version of a store that could not be read


class StoredVectors(EncodedItems, Protocol):
    """Vectors of items in a store that another process fills."""

    def version(self) -> int:
        """Return a number that changes when vectors are added."""

    def close(self) -> None:
        """Close the store."""


OpenVectors = Callable[[str], StoredVectors]
"""Opens the vectors by the encoders of this name."""


class LiveCatalogue:
    """Makes views of one recall index, as items come and change.

    ItemFeed -> changed items -> Catalogue (columns) + LiveIndex (vectors) -> CatalogueView
    """

    def __init__(
        self,
        index: RecallIndex,
        # keeps the changes of its vectors; None for an index without items. It holds nothing that
        # cannot be made anew, so a damaged one is.
        directory: Path | None,
        *,
        writes: bool = True,  # whether this process may keep the changes, if no other does
        rising: Rising | None = None,  # source of trends in published statistics
        takers: TakenByMany | None = None,  # items of anonymous requests; None for no minimum
        monotonic: Callable[[], float] = time.monotonic,
        # views of another index that are no longer refreshed: these continue from there, which
        # costs far less than to read all items again
        after: LiveCatalogue | None = None,
        # held while a few items are written into the columns of the latest view; None where no
        # other thread reads it
        changing: AbstractContextManager[object] | None = None,
        # opens the vectors of items by the encoders of a name; None for none
        encoded: OpenVectors | None = None,
    ) -> None:
        """Start with the index alone, or with the items of views of another index."""
        self._index = index
        self._rising = rising
        self._takers = takers
        self._monotonic = monotonic
        self._changing = changing or nullcontext()
        self._trained = Snapshot.of(index.item_ids, index.nearest)
        self._live = None if directory is None else _open(directory, index, writes)
        content = index.content
        self._encoded: StoredVectors | None = None
        if encoded is not None and content.encoder:
            self._encoded = encoded(content.encoder)
        self._encoded_version = 0
        self._encoded_from = -math.inf  # when items that were encoded are placed again
        self._feed: ItemFeed | None = None
        self.counted_at = -_POPULAR_S
        self._merging: threading.Thread | None = None
        self._merges_from = -math.inf
        self._followed = after is not None
        if after is None:
            catalogue = Catalogue(index.item_ids, {})
        else:
            # A build takes minutes, and is wasted if this index is soon replaced, too.
            self._merging, self._merges_from = after._merging, monotonic() + _SETTLED_S
            search = self._search()
            catalogue = after.view.catalogue.moved(search.ids, then=search.new_ids)
            # If these fail, the others begin anew: later changes come through this feed only.
            self._feed, after._feed = after._feed, None
        nothing = Popularity.of(np.zeros(0, np.int64), len(catalogue))
        self.view: CatalogueView = CatalogueView(index, self._search(), catalogue, nothing)

    @property
    def writes(self) -> bool:
        """Whether this process keeps the changes that others read."""
        return self._live is not None and self._live.writes

    def refresh(
        self, source: FeatureSource, reading: AbstractContextManager[object] | None = None
    ) -> CatalogueView:
        """Apply the changes since the last call; for one thread at a time.

        `reading` is held while the engine is read; None where no other thread writes to it.
        """
        feed = self._feed or feed_of(source)
        self._feed = None  # after a failure the next call begins anew, with all items
        self.view = self._refreshed(feed, source, reading)
        self._feed = feed
        self._merge()
        return self.view

    def describe(self) -> dict[str, Any]:
        """Describe the search of the vectors and its quality, for ``GET /v1/models``."""
        live = self._live
        tuning = self._index.nearest.tuning if live is None else live.tuning
        return {
            "search": "cells" if tuning.cells else "exact",
            "recall": round(tuning.recall, 4),
            "recall_at": tuning.at,
            "target": tuning.target,
            "probes": tuning.probes,
            "cells": tuning.cells,
            "queries": tuning.source or None,
            "build": 0 if live is None else live.build,
            "changes": 0 if live is None else live.snapshot.changes,
        }

    def close(self) -> None:
        """Release the directory and the vectors; the last view may still be used."""
        if self._live is not None:
            self._live.close()
        if self._encoded is not None:
            self._encoded.close()

    def _refreshed(
        self, feed: ItemFeed, source: FeatureSource, reading: AbstractContextManager[object] | None
    ) -> CatalogueView:
        held, now = self.view, self._monotonic()
        catalogue = held.catalogue
        if self._live is not None:
            self._live.follow()
            if self._live.writes and (self._newly_encoded() or self._followed):
                self._place_again(_untouched(self._index, catalogue), source, reading)
            self._followed = False
        if self._search() is not held.search:
            catalogue = self._taken_in(catalogue, ())
        # Counting every item takes longer than all else here, so it is not done each time.
        due = now - self.counted_at >= _POPULAR_S
        rows = [np.zeros(0, np.int64)]
        while changed := feed.changes(reading):
            if self._live is not None:
                # The writer of the index has the items of its engine's feed already.
                self._live.follow()
                self._learn(changed)
            catalogue = self._taken_in(catalogue, changed)
            if not due:
                rows.append(catalogue.rows_of(changed))
        search = self._search()
        popular, common = held.popular, held.common
        moved = catalogue.item_places is not held.catalogue.item_places
        came = np.unique(np.concatenate(rows))
        # More rows than were counted: without a count they would have no order for seconds.
        many = len(came) > len(popular.rows)
        if moved or due or many:
            popular, common = count_popular(source, catalogue, self._index, self._takers, reading)
            self.counted_at = now
        elif catalogue is not held.catalogue:
            available = catalogue.available
            popular, common = (
                popular.grown(available, came),
                common and common.grown(available, came),
            )
        trending = self._trending(catalogue)
        return CatalogueView(self._index, search, catalogue, popular, trending, common)

    def _trending(self, catalogue: Catalogue) -> Trending:
        held, rises = self.view, self.view.trending.rises
        try:
            rises = () if self._rising is None else tuple(self._rising())
        except Exception as error:  # requests go on with the trends so far
            failure = type(error).__name__
            _LOG.warning("trends stay as they were: reading them failed with %s", failure)
        if catalogue is held.catalogue and rises == held.trending.rises:
            return held.trending
        return Trending.of(rises, catalogue)

    def _taken_in(self, catalogue: Catalogue, changed: Sequence[Item]) -> Catalogue:
        """Apply changes to the catalogue, in the rows of the present index."""
        known, then = self._search().ids, self._search().new_ids
        few = len(changed) <= _FEW  # many go into a copy, and no request waits for that
        with self._changing if few else nullcontext():
            updated = catalogue.updated(known, changed, then=then, in_place=few)
        return catalogue.moved(known, changed, then=then) if updated is None else updated

    def _learn(self, changed: Sequence[Item]) -> None:
        """Give items without training data a row, and a vector by their description."""
        assert self._live is not None
        if self._live.writes and changed:
            self._live.update(self._unlearned(self._live.snapshot, changed))

    def _place_again(
        self,
        item_ids: Sequence[str],
        source: FeatureSource,
        reading: AbstractContextManager[object] | None,
    ) -> None:
        """Give items the vectors of their descriptions, some thousand at a time."""
        assert self._live is not None
        begun, held = self._monotonic(), self._live.snapshot
        found: dict[str, NDArray[np.float32] | None] = {}
        for start in range(0, len(item_ids), _FEW):
            with reading or nullcontext():
                items = [source.items[item_id] for item_id in item_ids[start : start + _FEW]]
            found.update(self._unlearned(held, items))
        self._live.update(found)
        ended = self._monotonic()
        self._encoded_from = ended + _REST * (ended - begun)

    def _unlearned(self, held: Snapshot, items: Sequence[Item]) -> Changes:
        """Return the vectors of items without training data that a snapshot lacks.

        If the store cannot be read, items that have a vector keep it until it can.
        """
        try:
            return unlearned(self._index, held, items, self._encoded)
        except StorageError as error:
            if self._encoded_version != _UNREAD:
                _LOG.warning("new items are placed by their words alone: %s", error)
            self._encoded_version = _UNREAD
        places = held.rows_of([item.item_id for item in items])
        new = [item for item, row in zip(items, places, strict=True) if row is None]
        return unlearned(self._index, held, new)

    def _newly_encoded(self) -> bool:
        """Return whether items were encoded meanwhile; it is asked as often as sales are counted.

        A store that cannot be read is left until it can: words place new items without it.
        """
        now = self._monotonic()
        if self._encoded is None or now < max(self.counted_at + _POPULAR_S, self._encoded_from):
            return False
        before = self._encoded_version
        try:
            self._encoded_version = self._encoded.version()
        except StorageError as error:
            _LOG.warning("new items are placed by their words alone: %s", error)
        return self._encoded_version != before

    def _search(self) -> Snapshot:
        return self._trained if self._live is None else self._live.snapshot

    def _merge(self) -> None:
        live = self._live
        if live is None or not live.writes or not live.merge_due:
            return
        if self._monotonic() < self._merges_from:
            return
        if self._merging is None or not self._merging.is_alive():
            self._merging = threading.Thread(target=_merge, args=(live,), daemon=True)
            self._merging.start()


def unlearned(
    index: RecallIndex,
    snapshot: Snapshot,
    items: Iterable[Item],
    encoded: EncodedItems | None = None,
) -> Changes:
    """Return content vectors of items without training data that the snapshot lacks."""
    items = [*items]
    rows = index.item_ids.rows_of([item.item_id for item in items])
    taught = index.nearest.holds(np.array([-1 if row is None else row for row in rows], np.int64))
    fresh = [item for item, learned in zip(items, taught.tolist(), strict=True) if not learned]
    fresh.sort(key=lambda item: item.item_id)
    ids, vectors = [item.item_id for item in fresh], index.content.vectors(fresh, encoded)
    # After a restart every item is new to this process, but few are to the index.
    return snapshot.differing(dict(zip(ids, vectors, strict=True)))


def _untouched(index: RecallIndex, catalogue: Catalogue) -> list[str]:
    """Return the items without training data; the first rows are those of the index."""
    rows = np.arange(len(catalogue))
    rows[len(index.item_ids) :] = -1
    untouched = np.flatnonzero(catalogue.described & ~index.nearest.holds(rows))
    return catalogue.item_ids.of_rows(untouched)


def _merge(live: LiveIndex) -> None:
    try:
        live.merge()
    except Exception:
        _LOG.exception("vector index: merging failed; the build in use stays, changes are kept")


def _open(directory: Path, index: RecallIndex, may_write: bool) -> LiveIndex:
    """Open to write, else to read; replace a damaged directory."""
    for writes in (True, False) if may_write else (False,):
        with suppress(StorageError):
            try:
                return LiveIndex(directory, index.item_ids, index.nearest, writes=writes)
            except ModelError as error:
                if not writes:
                    raise
                _LOG.warning("vector index: made anew from the model and the items: %s", error)
                shutil.rmtree(directory)
                return LiveIndex(directory, index.item_ids, index.nearest, writes=True)
    raise AssertionError("a reader needs no lock")
