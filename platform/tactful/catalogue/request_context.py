"""Who is asking, as the feature engine sees them at the moment of asking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful_streaming.contract.log_entries import Item, User
from tactful_streaming.decode.row_cache import Placing
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.errors import EngineError
from tactful_streaming.windows.entity_table import NonZero

Values = Mapping[str, Any]


class FeatureSource(Protocol):
    """What recommendation needs of the feature engine: windows merged as of a moment."""

    @property
    def definitions(self) -> Definitions:
        """What is computed."""

    @property
    def items(self) -> Mapping[str, Item]:
        """The catalogue: latest upsert of each item."""

    @property
    def items_version(self) -> int:
        """Grows with every item upsert."""

    def items_since(self, version: int) -> Sequence[Item]:
        """The items that changed since `items_version` was `version`; maybe all of them."""

    @property
    def offset(self) -> int | None:
        """Log offset before which everything is applied; None where no one number says it."""

    @property
    def watermark(self) -> int:
        """Event time up to which events are expected to be complete, epoch milliseconds."""

    def read(self, entity: str, key: str, at: int) -> Values:
        """All features of one entity as of `at` (epoch milliseconds)."""

    def read_columns(
        self, entity: str, keys: Sequence[str], names: Sequence[str], at: int
    ) -> NDArray[np.float64]:
        """Ungrouped features of several entities, shape (len(keys), len(names))."""


class ReadsUsers(Protocol):
    """A feature engine that keeps descriptions of people."""

    @property
    def users(self) -> Mapping[str, User]:
        """Latest description of each user."""

    def resolve(self, key: str, at: int) -> str:
        """Key of the person whom ``device:<device_id>`` stands for at a time."""


class ReadsLate(Protocol):
    """A feature engine that reads a feature when it is asked for."""

    def read_late(self, entity: str, key: str, at: int) -> Values:
        """As `FeatureSource.read`, to be used before the engine goes on."""


class ReadsPlaced(Protocol):
    """A feature engine that remembers where it finds what has a place with the reader."""

    def read_placed(
        self,
        entity: str,
        placing: Placing,
        places: NDArray[np.int64],
        names: Sequence[str],
        at: int,
    ) -> NDArray[np.float64]:
        """Ungrouped features of the entities at some places, shape (len(places), len(names))."""


class ReadsNonZero(Protocol):
    """A feature engine that tells which entities have a number at all."""

    def read_nonzero(self, entity: str, name: str, at: int, start: int = 0) -> NonZero | None:
        """Entities whose number is not 0, a part of them; None: they are to be asked for by key."""


@dataclass(frozen=True)
class RequestContext:
    """The person, the visit and the moment a list is asked for.

    Attributes:
        at: the moment, epoch milliseconds.
        user: features of the person by name, to be used before the engine goes on; empty when
            nobody is named.
        session: catalogue rows of this visit's items, newest first.
        history: catalogue rows of the person's latest other items, newest first, each once.
        properties: what the shop knows of the person; empty where nobody keeps it.
    """

    at: int
    user: Values
    session: list[int]
    history: list[int]
    properties: Values = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether anything is known of the person or the visit."""
        return bool(self.session or self.history)

    def grouped(self, name: str) -> Mapping[str, float]:
        """A grouped feature of the person; empty when nobody is named."""
        found: Mapping[str, float] = self.user.get(name, {})
        return found

    def number(self, name: str) -> float:
        """A plain feature of the person; 0 when nobody is named."""
        return float(self.user.get(name, 0.0))


def build_context(
    source: FeatureSource,
    catalogue: Catalogue,
    *,
    subject: str | None,
    session_id: str | None,
    at: int,
) -> RequestContext:
    """Read who is asking.

    Args:
        source: the feature engine.
        catalogue: gives items their rows; items it does not know are left out.
        subject: key of the `user` entity, None when nobody is named.
        session_id: the visit, if known.
        at: the moment, epoch milliseconds.

    Returns:
        The context.
    """
    user: Values = _read_late(source, subject, at) if subject is not None else {}
    visit: Values = source.read("session", session_id, at) if session_id is not None else {}
    visited = [item for item, _ in visit.get("session_items", ())]
    recent = [item for item, _ in user.get("recent_items", ())]
    rows = catalogue.rows.of_many([*visited, *recent])
    session = [row for row in rows[: len(visited)] if row is not None]
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
    )


