"""The server's own metrics of a day: bounded, durable, and true to what was measured."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from tactful.errors import StorageError
from tactful.metrics import history
from tactful.metrics.history import FILE, KEPT_S, MOST_BYTES, MetricHistory
from tactful.metrics.readings import Reading
from tactful.metrics.registry import Metrics

NOW = 1_772_366_400_000


def kept(directory: Path, points: dict[int, dict[str, float]]) -> MetricHistory:
    """A history with public numbers by seconds after `NOW`."""
    result = MetricHistory(directory / FILE)
    for seconds, numbers in points.items():
        result.add(NOW + 1000 * seconds, Reading(numbers))
    return result


def read(
    source: MetricHistory, since: int = -KEPT_S, until: int = KEPT_S, step: int = 10
) -> dict[str, list[float]]:
    _, found = source.read(NOW + 1000 * since, NOW + 1000 * until, step)
    return {series.name: list(series.means) for series in found}


def test_a_point_is_read_as_it_was_added(tmp_path: Path) -> None:
    found = kept(tmp_path, {0: {"lag": 3.0}, 10: {"lag": 5.0, "age": 1.0}})
    times, series = found.read(NOW, NOW + 60_000, 10)
    assert times == [NOW, NOW + 10_000]
    assert {one.name: one.means for one in series}["lag"] == [3.0, 5.0]
    (age,) = [one for one in series if one.name == "age"]
    assert math.isnan(age.means[0])
    assert age.means[1] == age.highest[1] == 1.0
    assert found.latest == Reading({"lag": 5.0, "age": 1.0})


def test_points_of_a_day_survive_a_reopening_and_older_ones_go(tmp_path: Path) -> None:
    kept(tmp_path, {0: {"lag": 1.0}, 10: {"lag": 2.0}}).close()
    again = MetricHistory(tmp_path / FILE)
    assert read(again) == {"lag": [1.0, 2.0]}
    again.add(NOW + 1000 * (KEPT_S + 5), Reading({"lag": 9.0}))
    assert read(again, until=2 * KEPT_S) == {"lag": [2.0, 9.0]}


def test_a_clock_that_was_set_back_leaves_no_points_of_the_future(tmp_path: Path) -> None:
    found = kept(tmp_path, {3600: {"lag": 1.0}, 0: {"lag": 2.0}})
    assert read(found) == {"lag": [2.0]}


def test_exact_series_are_for_those_who_may_see_them(tmp_path: Path) -> None:
    found = MetricHistory(tmp_path / FILE)
    found.add(NOW, Reading({"lag": 1.0}, {"ingested_per_second": 7.0}))
    _, public = found.read(NOW, NOW + 1, 10)
    _, everything = found.read(NOW, NOW + 1, 10, exact=True)
    assert [one.name for one in public] == ["lag"]
    assert [one.name for one in everything] == ["lag", "ingested_per_second"]
    _, named = found.read(NOW, NOW + 1, 10, names=["ingested_per_second"])
    assert named == [], "a name is no permission"


def test_a_name_is_a_series_or_a_whole_metric(tmp_path: Path) -> None:
    numbers = {'wait{q="0.5"}': 1.0, 'wait{q="0.9"}': 2.0, "waits": 3.0}
    found = kept(tmp_path, {0: numbers})
    for name, expected in (("wait", 2), ('wait{q="0.9"}', 1), ("waits", 1), ("none", 0)):
        assert len(found.read(NOW, NOW + 1, 10, names=[name])[1]) == expected


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1e6, width=32)), min_size=1, max_size=40),
    st.sampled_from([10, 20, 70]),
)
def test_steps_agree_with_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float | None], step: int
) -> None:
    points = {10 * at: {} if x is None else {"x": x} for at, x in enumerate(numbers)}
    found = kept(tmp_path_factory.mktemp("steps"), points)
    by_step: dict[int, list[float]] = {}
    for at, x in enumerate(numbers):
        start = (NOW + 10_000 * at) // (step * 1000) * step * 1000
        by_step.setdefault(start, []).extend([] if x is None else [x])
    times, series = found.read(NOW, NOW + KEPT_S * 1000, step)
    found.close()
    if all(x is None for x in numbers):
        assert series == []
        return
    assert times == [*by_step]
    for start, mean, highest in zip(times, series[0].means, series[0].highest, strict=True):
        if by_step[start]:
            assert mean == pytest.approx(np.mean(by_step[start]))
            assert highest == pytest.approx(max(by_step[start]))
        else:
            assert math.isnan(mean)
            assert math.isnan(highest)


def test_a_file_that_is_damaged_begins_anew(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    found = MetricHistory(tmp_path / FILE)
    found.add(NOW, Reading({"lag": 1.0}))
    assert read(found) == {"lag": [1.0]}


def test_a_full_disk_is_reported_and_leaves_the_points_that_there_are(tmp_path: Path) -> None:
    found = kept(tmp_path, {0: {"lag": 1.0}})
    found._connection.execute("PRAGMA max_page_count=3")
    with pytest.raises(StorageError, match="is the disk full"):
        for second in range(10, 100_000, 10):
            found.add(NOW + 1000 * second, Reading({f"x{n}": 1.0 for n in range(400)}))
    assert read(found)["lag"][0] == 1.0


def test_a_name_that_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    found = kept(tmp_path, {0: {"lag": 1.0}})
    found._connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON points BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with pytest.raises(StorageError):
        found.add(NOW + 10_000, Reading({"lag": 2.0, "lost": 2.0}))
    found._connection.execute("DROP TRIGGER full")
    found.add(NOW + 20_000, Reading({"lag": 3.0, "new": 3.0}))
    found.close()
    assert read(MetricHistory(tmp_path / FILE), since=15) == {"lag": [3.0], "new": [3.0]}


_KILLED = """
import os, sys
from pathlib import Path
from tactful.metrics.history import MetricHistory
from tactful.metrics.readings import Reading
found = MetricHistory(Path(sys.argv[1]))
for point in range(200):
    found.add({now} + 10_000 * point, Reading({{"lag": float(point)}}))
