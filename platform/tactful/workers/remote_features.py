"""Features of the process that owns the state, requested by a serving worker."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.changes import Reading
from tactful.catalogue.request_context import CrossedVector, Values
from tactful.errors import NotPersonal
from tactful.recall.trending import Rise
from tactful.schemas.positions import Position
from tactful.workers import ipc
from tactful_streaming.contract.log_entries import Item, User, decode_entry
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.windows.entity_table import NonZero


class RemoteFeatures:
    """`tactful.catalogue.request_context.FeatureSource` that requests every feature.

    Reads raise `ProblemError` while the engine does not answer or is not ready.

    It keeps no item and no history; for the users that the present request has read, it keeps
    their properties and today's impressions. The thread that answers requests and the thread that
    refreshes have a socket each, so that neither waits for the other.
    """

    items: Mapping[str, Item] = MappingProxyType({})  # always empty: `item_feed` returns the items
    items_version = 0

    def __init__(
        self, definitions: Definitions, requests: ipc.BlockingClient, refresh: ipc.BlockingClient
    ) -> None:
        """Request features for the thread of requests and for the one that refreshes."""
        self.definitions = definitions  # of the computed features
        self._requests = requests
        self._refresh = refresh
        self._first: ipc.FeaturesResponse | ipc.ChangesResponse | None = None
        self._users: dict[str, ipc.FeaturesResponse] = {}
        self._changed: ipc.ChangesResponse | None = None
        self._serving = threading.get_ident()
        self._device: str | None = None
        self._claim: str | None = None

    def items_since(self, version: int) -> Sequence[Item]:
        """Return nothing: `item_feed` returns the items."""
        return ()

    @property
    def offset(self) -> int | None:
        """Log offset that the features of the present request include; None if unknown."""
        first = self._first or self._changed
        return None if first is None else first.offset

    @property
    def position(self) -> Position:
        """The same in its HTTP form."""
        first = self._first or self._changed
        return 0 if first is None else first.position

    @property
    def watermark(self) -> int:
        """Event time up to which events are expected to be complete, epoch milliseconds."""
        return 0 if self._changed is None else self._changed.watermark

    def latest(self) -> int:
        """Return the time of the latest event about an item; 0 while it is unknown."""
        return 0 if self._changed is None else self._changed.latest

    def begin(self, device: str | None = None, claim: object = None) -> None:
        """Begin a request of `device`, which claims consent; its first read determines `offset`."""
        self._first, self._serving = None, threading.get_ident()
        self._device = device
        self._claim = claim if isinstance(claim, str) else None
        self._users = {}

    def read(self, entity: str, key: str, at: int) -> Values:
        """Return all features of one entity as of `at` (epoch milliseconds).

        Raises:
            NotPersonal: if consent does not allow to read this history.
        """
        request = ipc.FeaturesRequest(entity, key, at, self._device, self._claim)
        response = self._requests.request(request, ipc.FeaturesResponse)
        if not response.personal:
            raise NotPersonal("consent does not allow to read the history of this user")
        if self._first is None:
            self._first = response
        if entity == "user":
            self._users[key] = response
        return response.values

    def read_columns(
        self, entity: str, keys: Sequence[str], names: Sequence[str], at: int
    ) -> NDArray[np.float64]:
        """Return ungrouped features of several entities, shape (len(keys), len(names))."""
        serving = threading.get_ident() == self._serving
        client = self._requests if serving else self._refresh
        columns = client.request(ipc.ColumnsRequest(entity, [*keys], [*names], at), bytes)
        return np.frombuffer(columns, np.float64).reshape(len(keys), len(names))

    def read_nonzero(self, entity: str, name: str, at: int, start: int = 0) -> NonZero | None:
        """Return a page of `Engine.read_nonzero`; for the thread that refreshes."""
        request = ipc.NonZeroRequest(entity, name, at, start)
        page = self._refresh.request(request, ipc.NonZeroResponse)
        if page.keys is None:
            return None
        return NonZero(page.keys, np.frombuffer(page.numbers, np.float64), page.following)

    @property
    def users(self) -> Mapping[str, User]:
        """Descriptions of the users that the present request has read."""
        return {
            key: User(user_id=key, timestamp=0, properties=response.properties)
            for key, response in self._users.items()
            if response.properties is not None
        }

    def resolve(self, key: str, at: int) -> str:
        """Return the key itself: the engine resolves a device to its user when it reads."""
        return key

    def of(self, subject: str | None, at: int) -> Mapping[str, int]:
        """Return today's impressions of each item to a user of the present request."""
        response = None if subject is None else self._users.get(subject)
        return {} if response is None else response.shown or {}

    def crossed(self, subject: str, device: str | None, at: int) -> Sequence[CrossedVector]:
        """Return the profiles that a user of the present request lets cross."""
        response = self._users.get(subject)
        return () if response is None else response.crossed

    def rises(self) -> Sequence[Rise]:
        """Return the latest rises in published statistics."""
        return self._refresh.request(ipc.TrendsRequest(), list[Rise])

    def common(self, at: int) -> Sequence[str]:
        """Return the items that enough people took; for the thread that refreshes."""
        items: list[str] = []
        while page := self._refresh.request(ipc.TakersRequest(at, len(items)), list[str]):
            items += page
        return items

    def item_feed(self) -> _Feed:
        """Return a reader of all items, from the first."""
        return _Feed(self)

    def _changes(self, epoch: int, start: int) -> ipc.ChangesResponse:
        self._changed = self._refresh.request(ipc.ChangesRequest(epoch, start), ipc.ChangesResponse)
        return self._changed


class _Feed:
    """Changed items, page by page, so that no page takes much memory."""

    def __init__(self, source: RemoteFeatures) -> None:
        self._source = source
        self._epoch = self._next = 0

    def changes(self, reading: Reading = None) -> Sequence[Item]:
        changed = self._source._changes(self._epoch, self._next)
        self._epoch, self._next = changed.epoch, changed.next
        return [
            entry for payload in changed.items if isinstance(entry := decode_entry(payload), Item)
        ]
