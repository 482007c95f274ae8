"""The report file: whole at any moment, honest about time, and the table and picture of it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tactful.demo.report import (
    MEASURES,
    Report,
    plot_quality,
    quality_section,
    quality_table,
    verdict,
)
from tactful.training.evaluation import Estimate, Quality, Scorecard


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def on_disk(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def test_a_report_begins_at_once_and_gets_sections(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "new" / "demo.json"
    report = Report(path, clock=clock, data="a shop", questions=3)
    assert on_disk(path) == {
        "name": "demo",
        "started_at": 1_000_000,
        "finished_at": None,
        "stage": "starting",
        "progress": 0.0,
        "timings_s": {},
        "data": "a shop",
        "questions": 3,
    }
    report.put(model={"version": "1"}, verdict="none yet")
    report.put(model={"version": "2"})
    found = on_disk(path)
    assert (found["model"], found["verdict"]) == ({"version": "2"}, "none yet")


def test_stages_keep_their_time_and_start_at_nothing(tmp_path: Path, clock: Clock) -> None:
    report = Report(tmp_path / "demo.json", clock=clock)
    for stage, seconds in (("sending", 2.0), ("training", 30.5), ("asking", 4.25)):
        report.stage(stage)
        assert on_disk(tmp_path / "demo.json")["stage"] == stage
        assert on_disk(tmp_path / "demo.json")["progress"] == 0.0
        clock.now += seconds
        report.progress(0.7)
    clock.now += 1.0
    report.finish()
    found = on_disk(tmp_path / "demo.json")
    assert found["timings_s"] == {"starting": 0, "sending": 2.0, "training": 30.5, "asking": 5.25}
    assert (found["stage"], found["progress"]) == ("finished", 1.0)
    assert found["finished_at"] == int(clock.now * 1000)
    assert found == report.content


def test_progress_is_written_once_a_second_and_stays_a_share(tmp_path: Path, clock: Clock) -> None:
    report = Report(tmp_path / "demo.json", clock=clock)
    written = []
    for step in range(40):
        clock.now += 0.125
        report.progress(step / 40)
        written.append(on_disk(tmp_path / "demo.json")["progress"])
    assert len(set(written)) == 1 + 40 // 8, "written five times after the beginning"
    for share, kept in ((-1.0, 0.0), (7.0, 1.0), (0.33333333, 0.3333)):
        clock.now += 1
        report.progress(share)
        assert on_disk(tmp_path / "demo.json")["progress"] == kept


def test_a_reader_never_sees_half_of_it(tmp_path: Path) -> None:
    report = Report(tmp_path / "demo.json", text="x" * 100_000)
    stop = threading.Event()
    broken: list[Exception] = []
    reads = 0

    def look() -> None:
        nonlocal reads
        while not stop.is_set():
            try:
                on_disk(tmp_path / "demo.json")
                reads += 1
            except Exception as error:
                broken.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(60):
        report.put(text=str(number % 10) * 100_000)
    stop.set()
    thread.join()
    assert reads
    assert not broken
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"], "no scratch file stays"


def some_quality(hit_rate: float) -> Quality:
    estimate = Estimate(hit_rate, hit_rate - 0.01, hit_rate + 0.0123456)
    return Quality(estimate, estimate, estimate, estimate)


def test_a_section_is_plain_numbers() -> None:
    row = quality_section("served", "Served ranking", some_quality(0.5))
    assert list(row) == ["name", "label", *MEASURES]
    assert row["hr20"] == {"value": 0.5, "low": 0.49, "high": 0.51235}
    nothing = quality_section("served", "Served ranking", Scorecard().quality(10))
    assert nothing["hr20"] == {"value": None, "low": None, "high": None}
    json.dumps(nothing, allow_nan=False)


def test_the_table_has_the_best_first() -> None:
    rows = [
        quality_section(name, name.title(), some_quality(rate))
        for name, rate in (("popularity", 0.04), ("served", 0.41), ("co_visitation", 0.35))
    ]
    head, *lines = quality_table(rows).splitlines()
    places = [head.index(title) for title in MEASURES.values()]
    assert places == sorted(places)
    assert [line.split()[0] for line in lines] == ["Served", "Co_Visitation", "Popularity"]
    assert all(line.count("[") == len(MEASURES) for line in lines)
    assert "0.410 [0.400, 0.422]" in lines[0]
    assert len({len(line.rstrip()) for line in lines}) == 1, "columns stand below each other"


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    rows = [quality_section(n, n, some_quality(0.1 * i)) for i, n in enumerate(["served", "b"])]
    plot_quality(rows, "A shop", tmp_path / "new" / "demo.png")
    assert (tmp_path / "new" / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("low", "high", "beginning"),
    [
        (0.001, 0.2, "The served ranking beats every baseline on HR@20"),
        (-0.001, 0.2, "The comparison with the best baseline on HR@20 is inconclusive"),
        (0.0, 0.2, "The comparison with the best baseline on HR@20 is inconclusive"),
        (float("nan"), float("nan"), "The comparison with the best baseline"),
        (-0.2, -0.001, "The served ranking does NOT beat every baseline on HR@20"),
    ],
)
def test_a_verdict_says_no_more_than_its_interval(low: float, high: float, beginning: str) -> None:
    words = verdict(0.61, 0.57, "Own frequency", Estimate(0.04, low, high))
    assert words.startswith(beginning)
    assert ("beats" in words) == (low > 0)
    assert ("inconclusive" in words) == (not (low > 0 or high < 0))
    assert "0.610 against 0.570 of Own frequency" in words
