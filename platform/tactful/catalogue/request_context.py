"""Context of a request: the features of its user and visit at its time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful_streaming.contract.log_entries import Item
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.errors import EngineError
from tactful_streaming.windows.entity_table import NonZero
from tactful_streaming.windows.reads import Placing

if TYPE_CHECKING:
    from tactful_streaming.engine.reads import EngineReads

Values = Mapping[str, Any]


class FeatureSource(Protocol):
    """Interface of recommendation to the feature engine.

    An engine in this process has further reads, of which other sources may lack each: `users`,
    `resolve`, `read_late`, `read_placed` and `read_nonzero`.
    """

    @property
    def definitions(self) -> Definitions:
        """Definitions of the features."""

    @property
    def items(self) -> Mapping[str, Item]:
        """Latest upsert of each item."""

    @property
    def items_version(self) -> int:
        """Number that grows with every item upsert."""

    def items_since(self, version: int) -> Sequence[Item]:
        """Return the items that changed since `items_version` was `version`, or all items."""

    @property
    def offset(self) -> int | None:
        """Log offset before which all is applied; None where it is no single number."""

    @property
    def watermark(self) -> int:
        """Event time up to which events should be complete, epoch milliseconds."""

    def read(self, entity: str, key: str, at: int) -> Values:
        """Return all features of one entity as of `at` (epoch milliseconds)."""

    def read_columns(
        self, entity: str, keys: Sequence[str], names: Sequence[str], at: int
    ) -> NDArray[np.float64]:
        """Return ungrouped features of entities, shape (len(keys), len(names))."""


class CrossedVector(NamedTuple):
    """A profile that crossed from another domain."""

    releasing: str  # name of that domain
    embedding: str  # version of its directions
    vector: tuple[float, ...]


VISIT_PAUSE_MS = 1_800_000
"""A pause of this length ends a visit that has no id."""

_DAY = 86_400_000
_GREATEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class RequestContext:
    """User, visit and time of a request.

    session [17, 3]   history [29, 8, 40]   user {"visits_364d": 4.0, "taken_364d": {...}}
    """

    at: int  # time, epoch milliseconds
    # features of the user by name, to be used before the next batch is applied; empty without a
    # user
    user: Values
    session: list[int]  # catalogue rows of this visit's items, newest first
    history: list[int]  # catalogue rows of the user's latest other items, newest first, each once
    # description of the user; empty where none is kept
    properties: Values = field(default_factory=dict)
    visit: Values = field(default_factory=dict)  # features of the visit; empty without its id
    asked: Values = field(default_factory=dict)  # context that the request names: page, device…
    crossed: Sequence[CrossedVector] = ()  # profiles that the user lets cross from other domains

    @property
    def known(self) -> bool:
        """Whether the user or the visit has any item."""
        return bool(self.session or self.history)

    @property
    def seed(self) -> int:
        """Seed of what is ordered by chance: of the request, of an anonymous one of its day."""
        return self.at if self.user else self.at // _DAY

    def grouped(self, name: str) -> Mapping[str, float]:
        """Return a grouped feature of the user; empty without a user."""
        groups: Mapping[str, float] = self.user.get(name, {})
        return groups

    def number(self, name: str) -> float:
        """Return a plain feature of the user; 0 without a user, NaN beyond 32 bits."""
        value = float(self.user.get(name, 0.0))
        return value if abs(value) <= _GREATEST else math.nan


def build_context(
    source: FeatureSource,
    catalogue: Catalogue,  # gives items their rows; unknown items are left out
    *,
    subject: str | None,  # key of the `user` entity, None without a user
    session_id: str | None,  # None: the visit is all since the last pause of half an hour
    at: int,  # time, epoch milliseconds
    brought: Sequence[str] = (),  # items that the request names as the latest of the visit
    asked: Values = MappingProxyType({}),  # context of the request: page, device…
) -> RequestContext:
    """Read the features of the user and the visit."""
    user: Values = {}
    if subject is not None:
        read = (
            cast("EngineReads", source).read_late if hasattr(source, "read_late") else source.read
        )
        user = read("user", subject, at)
    latest: Sequence[tuple[str, int]] = user.get("recent_items", ())
    recent = [item for item, _ in latest]
    visit: Values = {}
    if session_id is None:
        visited = _since_pause(latest, at)
    else:
        visit = source.read("session", session_id, at)
        visited = [item for item, _ in visit.get("session_items", ())]
    if brought:
        latest_first = dict.fromkeys(reversed(brought))
        visited = [*latest_first, *(item for item in visited if item not in latest_first)]
    rows = catalogue.rows.of_many([*visited, *recent])
    # Another person may have the same visit id: items that this user did not deal with are hers.
    own = {*(recent if "recent_items" in user else visited), *brought}
    session = [
        row
        for row, item in zip(rows[: len(visited)], visited, strict=True)
        if row is not None and item in own
    ]
    seen = set(session)
    history: list[int] = []
    for row in rows[len(visited) :]:
        if row is not None and row not in seen:
            seen.add(row)
            history.append(row)
    return RequestContext(
        at=at,
        user=user,
        session=session,
        history=history,
        properties={} if subject is None else described(source, subject, at),
        visit=visit,
        asked=asked,
    )


def _since_pause(latest: Sequence[tuple[str, int]], at: int) -> list[str]:
    """Return the items since the last pause, of items with their times, newest first."""
    items = []
    for item, time in latest:
        if at - time > VISIT_PAUSE_MS:
            break
        items.append(item)
        at = time
    return items


def read_placed(
    source: FeatureSource,
    entity: str,  # ``item`` or ``category``
    placing: Placing,  # numbers of the entities, such as `Catalogue.item_places`
    places: NDArray[np.int64],  # at least 0, shape (n,)
    names: Sequence[str],
    at: int,  # time, epoch milliseconds
) -> NDArray[np.float64]:
    """Read ungrouped features of many entities by place; undefined ones are 0; (n, len(names))."""
    # By attribute: to check a protocol takes longer than to read.
    if hasattr(source, "read_placed"):
        placed = cast("EngineReads", source)
        return _read_defined(
            source,
            entity,
            names,
            lambda defined: placed.read_placed(entity, placing, places, defined, at),
            len(places),
        )
    distinct, of = np.unique(places, return_inverse=True)
    return read_columns(source, entity, placing.keys_at(distinct), names, at)[of]


def read_nonzero(
    source: FeatureSource, entity: str, name: str, at: int, start: int
) -> NonZero | None:
    """Read a part of the entities with a nonzero number; none if it is undefined.

    `start` is 0, then `NonZero.following` of the part before. None where the source cannot list
    them, and must be read by key.
    """
    if not hasattr(source, "read_nonzero"):
        return None
    try:
        return cast("EngineReads", source).read_nonzero(entity, name, at, start)
    except EngineError:
        if name in {feature.name for feature in source.definitions.of_entity(entity)}:
            raise
        return NonZero([], np.zeros(0), None)


def read_columns(
    source: FeatureSource, entity: str, keys: Sequence[str], names: Sequence[str], at: int
) -> NDArray[np.float64]:
    """Read ungrouped features of entities; undefined ones are 0. Shape (len(keys), len(names))."""
    return _read_defined(
        source,
        entity,
        names,
        lambda defined: source.read_columns(entity, keys, defined, at),
        len(keys),
    )


def _read_defined(
    source: FeatureSource,
    entity: str,
    names: Sequence[str],
    read: Callable[[Sequence[str]], NDArray[np.float64]],
    count: int,
) -> NDArray[np.float64]:
    """Call `read` with the defined names; undefined ones are 0."""
    try:
        return read(names)
    except EngineError:
        defined = {feature.name for feature in source.definitions.of_entity(entity)}
        numbers = [number for number, name in enumerate(names) if name in defined]
        if len(numbers) == len(names):
            raise
        columns = np.zeros((count, len(names)))
        if numbers:
            columns[:, numbers] = read([names[number] for number in numbers])
        return columns


def described(source: FeatureSource, subject: str, at: int) -> Values:
    """Read the properties of a user; none where the source keeps no descriptions."""
    if not hasattr(source, "users"):
        return {}
    engine = cast("EngineReads", source)
    user = engine.users.get(engine.resolve(subject, at))
    return {} if user is None else user.properties
