"""Schema evolution: adapts a stored state to changed definitions.

A feature keeps its state if all columns that it reads are stored and reach back far enough: a new
window that is no longer than another one of the same panes is available at once. Other new features
are *missing*, and read as zeros, until a backfill has computed them from the log. Sequences and
joins begin at the present: past matches emit no actions.
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
from tactful_streaming.state.key_layout import REBUILD, Meta, operator_prefix, read_meta
from tactful_streaming.state.store import Change, StateStore
from tactful_streaming.windows.entity_table import EntityTable


@dataclass(frozen=True)
class EvolutionPlan:
    """Effects of new definitions on a stored state."""

    kept: tuple[str, ...]  # features whose state is available
    dropped: tuple[str, ...]  # removed definitions, whose state is deleted
    recomputed: tuple[str, ...]  # features that are missing until they are computed from the log
    restarted: tuple[str, ...]  # new or changed sequences and joins, which begin at `offset`
    begin: int  # offset of the first record to read
    offset: int  # log offset up to which to read

    @property
    def records(self) -> int:
        """Number of records of the log to read."""
        return max(self.offset - self.begin, 0) if self.recomputed else 0


def plan_evolution(store: StateStore, definitions: Definitions, *, begin: int = 0) -> EvolutionPlan:
    """Plan the effects of `definitions` on the state in `store`, without changing it.

    `begin` is the offset of the oldest record that the log still holds.
    """
    meta = read_meta(store)
    if meta is None:
        everything = tuple(definition.name for definition in definitions.all)
        return EvolutionPlan(everything, (), (), (), begin, begin)
    return _plan(meta, definitions, begin)


def adopt(meta: Meta, definitions: Definitions, store: StateStore) -> tuple[Meta, list[Change]]:
    """Return the head of a state under other definitions, and the keys to remove."""
    if meta.fingerprint == definitions.fingerprint:
        return meta, []
    old = stored_definitions(meta)
    kept = {_canonical(operator) for operator in operators_of(definitions)}
    gone: list[Change] = [
        (key, None)
        for operator in operators_of(old)
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
    """Return the definitions of a state; StateError if they cannot be read."""
    try:
        return load_definitions(meta.definitions)
    except DefinitionError as error:
        raise StateError(f"the stored definitions cannot be read: {error}; {REBUILD}") from error


def required_features(definitions: Definitions, missing: Iterable[str]) -> Definitions:
    """Return the missing features, and those that share an aggregate with one."""
    names = set(missing)
    needed: set[str] = set()
    for entity in ENTITIES:
        for store in EntityTable(definitions.of_entity(entity)).aggregates:
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
    old_operators = {_canonical(o) for o in operators_of(old)}
    wanted = {_nameless(feature) for feature in definitions.features}
    names = {definition.name for definition in definitions.all}
    restarted = [o.name for o in operators_of(definitions) if _canonical(o) not in old_operators]
    renewed = {*recomputed, *restarted}
    return EvolutionPlan(
        kept=tuple(d.name for d in definitions.all if d.name not in renewed),
        dropped=tuple(
            d.name
            for d in old.all
            if d.name not in names and not (isinstance(d, Feature) and _nameless(d) in wanted)
        ),
        recomputed=tuple(recomputed),
        restarted=tuple(restarted),
        begin=min(begin, meta.offset),
        offset=meta.offset,
    )


def _is_there(feature: Feature, spans: Mapping[str, int | None]) -> bool:
    """Whether the stored columns, with their spans, hold all that `feature` reads."""
    for key, span in EntityTable([feature]).spans.items():
        there = spans.get(key, -1)
        if there is not None and (span is None or span > there):
            return False
    return True


def operators_of(definitions: Definitions) -> tuple[Sequence | Join, ...]:
    """Return the sequences and joins."""
    return (*definitions.sequences, *definitions.joins)


def _nameless(feature: Feature) -> Feature:
    return replace(feature, name="")


def _canonical(definition: Definition) -> str:
    """Return a text that is equal for definitions with the same results and name."""
    return repr(definition.as_data())
