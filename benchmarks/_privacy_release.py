"""What it takes to release a million cells every minute while events come in."""

import tempfile
import time
from fractions import Fraction
from pathlib import Path

from benchmarks.figures import Figure
from tactful_privacy import BoundedCounts, Ledger, Publisher, Statistic

FIGURES = [
    ("release_1m_core_share", "1"),
    ("counting_50k_core_share", "1"),
    ("snapshot_1m_people_s", "s"),
    ("snapshot_1m_people_mb", "MB"),
]

_CELLS, _MINUTE = 1_000_000, 60_000
_EVENTS_PER_S = 50_000
_PEOPLE = 200_000
_GOLDEN = 0x9E3779B1


def figures(quick: bool) -> list[Figure]:
    """Measure the processor seconds of releases, and of counting the events in between."""
    minutes, events = (3, 100_000) if quick else (8, 500_000)
    keys = tuple(f"item-{n}" for n in range(_CELLS))
    statistic = Statistic("items", keys, _MINUTE, 20, Fraction(1))
    shares, seconds_per_event = [], []
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(Path(directory) / "ledger.db", daily_epsilon=1)
        counts = BoundedCounts(statistic, secret=b"a benchmark's secret", start=0)
        publisher = Publisher(counts, ledger)
        for minute in range(1, minutes + 1):
            events_of_minute = [
                (f"u{n * _GOLDEN % _PEOPLE}", keys[n * _GOLDEN % _CELLS])
                for n in range(minute * events, (minute + 1) * events)
            ]
            at = (minute - 1) * _MINUTE
            began = time.process_time()
            for unit, key in events_of_minute:
                counts.add(unit, at, key, watermark=at)
            counted = time.process_time()
            publisher.store(minute * _MINUTE)
            shares.append((time.process_time() - counted) / 60)
            seconds_per_event.append((counted - began) / events)
        ledger.close()
    shares.sort()
    counting = sorted(seconds_per_event)[len(seconds_per_event) // 2] * _EVENTS_PER_S
    return [
        Figure(
            "release_1m_core_share",
            shares[len(shares) // 2],
            "1",
            shares[0],
            shares[-1],
            len(shares),
            "processor seconds to noise and store a million cells, per second of the minute that"
            f" they take; {events:,} events were counted in each minute",
        ),
        Figure(
            "counting_50k_core_share",
            counting,
            "1",
            note="processor seconds to bound and count 50,000 events, per second, for one statistic"
            " of a million keys; not part of release_1m_core_share",
        ),
        *_snapshot(quick),
    ]


def _snapshot(quick: bool) -> list[Figure]:
    """Measure what each commit of the state takes when so many people came on a day."""
    names = (("snapshot_1m_people_s", "s"), ("snapshot_1m_people_mb", "MB"))
    if quick:
        return [
            Figure(name, None, unit, note="not measured by a quick run") for name, unit in names
        ]
    keys = tuple(f"item-{n}" for n in range(1_000))
    statistic = Statistic("items", keys, _MINUTE, 20, Fraction(1))
    counts = BoundedCounts(statistic, secret=b"a benchmark's secret", start=0)
    for n in range(_CELLS):
        counts.add(f"u{n}", n // 20, keys[n % len(keys)])
    seconds, size = [], 0
    for _ in range(5):
        began = time.process_time()
        size = len(counts.snapshot())
        seconds.append(time.process_time() - began)
    seconds.sort()
    note = (
        "processor seconds to pack the counters of one statistic for a commit, a million people so"
        " far on the day; once a commit, engine.commit_ms"
    )
    return [
        Figure(names[0][0], seconds[2], "s", seconds[0], seconds[-1], len(seconds), note),
        Figure(names[1][0], size / 1e6, "MB", note="what that commit writes for it"),
    ]
