"""Values of a rule's signal in a scrape, by the labels of its groups.

Messages of alerts are read with the scope `monitor` and leave the server. So they show what
`/metrics` shows, and no exact total of what people did (`tactful.metrics.public`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from tactful.alerts.memory import Memory
from tactful.alerts.samples import Labels, Reading, Scrape, exact, signal_key
from tactful.metrics.public import FAILURES, level
from tactful.schemas.alerts import Signal, milliseconds

_TOTALS = ("_total", "_count", "_sum", "_bucket")  # ends of names of samples that only grow
_AGGREGATES: Mapping[str, Callable[[list[float]], float]] = {"sum": sum, "max": max, "min": min}


def read_signal(
    signal: Signal, scrape: Scrape, now: int, memory: Memory, *, whole: bool = False
) -> dict[Labels, Reading]:
    """Return the readings of a signal, by the values of its labels `by`.

    `whole` leaves out increases of counters that are not known for the whole span yet.
    """
    if signal.statistic:
        released = scrape.released.get(signal_key(signal))
        return {} if released is None else {(): released}
    if signal.change == "none":
        groups = _grouped(signal, signal.labels, scrape.samples.get(signal.metric, {}))
        merge = _AGGREGATES[signal.aggregate]
        shown = not signal.metric.endswith(_TOTALS) or _is_failure(signal.metric)
        return {
            labels: exact(value, f"{value:.6g}" if shown else "")
            for labels, values in groups.items()
            for value in [merge(values)]
        }
    grown = _grown(signal.metric, signal, scrape, now, memory, whole=whole)
    parts = _summed(signal, signal.labels, grown)
    if signal.share_of is None:
        shown = _is_failure(signal.metric)
        return {
            labels: exact(value, f"{value:.6g}" if shown else "") for labels, value in parts.items()
        }
    if signal.whole:
        grown = _grown(signal.whole, signal, scrape, now, memory, whole=whole)
    wholes = _summed(signal, signal.share_of, grown)
    return {
        labels: exact(part / total, _share_text(signal, part, total), total)
        for labels, total in wholes.items()
        if total > 0 and total >= signal.least
        for part in [parts.get(labels, 0.0)]
    }


def _grown(
    metric: str, signal: Signal, scrape: Scrape, now: int, memory: Memory, *, whole: bool
) -> dict[Labels, float]:
    """Return the increases of all series of a metric."""
    span, grown = milliseconds(signal.within), {}
    for labels, raw in scrape.samples.get(metric, {}).items():
        counter = memory.count(metric, labels, raw, now, span)
        if not whole or counter.covers(now, span):
            grown[labels] = counter.increase(now, span)
    return grown


def histogram(
    signal: Signal, scrape: Scrape, now: int, memory: Memory, span: int
) -> dict[Labels, list[float]]:
    """Return the increase of each bucket of a histogram in a span, by group."""
    samples = scrape.samples.get(f"{signal.metric}_bucket", {})
    sums: dict[Labels, dict[float, float]] = {}
    for labels, raw in samples.items():
        if not _matches(labels, tuple(signal.labels.items())):
            continue
        counter = memory.count(f"{signal.metric}_bucket", labels, raw, now, span)
        bound = float(dict(labels).get("le", "inf"))
        group = sums.setdefault(_group(labels, tuple(signal.by)), {})
        group[bound] = group.get(bound, 0.0) + counter.increase(now, span)
    return {labels: _differences(buckets) for labels, buckets in sums.items()}


def _differences(cumulative: Mapping[float, float]) -> list[float]:
    """Return the counts of buckets from the counts up to their bounds."""
    counts, before = [], 0.0
    for bound in sorted(cumulative):
        counts.append(max(0.0, cumulative[bound] - before))
        before = cumulative[bound]
    return counts


def _grouped(
    signal: Signal, wanted: Mapping[str, str], samples: Mapping[Labels, float]
) -> dict[Labels, list[float]]:
    conditions, by = tuple(wanted.items()), tuple(signal.by)
    groups: dict[Labels, list[float]] = {}
    for labels, value in samples.items():
        if _matches(labels, conditions):
            groups.setdefault(_group(labels, by), []).append(value)
    return groups


def _summed(
    signal: Signal, wanted: Mapping[str, str], samples: Mapping[Labels, float]
) -> dict[Labels, float]:
    return {labels: sum(values) for labels, values in _grouped(signal, wanted, samples).items()}


@functools.lru_cache(4096)
def _matches(labels: Labels, conditions: Labels) -> bool:
    own = dict(labels)
    return all(fnmatchcase(own.get(name, ""), pattern) for name, pattern in conditions)


@functools.lru_cache(4096)
def _group(labels: Labels, by: tuple[str, ...]) -> Labels:
    own = dict(labels)
    return tuple((name, own.get(name, "")) for name in sorted(by))


def _share_text(signal: Signal, part: float, whole: float) -> str:
    """Show a share as `/metrics` would: rounded up, but of durations as it is."""
    if signal.metric.endswith("_bucket"):
        return f"{part / whole:.2f}"
    return f"at most {level(part, whole):g}"


def _is_failure(metric: str) -> bool:
    return metric.removesuffix("_total") in FAILURES
