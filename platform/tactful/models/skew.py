"""Training-serving skew: compare served features with the same features computed again.

A list is logged with the features it was ranked by and with the offset that the engine had applied.
A second engine replays the log to that offset and lays the features out again, as training does. A
difference means that the model serves with other values than it learned from: a changed definition,
a catalogue that lagged, an event that was counted twice, a bug.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import build_context
from tactful.errors import ModelError
from tactful.event_log.batches import read_batches
from tactful.event_log.impressions import Impression, read_impressions
from tactful.ranking.features import (
    RANKING_FEATURES,
    REQUESTED,
    SALES,
    assemble,
    column_names,
)
from tactful.ranking.model import checked_version, read_manifest
from tactful.ranking.own_columns import own_columns
from tactful.recall.candidates import CatalogueView, Quotas, gather
from tactful.recall.index import RecallIndex
from tactful.recall.live_view import unlearned
from tactful.recall.popularity import Popularity
from tactful.training.replay_rows import replay_engine
from tactful.vectors.ivf_index import Snapshot
from tactful_streaming.contract.log_entries import subject_key
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.log.event_log import EventLog

Progress = Callable[[int, int], None]
"""Called with how much of the log is done, and how much there is."""

TOLERANCE = 1e-6  # tolerated relative difference: sums of products may be added up in another order

_CHUNK = 2_048
_REQUESTED = [RANKING_FEATURES.index(name) for name in REQUESTED]
_SALES = [RANKING_FEATURES.index(name) for name in SALES]
_NO_QUOTAS = Quotas(**dict.fromkeys(Quotas.__struct_fields__, 0))


@dataclass(frozen=True)
class Skew:
    """Comparison of served features with the same features computed again."""

    lists: int
    skipped: int  # other features, or the model or the beginning of the log is missing
    values: int
    different: int  # by more than `TOLERANCE`, or missing on one side only
    by_feature: Mapping[str, float]  # share of differing values where there are any, largest first

    @property
    def share(self) -> float:
        """Share of the values that differ; 0 where nothing was compared."""
        return self.different / self.values if self.values else 0.0


def measure_skew(
    log: EventLog,
    definitions: Definitions,
    models: Path,  # directory with the model versions that served
    *,
    identity: Identity | None = None,  # rules by which the server joins devices to users
    lists: int = 500,  # most lists, the latest, that are compared
    trusted: Collection[str] | None = None,  # see `checked_version`
    progress: Progress = lambda done, total: None,
    state: Path | None = None,  # features at an offset; lists before it are skipped
) -> Skew:
    """Compute the features of the latest lists again and compare.

    If the beginning of the log was deleted, features cannot be computed again, and every list is
    skipped. Lists of the heuristic have no features and are not counted at all.
    """
    logged = (shown for shown in read_impressions(log) if shown.features is not None)
    served = sorted(deque(logged, maxlen=lists), key=lambda shown: shown.applied)
    if state is None and log.begin:
        return Skew(0, len(served), 0, 0, {})
    engine = replay_engine(definitions, EngineOptions(identity=identity), state=state)
    known, views = len(served), dict[str, _View | None]()
    names = column_names(own_columns(definitions))
    different = np.zeros(len(names), np.int64)
    compared = rows = 0
    position = first = max(log.begin, engine.offset)
    served = [shown for shown in served if shown.applied >= first]
    for shown in served:
        for records in read_batches(log, position, shown.applied, size=_CHUNK):
            engine.apply(records)
            position = records[-1][0] + 1
        progress(position, served[-1].applied)
        if shown.version not in views:
            index = _index(models, shown.version, trusted, names)
            views[shown.version] = None if index is None else _View(engine, index)
        view = views[shown.version]
        shape = (len(shown.items), len(names))
        if view is None or shown.features is None or shown.features.shape != shape:
            continue
        different += (~_same(shown.features, view.compute(shown))).sum(axis=0)
        compared += 1
        rows += len(shown.items)
    shares = {
        name: count / rows for name, count in zip(names, different.tolist(), strict=True) if count
    }
    engine.close()
    return Skew(
        lists=compared,
        skipped=known - compared,
        values=rows * len(names),
        different=int(different.sum()),
        by_feature=dict(sorted(shares.items(), key=lambda pair: -pair[1])),
    )


def _index(
    models: Path, version: str, trusted: Collection[str] | None, names: tuple[str, ...]
) -> RecallIndex | None:
    try:
        directory = checked_version(models, version, trusted)
        if read_manifest(directory).features != names:
            return None
        return RecallIndex.load(directory / "index")
    except ModelError:
        return None


class _View:
    """Index of a model version and catalogue at the present place of the replay."""

    def __init__(self, engine: Engine, index: RecallIndex) -> None:
        self._engine = engine
        self._index = index
        self._own = own_columns(engine.definitions)
        self._search = Snapshot.of(index.item_ids, index.nearest)
        self._version = -1

    def _update(self) -> None:
        """Follow the items of the engine."""
        engine = self._engine
        if self._version != engine.items_version:
            self._version = engine.items_version
            added = unlearned(self._index, self._search, engine.items.values())
            self._search = search = self._search.changed(added)
            self._catalogue = Catalogue(search.ids, engine.items, then=search.new_ids)

    def compute(self, served: Impression) -> NDArray[np.float32]:
        """Compute the present features of served items, in their order; NaN for unknown items."""
        self._update()
        engine, catalogue = self._engine, self._catalogue
        subject, found = subject_key(served.event), catalogue.rows.of_many(served.items)
        rows = np.array([-1 if row is None else row for row in found], np.int64)
        known = np.unique(rows[rows >= 0])
        context = build_context(
            engine,
            catalogue,
            subject=subject,
            session_id=served.event.session_id,
            at=served.event.timestamp,
        )
        # The channels' query without their candidates: the list gives the items.
        popular = Popularity.of(known[:0], len(catalogue))
        scored = gather(
            CatalogueView(self._index, self._search, catalogue, popular),
            context,
            quotas=_NO_QUOTAS,
            allowed=np.zeros(len(catalogue), np.bool_),
        )
        candidates = scored.with_rows(known, np.zeros(len(known), np.int8))
        features = assemble(candidates, context, source=engine, catalogue=catalogue, own=self._own)
        computed = np.full((len(rows), features.shape[1]), np.nan, np.float32)
        computed[rows >= 0] = features[np.searchsorted(known, rows[rows >= 0])]
        if served.features is not None:
            computed[:, _REQUESTED] = served.features[:, _REQUESTED]
            if subject is None:  # rare items were served as if nobody had taken them
                computed[:, _SALES] = served.features[:, _SALES]
                for place, column in enumerate(self._own, len(RANKING_FEATURES)):
                    if column.of_others:
                        computed[:, place] = served.features[:, place]
        return computed


def _same(served: NDArray[np.float32], again: NDArray[np.float32]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(served - again) <= TOLERANCE * np.maximum(np.abs(served), np.abs(again))
    same: NDArray[np.bool_] = (served == again) | near | (np.isnan(served) & np.isnan(again))
    return same
