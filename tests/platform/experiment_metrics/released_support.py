"""Logs, definitions and a silent draw for tests of released metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.platform.experiment_metrics.naive import ARMS, BEGIN, DAY, KEY
from tests.platform.memory_log import log_of

from tactful.experiment_metrics.columns import LogColumns, ReadSpan
from tactful.experiment_metrics.definitions import MetricSet, load_metrics
from tactful.experiment_metrics.outcomes import UnitOutcomes, unit_outcomes
from tactful.experiment_metrics.released_cells import release_cells
from tactful.experiment_metrics.released_days import by_key, drawn_metrics, outcomes_of_day
from tactful.schemas.experiments.metrics import MetricDefinition
from tactful_privacy.mechanisms.laplace import DiscreteLaplace
from tactful_streaming.contract.log_entries import Entry, Event, Restricted, subject_key

METRICS = """
metrics:
  - {name: buyers, kind: binary, event: purchase, window: 1d}
  - {name: orders, kind: count, event: purchase, window: 1d, cap: 4}
  - {name: spend, kind: sum, event: purchase, minus: refund, value: properties.price,
     window: 1d, cap: 40}
  - {name: spend_per_order, kind: ratio, numerator: spend, denominator: orders}
  - {name: back, kind: retention, event: [click, purchase], delay: 1d, window: 1d}
  - {name: clicks, kind: count, event: [click, x.tap], window: 1d}
  - {name: clicks_per_order, kind: ratio, numerator: clicks, denominator: orders}
  - {name: prices, kind: quantile, event: purchase, value: properties.price, level: 0.5,
     window: 1d}
experiments:
  - experiment: checkout
    goals: [buyers, spend]
    secondary: [spend_per_order, back, clicks, clicks_per_order, prices]
    cuped: 1d
    segments: [{name: phones, condition: {context.device: phone}}]
    start: 2023-11-15
    arms: {old: 0.5, new: 0.5}
    epsilon: 1
"""
"""An analysis that begins at `BEGIN`; four metrics are drawn for it."""

SET = load_metrics(METRICS)
PLAN = SET.plans[KEY]
DRAWN, REFUSED = drawn_metrics(PLAN, SET.of_plan(PLAN))
EACH = Fraction(1, 4)
CHANCE = bytes(range(32))

Cells = Mapping[tuple[str, int, str], tuple[int, ...]]
"""Cells by metric, day and arm."""


class Silent(DiscreteLaplace):
    """Noise that is always 0, so that cells are exact."""

    def sample(self, n: int) -> NDArray[np.int64]:
        return np.zeros(n, np.int64)


def changed(**changes: Any) -> MetricSet:
    """Return the definitions with changes of lines of the text."""
    text = METRICS
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    return load_metrics(text)


def outcomes(
    entries: Sequence[Entry],
    metrics: Mapping[str, MetricDefinition] = DRAWN,
    now: int = BEGIN + 30 * DAY,
) -> UnitOutcomes:
    """Return the outcomes that are drawn, each event of one key alone."""
    columns = LogColumns(KEY, metrics, ReadSpan(BEGIN, None, now))
    columns.read_log(log_of(entries))
    return unit_outcomes(by_key(columns), ARMS, metrics, now=now)


def exact_cells(
    entries: Sequence[Entry],
    metrics: Mapping[str, MetricDefinition] = DRAWN,
    days: int = 8,
) -> Cells:
    """Return the cells of some days without noise."""
    seen, silent = outcomes(entries, metrics), Silent(1, EACH)
    found = {}
    for name, metric in metrics.items():
        for day in range(BEGIN // DAY, BEGIN // DAY + days):
            arms = outcomes_of_day(seen, name, day)
            released = release_cells(metric, arms, silent, chance=CHANCE)
            found.update({(name, day, arm): cells for arm, cells in released.cells.items()})
    return found


def distance(left: Cells, right: Cells, metric: str) -> float:
    """Return the L1 distance of the cells of one metric over all days and arms."""
    return sum(
        abs(a - b)
        for place, cells in left.items()
        if place[0] == metric
        for a, b in zip(cells, right[place], strict=True)
    )


def key_of(entry: Entry) -> str | None:
    """Return the key of the log that a record belongs to."""
    if isinstance(entry, Restricted):
        entry = entry.event
    return subject_key(entry) if isinstance(entry, Event) else getattr(entry, "user_id", None)


def keys_of(entries: Sequence[Entry]) -> list[str]:
    """Return the keys of a log."""
    return sorted({key for entry in entries if (key := key_of(entry)) is not None})


def without(entries: Sequence[Entry], key: str) -> list[Entry]:
    """Return the neighbouring log: the one without a key."""
    return [entry for entry in entries if key_of(entry) != key]


def shown(person: str, arm: str, at: int, **about: Any) -> Event:
    """Return a verified exposure."""
    fields: dict[str, Any] = {"event_id": f"exposure:{person}-{at}", "user_id": person, **about}
    properties: dict[str, Any] = {"experiment": KEY, "arm": arm, "flag": "f", "version": 1}
    return Event(type="exposure", timestamp=at, properties=properties, **fields)


def bought(person: str, at: int, price: float = 9.0, **about: Any) -> Event:
    """Return a purchase."""
    fields: dict[str, Any] = {"event_id": f"buy-{person}-{at}", "user_id": person, **about}
    return Event(type="purchase", timestamp=at, item_id="i1", properties={"price": price}, **fields)
