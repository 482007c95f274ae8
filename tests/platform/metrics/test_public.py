"""Public metrics contain no exact total of activity; several processes add up."""

import functools

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tactful.metrics.public import LEVELS, level
from tactful.metrics.registry import Metrics
from tactful_streaming.rules.rules import RuleReport


def read(metrics: Metrics) -> dict[str, float]:
    lines = metrics.render().decode().splitlines()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in lines
        if not line.startswith("#")
    }


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def answered(metrics: Metrics, route: str, status: int, seconds: float) -> None:
    metrics.requests.labels(route).observe(seconds)
    metrics.answers.labels(route, status).inc()


def busy(metrics: Metrics, people: int) -> None:
    """Count ten events of each of several users, one of them rejected."""
    for _ in range(people):
        metrics.ingested("event", "accepted", 9)
        metrics.ingested("event", "rejected", 1)
        metrics.applied("applied", 9)
        metrics.applied("late", 1)
        answered(metrics, "/v1/events", 202, 0.004)
        answered(metrics, "/v1/recommend", 200, 0.004)
        metrics.freshness.observe(0.004)
        metrics.actions.inc()
        metrics.listed(5, 2, 0.3)
        metrics.stepped(["click", "purchase"])


def test_leak_5_one_more_user_changes_no_public_metric() -> None:
    some, more = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    letters = iter([200, 201])
    for metrics, people in ((some, 200), (more, 201)):
        busy(metrics, people)
        report = RuleReport(
            events=10 * people,
            clean=9 * people,
            changed=0,
            dropped=people,
            dead_lettered=next(letters),
            by_rule={"bots": people},
        )
        metrics.rules(functools.partial(lambda it: it, report))
    assert some.samples() != more.samples(), "they differ inside"
    found = read(some)
    assert found == read(more)
    assert found['tactful_rejected_share{kind="event"}'] == 0.1
    assert set(found.values()) <= {*LEVELS, 0.005, 0.0}


def test_what_the_machine_failed_at_is_counted_exactly() -> None:
    metrics = Metrics(CollectorRegistry())
    for status in (200, 202, 404, 503, 503):
        answered(metrics, "/v1/recommend", status, 0.01)
    metrics.commits_refused.inc(3)
    metrics.impressions_lost.inc(2)
    found = read(metrics)
    assert found['tactful_answers_total{route="/v1/recommend",status="503"}'] == 2
    assert found['tactful_answers_total{route="/v1/recommend",status="404"}'] == 1
    assert not any('status="20' in name for name in found)
    assert found["tactful_commits_refused_total"] == 3
    assert found["tactful_impressions_lost_total"] == 2


def test_quantiles_and_shares_are_of_the_last_minute() -> None:
    clock = Clock()
    metrics = Metrics(CollectorRegistry(), clock)
    answered(metrics, "/v1/events", 202, 4.0)
    metrics.ingested("event", "rejected", 1)
    slow = 'tactful_request_seconds{quantile="0.99",route="/v1/events"}'
    found = read(metrics)
    assert found[slow] == 5.0
    assert found['tactful_rejected_share{kind="event"}'] == 1.0
    clock.now += 30
    assert read(metrics)[slow] == 5.0
    clock.now += 61
    assert slow not in read(metrics), "nobody asked since"
    answered(metrics, "/v1/events", 202, 0.9)
    assert read(metrics)[slow] == 1.0
    clock.now += 61
    assert read(metrics)[slow] == 1.0, "a reading of a minute ago is older than that answer"
    clock.now += 61
    for _ in range(2_000):
        answered(metrics, "/v1/events", 202, 0.0007)
    metrics.ingested("event", "accepted", 2_000)
    found = read(metrics)
    assert found[slow] == 0.001
    assert found['tactful_rejected_share{kind="event"}'] == 0.0


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        *((0, 0, 0), (0, 9, 0), (1, 10_000, 0.001), (1, 100, 0.01), (2, 100, 0.1)),
        *((11, 100, 1), (9, 3, 1)),
    ],
)
def test_shares_are_rounded_up(part: float, whole: float, expected: float) -> None:
    assert level(part, whole) == expected


def test_a_counter_that_nobody_decided_about_stays_inside() -> None:
    from prometheus_client import Counter

    registry = CollectorRegistry()
    Counter("tactful_orders", "Orders", registry=registry).inc(7)
    metrics = Metrics(registry)
    assert not any("orders" in name for name in read(metrics))


def numbers(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def made() -> tuple[Metrics, list[float]]:
    metrics, waiting = Metrics(CollectorRegistry()), [0.0]
    metrics.gauge("recommend_waiting", "Waiting", lambda: waiting[0])
    return metrics, waiting


def test_counts_of_all_processes_add_up_and_never_go_back() -> None:
    keeper, _ = made()
    first, first_waiting = made()
    second, _ = made()
    together, together_waiting = made()
    for metrics, seconds in ((first, 0.003), (second, 0.5), (second, 7.0), (keeper, 0.001)):
        for each in (metrics, together):
            answered(each, "/v1/recommend", 200, seconds)
    answered(first, "/healthz", 503, 0.1)
    answered(together, "/healthz", 503, 0.1)
    first_waiting[0] = together_waiting[0] = 3.0
    keeper.others.take(1, first.samples())
    keeper.others.take(2, second.samples())
    keeper.others.take(2, second.samples())  # told again, counted once
    assert numbers(keeper) == numbers(together)
    keeper.others.end(1)
    together_waiting[0] = 0.0
    assert numbers(keeper) == numbers(together)
    keeper.others.end(2)
    assert numbers(keeper) == numbers(together)
