"""The features that a serving process sees: those of the process that keeps them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.changes import Reading
from tactful.catalogue.request_context import Values
from tactful.errors import NotPersonal
from tactful.recall.trending import Rise
from tactful.schemas.positions import Position
from tactful.workers.ipc import (
    Asker,
    Changed,
    Changes,
    Numbers,
    Read,
    ReadColumns,
    ReadNonZero,
    Rises,
    Seen,
)
from tactful_streaming.contract.log_entries import Item, User, decode_entry
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.windows.entity_table import NonZero


class WorkerSource:
    """A :class:`~tactful.catalogue.request_context.FeatureSource` that asks for everything.

    It also knows, of the people that the present request has read, how they are described and what
    they were shown today.

    It holds no item and nobody's history. Requests are for one thread, the refresh for another:
    each has an end of its own to ask through, so that neither waits for the other.
    """

    def __init__(self, definitions: Definitions, requests: Asker, refresh: Asker) -> None:
        """Ask through two ends.

        Args:
            definitions: what is computed there.
            requests: for the thread that answers requests.
            refresh: for the thread that follows items and popularity.
        """
        self._definitions = definitions
        self._requests = requests
        self._refresh = refresh
        self._seen: Seen | Changed | None = None
        self._people: dict[str, Seen] = {}
        self._changed: Changed | None = None
        self._serving = threading.get_ident()
        self._device: str | None = None
        self._claim: str | None = None

    @property
    def definitions(self) -> Definitions:
        """What is computed."""
        return self._definitions

    @property
    def items(self) -> Mapping[str, Item]:
        """None are kept here: they are followed by `item_feed`."""
        return {}

    @property
    def items_version(self) -> int:
        """Never changes: items are followed by `item_feed`."""
        return 0

    def items_since(self, version: int) -> Sequence[Item]:
        """None: they are followed by `item_feed`."""
        return ()

    @property
    def offset(self) -> int | None:
        """Log offset that the present request's features are as of; None where none says it."""
        seen = self._seen or self._changed
        return None if seen is None else seen.offset

    @property
    def position(self) -> Position:
        """The same as it goes over the wire."""
        seen = self._seen or self._changed
        return 0 if seen is None else seen.position

    @property
    def watermark(self) -> int:
        """Event time up to which events are expected to be complete, epoch milliseconds."""
        return 0 if self._changed is None else self._changed.watermark

    def begin(self, device: str | None = None, claim: object = None) -> None:
        """Begin a request: what it reads first says what it is as of.

        Args:
            device: id of the device it comes from.
            claim: what it says of consent.
        """
        self._seen, self._serving = None, threading.get_ident()
        self._device = device
        self._claim = claim if isinstance(claim, str) else None
        self._people = {}

    def read(self, entity: str, key: str, at: int) -> Values:
        """All features of one entity as of `at` (epoch milliseconds).

        Raises:
            NotPersonal: if the history of this person must not be read.
            ProblemError: if the engine does not answer or is not ready.
        """
        seen = self._requests.ask(Read(entity, key, at, self._device, self._claim), Seen)
        if not seen.personal:
            raise NotPersonal("the history of this person must not be read")
        if self._seen is None:
            self._seen = seen
        if entity == "user":
            self._people[key] = seen
        return seen.values

    def read_columns(
        self, entity: str, keys: Sequence[str], names: Sequence[str], at: int
    ) -> NDArray[np.float64]:
        """Ungrouped features of several entities, shape (len(keys), len(names)).

        Raises:
            ProblemError: if the engine does not answer or is not ready.
        """
        serving = threading.get_ident() == self._serving
        asker = self._requests if serving else self._refresh
        found = asker.ask(ReadColumns(entity, [*keys], [*names], at), bytes)
        return np.frombuffer(found, np.float64).reshape(len(keys), len(names))

    def read_nonzero(self, entity: str, name: str, at: int, start: int = 0) -> NonZero | None:
        """As `Engine.read_nonzero`, for the thread that follows items and popularity.

        Raises:
            ProblemError: if the engine does not answer or is not ready.
        """
        found = self._refresh.ask(ReadNonZero(entity, name, at, start), Numbers)
        if found.keys is None:
            return None
        return NonZero(found.keys, np.frombuffer(found.numbers, np.float64), found.following)

    @property
    def users(self) -> Mapping[str, User]:
        """Descriptions of the people that the present request has read."""
        return {
            key: User(user_id=key, timestamp=0, properties=seen.properties)
            for key, seen in self._people.items()
            if seen.properties is not None
        }

    def resolve(self, key: str, at: int) -> str:
        """The key itself: what is read of a device is of whoever holds it."""
        return key

    def of(self, subject: str | None, at: int) -> Mapping[str, int]:
        """How often a person that the present request has read was shown each item today."""
        seen = None if subject is None else self._people.get(subject)
        return {} if seen is None else seen.shown or {}

    def rises(self) -> Sequence[Rise]:
        """What rises in published statistics, as the process that reads them found last."""
        return self._refresh.ask(Rises(), list[Rise])

    def item_feed(self) -> _Feed:
        """The items, from the first."""
        return _Feed(self)

    def _changes(self, epoch: int, start: int) -> Changed:
        self._changed = self._refresh.ask(Changes(epoch, start), Changed)
        return self._changed


class _Feed:
    """What changed, piece by piece, so that no piece takes much memory."""

    def __init__(self, source: WorkerSource) -> None:
        self._source = source
        self._epoch = self._next = 0

    def changes(self, reading: Reading = None) -> Sequence[Item]:
        changed = self._source._changes(self._epoch, self._next)
        self._epoch, self._next = changed.epoch, changed.next
        return [
            entry for payload in changed.items if isinstance(entry := decode_entry(payload), Item)
        ]
