"""Processes killed with ``kill -9`` under load, in every combination of log, features and target.

What each combination acknowledged must be there, and what it then says must be what an engine that
nobody killed makes of the same load: features, fired windows, actions, items, rows of a sink.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from benchmarks.figures import Figure
from benchmarks.kills.faults import on_sound_broker
from benchmarks.kills.servers import on_embedded_log, on_kafka, with_workers
from benchmarks.kills.sinks import on_target
from benchmarks.kills.truth import Outcome
from benchmarks.services import mariadb, redis
from benchmarks.streaming.events import broker

_KILLS, _KILLS_QUICK = 20, 3


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
    with broker(scratch) as (servers, _):
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
