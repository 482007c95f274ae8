"""``tactful train`` of a large log, and again after some more events: time and memory.

The events are those of visits in the last 30 days, as a shop sends them: forty a person, half of
them about few items. They are written to the log itself, since only the training is measured. A
server applies them, as it would have in those days; the second training goes on from its state.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import httpx
import numpy as np

from benchmarks.figures import Figure
from benchmarks.serving.importing import server, train
from tactful_streaming.contract.log_entries import Entry, Event, Item, encode_entry
from tactful_streaming.log.embedded_log import EmbeddedLog

_DAYS_MS = 30 * 86_400_000
_ITEMS = 5_000
_TYPES = [*["view"] * 6, *["add_to_cart"] * 2, "click", "purchase"]
_CHUNK = 5_000
_HOUR_MS = 3_600_000
_PATIENCE_S = 3_600

NAMES = {
    "train_events": "events",
    "train_s": "s",
    "train_cpu_s": "s",
    "train_peak_mb": "MB",
    "train_again_events": "events",
    "train_again_s": "s",
    "train_again_cpu_s": "s",
    "train_again_peak_mb": "MB",
}


def training_figures(quick: bool) -> list[Figure]:
    """Train on 10 million events of 250,000 people, and again after a hundredth more."""
    count = 50_000 if quick else 10_000_000
    more, people = count // 100, count // 40
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name:
        data = Path(name)
        now = time.time_ns() // 1_000_000
        begin = now - _DAYS_MS
        _write(data / "log", chain(_items(begin), _events(count, people, begin, now)))
        _apply(data)
        values = _trained(data, "train", count)
        _write(data / "log", _events(more, people, now, now + _HOUR_MS))
        values |= _trained(data, "train_again", more)
    note = f"{people:,} people; {os.cpu_count()} cores"
    return [Figure(each, values[each], unit, runs=1, note=note) for each, unit in NAMES.items()]


def _trained(data: Path, name: str, events: int) -> dict[str, float]:
    began = time.perf_counter()
    used = train(data)
    return {
        f"{name}_events": events,
        f"{name}_s": time.perf_counter() - began,
        f"{name}_cpu_s": used.ru_utime + used.ru_stime,
        f"{name}_peak_mb": used.ru_maxrss / 1e3,
    }


def _apply(data: Path) -> None:
    """Run a server until its engine has applied the log."""
    log = EmbeddedLog(data / "log", read_only=True)
    end = log.end
    log.close()
    with server(data) as (_, url), httpx.Client(base_url=url, timeout=60.0) as http:
        began = time.perf_counter()
        while http.get("/v1/users/u-0/features").json().get("position", 0) < end:
            if time.perf_counter() - began > _PATIENCE_S:
                raise RuntimeError("the engine has not applied the log within an hour")
            time.sleep(1.0)


def _write(directory: Path, entries: Iterable[Entry]) -> None:
    log = EmbeddedLog(directory, durability="process")
    waiting: list[bytes] = []
    for entry in entries:
        waiting.append(encode_entry(entry))
        if len(waiting) == _CHUNK:
            log.append(waiting)
            waiting = []
    log.append(waiting)
    log.close()


def _items(begin: int) -> Iterator[Entry]:
    for row in range(_ITEMS):
        yield Item(item_id=f"i-{row}", timestamp=begin, category=f"c-{row % 40}", price=9.5)


def _events(count: int, people: int, begin: int, end: int) -> Iterator[Entry]:
    """Yield events by time: visits of some six events, which begin at any time."""
    draw = np.random.default_rng(begin)
    sizes = 1 + np.minimum(draw.exponential(5.5, count).astype(np.int64), 40)
    sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), count)) + 1]
    visit = np.repeat(np.arange(len(sizes)), sizes)[:count]
    person = draw.integers(0, people, len(sizes))[visit]
    waits = np.cumsum(draw.exponential(30_000, count))
    since = waits - waits[np.searchsorted(visit, visit)]  # the beginning of the visit
    starts = draw.integers(0, max(end - begin - 2 * _HOUR_MS, 1), len(sizes))[visit]
    at = begin + starts + since.astype(np.int64)
    item = np.minimum(draw.pareto(0.6, count) + 1, 1e15).astype(np.int64) % _ITEMS
    kind = draw.integers(0, len(_TYPES), count)
    order = np.argsort(at, kind="stable")
    for first in range(0, count, _CHUNK):
        rows = order[first : first + _CHUNK]
        columns = (column[rows].tolist() for column in (at, person, visit, item, kind))
        for number, (when, who, session, what, how) in enumerate(zip(*columns, strict=True)):
            yield Event(
                event_id=f"e-{begin}-{first + number}",
                type=_TYPES[how],
                timestamp=when,
                user_id=f"u-{who}",
                session_id=f"s-{begin}-{session}",
                item_id=f"i-{what}",
                properties={"price": 9.5, "category": f"c-{what % 40}"},
            )
