"""Conditions of rules, compiled to closures, and the state of the stateful ones."""

from __future__ import annotations

import hashlib
import math
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, Final

import msgspec

from tactful_streaming.contract.log_entries import Event, Item, time_reached
from tactful_streaming.rules import model as m
from tactful_streaming.rules.fields import Read, content, reader
from tactful_streaming.rules.safe_regex import (
    TEXT_LIMIT,
    Pattern,
    compile_linear,
    compile_safely,
)

Holds = Callable[[Event, Item | None, int | None], bool]
"""Whether a condition holds for an event, its item and its time of receipt."""

_Key = Callable[[Event, Item | None, int | None], str | None]
"""From an event, its item and its receipt to a text for its fields; None if one is missing."""

_Place = tuple[str, str, int, int]
"""Rule, when or unless, alternative, condition; equal conditions have counts of their own."""

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "above": operator.gt,
    "below": operator.lt,
    "at_least": operator.ge,
    "at_most": operator.le,
}
KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "number": (int, float),
    "flag": (bool,),
    "list": (list,),
}
"""Types of values by their name in rules."""

_AGENT_LIMIT = 1024
_AGENT_MEMORY: Final = 64 << 20  # bytes for each class; the 1,500 patterns take 1 MB in all

_TAGS: Final = {  # tags of the package: class; all others are crawlers
    "social-preview": "preview",
    "monitoring": "monitor",
    "http-library": "automation",
    "browser-automation": "automation",
}
_APPS: Final = frozenset({"okhttp"})  # listed as a library, but shops' Android apps use it

_UNLISTED: Final = r"bot/[0-9]|[Cc]rawler|[Ss]pider|https?://|@[\w-]+\.[a-z]"
"""Unlisted crawlers that state a name or an address, by custom; browsers do not."""

USER_AGENT_CLASSES: Final = ("crawler", "automation", "monitor", "preview")
"""Classes of clients that are no shopper's browser or app."""

_ORDER: Final = ("preview", "monitor", "automation", "crawler")  # the narrowest class wins

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, tuple[int, ...]])
_canonical = msgspec.json.Encoder(order="deterministic")
_SEPARATOR = "\x1f"
_LONGEST = 64

Fact = tuple[int, ...]
"""The value of a key; the first number is the event time at which it expires."""


class State:
    """State of the stateful conditions of one set of rules."""

    def __init__(self) -> None:
        """Begin without facts."""
        # Newest timestamp so far, including the present event.
        self.clock = 0
        # Stored facts of each condition, by a stable id.
        self.maps: dict[str, ExpiringMap] = {}
        # Facts to store if the present event is clean: map, key, end of its validity.
        self.pending: list[tuple[ExpiringMap, str, int]] = []
        self._keys: dict[str, _Key] = {}

    def of(self, place: _Place, condition: m.Rate | m.Earlier) -> tuple[ExpiringMap, _Key]:
        """Return the facts of a condition at its place, and the function to its key."""
        name = digest([place, type(condition).__name__, condition])[:12]
        if name not in self.maps:
            by = condition.by if isinstance(condition, m.Rate) else condition.same
            self.maps[name] = ExpiringMap(condition.most)
            self._keys[name] = _key(by)
        return self.maps[name], self._keys[name]

    def store_pending(self) -> None:
        """Store the pending facts of the present event, which is clean."""
        for facts, key, until in self.pending:
            known = facts.get(key, self.clock)
            if until >= self.clock and (known is None or known[0] < until):
                facts.put(key, (until,), self.clock)
        self.pending.clear()


def compile_rule(rule: m.Rule, state: State) -> Holds:
    """Compile the conditions of `rule`, without its event types."""
    when, unless = (
        [
            _all([_condition(c, (rule.name, side, n, i), state) for i, c in enumerate(part)])
            for n, part in enumerate(alternatives)
        ]
        for side, alternatives in _sides(rule)
    )
    if not unless:
        return _any(when) if when else _always
    wanted, exempt = (_any(when) if when else _always), _any(unless)
    return lambda event, item, received: (
        wanted(event, item, received) and not exempt(event, item, received)
    )


def compile_learning(rule: m.Rule, type_: str, state: State) -> list[Holds]:
    """Compile functions that add facts of events of `type_` to `pending`, and return False."""
    return [
        _learning(condition, *state.of((rule.name, side, n, i), condition), state)
        for side, alternatives in _sides(rule)
        for n, part in enumerate(alternatives)
        for i, condition in enumerate(part)
        if isinstance(condition, m.Earlier) and (not condition.events or type_ in condition.events)
    ]


def _sides(rule: m.Rule) -> tuple[tuple[str, tuple[tuple[m.Condition, ...], ...]], ...]:
    return ("when", rule.when), ("unless", rule.unless)


def _always(event: Event, item: Item | None, received: int | None) -> bool:
    return True


def _all(parts: Sequence[Holds]) -> Holds:
    """Compile a test that all `parts` hold, evaluated in order."""
    first, *others = parts
    if not others:
        return first
    rest = _all(others)  # nested pairs are called faster than a loop
    return lambda event, item, received: (
        first(event, item, received) and rest(event, item, received)
    )


