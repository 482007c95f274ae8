"""The pure core: rules of each kind, hysteresis, `for`, one alert for each label set."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.alerts.evaluate import evaluate
from tactful.alerts.memory import Memory, dump_memory, load_memory
from tactful.alerts.rules import check_rule
from tactful.alerts.samples import Reading, make_scrape, signal_key
from tactful.errors import ConfigError
from tactful.schemas.alerts import AlertRule

_HOUR = 3_600_000
_BEGIN = 1_700_000 * 1_000_000 // _HOUR * _HOUR


def make(**fields: Any) -> AlertRule:
    """Return a rule from the fields of its YAML."""
    fields = {
        "name": "wrong",
        "summary": "something is wrong",
        "for": "0s",
        "clear_for": "0s",
    } | fields
    rule: AlertRule = msgspec.convert(fields, AlertRule)
    check_rule(rule, where="test")
    return rule


def run(
    rule: AlertRule, scrapes: Iterable[Mapping[str, float]], *, step: int = 15_000, **options: Any
) -> list[str]:
    """Evaluate one rule on scrapes of samples without labels; return the changes, in order."""
    memory = options.get("memory", Memory())
    begin = options.get("begin", _BEGIN)
    changes = []
    for number, values in enumerate(scrapes):
        scrape = make_scrape([(name, {}, value) for name, value in values.items()])
        for transition in evaluate([rule], scrape, begin + number * step, memory):
            if transition.change != "open":
                changes.append(f"{number} {transition.change}")
    return changes


def test_an_alert_opens_after_its_time_and_clears_at_its_own_level() -> None:
    rule = make(kind="threshold", value={"metric": "lag"}, above=10, clear=5, **{"for": "30s"})
    values = [1, 20, 20, 1, 20, 20, 20, 8, 8, 4, 20]
    assert run(rule, ({"lag": value} for value in values)) == ["6 opened", "9 cleared"]


def test_a_level_from_below() -> None:
    rule = make(kind="threshold", value={"metric": "free"}, below=0.1, clear=0.2)
    values = [0.5, 0.05, 0.15, 0.05, 0.25]
    assert run(rule, ({"free": value} for value in values)) == ["1 opened", "4 cleared"]


def test_each_label_value_has_one_alert() -> None:
    rule = make(kind="threshold", value={"metric": "days", "by": ["file"]}, below=10)
    memory = Memory()
    rows = [("days", {"file": "a,b=c"}, 3.0), ("days", {"file": "d"}, 300.0)]
    first = evaluate([rule], make_scrape(rows), _BEGIN, memory)
    again = evaluate([rule], make_scrape(rows), _BEGIN + 15_000, memory)
    assert [(it.change, it.labels) for it in first] == [("opened", (("file", "a,b=c"),))]
    assert [it.change for it in again] == ["open"]
    gone = evaluate([], make_scrape(rows), _BEGIN + 30_000, memory)
    assert [(it.change, it.labels) for it in gone] == [("cleared", (("file", "a,b=c"),))]


def test_a_share_counts_increases_and_needs_a_least_number() -> None:
    rule = make(
        kind="threshold",
        value={
            "metric": "tactful_ingested_total",
            "labels": {"result": "rejected"},
            "share_of": {},
            "change": "increase",
            "least": 100,
        },
        above=0.05,
    )
    memory = Memory()

    def step(number: int, accepted: float, rejected: float) -> list[str]:
        rows = [
            ("tactful_ingested_total", {"kind": "event", "result": "accepted"}, accepted),
            ("tactful_ingested_total", {"kind": "event", "result": "rejected"}, rejected),
        ]
        found = evaluate([rule], make_scrape(rows), _BEGIN + number * 15_000, memory)
        return [it.change + " " + it.message for it in found]

    assert step(0, 1000, 900) == []  # only increases count
    assert step(1, 1040, 910) == []  # a fifth of fifty: too few to say
    opened = step(2, 1100, 920)
    # The exact share would be a statement about what people did; the level is what /metrics shows.
    assert opened == ["opened something is wrong: at most 1, above 0.05"]
    assert [it.split()[0] for it in step(3, 5, 0)] == ["open"]  # the process restarted
    assert [it.split()[0] for it in step(4, 9000, 0)] == ["cleared"]


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("tactful_ingested_total", "above 5"),
        ("tactful_request_seconds_count", "above 5"),
        ("tactful_commits_refused_total", "12345, above 5"),
        ("tactful_engine_lag", "12345, above 5"),
    ],
)
def test_a_message_holds_no_exact_total_of_what_people_did(metric: str, said: str) -> None:
    rule = make(kind="threshold", value={"metric": metric}, above=5)
    (found,) = evaluate([rule], make_scrape([(metric, {}, 12345.0)]), _BEGIN, Memory())
    assert found.message == f"something is wrong: {said}"


def test_a_private_value_fires_only_if_its_whole_interval_lies_beyond() -> None:
    rule = make(kind="threshold", value={"statistic": "clicks", "over": "shown"}, below=0.05)
    memory, key = Memory(), signal_key(rule.value)

    def step(low: float, high: float) -> list[str]:
        reading = Reading((low + high) / 2, low, high, "0.04 ± 0.01")
        found = evaluate([rule], make_scrape([], {key: reading}), _BEGIN, memory)
        return [it.change for it in found]

    assert step(0.03, 0.051) == []
    assert step(0.03, 0.049) == ["opened"]
    assert step(0.03, 0.06) == ["open"]
    assert step(0.04, 0.07) == ["cleared"]


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_false_alerts_of_a_private_value_stay_below_the_stated_rate(scale: float) -> None:
    # A value that lies exactly on the level, with Laplace noise and the interval of 95 %.
    rule = make(kind="threshold", value={"statistic": "clicks"}, below=100.0)
    noise, key = random.Random(7), signal_key(rule.value)
    half = scale * math.log(1 / 0.05)
    fired = 0
    for _ in range(4000):
        released = 100 + noise.choice((-1, 1)) * noise.expovariate(1 / scale)
        reading = Reading(released, released - half, released + half, "")
        fired += bool(evaluate([rule], make_scrape([], {key: reading}), _BEGIN, Memory()))
    assert 0.015 < fired / 4000 < 0.035


def test_a_change_is_measured_against_the_mean_before() -> None:
    rule = make(kind="change", value={"metric": "memory"}, against="5m", rises=0.5, floor=10)
    values = [100.0] * 40 + [140.0] * 2 + [160.0] * 1
    assert run(rule, ({"memory": value} for value in values)) == ["42 opened"]


def test_a_counter_that_stops_is_absent_and_a_missing_value_too() -> None:
    stopped = make(
        kind="absence", value={"metric": "seen_total", "change": "increase", "within": "1m"}
    )
    values = [float(min(number, 8)) for number in range(20)] + [99.0]
    assert run(stopped, ({"seen_total": value} for value in values)) == ["12 opened", "20 cleared"]
    missing = make(kind="absence", value={"metric": "age"})
    assert run(missing, [{}, {"age": 1.0}, {}, {}, {"age": 1.0}]) == ["2 opened", "4 cleared"]


def _shop(weeks: int, fault: range = range(0), factor: float = 0.1) -> list[float]:
    """Return a counter at every quarter of an hour: busy days, quiet nights, Poisson noise."""
    noise, total, totals = random.Random(3), 0.0, []
    for quarter in range(weeks * 7 * 96):
        hour = quarter // 4 % 24
        mean = 200.0 if 8 <= hour < 20 else 0.5
        if quarter in fault:
            mean *= factor
        total += max(0, round(noise.gauss(mean, math.sqrt(mean))))
        totals.append(total)
    return totals


def _anomaly(direction: str) -> AlertRule:
    return make(
        kind="anomaly",
        value={"metric": "events_total", "change": "increase", "within": "1h"},
        direction=direction,
        least_value=50,
        deviations=6,
    )


@pytest.mark.slow
def test_a_usual_shop_is_no_anomaly_and_a_missing_day_is_one() -> None:
    usual = _shop(6)
    quarters = ({"events_total": value} for value in usual)
    assert run(_anomaly("both"), quarters, step=900_000) == []
    noon = 5 * 7 * 96 + 12 * 4
    broken = _shop(6, fault=range(noon, noon + 12))
    quarters = ({"events_total": value} for value in broken)
    opened, cleared = run(_anomaly("below"), quarters, step=900_000)
    assert noon < int(opened.split()[0]) <= noon + 5 and cleared.endswith("cleared")


def _scores(
    memory: Memory, weights: list[float], hours: int, begin: int, totals: list[float]
) -> list[str]:
    rule = make(
        kind="drift",
        value={"metric": "score", "within": "1h", "least": 500},
        reference="1d",
    )
    changes: list[str] = []
    for step in range(hours * 12):
        for bucket, weight in enumerate(weights):
            totals[bucket] += 20 * weight
        rows = [
            ("score_bucket", {"le": str(bucket)}, sum(totals[: bucket + 1]))
            for bucket in range(len(weights))
        ]
        found = evaluate([rule], make_scrape(rows), begin + step * 300_000, memory)
        changes += [it.change for it in found if it.change != "open"]
    return changes


def test_a_histogram_that_moves_is_drift_and_one_that_stays_is_none() -> None:
    memory, totals = Memory(), [0.0] * 5
    assert _scores(memory, [1, 2, 4, 2, 1], 30, _BEGIN, totals) == []
    memory = load_memory(dump_memory(memory))  # a restart between
    assert _scores(memory, [4, 3, 1, 1, 1], 2, _BEGIN + 30 * _HOUR, totals) == ["opened"]


def test_a_value_that_stays_away_clears_its_alert_after_an_hour() -> None:
    rule = make(kind="threshold", value={"metric": "lag"}, above=1)
    scrapes = [{"lag": 5.0}] + [{}] * 250
    assert run(rule, scrapes) == ["0 opened", "241 cleared"]


@given(st.lists(st.sampled_from([0.0, 6.0, 20.0]), max_size=40))
def test_openings_and_clearings_alternate(values: list[float]) -> None:
    rule = make(kind="threshold", value={"metric": "lag"}, above=10, clear=5, **{"for": "15s"})
    changes = [it.split()[1] for it in run(rule, ({"lag": value} for value in values))]
    assert changes == ["opened", "cleared"] * (len(changes) // 2) + ["opened"] * (len(changes) % 2)


@given(st.lists(st.sampled_from([0.0, 6.0, 20.0]), max_size=30), st.integers(0, 30))
def test_a_restart_at_any_time_changes_nothing(values: list[float], at: int) -> None:
    rule = make(kind="threshold", value={"metric": "lag"}, above=10, clear=5, **{"for": "30s"})
    scrapes = [{"lag": value} for value in values]
    memory = Memory()
    first = run(rule, scrapes[:at], memory=memory)
    stored = load_memory(dump_memory(memory))
    rest = run(rule, scrapes[at:], memory=stored, begin=_BEGIN + at * 15_000)
    shifted = [f"{int(it.split()[0]) + at} {it.split()[1]}" for it in rest]
    assert first + shifted == run(rule, scrapes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "threshold", "value": {"metric": "a"}}, "either above or below"),
        ({"kind": "threshold", "value": {"metric": "a"}, "above": 1, "clear": 2}, "greater than"),
        ({"kind": "threshold", "value": {}, "above": 1}, "either metric or statistic"),
        (
            {"kind": "threshold", "value": {"metric": "a", "share_of": {}}, "above": 1},
            "change: increase",
        ),
        ({"kind": "drift", "value": {"statistic": "a"}}, "histogram"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**fields)
