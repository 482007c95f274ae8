"""What an uninterrupted run makes of a load, and how far that is from what is there after kills."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.kills.load import DELAY_MS, LATENESS_MS, PEOPLE
from tactful_streaming.contract.log_entries import Event, Item, encode_entry
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.triggers import WindowResult
from tactful_streaming.worker.output_rows import encode_results

Rows = dict[str, Any]
"""The last value under each feature, entity, group and window."""

Served = dict[str, dict[str, tuple[int, int, Any]]]
"""By entity and feature: start and end of the newest window, its value or that of each group."""

_PEOPLE = frozenset(PEOPLE)
_EXAMPLES = 5
_TOLERANCE = 1e-9


@dataclass
class Comparison:
    """Values that were compared, and those that differ.

    Attributes:
        compared: how many.
        wrong: how many of them differ, are missing or too many.
        examples: the first that differ, in words.
    """

    compared: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    def same(self, what: str, found: object, expected: object) -> None:
        """Compare two values; numbers with a fraction may differ by rounding."""
        self.compared += 1
        if not _alike(_plain(found), _plain(expected)):
            self.wrong += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(f"{what}: {str(found)[:200]}, not {str(expected)[:200]}")

    def add(self, other: Comparison) -> None:
        """Count what was compared elsewhere."""
        self.compared += other.compared
        self.wrong += other.wrong
        self.examples = [*self.examples, *other.examples][:_EXAMPLES]

    def same_all(self, what: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        """Compare two tables, key by key."""
        absent = "nothing"
        for key in sorted(found.keys() | expected.keys()):
            self.same(f"{what} {key}", found.get(key, absent), expected.get(key, absent))

    def once(self, what: str, found: Iterable[str], expected: Iterable[str]) -> None:
        """See that each of `expected` is there once, and nothing else."""
        self.same_all(what, Counter(found), dict.fromkeys(expected, 1))


@dataclass
class Outcome:
    """What came of killing.

    Attributes:
        name: of the combination.
        kills: how many processes were killed.
        acknowledged: how many events or rows were acknowledged.
        lost: how many of them are not there.
        doubled: events that features count more than once, and actions that are there twice.
        comparison: what was compared with a run that nobody killed.
    """

    name: str
    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    comparison: Comparison = field(default_factory=Comparison)


class Truth:
    """One engine in memory that nobody kills."""

    def __init__(self, definitions: Definitions) -> None:
        """Begin with nothing."""
        self._definitions = definitions
        self._offset = 0
        self.rows: list[bytes] = []
        self.engine = Engine(
            definitions,
            MemoryState(),
            EngineOptions(
                watermark_delay_ms=DELAY_MS,
                allowed_lateness_ms=LATENESS_MS,
                identity=Identity(),
                on_results=self._fired,
            ),
        )

    def apply(self, entries: Sequence[Event | Item]) -> None:
        """Count what was sent.

        Raises:
            AssertionError: if the load is not what it is meant to be: an event came too late.
        """
        payloads = [encode_entry(entry) for entry in entries]
        applied = self.engine.apply(list(enumerate(payloads, self._offset)))
        self._offset += len(payloads)
        assert not applied.late, "the load is more out of order than it says"
        self.engine.commit()

    def actions(self) -> list[str]:
        """Ids of the actions that follow."""
        return [action.event_id for action in self.engine.outbox()]

    def fired(self) -> Rows:
        """The windows of people and visits that fired: those that lie in one partition."""
        return table(self.rows)

    def visits(self) -> list[str]:
        """The visits whose windows fired."""
        keys = (json.loads(row)["entity_key"] for row in self.rows)
        return sorted({key for key in keys if key not in _PEOPLE})

    def _fired(self, fired: list[WindowResult]) -> None:
        whole = [one for one in fired if one.entity in ("user", "session")]
        self.rows += [value for _, value in encode_results(whole)]


def table(records: Iterable[bytes]) -> Rows:
    """What a table keeps of fired rows: the last of each window."""
    rows: Rows = {}
    for record in records:
        row = json.loads(record)
        value = row.pop("feature_value")
        rows[json.dumps(row, sort_keys=True)] = value
    return rows


def served(rows: Rows) -> Served:
    """What a sink keeps of a table: the newest window of each entity and feature."""
    windows: dict[tuple[str, str], dict[tuple[int, int], dict[str | None, Any]]] = {}
    for key, value in rows.items():
        row = json.loads(key)
        of = windows.setdefault((row["entity_key"], row["feature"]), {})
        window = of.setdefault((row["window_end"], row["window_start"]), {})
        window[row.get("group_key")] = value
    found: Served = {}
    for (entity, feature), of in windows.items():
        (end, start), values = max(of.items(), key=lambda one: one[0])
        found.setdefault(entity, {})[feature] = (start, end, values.get(None, values))
    return found


def _plain(value: object) -> object:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def _alike(found: Any, expected: Any) -> bool:
    if isinstance(found, dict) and isinstance(expected, dict):
        both = found.keys() == expected.keys()
        return both and all(_alike(found[key], expected[key]) for key in found)
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(_alike, found, expected))
    if isinstance(found, float) or isinstance(expected, float):
        numbers = isinstance(found, int | float) and isinstance(expected, int | float)
        return numbers and math.isclose(found, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(found == expected)