def _any(parts: Sequence[Holds]) -> Holds:
    """Compile a test that one of `parts` holds, evaluated in order."""
    first, *others = parts
    if not others:
        return first
    rest = _any(others)
    return lambda event, item, received: first(event, item, received) or rest(event, item, received)


def _condition(condition: m.Condition, place: _Place, state: State) -> Holds:
    if isinstance(condition, m.FieldTest):
        return _field_test(condition)
    if isinstance(condition, m.UserAgent):
        return _user_agent(condition)
    if isinstance(condition, m.Rate):
        return _rate(condition, *state.of(place, condition), state)
    return _earlier(*state.of(place, condition), state)


def _field_test(test: m.FieldTest) -> Holds:
    read, operand = reader(test.field), test.operand
    if test.operator == "missing":
        if operand:
            return lambda event, item, received: read(event, item, received) is None
        return lambda event, item, received: read(event, item, received) is not None
    if test.operator == "kind":
        types = KINDS[str(operand)]
        return lambda event, item, received: type(read(event, item, received)) in types
    if test.operator == "starts":
        start = str(operand)

        def starts(event: Event, item: Item | None, received: int | None) -> bool:
            value = read(event, item, received)
            return type(value) is str and value.startswith(start)

        return starts
    if test.operator == "matches":
        search = compile_safely(str(operand)).search

        def matches(event: Event, item: Item | None, received: int | None) -> bool:
            value = read(event, item, received)
            if type(value) is not str:
                return False
            # A lone surrogate, which UTF-8 cannot encode, becomes a question mark.
            return search(value[:TEXT_LIMIT].encode("utf-8", "replace")) is not None

        return matches
    if test.operator in _COMPARISONS:
        return _comparison(read, _COMPARISONS[test.operator], operand)
    return _membership(read, operand if isinstance(operand, tuple) else (operand,))


def _comparison(read: Read, compare: Callable[[Any, Any], bool], operand: Any) -> Holds:
    if isinstance(operand, m.Relative):
        read_bound, times = reader(operand.of), operand.times

        def holds_relative(event: Event, item: Item | None, received: int | None) -> bool:
            value = read(event, item, received)
            bound = read_bound(event, item, received)
            return _is_number(value) and _is_number(bound) and compare(value, bound * times)  # type: ignore[operator]

        return holds_relative

    def holds(event: Event, item: Item | None, received: int | None) -> bool:
        value = read(event, item, received)
        kind = type(value)
        return (kind is float or kind is int) and compare(value, operand)

    return holds


def _membership(read: Read, operands: Sequence[Any]) -> Holds:
    # In Python True equals 1; in rules it does not.
    texts = frozenset(o for o in operands if type(o) is str)
    flags = frozenset(o for o in operands if type(o) is bool)
    numbers = frozenset(o for o in operands if _is_number(o))

    def holds(event: Event, item: Item | None, received: int | None) -> bool:
        value = read(event, item, received)
        kind = type(value)
        if kind is str:
            return value in texts
        if kind is int or kind is float:
            return value in numbers
        return kind is bool and value in flags

    return holds


def _user_agent(condition: m.UserAgent) -> Holds:
    classes = frozenset(condition.classes)

    def holds(event: Event, item: Item | None, received: int | None) -> bool:
        text = event.context.get("user_agent")
        return type(text) is str and classify(text) in classes

    return holds


@lru_cache(maxsize=8192)
def classify(user_agent: str) -> str | None:
    """Return the class of a user agent; None for a browser or an app.

    The patterns come from the package ``crawler-user-agents``. A robot with a browser's user agent
    is not recognised here; a rate limit finds it.
    """
    text = user_agent[:_AGENT_LIMIT].encode("utf-8", "replace")
    for name, pattern in _agent_patterns():
        if pattern.search(text) is not None:
            return name
    return None


@cache
def _agent_patterns() -> tuple[tuple[str, Pattern], ...]:
    from crawleruseragents import CRAWLER_USER_AGENTS_DATA  # reads a file of 600 kB: 30 ms

    patterns: dict[str, list[str]] = {name: [] for name in _ORDER}
    for entry in CRAWLER_USER_AGENTS_DATA:
        if entry["pattern"] not in _APPS:
            tags = entry.get("tags", ())
            classes = {_TAGS[tag] for tag in tags if tag in _TAGS} or {"crawler"}
            patterns[next(name for name in _ORDER if name in classes)].append(entry["pattern"])
    patterns["crawler"].append(_UNLISTED)
    return tuple((name, compile_linear("|".join(patterns[name]), _AGENT_MEMORY)) for name in _ORDER)


