"""Results of one log, computed in three ways, in one comparable form."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.streaming.oracle import ItemVersions, Oracle, key_source, value_of
from tests.streaming.oracle_sequences import SequenceOracle

import tactful_streaming.definitions.model as model
from tactful_streaming.contract.log_entries import Entry, Event, Item, encode_entry
from tactful_streaming.definitions.model import Definitions, Feature, Window
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.patterns.match import Match
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.triggers import WindowResult

FiredKey = tuple[str, str, str | None, int, int]
"""Feature, key, group, start and end of a window."""

FoundKey = tuple[str, str, str | None, int, int, tuple[str, ...]]
"""Sequence or join, key, what they have in common, first and last time, event ids."""

UNWINDOWED = ("last_n", "last_time")


@dataclass
class Results:
    """Results of a log."""

    fired: dict[FiredKey, Any] = field(default_factory=dict)  # last value of each window
    found: Counter[FoundKey] = field(default_factory=Counter)  # count of each match and pair
    # Last values of features without windows, by feature, key and group.
    latest: dict[tuple[str, str, str | None], Any] = field(default_factory=dict)


def by_oracle(
    definitions: Definitions, entries: Sequence[Entry], delay: int, lateness: int = 0
) -> Results:
    """Compute by brute force."""
    oracle = Oracle(definitions, lateness, delay, firing=True)
    sequences = SequenceOracle(definitions, delay)
    for entry in entries:
        oracle.apply(entry)
        sequences.apply(entry)
    results = Results()
    for name, key, group, start, end, value in oracle.fired:
        results.fired[name, key, group, start, end] = value
    for row in [*sequences.matches(), *sequences.pairs()]:
        results.found[row] += 1
    for feature in definitions.features:
        if feature.aggregate in UNWINDOWED:
            for name, key in oracle.kept:
                if name == feature.name:
                    _note_latest(results, feature, key, oracle.read(feature, key, 0))
    return results


def by_engine(
    definitions: Definitions,
    entries: Sequence[Entry],
    delay: int,
    lateness: int = 0,
    *,
    batches: random.Random,
    restarts: bool = False,
    dedupe_days: int = 7,
) -> Results:
    """Compute by the engine, in random batches; restarts continue at the last commit."""
    log = [(offset, encode_entry(entry)) for offset, entry in enumerate(entries)]
    results = Results()
    store = MemoryState()

    def fired(rows: list[WindowResult]) -> None:
        for row in rows:
            groups = row.groups if row.groups is not None else [None] * len(row.keys)
            for key, group, value in zip(row.keys, groups, row.values, strict=True):
                where = (row.feature, key, group, row.window_start, row.window_end)
                results.fired[where] = value

    def found(matches: list[Match]) -> None:
        for match in matches:
            row = (match.name, match.key, match.same, match.start, match.end, match.events)
            # After a restart matches since the last commit are found again.
            results.found[row] = 1 if restarts else results.found[row] + 1

    def open_engine() -> Engine:
        return Engine(
            definitions,
            store,
            EngineOptions(
                dedupe_days=dedupe_days,
                watermark_delay_ms=delay,
                allowed_lateness_ms=lateness,
                on_results=fired,
                on_match=found,
            ),
        )

    engine = open_engine()
    while engine.offset < len(log):
        size = batches.choice([1, 3, 20, 100, 1000])
        engine.apply(log[engine.offset : engine.offset + size])
        if batches.random() < 0.4:
            engine.commit()
        if restarts and batches.random() < 0.3:
            engine = open_engine()
    for feature in definitions.features:
        if feature.aggregate in UNWINDOWED:
            for key in _keys_of(feature, entries):
                value = engine.read(feature.entity, key, 0)[feature.name]
                if value:
                    _note_latest(results, feature, key, value)
    return results


def only(definition: model.Definition) -> Definitions:
    """One definition alone."""
    if isinstance(definition, Feature):
        return Definitions((definition,))
    if isinstance(definition, model.Sequence):
        return Definitions((), (definition,))
    return Definitions((), (), (definition,))


def differences(definitions: Definitions, expected: Results, got: Results) -> list[str]:
    """Every row in which two results differ, as text; values may differ by 1e-9."""
    features = {feature.name: feature for feature in definitions.features}
    different: list[str] = []
    for kind in ("fired", "latest"):
        left, right = getattr(expected, kind), getattr(got, kind)
        for key in sorted(left.keys() | right.keys(), key=str):
            if key not in left or key not in right:
                side = "unexpected" if key in right else "missing"
                different.append(f"{kind} {key} is {side}: {right.get(key, left.get(key))}")
            elif not equal(features[key[0]], left[key], right[key]):
                different.append(f"{kind} {key} is {right[key]}, not {left[key]}")
    for found in sorted(expected.found | got.found, key=str):
        if expected.found[found] != got.found[found]:
            different.append(f"{found}: {got.found[found]} times, not {expected.found[found]}")
    return different


def equal(feature: Feature, left: Any, right: Any) -> bool:
    """Whether two values agree: numbers to 1e-9, sketches as far as they promise."""
    if isinstance(left, list):
        return len(left) == len(right) and all(
            a[0] == b[0] and math.isclose(a[1], b[1], rel_tol=1e-9)
            for a, b in zip(left, right, strict=True)
        )
    tolerance = 1e-4 if feature.sketch == "hll" else 1e-9
    return math.isclose(left, right, rel_tol=tolerance, abs_tol=1e-9)


def once(results: Results) -> Results:
    """The same, with each match found once: how a log with restarts is compared."""
    return replace(results, found=Counter(dict.fromkeys(results.found, 1)))


def _keys_of(feature: Feature, entries: Sequence[Entry]) -> set[str]:
    """Every key that the entity of a feature could have."""
    catalogue = ItemVersions()
    keys = set()
    for entry in entries:
        if isinstance(entry, Item):
            catalogue.add(entry)
        elif isinstance(entry, Event):
            keys.add(value_of(key_source(feature.entity), entry, catalogue))
    return {key for key in keys if key is not None}


def _note_latest(results: Results, feature: Feature, key: str, value: Any) -> None:
    if isinstance(feature.window, Window):
        return  # an age: only the read leaves out older values
    groups = value if isinstance(value, dict) else {None: value}
    for group, one in groups.items():
        results.latest[feature.name, key, group] = one
