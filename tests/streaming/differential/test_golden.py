"""Two real data sets: the engine gives the rows of ``golden/``, one by one."""

import csv
import datetime as dt
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.streaming.golden_replays import otto_events, retail_events

from tactful_streaming.contract.log_entries import Event, Tick, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.patterns.match import Match
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.triggers import WindowResult

GOLDEN = Path(__file__).parents[1] / "golden"
DAY = 86_400_000
BATCH = 10_000


@pytest.mark.slow
def test_online_retail(shared_data: Path) -> None:
    windows, matches = replay("retail", retail_events(shared_data))
    assert chosen(windows, of="retail_windows") == table("retail_windows")
    assert chosen(matches, of="retail_matches") == table("retail_matches")
    assert len(matches) == 428


def test_otto(shared_data: Path) -> None:
    windows, matches = replay("otto", otto_events(shared_data))
    assert chosen(windows, of="otto_windows") == table("otto_windows")
    assert sorted(matches) == table("otto_matches")


def replay(name: str, events: Iterable[Event]) -> tuple[list[list[str]], list[list[str]]]:
    """All windows and matches of a data set, as the tables write them."""
    windows: list[list[str]] = []
    matches: list[list[str]] = []

    def fired(rows: list[WindowResult]) -> None:
        for row in rows:
            times = [time(row.window_start), time(row.window_end)]
            windows.extend(
                [row.feature, key, *times, f"{value:.15g}"]
                for key, value in zip(row.keys, row.values, strict=True)
            )

    def found(more: list[Match]) -> None:
        matches.extend(
            [m.name, m.key, m.same or "", time(m.start), time(m.end), " ".join(m.events)]
            for m in more
        )

    engine = Engine(
        load_definitions(GOLDEN / f"{name}.yaml"),
        MemoryState(),
        EngineOptions(allowed_lateness_ms=0, on_results=fired, on_match=found),
    )
    records: list[tuple[int, bytes]] = []
    newest = 0
    for offset, event in enumerate(events):
        records.append((offset, encode_entry(event)))
        newest = max(newest, event.timestamp)
        if len(records) == BATCH:
            engine.apply(records)
            records = []
    engine.apply(records)
    # Silence, so that every window ends.
    engine.apply([(engine.offset, encode_entry(Tick(timestamp=newest + 40 * DAY)))])
    return windows, matches


def table(name: str) -> list[list[str]]:
    with (GOLDEN / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return sorted(list(csv.reader(file))[1:])


def chosen(rows: list[list[str]], of: str) -> list[list[str]]:
    """The rows of the keys that a table shows."""
    keys = {row[1] for row in table(of)}
    return sorted(row for row in rows if row[1] in keys)


def time(milliseconds: int) -> str:
    moment = dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