os.kill(os.getpid(), 9)
"""


def test_a_kill_loses_no_point_that_was_added(tmp_path: Path) -> None:
    code = _KILLED.format(now=NOW)
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / FILE], check=False)
    assert ended.returncode == -9
    assert read(MetricHistory(tmp_path / FILE))["lag"] == [float(n) for n in range(200)]


def test_more_series_than_fit_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(history, "MOST_SERIES", 3)
    found = kept(tmp_path, {n: {f"x{n}": 1.0} for n in range(0, 90, 10)})
    assert len(read(found)) == 3
    assert caplog.text.count("more than 3 series") == 1


@pytest.mark.slow
def test_a_day_and_more_with_the_most_series_stay_below_20_megabytes(tmp_path: Path) -> None:
    found = MetricHistory(tmp_path / FILE)
    found._connection.execute("PRAGMA synchronous=OFF")
    numbers = {f"tactful_a_rather_long_name_of_a_series_{n}": n / 7 for n in range(500)}
    largest = 0
    for point in range(KEPT_S // 10 + 500):
        found.add(NOW + 10_000 * point, Reading(numbers))
        if point % 500 == 0:
            largest = max(largest, sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert 15_000_000 < largest < MOST_BYTES
    end = NOW + 2 * KEPT_S * 1000
    times, series = found.read(NOW, end, 60)
    # The day begins within a minute and ends within one.
    assert (len(times), len(series)) == (KEPT_S // 60 + 1, 500)


def test_a_reading_has_rates_gauges_and_quantiles() -> None:
    clock = iter([0.0, *(float(n) for n in range(0, 10_000, 10))])
    metrics = Metrics(CollectorRegistry(), lambda: next(clock))
    reader = metrics.reader()
    metrics.gauge("engine_lag", "Lag", lambda: 7.0)
    reader.take()
    metrics.ingested("event", "accepted", 90)
    metrics.ingested("event", "rejected", 10)
    metrics.rejected("event", ["in_future"] * 10)
    metrics.answers.labels("/v1/events", 202).inc(5)
    metrics.answers.labels("/v1/events", 503).inc(2)
    metrics.answers.labels("/v1/recommend", 503).inc(1)
    metrics.recommended("complete")
    metrics.recommended("overloaded")
    metrics.freshness.observe(0.004)
    found = reader.take()
    accepted = found.exact['tactful_ingested_per_second{kind="event",result="accepted"}']
    rejected = found.exact['tactful_ingested_per_second{kind="event",result="rejected"}']
    failed = found.public['tactful_answers_per_second{status="503"}']
    assert (accepted / rejected, failed / rejected) == pytest.approx((9, 0.3))
    assert found.public["tactful_engine_lag"] == 7
    assert found.public['tactful_freshness_seconds{quantile="0.99"}'] == 0.005
    assert found.public['tactful_rejections_share{code="in_future",kind="event"}'] == 0.1
    assert found.public['tactful_recommendations_share{kind="overloaded"}'] == 1.0
    assert not [name for name in found.public if "ingested" in name or '"202"' in name]
    assert not found.public.keys() & found.exact.keys()


def test_readings_hold_no_more_series_than_labels_allow() -> None:
    metrics = Metrics(CollectorRegistry())
    for status in (200, 400, 404, 503):
        for route in range(50):
            metrics.answers.labels(f"/v1/{route}", status).inc()
    assert len([name for name in metrics.reader().take().public if "answers" in name]) == 3


def test_the_file_belongs_to_one_user(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        MetricHistory(tmp_path / FILE)
    finally:
        os.umask(mask)
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    with sqlite3.connect(tmp_path / FILE) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
