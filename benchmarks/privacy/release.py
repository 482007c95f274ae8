"""What it takes to release a million cells every minute while events come in."""

import time
from fractions import Fraction

from benchmarks.figures import Figure
from benchmarks.privacy.release_load import (
    CAP,
    CELLS,
    EVENTS_PER_S,
    MINUTE_MS,
    PEOPLE,
    run_minutes,
)
from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.ledger.statistic import Statistic

FIGURES = [
    ("release_1m_core_share", "1"),
    ("release_1m_ingested_per_s", "events/s"),
    ("release_1m_after_minute_s", "s"),
    ("release_1m_memory_mb", "MB"),
    ("release_1m_topic_core_share", "1"),
    ("counting_50k_core_share", "1"),
    ("snapshot_1m_people_s", "s"),
    ("snapshot_1m_people_mb", "MB"),
]

_PEOPLE = 200_000
_GOLDEN = 0x9E3779B1


def figures(quick: bool) -> list[Figure]:
    """Measure releases beside the ingestion, counting alone, and a snapshot of the counters."""
    return [*_releases(2 if quick else 5), _counting(quick), *_snapshot(quick)]


def _releases(minutes: int) -> list[Figure]:
    """Measure what releases take the engine while events come, and how late they are."""
    run = run_minutes(minutes)
    shares = sorted(release.cpu_s / 60 for release in run.releases)
    behind = sorted(release.behind_s for release in run.releases)
    count = len(run.releases)
    counted = run.applied / run.seconds
    return [
        Figure(
            "release_1m_core_share",
            shares[count // 2],
            "1",
            shares[0],
            shares[-1],
            count,
            "processor seconds of the engine's thread to close, noise and store a million cells,"
            " per second of the minute that they take, while events came in (see"
            f" release_1m_ingested_per_s); it counted nothing else for at most"
            f" {max(release.wall_s for release in run.releases):.2f} s a minute",
        ),
        Figure(
            "release_1m_ingested_per_s",
            counted,
            "events/s",
            runs=1,
            note=f"{EVENTS_PER_S:,} a second came for {run.seconds:.0f} s, through a pipe in the"
            f" place of the door: {run.events / run.seconds:,.0f} a second were on disk in the log,"
            " so many counted by the engine; at most"
            f" {run.most_behind / EVENTS_PER_S:.1f} s of events waited for it. A statistic of a"
            f" million keys, {PEOPLE:,} people on the day, no features. One process appended,"
            f" counted, committed and released with {run.cpu_s / run.seconds:.2f} of a core;"
            " another made the events",
        ),
        Figure(
            "release_1m_after_minute_s",
            behind[count // 2],
            "s",
            behind[0],
            behind[-1],
            count,
            "from the end of a minute until its release was in the ledger; 60 s of it are"
            " the allowance for late events. It is shown from 75 s on",
        ),
        Figure(
            "release_1m_memory_mb",
            run.memory_mb,
            "MB",
            note="most memory of that process",
        ),
        Figure(
            "release_1m_topic_core_share",
            run.publishing_s / 60,
            "1",
            note="processor seconds to make the million records of a release as a topic gets them,"
            " without sending, per second of the minute; in a process of its own",
        ),
    ]


def _counting(quick: bool) -> Figure:
    """Measure counting alone, of as many events as come in a second."""
    keys = tuple(f"item-{n}" for n in range(CELLS))
    statistic = Statistic("items", keys, MINUTE_MS, CAP, Fraction(1))
    counts = BoundedCounts(statistic, secret=b"a benchmark's secret", start=0)
    seconds = []
    for second in range(3 if quick else 9):
        first = second * EVENTS_PER_S
        events = [
            (f"u{n * _GOLDEN % _PEOPLE}", keys[n * _GOLDEN % CELLS])
            for n in range(first, first + EVENTS_PER_S)
        ]
        began = time.process_time()
        for unit, key in events:
            counts.add(unit, 0, key)
        seconds.append(time.process_time() - began)
    seconds.sort()
    return Figure(
        "counting_50k_core_share",
        seconds[len(seconds) // 2],
        "1",
        seconds[0],
        seconds[-1],
        len(seconds),
        "processor seconds to bound and count 50,000 events, per second, for one statistic"
        " of a million keys; not part of release_1m_core_share",
    )


def _snapshot(quick: bool) -> list[Figure]:
    """Measure what each commit of the state takes when so many people came on a day."""
    names = (("snapshot_1m_people_s", "s"), ("snapshot_1m_people_mb", "MB"))
    if quick:
        return [
            Figure(name, None, unit, note="not measured by a quick run") for name, unit in names
        ]
    keys = tuple(f"item-{n}" for n in range(1_000))
    statistic = Statistic("items", keys, MINUTE_MS, 20, Fraction(1))
    counts = BoundedCounts(statistic, secret=b"a benchmark's secret", start=0)
    for n in range(CELLS):
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
