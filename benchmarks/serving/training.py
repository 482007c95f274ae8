"""``tactful train`` of a large log: time and memory.

The events are those of visits in the last 30 days, as a shop sends them: forty a person, half of
them about few items. They are written to the log itself, since only the training is measured.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure
from benchmarks.serving.importing import train
from tactful_streaming.contract.log_entries import Entry, Event, Item, encode_entry
from tactful_streaming.log.embedded_log import EmbeddedLog

_DAYS_MS = 30 * 86_400_000
_ITEMS = 5_000
_TYPES = [*["view"] * 6, *["add_to_cart"] * 2, "click", "purchase"]
_CHUNK = 5_000

NAMES = {"train_events": "events", "train_s": "s", "train_cpu_s": "s", "train_peak_mb": "MB"}


def training_figures(quick: bool) -> list[Figure]:
    """Train once on 10 million events of 250,000 people."""
    count = 50_000 if quick else 10_000_000
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name:
        data = Path(name)
        _write(data / "log", count)
        began = time.perf_counter()
        used = train(data)
        seconds = time.perf_counter() - began
    note = f"{count // 40:,} people; {os.cpu_count()} cores"
    values = {
        "train_events": count,
        "train_s": seconds,
        "train_cpu_s": used.ru_utime + used.ru_stime,
        "train_peak_mb": used.ru_maxrss / 1e3,
    }
    return [Figure(each, values[each], unit, runs=1, note=note) for each, unit in NAMES.items()]


def _write(directory: Path, count: int) -> None:
    log = EmbeddedLog(directory, durability="process")
    waiting: list[bytes] = []
    for entry in _entries(count):
        waiting.append(encode_entry(entry))
        if len(waiting) == _CHUNK:
            log.append(waiting)
            waiting = []
    log.append(waiting)
    log.close()


def _entries(count: int) -> Iterator[Entry]:
    """Yield items, then events by time: visits of some six events, which begin at any time."""
    draw = np.random.default_rng(1)
    begin = time.time_ns() // 1_000_000 - _DAYS_MS
    for row in range(_ITEMS):
        yield Item(item_id=f"i-{row}", timestamp=begin, category=f"c-{row % 40}", price=9.5)
    sizes = 1 + np.minimum(draw.exponential(5.5, count).astype(np.int64), 40)
    sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), count)) + 1]
    visit = np.repeat(np.arange(len(sizes)), sizes)[:count]
    person = draw.integers(0, count // 40, len(sizes))[visit]
    waits = np.cumsum(draw.exponential(30_000, count))
    since = waits - waits[np.searchsorted(visit, visit)]  # the beginning of the visit
    starts = draw.integers(0, _DAYS_MS - 7_200_000, len(sizes))[visit]
    at = begin + starts + since.astype(np.int64)
    item = np.minimum(draw.pareto(0.6, count) + 1, 1e15).astype(np.int64) % _ITEMS
    kind = draw.integers(0, len(_TYPES), count)
    order = np.argsort(at, kind="stable")
    for first in range(0, count, _CHUNK):
        rows = order[first : first + _CHUNK]
        columns = (column[rows].tolist() for column in (at, person, visit, item, kind))
        for number, (when, who, session, what, how) in enumerate(zip(*columns, strict=True)):
            yield Event(
                event_id=f"e-{first + number}",
                type=_TYPES[how],
                timestamp=when,
                user_id=f"u-{who}",
                session_id=f"s-{session}",
                item_id=f"i-{what}",
                properties={"price": 9.5, "category": f"c-{what % 40}"},
            )
