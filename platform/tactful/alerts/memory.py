"""State of the evaluation between scrapes: increases of counters, seasons, alerts that are open.

It is one value that can be stored as bytes, so that a restart or another server continues with it.
All times are epoch milliseconds.
"""

from __future__ import annotations

import urllib.parse

import msgspec

from tactful.alerts.samples import Labels

POINTS = 60
"""Number of points that are kept of a span: an increase is exact to a sixtieth of it."""

_UNKNOWN = -1.0
_PLAIN = " /:@"  # not escaped in the values of labels


class Counter(msgspec.Struct, array_like=True):
    """Growth of one counter in a span; a restart of its process does not make it smaller."""

    points: list[tuple[int, float]]  # time and sum of all increases, oldest first
    raw: float  # value at the last scrape; `_UNKNOWN` before the first one of a process
    total: float  # sum of all increases

    def add(self, at: int, raw: float, span: int) -> None:
        """Add a scrape, and drop points that `span` no longer needs."""
        if self.raw != _UNKNOWN:
            self.total += raw - self.raw if raw >= self.raw else raw
        self.raw = raw
        points = self.points
        if at - points[-1][0] >= span // POINTS:
            points.append((at, self.total))
            while len(points) > 2 and points[1][0] <= at - span:
                points.pop(0)

    def increase(self, at: int, span: int) -> float:
        """Return the increase in the span before `at`, as far as the points reach."""
        before = self.points[0][1]
        for time, total in reversed(self.points):
            if time <= at - span:
                before = total
                break
        return self.total - before

    def covers(self, at: int, span: int) -> bool:
        """Return whether the points reach back for the whole span."""
        return self.points[0][0] <= at - span + span // POINTS


class Season(msgspec.Struct, array_like=True):
    """Values of earlier hours; see `tactful.alerts.seasonal`."""

    slots: dict[int, list[float]]  # by slot of the day or week, oldest first
    hour: int = 0  # the hour that was recorded last
    scale: float = 0.0  # common scale of all slots


class AlertState(msgspec.Struct, array_like=True):
    """State of one rule and label set; 0 for times that are not set."""

    since: int = 0  # the condition holds since then
    opened: int = 0  # the alert is open since then
    calm: int = 0  # of an open alert: the condition no longer holds since then


class Memory(msgspec.Struct):
    """Everything that is kept between two evaluations."""

    scraped_at: int = 0  # by this process; 0 before
    counters: dict[str, Counter] = {}  # by span, name and labels
    seasons: dict[str, Season] = {}  # by rule and labels
    means: dict[str, list[tuple[int, float]]] = {}  # the same, for rules of change
    seen: dict[str, int] = {}  # the same, for rules of absence: when a value was seen last
    states: dict[str, AlertState] = {}  # by rule and labels
    decided_since: int = 0  # decisions before this time are sent to nobody; 0 before the first run

    def count(self, name: str, labels: Labels, raw: float, now: int, span: int) -> Counter:
        """Add a scrape of one counter; return its growth."""
        key = series_key(f"{span}:{name}", labels)
        counter = self.counters.get(key)
        if counter is None:
            # A series that appears has grown from zero since the last scrape of this process.
            began, value = (self.scraped_at, 0.0) if self.scraped_at else (now, raw)
            counter = self.counters[key] = Counter([(began, 0.0)], value, 0.0)
        counter.add(now, raw, span)
        return counter

    def rebase(self) -> None:
        """Prepare for the scrapes of another process: its totals say nothing about growth yet."""
        self.scraped_at = 0
        for counter in self.counters.values():
            counter.raw = _UNKNOWN

    def finish(self, now: int) -> None:
        """Note the end of an evaluation, and drop the oldest of too many counters."""
        self.scraped_at = now
        if len(self.counters) > MOST_SERIES:
            oldest = sorted(self.counters, key=lambda key: self.counters[key].points[-1][0])
            for key in oldest[: len(self.counters) - MOST_SERIES]:
                del self.counters[key]


MOST_SERIES = 5_000
"""Most counters that are kept; those that were scraped longest ago are dropped."""


def series_key(name: str, labels: Labels) -> str:
    """Return the key of a rule or metric and its labels: ``lag{server=a}``."""
    pairs = (f"{label}={urllib.parse.quote(value, safe=_PLAIN)}" for label, value in labels)
    return name + "{" + ",".join(pairs) + "}"


def split_key(key: str) -> tuple[str, Labels]:
    """Split a key of `series_key` into name and labels."""
    name, _, rest = key.removesuffix("}").partition("{")
    pairs = (part.partition("=") for part in rest.split(",") if part)
    return name, tuple((label, urllib.parse.unquote(value)) for label, _, value in pairs)


def dump_memory(memory: Memory) -> bytes:
    """Encode a memory."""
    return msgspec.msgpack.encode(memory)


def load_memory(stored: bytes | None) -> Memory:
    """Decode a memory; an empty one if nothing usable is stored."""
    if stored is None:
        return Memory()
    try:
        return msgspec.msgpack.decode(stored, type=Memory)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Memory()  # of another version: it is learned again