def _read_late(source: FeatureSource, subject: str, at: int) -> Values:
    """Features of a person: what a search begins with first, the others while it goes on."""
    if hasattr(source, "read_late"):
        return cast(ReadsLate, source).read_late("user", subject, at)
    return source.read("user", subject, at)


def read_placed(
    source: FeatureSource,
    entity: str,
    placing: Placing,
    places: NDArray[np.int64],
    names: Sequence[str],
    at: int,
) -> NDArray[np.float64]:
    """Ungrouped features of many entities, without their keys where the source can.

    Those that the definitions lack are 0.

    Args:
        source: the feature engine.
        entity: ``item`` or ``category``.
        placing: which entity is where, such as `Catalogue.item_places`.
        places: at least 0, shape (n,).
        names: features.
        at: the moment, epoch milliseconds.

    Returns:
        Shape (n, len(names)).
    """
    # Asked for by name: to check a protocol takes longer than to read.
    if hasattr(source, "read_placed"):
        placed = cast(ReadsPlaced, source)
        return _read_defined(
            source,
            entity,
            names,
            lambda some: placed.read_placed(entity, placing, places, some, at),
            len(places),
        )
    distinct, of = np.unique(places, return_inverse=True)
    return read_columns(source, entity, placing.keys_at(distinct), names, at)[of]


def read_nonzero(
    source: FeatureSource, entity: str, name: str, at: int, start: int
) -> NonZero | None:
    """The entities whose number is not 0, a part of them; none where the definitions lack it.

    Args:
        source: the feature engine.
        entity: kind of entity.
        name: feature.
        at: the moment, epoch milliseconds.
        start: where to begin: 0, then what the part before says.

    Returns:
        None where the source cannot tell, and has to be asked by key.
    """
    if not hasattr(source, "read_nonzero"):
        return None
    try:
        return cast(ReadsNonZero, source).read_nonzero(entity, name, at, start)
    except EngineError:
        if name in {feature.name for feature in source.definitions.of_entity(entity)}:
            raise
        return NonZero([], np.zeros(0), None)


def read_columns(
    source: FeatureSource, entity: str, keys: Sequence[str], names: Sequence[str], at: int
) -> NDArray[np.float64]:
    """Ungrouped features of several entities; those that the definitions lack are 0.

    Args:
        source: the feature engine.
        entity: kind of entity.
        keys: ids.
        names: features.
        at: the moment, epoch milliseconds.

    Returns:
        Shape (len(keys), len(names)).
    """
    return _read_defined(
        source,
        entity,
        names,
        lambda some: source.read_columns(entity, keys, some, at),
        len(keys),
    )


def _read_defined(
    source: FeatureSource,
    entity: str,
    names: Sequence[str],
    read: Callable[[Sequence[str]], NDArray[np.float64]],
    count: int,
) -> NDArray[np.float64]:
    """What `read` gives of `count` entities; of names that are not defined, 0."""
    try:
        return read(names)
    except EngineError:
        defined = {feature.name for feature in source.definitions.of_entity(entity)}
        found = [number for number, name in enumerate(names) if name in defined]
        if len(found) == len(names):
            raise
        columns = np.zeros((count, len(names)))
        if found:
            columns[:, found] = read([names[number] for number in found])
        return columns


def described(source: FeatureSource, subject: str, at: int) -> Values:
    """Properties of a person; none where the source keeps no descriptions.

    Args:
        source: the feature engine.
        subject: key of the `user` entity.
        at: the moment, epoch milliseconds.
    """
    if not hasattr(source, "users"):
        return {}
    people = cast(ReadsUsers, source)
    user = people.users.get(people.resolve(subject, at))
    return {} if user is None else user.properties
