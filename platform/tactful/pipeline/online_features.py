"""Features of two places: people and visits as workers share them, all else of the own engine.

Workers keep one partition of the log each and copy what they know of people and visits to the
online store. What is counted over everybody, by item or category, no worker knows as a whole, so
the server counts it itself, with an engine that computes nothing else.
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
from tactful_streaming.decode.row_cache import Placing
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.errors import OnlineStoreError
from tactful_streaming.online.store import OnlineStore
from tactful_streaming.windows.entity_table import NonZero, PackedReader
from tactful_streaming.windows.shared_aggregate import Value

SHARED = ("user", "session")
"""Kinds of entity that lie in one partition each, so that workers know them as a whole."""

_PAUSE_S = 1.0
_T = TypeVar("_T")


def own_definitions(definitions: Definitions) -> Definitions:
    """What the server computes itself when workers compute the rest."""
    return _chosen(definitions, lambda entity: entity not in SHARED)


def shared_definitions(definitions: Definitions) -> Definitions:
    """What workers compute: of an item or a category each of them knows only a part."""
    return _chosen(definitions, lambda entity: entity in SHARED)


def _chosen(definitions: Definitions, wanted: Callable[[str], bool]) -> Definitions:
    return Definitions(
        tuple(feature for feature in definitions.features if wanted(feature.entity)),
        tuple(sequence for sequence in definitions.sequences if wanted(sequence.entity)),
        tuple(join for join in definitions.joins if wanted(join.entity)),
    )


class SharedFeatures:
    """A :class:`~tactful.catalogue.request_context.FeatureSource` of an engine and an online store.

    While the store cannot be reached, reads of people are refused at once and it is tried again
    every second, so that requests do not queue up behind a store that does not answer.
    """

    def __init__(
        self,
        engine: Engine,
        definitions: Definitions,
        online: OnlineStore,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read from `engine` what it computes, from `online` what `definitions` have beyond.

        Args:
            engine: computes `own_definitions(definitions)`.
            definitions: all definitions.
            online: the store, which should answer or fail quickly; closed with this object.
            clock: monotonic seconds.
        """
        self._engine = engine
        self._definitions = definitions
        self._online = online
        self._readers = {kind: PackedReader(definitions.of_entity(kind)) for kind in SHARED}
        self._clock = clock
        self._failed_at: float | None = None

    @property
    def definitions(self) -> Definitions:
        """All definitions."""
        return self._definitions

    @property
    def items(self) -> Mapping[str, Item]:
        """The catalogue: latest upsert of each item."""
        return self._engine.items

    @property
    def users(self) -> Mapping[str, User]:
        """Latest upsert of each user: the own engine has read of all of them, too."""
        return self._engine.users

    @property
    def items_version(self) -> int:
        """Grows with every item upsert."""
        return self._engine.items_version

    def items_since(self, version: int) -> list[Item]:
        """The items that changed since `items_version` was `version`; maybe all of them."""
        return self._engine.items_since(version)

    @property
    def offset(self) -> None:
        """None: workers are as far as they are, each with its partitions."""
        return None

    @property
    def watermark(self) -> int:
        """Event time up to which events are expected to be complete, epoch milliseconds."""
        return self._engine.watermark

    @property
    def problem(self) -> str | None:
        """What is wrong with the online store, in words."""
        return None if self._failed_at is None else "the online store cannot be reached"

    def read(self, entity: str, key: str, at: int) -> dict[str, Value]:
        """All features of one entity as of `at` (epoch milliseconds).

        Raises:
            ProblemError: if the online store does not answer.
        """
        reader = self._readers.get(entity)
        if reader is None:
            return self._engine.read(entity, key, at)
        key = self._resolved(entity, key, at)
        (blob,) = self._ask(lambda: self._online.get_many([key], kind=entity))
        return reader.read(blob, at)

    def read_columns(
        self, entity: str, keys: Sequence[str], names: Sequence[str], at: int
    ) -> NDArray[np.float64]:
        """Ungrouped features of several entities, shape (len(keys), len(names)).

        Raises:
            ProblemError: if the online store does not answer.
        """
        reader = self._readers.get(entity)
        if reader is None:
            return self._engine.read_columns(entity, keys, names, at)
        keys = [self._resolved(entity, key, at) for key in keys]
        blobs = self._ask(lambda: self._online.get_many(keys, kind=entity))
        values = [reader.read(blob, at) for blob in blobs]
        rows = [[value[name] for name in names] for value in values]
        return np.array(rows, np.float64).reshape(len(keys), len(names))

    def read_placed(
        self,
        entity: str,
        placing: Placing,
        places: NDArray[np.int64],
        names: Sequence[str],
        at: int,
    ) -> NDArray[np.float64]:
        """As `read_columns`, of items or categories at some places."""
        return self._engine.read_placed(entity, placing, places, names, at)

    def read_nonzero(self, entity: str, name: str, at: int, start: int = 0) -> NonZero | None:
        """As `Engine.read_nonzero`, of items or categories."""
        return self._engine.read_nonzero(entity, name, at, start)

    def resolve(self, key: str, at: int) -> str:
        """Key of the person whom ``device:<device_id>`` stands for at time `at`."""
        return self._engine.resolve(key, at)

    def marks(self, partitions: Collection[int]) -> Offsets:
        """How far the workers' copies have come; a partition that nobody copied is left out.

        Raises:
            ProblemError: if the online store does not answer.
        """
        marks: dict[int, int] = {}
        for number in partitions:
            offset = self._ask(partial(self._online.marked, number))
            if offset is not None:
                marks[number] = offset
        return marks

    def close(self) -> None:
        """Close the store."""
        self._online.close()

    def _resolved(self, entity: str, key: str, at: int) -> str:
        """Key of whoever holds a device: the own engine has read of all logins, too."""
        return self._engine.resolve(key, at) if entity == "user" else key

    def _ask(self, question: Callable[[], _T]) -> _T:
        failed = self._failed_at
        if failed is not None and self._clock() - failed < _PAUSE_S:
            raise _refusal()
        try:
            answer = question()
        except OnlineStoreError as error:
            self._failed_at = self._clock()
            raise _refusal() from error
        self._failed_at = None
        return answer


def _refusal() -> ProblemError:
    return ProblemError(
        "not_ready", "the features of people cannot be read at present", retry_after=1
    )
