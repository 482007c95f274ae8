import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ui import sample

from tactful_ui.errors import BadAnswer
from tactful_ui.report import Estimate, Report, parse_time

KEYS = st.sampled_from(
    [*sample.report(), "value", "low", "high", "name", "arms", "rounds", "sample", "pane_start"]
)
EDGES = [10**400, -(10**400), 1e308, "2021-01-01T00:00:00Z", "0001-01-01T00:00+23:00"]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
SCALARS |= st.sampled_from(EDGES)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=25,
)


def test_every_section_of_a_full_report_is_read() -> None:
    raw = sample.report()
    report = Report.parse(raw)
    assert report.finished
    assert [row.name for row in report.quality] == [row["name"] for row in raw["quality"]]
    assert report.quality[0].metrics["hr20"] == Estimate(**raw["quality"][0]["hr20"])
    assert report.latency and report.latency.p99 == raw["latency_ms"]["p99"]
    assert report.latency.samples == raw["latency_ms"]["requests"]
    assert report.freshness and report.freshness.samples == raw["freshness_ms"]["samples"]
    assert report.experiment and [arm.rate.value for arm in report.experiment.arms] == [
        arm["rate"] for arm in raw["experiment"]["arms"]
    ]
    assert report.experiment.difference == Estimate(0.009, -0.041, 0.059)
    assert report.statistics and len(report.statistics.counts) == len(raw["statistics"]["sample"])
    assert report.statistics.counts[0].start == sample.FIRST_PANE
    assert report.federated and len(report.federated.rounds) == len(raw["federated"]["rounds"])
    assert report.model and report.model.gains[0] == ("own_purchases_90d", 900)
    assert dict(report.timings) == raw["timings_s"]
    assert dict(report.environment)["cpus"] == "2"


@pytest.mark.parametrize("missing", sample.SECTIONS)
def test_any_section_may_be_absent(missing: str) -> None:
    raw = sample.report()
    without = Report.parse({key: value for key, value in raw.items() if key != missing})
    # Nulling a section is the same as leaving it out.
    assert without == Report.parse({**raw, missing: None})
    assert without != Report.parse(raw)


def test_malformed_values_are_left_out_and_good_neighbours_kept() -> None:
    report = Report.parse(sample.malformed())
    assert [row.name for row in report.quality] == ["popularity"]
    assert report.progress == 0.0
    assert report.started_at is None
    assert report.latency and report.latency.p99 is None
    assert report.statistics and [each.key for each in report.statistics.counts] == [""]
    assert report.experiment and [arm.name for arm in report.experiment.arms] == ["control"]
    assert report.federated and [each.number for each in report.federated.rounds] == [1]
    assert report.model and report.model.version == "3" and report.model.gains == ()
    assert report.timings == ()


@given(st.dictionaries(KEYS, JSON, max_size=12))
def test_no_object_is_refused_and_no_number_is_infinite(raw: dict[str, Any]) -> None:
    report = Report.parse(raw)
    assert 0.0 <= report.progress <= 1.0
    numbers = [estimate.value for row in report.quality for estimate in row.metrics.values()]
    assert all(map(math.isfinite, [*numbers, *(seconds for _, seconds in report.timings)]))


def test_what_is_no_object_is_no_report() -> None:
    wrongs: list[object] = [None, [], "demo", 3, [sample.report()]]
    for raw in wrongs:
        with pytest.raises(BadAnswer, match="JSON object"):
            Report.parse(raw)


def test_best_baseline_is_the_best_of_the_others() -> None:
    report = Report.parse(sample.report())
    assert report.served and report.served.label == "Served by tactful"
    assert report.best_baseline and report.best_baseline.name == "frequency"
    alone = Report.parse({"quality": [sample.report()["quality"][0]]})
    assert alone.served and alone.best_baseline is None


def test_moments_are_read_in_both_forms_as_utc() -> None:
    expected = datetime(2021, 3, 1, 12, tzinfo=UTC)
    for zone in ("12:00:00Z", "14:00:00+02:00", "12:00:00"):
        assert parse_time(f"2021-03-01T{zone}") == expected
    assert parse_time(round(expected.timestamp() * 1000)) == expected
    nothings: list[object] = [None, "noon", True, math.nan, 1e300, {}, []]
    assert [wrong for wrong in nothings if parse_time(wrong) is not None] == []


def test_keys_come_largest_total_first() -> None:
    statistics = Report.parse(sample.report()).statistics
    assert statistics is not None
    totals = {
        key: sum(each.value.value for each in statistics.counts if each.key == key)
        for key in statistics.keys
    }
    assert sorted(totals.values(), reverse=True) == list(totals.values())
    assert set(statistics.keys) == set(sample.CATEGORIES)
