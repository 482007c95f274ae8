"""Processes killed with ``kill -9`` under load, in every combination of log, features and target.

What each combination acknowledged must be there, and what it then says must be what an engine that
nobody killed makes of the same load: features, fired windows, actions, items, rows of a sink.
On three brokers of Apache Kafka, brokers are killed as well, and all are stopped and suspended.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path

import sqlalchemy as sa

from benchmarks.figures import Figure
from benchmarks.kills.apache import on_cluster
from benchmarks.kills.chaos import Report
from benchmarks.kills.cluster import cluster, missing
from benchmarks.kills.faults import on_sound_broker
from benchmarks.kills.servers import on_embedded_log, on_kafka, with_workers
from benchmarks.kills.sinks import on_target
from benchmarks.kills.truth import Outcome
from benchmarks.services import mariadb, redis
from benchmarks.streaming.events import memory_broker

_KILLS, _KILLS_QUICK = 20, 3
_STRIKES, _STRIKES_QUICK = 200, 20

APACHE = (
    ("kills_apache", "1"),
    ("kill_lost_events_apache", "1"),
    ("kill_doubled_events_apache", "1"),
    ("kill_wrong_values_apache", "1"),
    ("kill_hung_processes_apache", "1"),
    ("kill_ended_processes_apache", "1"),
    ("kill_failed_requests_apache", "1"),
    ("kill_longest_answer_s_apache", "s"),
    ("kill_longest_acknowledgement_s_apache", "s"),
)
"""Figures of :func:`kills_apache`, and their units."""

PLANTED = (("kill_planted_bugs_apache", "1"), ("kill_planted_bugs_caught_apache", "1"))
"""Figures of :func:`kills_planted`, and their units."""

_BUGS = Path(__file__).resolve().parents[2] / "tests" / "platform" / "planted_bugs.py"
_PLANTED_STRIKES, _PLANTED_ROUNDS = 6, 3
_MISTAKES: dict[str, tuple[str, Callable[[Report], bool]]] = {
    "rows_after_state": ("worker", lambda it: it.outcome.comparison.wrong > 0),
    "sink_commits_before_it_writes": (
        "sink",
        lambda it: it.outcome.lost + it.outcome.comparison.wrong > 0,
    ),
    "actions_are_appended_again": ("worker", lambda it: it.outcome.doubled > 0),
    "offset_before_state": ("worker", lambda it: it.outcome.comparison.wrong > 0),
    "a_restarted_worker_hangs": ("worker", lambda it: bool(it.failures.hung)),
}
"""Planted mistakes, the kind of process that is struck, and whether a run shows the mistake."""


def kills(quick: bool, scratch: Path) -> list[Figure]:
    """Kill in each combination 20 times, or 3 times, at moments that differ from run to run.

    Raises:
        RuntimeError: if a process does not come back to work, or three brokers in a row are at
            fault.
        FileNotFoundError: if a service is not installed.
    """
    count = _KILLS_QUICK if quick else _KILLS
    folder = scratch / "kills"
    folder.mkdir()
    with redis(folder) as cache, mariadb(folder) as sql:
        alone: dict[str, Callable[[Path, int], Outcome]] = {
            "embedded": lambda at, seed: on_embedded_log(count, at, seed),
            "embedded-redis": lambda at, seed: on_embedded_log(count, at, seed, redis_url=cache),
        }
        beside: dict[str, Callable[[str, Path, int], Outcome]] = {
            "kafka": lambda kafka, at, seed: on_kafka(count, at, seed, kafka),
            "workers": lambda kafka, at, seed: with_workers(count, at, seed, kafka, cache),
            "to-sqlite": lambda kafka, at, seed: on_target(
                count, at, seed, kafka, f"sqlite:///{at.with_suffix('.db')}"
            ),
            "to-mariadb": lambda kafka, at, seed: on_target(count, at, seed, kafka, _emptied(sql)),
            "to-redis": lambda kafka, at, seed: on_target(count, at, seed, kafka, cache),
        }
        outcomes = []
        for name, combination in alone.items():
            seed = _seed()
            outcomes.append((seed, combination(folder / name, seed)))
        for name, on_broker in beside.items():
            seed = _seed()
            run = partial(_run, on_broker, folder / name, seed)
            outcomes.append((seed, on_sound_broker(partial(_broker, folder), run)))
    return _figures(outcomes)


def kills_apache(quick: bool, scratch: Path) -> list[Figure]:
    """Strike 200 times, or 20 times, at an installation on three brokers of Apache Kafka."""
    if reason := missing():
        return [Figure(name, None, unit, note=reason) for name, unit in APACHE]
    folder = scratch / "apache"
    folder.mkdir()
    count = _STRIKES_QUICK if quick else _STRIKES
    with redis(folder) as cache, cluster(folder / "cluster") as brokers:
        return apache_figures(on_cluster(count, folder / "installation", _seed(), brokers, cache))


def kills_planted(quick: bool, scratch: Path) -> list[Figure]:
    """Strike at installations with a planted mistake each, or at one; how many mistakes show."""
    if reason := missing():
        return [Figure(name, None, unit, note=reason) for name, unit in PLANTED]
    folder = scratch / "planted"
    folder.mkdir()
    mistakes = [*_MISTAKES][:1] if quick else [*_MISTAKES]
    caught: dict[str, int] = {}
    with redis(folder) as cache, cluster(folder / "cluster") as brokers:
        for mistake, number in product(mistakes, range(1, _PLANTED_ROUNDS + 1)):
            if mistake in caught:
                continue  # a strike shows a mistake only where no later row hides the loss
            kind, shows = _MISTAKES[mistake]
            report = on_cluster(
                *(_PLANTED_STRIKES, folder / f"{mistake}-{number}", _seed(), brokers, cache),
                kinds=(kind,),
                outages=False,
                launcher=(sys.executable, str(_BUGS), mistake),
            )
            if shows(report):
                caught[mistake] = number * _PLANTED_STRIKES
    missed = sorted({*mistakes} - {*caught})
    strikes = ", ".join(f"{mistake} by {count}" for mistake, count in caught.items())
    notes = ", ".join(mistakes), f"strikes: {strikes}; missed: {', '.join(missed) or 'none'}"
    return [
        Figure(name, len(found), unit, note=note)
        for (name, unit), found, note in zip(PLANTED, (mistakes, caught), notes, strict=True)
    ]


def apache_figures(report: Report) -> list[Figure]:
    """The figures of a run; what could not be compared has no value, unless it is known as bad."""
    outcome, failures = report.outcome, report.failures
    struck = ", ".join(f"{count} {what}" for what, count in sorted(report.strikes.items()))
    problems, known = [report.problem] if report.problem else [], not report.problem
    notes = [f"seed {report.seed}, {report.minutes:.0f} min", struck, *report.notes, *problems]
    wrong, compared = outcome.comparison.wrong, outcome.comparison.compared
    again = ", ".join(f"{count} {what}" for what, count in sorted(failures.restarts.items()))
    restarts = f"restarted by `--supervise` are: {again or 'none'}"
    first = [*outcome.comparison.examples[:3], *problems]
    rows: list[tuple[float | None, int | None, Sequence[str]]] = [
        (outcome.kills, None, notes),
        (outcome.lost if known or outcome.lost else None, outcome.acknowledged, first),
        (outcome.doubled if known or outcome.doubled else None, outcome.acknowledged, first),
        (wrong if known or wrong else None, compared, first),
        (len(failures.hung), None, [*_heads(failures.hung), *problems]),
        (len(failures.ended), None, [*_heads(failures.ended), restarts, *problems]),
        (len(report.faults), None, report.faults[:3]),
        (report.answer_s, None, ["a suspended server answers when it goes on"]),
        (report.acknowledged_s, None, ["sent again until it was acknowledged"]),
    ]
    return [
        Figure(name, value, unit, runs=runs, note="; ".join(note))
        for (name, unit), (value, runs, note) in zip(APACHE, rows, strict=True)
    ]


def _heads(texts: Sequence[str]) -> list[str]:
    """The first and the last line of each of the first texts."""
    lines = [text.strip().splitlines() for text in texts[:3]]
    return [f"{first}: {rest[-1][:200] if rest else ''}" for first, *rest in lines]


def _seed() -> int:
    return random.SystemRandom().randrange(1_000_000)


def _run(
    combination: Callable[[str, Path, int], Outcome],
    folder: Path,
    seed: int,
    servers: str,
    attempt: int,
) -> Outcome:
    """One run on a broker, in a folder of its own."""
    return combination(servers, folder.with_name(f"{folder.name}-{attempt}"), seed)


@contextmanager
def _broker(scratch: Path) -> Iterator[str]:
    """A broker that nobody has used; its address."""
    with memory_broker(scratch) as servers:
        yield servers


def _emptied(url: str) -> str:
    """The database, without rows of a run before, which would hide that some are lost."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS tactful_fired_values"))
    engine.dispose()
    return url


def _figures(outcomes: Sequence[tuple[int, Outcome]]) -> list[Figure]:
    where = "; ".join(f"{it.name} {it.kills} (seed {seed})" for seed, it in outcomes)
    acknowledged = sum(it.acknowledged for _, it in outcomes)
    compared = sum(it.comparison.compared for _, it in outcomes)
    examples = [text for _, it in outcomes for text in it.comparison.examples]
    wrong = "features, windows, actions, items and rows that differ from an uninterrupted run"
    return [
        Figure(
            "kills",
            sum(it.kills for _, it in outcomes),
            "1",
            runs=len(outcomes),
            note=f"kill -9 under load of server, workers and sinks, at random: {where}",
        ),
        Figure(
            "kill_lost_events",
            sum(it.lost for _, it in outcomes),
            "1",
            runs=acknowledged,
            note="acknowledged events that are not in the log, and rows not in the target",
        ),
        Figure(
            "kill_wrong_values",
            sum(it.comparison.wrong for _, it in outcomes),
            "1",
            runs=compared,
            note="; ".join([wrong, *examples[:3]]),
        ),
    ]
