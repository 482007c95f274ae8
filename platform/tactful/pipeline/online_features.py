"""Features of users and sessions from the online store, others from the engine.

Workers own partitions of the log and copy the features of users and sessions to the online store.
Features by item or category need all partitions, so the server's own engine computes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tactful.schemas.positions import Offsets
from tactful.schemas.problems import ProblemError
from tactful_streaming.contract.log_entries import Item, User
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.errors import OnlineStoreError
from tactful_streaming.online.store import OnlineStore
from tactful_streaming.windows.entity_table import NonZero, PackedReader
from tactful_streaming.windows.reads import Placing
from tactful_streaming.windows.shared_aggregate import Value

SHARED = ("user", "session")
"""Entities whose events lie in one partition, so that a worker computes them fully."""

_PAUSE_S = 1.0
_T = TypeVar("_T")


def own_definitions(definitions: Definitions, *, patterns: bool = False) -> Definitions:
    """Select the definitions that the server computes when workers compute the others.

    With `patterns` it finds all sequences and joins itself, as a Flink job cannot write to the log.
    """
    own = _chosen(definitions, lambda entity: entity not in SHARED)
    if patterns:
        own = Definitions(own.features, definitions.sequences, definitions.joins)
    return own


def shared_definitions(definitions: Definitions) -> Definitions:
    """Select the definitions that workers compute."""
    return _chosen(definitions, lambda entity: entity in SHARED)


def _chosen(definitions: Definitions, wanted: Callable[[str], bool]) -> Definitions:
    return Definitions(
        tuple(feature for feature in definitions.features if wanted(feature.entity)),
        tuple(sequence for sequence in definitions.sequences if wanted(sequence.entity)),
        tuple(join for join in definitions.joins if wanted(join.entity)),
    )


class SharedFeatures:
    """A source of features that reads an engine and an online store.

    Implements :class:`~tactful.catalogue.request_context.FeatureSource`.
    While the store does not answer, reads of users raise `ProblemError` at once and it is tried
    again every second, so that no requests queue up.
    """

    offset: None = None  # workers read partitions independently

    def __init__(
        self,
        engine: Engine,
        definitions: Definitions,
        online: OnlineStore,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read from an engine of `own_definitions(definitions)` and an online store.

        The store has short timeouts and is closed with this object.
        """
        self.definitions = definitions
        self._engine = engine
        self._online = online
        self._readers = {kind: PackedReader(definitions.of_entity(kind)) for kind in SHARED}
        self._clock = clock
        self._failed_at: float | None = None

    @property
    def items(self) -> Mapping[str, Item]:
        """The catalogue: latest upsert of each item."""
        return self._engine.items

    @property
    def users(self) -> Mapping[str, User]:
        """Latest upsert of each user, which the own engine reads, too."""
        return self._engine.users

    @property
    def items_version(self) -> int:
        """Number of item upserts."""
        return self._engine.items_version

    def items_since(self, version: int) -> list[Item]:
        """Return the items that changed since an `items_version`; maybe all."""
        return self._engine.items_since(version)

    @property
    def watermark(self) -> int:
        """Event time up to which events are expected to be complete, epoch milliseconds."""
        return self._engine.watermark

    @property
    def problem(self) -> str | None:
        """Message while the online store cannot be reached."""
        return None if self._failed_at is None else "the online store cannot be reached"

    def read(self, entity: str, key: str, at: int) -> dict[str, Value]:
        """Read all features of one entity at a time (epoch milliseconds)."""
        reader = self._readers.get(entity)
        if reader is None:
            return self._engine.read(entity, key, at)
        if entity == "user":  # the own engine reads all logins, too
            key = self._engine.resolve(key, at)
        (blob,) = self._ask(lambda: self._online.get_many([key], kind=entity))
        return reader.read(blob, at)

    def read_columns(
        self, entity: str, keys: Sequence[str], names: Sequence[str], at: int
    ) -> NDArray[np.float64]:
        """Read ungrouped features of several entities, shape (len(keys), len(names))."""
        reader = self._readers.get(entity)
        if reader is None:
            return self._engine.read_columns(entity, keys, names, at)
        if entity == "user":
            keys = [self._engine.resolve(key, at) for key in keys]
        blobs = self._ask(lambda: self._online.get_many(keys, kind=entity))
        values = [reader.read(blob, at) for blob in blobs]
        rows = [[value.get(name, np.nan) for name in names] for value in values]
        return np.array(rows, np.float64).reshape(len(keys), len(names))

    def read_placed(
        self,
        entity: str,
        placing: Placing,
        places: NDArray[np.int64],
        names: Sequence[str],
        at: int,
    ) -> NDArray[np.float64]:
        """Read columns of items or categories by their rows."""
        return self._engine.read_placed(entity, placing, places, names, at)

    def read_nonzero(self, entity: str, name: str, at: int, start: int = 0) -> NonZero | None:
        """Read nonzero values of items or categories, like `Engine.read_nonzero`."""
        return self._engine.read_nonzero(entity, name, at, start)

    def resolve(self, key: str, at: int) -> str:
        """Return the key of the user of ``device:<device_id>`` at time `at`."""
        return self._engine.resolve(key, at)

    def marks(self, partitions: Collection[int]) -> Offsets:
        """Return the offsets of the workers' copies, without partitions that have none."""
        marks = {number: self._ask(partial(self._online.marked, number)) for number in partitions}
        return {number: offset for number, offset in marks.items() if offset is not None}

    def close(self) -> None:
        """Close the store."""
        self._online.close()

    def _ask(self, operation: Callable[[], _T]) -> _T:
        failed = self._failed_at
        if failed is None or self._clock() - failed >= _PAUSE_S:
            try:
                answer = operation()
            except OnlineStoreError:
                self._failed_at = self._clock()
            else:
                self._failed_at = None
                return answer
        raise ProblemError(
            "not_ready", "the features of users cannot be read at present", retry_after=1
        )
