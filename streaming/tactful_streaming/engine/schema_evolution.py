"""What changed definitions mean for a stored state: what stays, what goes, what is to be computed.

A feature keeps its state if all that it is read from is stored and reaches back far enough: a new
window that is no longer than another one of the same panes is there at once. Other new features are
*missing* until their state has been computed from the log (:func:`~tactful_streaming.backfill`):
they read as nothing until then. Sequences and joins begin at the present: what they would have set
off in the past is not set off now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from tactful_streaming.definitions.model import (
    ENTITIES,
    Definition,
    Definitions,
    Feature,
    Join,
    Sequence,
    dump_definitions,
)
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import DefinitionError, StateError
from tactful_streaming.state.key_layout import CURE, Meta, operator_prefix, read_meta
from tactful_streaming.state.store import Change, StateStore
from tactful_streaming.windows.entity_table import EntityTable


@dataclass(frozen=True)
class EvolutionPlan:
    """What becomes of a stored state under some definitions.

    Attributes:
        kept: features whose state is there.
        dropped: definitions that are gone, and their state with them.
        recomputed: features that are missing until they are computed from the log.
        restarted: new or changed sequences and joins: they begin at `offset`.
        begin: first log offset that is read for it.
        offset: log offset up to which it is read.
    """

    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    recomputed: tuple[str, ...]
    restarted: tuple[str, ...]
    begin: int
    offset: int

    @property
    def records(self) -> int:
        """How many records of the log have to be read."""
        return max(self.offset - self.begin, 0) if self.recomputed else 0


def plan_evolution(store: StateStore, definitions: Definitions, *, begin: int = 0) -> EvolutionPlan:
    """What becomes of the state in `store` under `definitions`; nothing is changed.

    Args:
        store: a state of the engine, or an empty store.
        definitions: what shall be computed.
        begin: offset of the oldest record that the log still holds.

    Raises:
        StateError: if the state is damaged or of another version.
    """
    meta = read_meta(store)
    if meta is None:
        everything = tuple(definition.name for definition in definitions.all)
        return EvolutionPlan(everything, (), (), (), begin, begin)
    return _plan(meta, definitions, begin)


def adopt(meta: Meta, definitions: Definitions, store: StateStore) -> tuple[Meta, list[Change]]:
    """The head of a state under other definitions, and what has to be removed from `store`."""
    if meta.fingerprint == definitions.fingerprint:
        return meta, []
    old = stored_definitions(meta)
    kept = {_canonical(operator) for operator in _operators(definitions)}
    gone: list[Change] = [
        (key, None)
        for operator in _operators(old)
        if _canonical(operator) not in kept
        for key, _ in store.scan(operator_prefix(operator.name))
    ]
    changed = msgspec.structs.replace(
        meta,
        definitions=dump_definitions(definitions),
        fingerprint=definitions.fingerprint,
        missing=list(_plan(meta, definitions, 0).recomputed),
    )
    return changed, gone


def stored_definitions(meta: Meta) -> Definitions:
    """What the state was computed by.

    Raises:
        StateError: if that cannot be read.
    """
    try:
        return load_definitions(meta.definitions)
    except DefinitionError as error:
        raise StateError(f"the stored definitions cannot be read: {error}; {CURE}") from error


def required_features(definitions: Definitions, missing: Iterable[str]) -> Definitions:
    """The missing features, and those that share a store with one of them."""
    names = set(missing)
    needed: set[str] = set()
    for entity in ENTITIES:
        for store in EntityTable(definitions.of_entity(entity)).stores:
            of_store = {feature.name for feature in store.features}
            if of_store & names:
                needed |= of_store
    return Definitions(tuple(f for f in definitions.features if f.name in needed))


def _plan(meta: Meta, definitions: Definitions, begin: int) -> EvolutionPlan:
    old = stored_definitions(meta)
    there = {
        entity: EntityTable([f for f in old.of_entity(entity) if f.name not in meta.missing]).spans
        for entity in ENTITIES
    }
    recomputed = [f.name for f in definitions.features if not _is_there(f, there[f.entity])]
    old_operators = {_canonical(o) for o in _operators(old)}
    wanted = {_nameless(feature) for feature in definitions.features}
    names = {definition.name for definition in definitions.all}
    return EvolutionPlan(
        kept=tuple(
            d.name
            for d in definitions.all
            if d.name not in recomputed
            and (isinstance(d, Feature) or _canonical(d) in old_operators)
        ),
        dropped=tuple(
            d.name
            for d in old.all
            if d.name not in names and not (isinstance(d, Feature) and _nameless(d) in wanted)
        ),
        recomputed=tuple(recomputed),
        restarted=tuple(
            o.name for o in _operators(definitions) if _canonical(o) not in old_operators
        ),
        begin=min(begin, meta.offset),
        offset=meta.offset,
    )


def _is_there(feature: Feature, spans: Mapping[str, int | None]) -> bool:
    """Whether what is stored, reaching back so far, holds all that `feature` is read from."""
    for key, span in EntityTable([feature]).spans.items():
        if key not in spans:
            return False
        there = spans[key]
        if there is not None and (span is None or span > there):
            return False
    return True


def _operators(definitions: Definitions) -> tuple[Sequence | Join, ...]:
    return (*definitions.sequences, *definitions.joins)


def _nameless(feature: Feature) -> Feature:
    return replace(feature, name="")


def _canonical(definition: Definition) -> str:
    """Equal for definitions that compute and emit the same under the same name."""
    return repr(definition.as_data())
