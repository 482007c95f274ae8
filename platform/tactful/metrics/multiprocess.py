"""Sum of the metrics of several processes of one server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.samples import Sample

SampleRow = tuple[str, dict[str, str], float]
"""Name, labels and value of a sample: ``("tactful_answers_total", {"status": "200"}, 17.0)``."""

_Key = tuple[str, tuple[tuple[str, str], ...]]
_GROWING = ("_total", "_bucket", "_count", "_sum")


def samples(registry: CollectorRegistry) -> list[SampleRow]:
    """Return all samples of a registry, to send them to another process."""
    return [
        (sample.name, dict(sample.labels), float(sample.value))
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]


class SummedRegistry:
    """Registry whose numbers include the samples of other processes.

    Families are those of this process: others are left out.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Add to the numbers of `registry`."""
        self._registry = registry
        self._others: dict[int, dict[_Key, float]] = {}
        self._ended: dict[_Key, float] = {}

    def take(self, process: int, rows: Iterable[SampleRow]) -> None:
        """Replace the samples of a process."""
        self._others[process] = {_key(name, labels): value for name, labels, value in rows}

    def end(self, process: int) -> None:
        """Drop the gauges of an ended process; keep its counts: a sum must not decrease."""
        for key, value in self._others.pop(process, {}).items():
            if key[0].endswith(_GROWING):
                self._ended[key] = self._ended.get(key, 0.0) + value

    def collect(self) -> Iterator[Metric]:
        """Yield the families for `generate_latest`."""
        others = [*self._others.values(), self._ended]
        for family in self._registry.collect():
            if any(others):
                family.samples = _added(family, others)
            yield family


def _added(family: Metric, others: Sequence[dict[_Key, float]]) -> list[Sample]:
    names = {family.name, *(family.name + suffix for suffix in _GROWING)}
    sums: dict[_Key, float] = {}
    for numbers in others:
        for key, value in numbers.items():
            if key[0] in names:
                sums[key] = sums.get(key, 0.0) + value
    own = [
        sample._replace(value=sample.value + sums.pop(_key(sample.name, sample.labels), 0.0))
        for sample in family.samples
    ]
    return own + [Sample(name, dict(labels), value) for (name, labels), value in sums.items()]


def _key(name: str, labels: dict[str, str]) -> _Key:
    return name, tuple(sorted(labels.items()))
