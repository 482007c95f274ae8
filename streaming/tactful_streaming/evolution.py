"""What changed definitions mean for a stored state: what stays, what goes, what is to be computed.

A feature whose definition is unchanged but for its name keeps its state. A new one is *missing*
until its state has been computed from the log (:func:`~tactful_streaming.backfill`): it reads as
nothing until then. Sequences and joins begin at the present: what they would have set off in the
past is not set off now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from tactful_streaming._definition_reader import load_definitions
from tactful_streaming.definitions import (
    Definition,
    Definitions,
    Feature,
    Join,
    Sequence,
    dump_definitions,
)
from tactful_streaming.errors import DefinitionError, StateError
from tactful_streaming.layout import CURE, Meta, operator_prefix, read_meta
from tactful_streaming.state import Change, StateStore


@dataclass(frozen=True)
class EvolutionPlan:
    """What becomes of a stored state under some definitions.

    Attributes:
        kept: features whose state is there.
        dropped: definitions of which nothing is left.
        recomputed: features that are missing until they are computed from the log.
        restarted: new sequences and joins: they begin at `offset`.
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
    old = stored_definitions(meta)
    if old.fingerprint == definitions.fingerprint:
        return meta, []
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


def _plan(meta: Meta, definitions: Definitions, begin: int) -> EvolutionPlan:
    old = stored_definitions(meta)
    there = {_nameless(f) for f in old.features if f.name not in meta.missing}
    wanted = {_nameless(f) for f in definitions.features}
    operators = {_canonical(o) for o in _operators(definitions)}
    old_operators = {_canonical(o) for o in _operators(old)}
    return EvolutionPlan(
        kept=tuple(f.name for f in definitions.features if _nameless(f) in there)
        + tuple(o.name for o in definitions.all if _canonical(o) in old_operators),
        dropped=tuple(f.name for f in old.features if _nameless(f) not in wanted)
        + tuple(o.name for o in _operators(old) if _canonical(o) not in operators),
        recomputed=tuple(f.name for f in definitions.features if _nameless(f) not in there),
        restarted=tuple(
            o.name for o in _operators(definitions) if _canonical(o) not in old_operators
        ),
        begin=min(begin, meta.offset),
        offset=meta.offset,
    )


def _operators(definitions: Definitions) -> tuple[Sequence | Join, ...]:
    return (*definitions.sequences, *definitions.joins)


def _nameless(feature: Feature) -> Feature:
    return replace(feature, name="")


def _canonical(definition: Definition) -> str:
    """Equal for definitions that compute and emit the same under the same name."""
    return repr(definition.as_data())
