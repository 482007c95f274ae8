"""Sum of the metrics of several processes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tactful.metrics.registry import Metrics


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
            each.answered("/v1/recommend", 200, seconds)
    first.answered("/healthz", 503, 0.1)
    together.answered("/healthz", 503, 0.1)
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
