"""Reads of an engine: features at request time, the catalogue and users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from tactful_streaming.arrays import Floats, Rows
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, Item, User
from tactful_streaming.definitions.model import ENTITIES, Definitions
from tactful_streaming.engine.engine_state import EngineState
from tactful_streaming.errors import EngineError
from tactful_streaming.windows.entity_table import EntityTable, NonZero
from tactful_streaming.windows.reads import Placing
from tactful_streaming.windows.shared_aggregate import Value


class EngineReads:
    """The read side of an engine, which inherits it; no reader while a batch is applied.

    A window read at a time before the horizon (the watermark less the allowed lateness) may miss
    panes that no later window holds.
    """

    def __init__(self, state: EngineState) -> None:
        """Read from `state`."""
        self._state = state
        self._with_operators = {operator.entity for operator in state.operators}
        self.users: Mapping[str, User] = state.users.view  # latest upsert of each user

    @property
    def definitions(self) -> Definitions:
        """The computed features, sequences and joins."""
        return self._state.definitions

    @property
    def missing(self) -> tuple[str, ...]:
        """Features that a backfill has to compute; they read as zeros and empties."""
        return self._state.missing

    @property
    def offset(self) -> int:
        """Next offset of the log to apply."""
        return self._state.offset

    @property
    def watermark(self) -> int:
        """Newest event timestamp applied minus the delay, epoch milliseconds."""
        return self._state.watermark

    @property
    def items(self) -> Mapping[str, Item]:
        """The catalogue: latest upsert of each item."""
        return self._state.admission.catalogue

    @property
    def items_version(self) -> int:
        """Number of item upserts applied."""
        return self._state.items_version

    def items_since(self, version: int) -> list[Item]:
        """Return the items that changed since `version`, a former :attr:`items_version`, each once.

        The cost is that of the changes, unless they are too many to be remembered: then all items
        are returned.
        """
        changes = self.items_version - version
        if changes > len(self._state.latest_items):
            return [*self.items.values()]
        latest = dict.fromkeys(islice(reversed(self._state.latest_items), changes))
        return [self.items[item_id] for item_id in latest]

    def read(self, entity: str, key: str, at: int) -> dict[str, Value]:
        """Return all features of one entity at request time `at`, epoch milliseconds.

        `key` is its id, or ``device:<device_id>`` for the user who holds a device at that time: the
        features of the user if known, else those of the device.

        Returns:
            By name: a number; a number for each group; or (value, timestamp) pairs, newest first. A
            sequence gives the time of its last match, a join its newest pairs of item and time.
            Zeros and empties for an entity without events. A number beyond the range of a double
            is left out.
        """
        table = self._table(entity)
        key = self.resolve(key, at) if entity == "user" else key
        values = table.read(key, at) if table is not None else {}
        for name in self.missing:
            if name in values:
                values[name] = type(values[name])()
        for operator in self._state.operators:
            if operator.entity == entity:
                values[operator.name] = operator.read(key, at)
        return values

    def read_late(self, entity: str, key: str, at: int) -> Mapping[str, Value]:
        """Return the features of :meth:`read`, each computed on access where possible.

        The mapping is to be used before the next batch is applied.
        """
        table = self._table(entity)
        if table is None or self.missing or entity in self._with_operators:
            return self.read(entity, key, at)
        return table.read_late(self.resolve(key, at) if entity == "user" else key, at)

    def read_columns(
        self, entity: str, keys: Sequence[str], names: Sequence[str], at: int
    ) -> Floats:
        """Return features without group_by of many entities; shape ``(len(keys), len(names))``.

        NaN stands for a number beyond the range of a double.

        Raises:
            EngineError: if a name is no such feature.
        """
        table = self._described(entity)
        if entity == "user":
            keys = [self.resolve(key, at) for key in keys]
        return self._without_missing(table.read_columns(keys, names, at), names)

    def read_placed(
        self, entity: str, placing: Placing, places: Rows, names: Sequence[str], at: int
    ) -> Floats:
        """Return the columns of :meth:`read_columns` by an index of the reader.

        It is several times as fast, once their keys have been looked up: look-ups are remembered as
        long as `placing` lives. `places` are at least 0.

        Raises:
            EngineError: if a name is no such feature, or `entity` is ``user``: devices change
                hands.
        """
        table = self._table(entity)
        if table is None or entity == "user":
            raise EngineError(f"entities {entity!r} have no features that are read by place")
        return self._without_missing(table.read_placed(placing, places, names, at), names)

    def read_nonzero(self, entity: str, name: str, at: int, start: int = 0) -> NonZero | None:
        """Return a page of the entities whose number is not 0; None if not all are in memory.

        `start` is 0, then `following` of the page before. The cost is that of the known entities.

        Raises:
            EngineError: if `name` is no feature with one number for each entity.
        """
        part = self._described(entity).read_nonzero(name, at, start)
        return NonZero([], np.zeros(0), None) if part and name in self.missing else part

    def resolve(self, key: str, at: int) -> str:
        """Return the user who holds ``device:<device_id>`` at time `at`; `key` if none is known."""
        if self._state.resolver is None or not key.startswith(DEVICE_PREFIX):
            return key
        return self._state.resolver.resolve(key, at, self._state.admission.newest)

    def devices_of(self, user_id: str) -> tuple[str, ...]:
        """Return the devices on which a user has logged in, as far as remembered here."""
        if self._state.resolver is None:
            return ()
        return self._state.resolver.links.devices_of(user_id, self._state.admission.newest)

    def _table(self, entity: str) -> EntityTable | None:
        """Return the features of a kind of entity; None if no feature describes it."""
        if entity not in ENTITIES:
            raise EngineError(f"{entity!r} is not one of {', '.join(ENTITIES)}")
        return self._state.tables.get(entity)

    def _described(self, entity: str) -> EntityTable:
        table = self._table(entity)
        if table is None:
            raise EngineError(f"no feature describes entity {entity!r}")
        return table

    def _without_missing(self, columns: Floats, names: Sequence[str]) -> Floats:
        for name in self.missing:
            if name in names:
                columns[:, list(names).index(name)] = 0
        return columns
