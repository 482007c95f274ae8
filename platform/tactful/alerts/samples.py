"""Values at one moment: samples of metrics, and released numbers with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from tactful.metrics.registry import SampleRow
from tactful.schemas.alerts import Signal

Labels = tuple[tuple[str, str], ...]
"""Names and values of labels, sorted by name."""


class Reading(NamedTuple):
    """A value and its interval; of an exact value the interval is a point.

    `text` shows the value to people; it is empty where the value must not be shown. `weight` is the
    number of events behind a share; 1 of other values.
    """

    value: float
    low: float
    high: float
    text: str
    weight: float = 1.0


class Scrape(NamedTuple):
    """Everything that rules are evaluated on, at one moment."""

    samples: Mapping[str, Mapping[Labels, float]]  # by name and labels
    released: Mapping[bytes, Reading]  # by `signal_key`; absent: nothing is released


def make_scrape(
    rows: Iterable[SampleRow], released: Mapping[bytes, Reading] | None = None
) -> Scrape:
    """Group the samples of a registry by name."""
    samples: dict[str, dict[Labels, float]] = {}
    for name, labels, value in rows:
        samples.setdefault(name, {})[tuple(sorted(labels.items()))] = value
    return Scrape(samples, {} if released is None else released)


def signal_key(signal: Signal) -> bytes:
    """Return the same bytes for equal signals."""
    return msgspec.json.encode(signal)


def exact(value: float, text: str, weight: float = 1.0) -> Reading:
    """Return the reading of a value without noise."""
    return Reading(value, value, value, text, weight)
