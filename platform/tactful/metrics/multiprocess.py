"""Metrics of several processes as those of one server: counts and histograms add up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.samples import Sample

Told = tuple[str, dict[str, str], float]
"""Name, labels and value of a sample, as one process tells another."""

_Key = tuple[str, tuple[tuple[str, str], ...]]
_GROWING = ("_total", "_bucket", "_count", "_sum")


def samples(registry: CollectorRegistry) -> list[Told]:
    """Every number of a registry, to be told to another process."""
    return [
        (sample.name, dict(sample.labels), float(sample.value))
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]


class SummedRegistry:
    """A registry of this process whose numbers include what other processes told.

    Families are those of this process: what it does not have itself is left out.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Add to the numbers of `registry`."""
        self._registry = registry
        self._told: dict[int, dict[_Key, float]] = {}
        self._ended: dict[_Key, float] = {}

    def take(self, process: int, told: Iterable[Told]) -> None:
        """Take what a process counts now, in the place of what it told before."""
        self._told[process] = {_key(name, labels): value for name, labels, value in told}

    def end(self, process: int) -> None:
        """Keep of a process that ended what only grows: a sum of counts must not go back."""
        for key, value in self._told.pop(process, {}).items():
            if key[0].endswith(_GROWING):
                self._ended[key] = self._ended.get(key, 0.0) + value

    def collect(self) -> Iterator[Metric]:
        """The families, as `generate_latest` wants them."""
        others = [*self._told.values(), self._ended]
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