def _rate(condition: m.Rate, facts: ExpiringMap, read_key: _Key, state: State) -> Holds:
    above, width, hold = condition.above, condition.within_ms, condition.hold_ms

    def holds(event: Event, item: Item | None, received: int | None) -> bool:
        key = read_key(event, item, received)
        if key is None:
            return False
        # A timestamp ahead of the clock would count in a window after those that are stored.
        now, at = state.clock, time_reached(event)
        window = at // width
        newest, count, before, held = (facts.get(key, now) or (0, window, 0, 0, -1))[1:]
        if (window + 2) * width <= now:  # late: its window is no longer stored
            return held >= now
        if window > newest:
            before = count if window == newest + 1 else 0
            newest, count = window, 0
        if window == newest:
            count += 1
        else:
            before += 1
        over = (count if window == newest else before) > above
        if over:
            held = max(held, at + hold)
        until = max((newest + 2) * width - 1, held)
        facts.put(key, (until, newest, count, before, held), now)
        return over or held >= now

    return holds


def _earlier(facts: ExpiringMap, read_key: _Key, state: State) -> Holds:
    def holds(event: Event, item: Item | None, received: int | None) -> bool:
        key = read_key(event, item, received)
        return key is not None and facts.get(key, state.clock) is not None

    return holds


def _learning(condition: m.Earlier, facts: ExpiringMap, read_key: _Key, state: State) -> Holds:
    within = condition.within_ms

    def learn(event: Event, item: Item | None, received: int | None) -> bool:
        key = read_key(event, item, received)
        if key is not None:
            state.pending.append((facts, key, event.timestamp + within))
        return False

    return learn


def _key(fields: Sequence[str]) -> _Key:
    """Compile a function to a key of the values of `fields`; None if one is missing."""
    if tuple(fields) == ("content",):
        return _last(lambda event, item, received: digest(content(event)))
    reads = [reader(name) for name in fields]

    def key(event: Event, item: Item | None, received: int | None) -> str | None:
        values = [read(event, item, received) for read in reads]
        return None if None in values else key_of(values)

    return _last(key)


def _last(read_key: _Key) -> _Key:
    """Cache the key of the last event, which a condition and its learning both read."""
    last: tuple[Event | None, Item | None, int | None] = (None, None, None)
    last_key: str | None = None

    def key(event: Event, item: Item | None, received: int | None) -> str | None:
        nonlocal last, last_key
        if event is last[0] and item is last[1] and received is last[2]:
            return last_key
        last_key = read_key(event, item, received)
        last = (event, item, received)
        return last_key

    return key


def _is_number(value: object) -> bool:
    kind = type(value)
    return kind is int or (kind is float and math.isfinite(value))  # type: ignore[arg-type]


def digest(values: object) -> str:
    """Hash plain data to twelve bytes in hexadecimal."""
    return hashlib.blake2b(_canonical.encode(values), digest_size=12).hexdigest()


def key_of(values: Sequence[object]) -> str:
    """Encode `values` as a short key: the texts joined, or a digest of other values."""
    try:
        key = _SEPARATOR.join(values)  # type: ignore[arg-type]
    except TypeError:
        return _SEPARATOR + digest(values)
    if len(key) > _LONGEST or key.count(_SEPARATOR) >= len(values):
        return _SEPARATOR + digest(values)
    return key


class ExpiringMap:
    """Facts by key until they expire; beyond `most` keys, the oldest are deleted.

    Deletion depends on the order of the calls alone, so a replay of the log stores the same facts,
    also when it begins at a commit.

    ``_facts`` holds ``{"ann": (17, (1767268800000, 4, 2))}``: number of the put, and the fact.
    """

    def __init__(self, most: int) -> None:
        """Begin empty, with room for `most` keys."""
        self._most = most
        self._facts: OrderedDict[str, tuple[int, Fact]] = OrderedDict()
        self._changed: set[str] = set()
        self._number = 0

    def __len__(self) -> int:
        """Number of keys, expired ones included."""
        return len(self._facts)

    def get(self, key: str, now: int) -> Fact | None:
        """Return the fact of `key` at event time `now`, epoch milliseconds."""
        entry = self._facts.get(key)
        return entry[1] if entry is not None and entry[1][0] >= now else None

    def put(self, key: str, fact: Fact, now: int) -> None:
        """Store `fact` as the newest; delete up to two that have expired at `now`."""
        facts = self._facts
        self._number += 1
        facts[key] = (self._number, fact)
        facts.move_to_end(key)
        self._changed.add(key)
        for _ in range(2):
            oldest = next(iter(facts))
            if facts[oldest][1][0] >= now and len(facts) <= self._most:
                break
            del facts[oldest]
            self._changed.add(oldest)
            if not facts:
                break

    def pack_changes(self) -> dict[str, bytes | None]:
        """Return facts that changed since the last call, packed; None for deleted ones."""
        changes: dict[str, bytes | None] = {}
        for key in self._changed:
            entry = self._facts.get(key)
            changes[key] = None if entry is None else _encoder.encode(entry)
        self._changed.clear()
        return changes

    def restore(self, packed: Iterable[tuple[str, bytes]]) -> None:
        """Load packed facts, in any order; raise MsgspecError if they are damaged."""
        decoded = ((key, _decoder.decode(blob)) for key, blob in packed)
        facts = sorted(decoded, key=lambda fact: fact[1][0])
        self._facts = OrderedDict(facts)
        self._number = facts[-1][1][0] if facts else 0
        self._changed.clear()
