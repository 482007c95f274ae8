"""Drift: change of feature values and scores since a model began to serve."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.event_log.impressions import Impression, read_impressions
from tactful.ranking.features import RANKING_FEATURES
from tactful_streaming.log.event_log import EventLog

SCORE = "score"  # name of the drift of the scores
LATEST = 2_000_000  # number of the newest records of the log that are read by default

_BINS = 10
_FLOOR = 1e-4


@dataclass(frozen=True)
class Drift:
    """Change of values."""

    by_name: Mapping[str, float]  # index of the score and of each feature, largest first

    @property
    def largest(self) -> tuple[str, float]:
        """Name and index of the largest change."""
        return next(iter(self.by_name.items()))


def measure_drift(
    log: EventLog, version: str, layout: str, *, lists: int = 500, latest: int = LATEST
) -> Drift | None:
    """Compare the first lists of a model version with as many of its latest.

    The rows of its training are no reference: they hold candidates that are never shown, and differ
    from every list from the beginning. Read are the `latest` newest records of the log. It returns
    None while there are fewer than twice `lists` lists.
    """
    first: list[Impression] = []
    last: deque[Impression] = deque(maxlen=lists)
    for shown in read_impressions(log, latest=latest):
        if shown.version != version or shown.layout != layout or shown.features is None:
            continue
        if shown.forced or shown.features.shape[1] != len(RANKING_FEATURES):
            continue
        if len(first) < lists:
            first.append(shown)
        else:
            last.append(shown)
    if len(last) < lists:
        return None
    before, now = _columns(first), _columns(last)
    indexes = {
        name: population_stability(before[:, column], now[:, column])
        for column, name in enumerate((*RANKING_FEATURES, SCORE))
    }
    return Drift(dict(sorted(indexes.items(), key=lambda pair: -pair[1])))


def population_stability(before: NDArray[np.float32], now: NDArray[np.float32]) -> float:
    """Compute the population stability index of two samples, NaN for missing values.

    The sum over ten parts of `(q - p) * ln(q / p)`, where p and q are the shares of the values
    before and now in each part (Siddiqi, "Credit Risk Scorecards", 2006). Parts hold a tenth of the
    values before each; missing values are a part of their own. By custom, less than 0.1 is no
    change and more than 0.25 a large one.
    """
    known = before[~np.isnan(before)]
    inner = np.linspace(0.0, 1.0, _BINS + 1)[1:-1]
    edges = np.unique(np.quantile(known, inner)) if len(known) else np.zeros(0)
    shares = []
    for values in (before, now):
        missing = np.isnan(values)
        part = np.searchsorted(edges, values[~missing], side="left")
        counts = np.append(np.bincount(part, minlength=len(edges) + 1), missing.sum())
        shares.append(np.maximum(counts / max(len(values), 1), _FLOOR))
    p, q = shares
    return float(((q - p) * np.log(q / p)).sum())


def _columns(lists: list[Impression] | deque[Impression]) -> NDArray[np.float32]:
    """Return features and score of every item, shape (items, columns + 1)."""
    parts = []
    for shown in lists:
        scores = shown.event.properties.get("scores")
        values = np.full(len(shown.items), np.nan, np.float32)
        if isinstance(scores, list) and len(scores) == len(values):
            values = np.array(scores, np.float32)
        assert shown.features is not None
        parts.append(np.column_stack([shown.features, values]))
    return np.concatenate(parts)
