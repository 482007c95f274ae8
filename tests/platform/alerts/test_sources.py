"""Released numbers as intervals: sums of keys, ratios, and several releases together."""

from __future__ import annotations

import math

import pytest

from tactful.alerts.sources import Sources, read_released
from tactful.schemas.alerts import Signal, ThresholdRule
from tactful.schemas.statistics import StatisticCell, StatisticsPage

_HOUR = 3_600_000
_NOW = 1000 * _HOUR


class Releases:
    """Published statistics with a pane an hour; half the width of each interval is 10."""

    now = _NOW

    def __init__(self, **values: list[dict[str, float]]) -> None:
        self.values = values
        self.pages = 0

    def page(
        self, name: str, cursor: str | None, limit: int, since: int | None, until: int | None
    ) -> StatisticsPage:
        self.pages += 1
        cells = [
            StatisticCell(pane_start=start, key=key, value=value, low=value - 10, high=value + 10)
            for number, keys in enumerate(reversed(self.values[name]), 2)
            for start in [_NOW - number * _HOUR]
            for key, value in keys.items()
            if since is None or start >= since
        ]
        cells.sort(key=lambda cell: cell.pane_start)
        return StatisticsPage(
            name=name, epsilon=1.0, cap=5, unit="user-day", cells=cells, pane_ms=_HOUR
        )


def test_the_latest_release_counts_and_keys_add_up_with_the_root_of_their_number() -> None:
    published = Releases(views=[{"a": 900.0, "b": 1.0}, {"a": 100.0, "b": 50.0, "c": 7.0}])
    reading = read_released(published, Signal(statistic="views", keys=["a", "b"]))
    assert reading is not None and reading.value == 150
    assert reading.high - reading.value == pytest.approx(10 * math.sqrt(2))
    assert reading.text.startswith("150 released, between 135.9")


def test_several_releases_lie_beyond_a_level_only_if_each_does() -> None:
    published = Releases(views=[{"a": 40.0}, {"a": 90.0}, {"a": 60.0}])
    reading = read_released(published, Signal(statistic="views", releases=2))
    assert reading is not None and (reading.low, reading.high) == (50.0, 100.0)
    assert read_released(published, Signal(statistic="views", releases=4)) is None


def test_a_ratio_takes_the_worst_ends_of_both_intervals() -> None:
    published = Releases(clicks=[{"a": 30.0}], shown=[{"a": 1010.0}])
    reading = read_released(published, Signal(statistic="clicks", over="shown"))
    assert reading is not None
    assert (reading.low, reading.high) == (20 / 1020, 40 / 1000)
    nothing = Releases(clicks=[{"a": 3.0}], shown=[{"a": 5.0}])
    assert read_released(nothing, Signal(statistic="clicks", over="shown")) is None


def test_an_unknown_statistic_has_no_value_and_the_ledger_is_read_once_a_minute() -> None:
    published = Releases(views=[{"a": 100.0}])
    assert read_released(published, Signal(statistic="nothing")) is None
    sources = Sources(lambda: [], published)
    rule = ThresholdRule(name="few", summary="few", value=Signal(statistic="views"), below=200.0)
    first = sources.scrape([rule], _NOW)
    read = published.pages
    assert sources.scrape([rule], _NOW + 45_000).released == first.released
    assert published.pages == read
    sources.scrape([rule], _NOW + 60_000)
    assert published.pages > read
