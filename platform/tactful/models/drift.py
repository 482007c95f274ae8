"""Drift: whether lists are ranked by other values today than when their model began to serve."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.event_log.impressions import Impression, read_impressions
from tactful.ranking.features import RANKING_FEATURES
from tactful_streaming.log.event_log import EventLog

SCORE = "score"
"""Name under which the drift of the scores is told."""

LATEST = 2_000_000
"""How many of the newest records of the log are looked at, unless it is said."""

_BINS = 10
_FLOOR = 1e-4


@dataclass(frozen=True)
class Drift:
    """How far values have moved.

    Attributes:
        by_name: population stability index of the score and of each feature, largest first.
    """

    by_name: Mapping[str, float]

    @property
    def largest(self) -> tuple[str, float]:
        """What has moved furthest, and how far."""
        return next(iter(self.by_name.items()))


def measure_drift(
    log: EventLog, version: str, layout: str, *, lists: int = 500, latest: int = LATEST
) -> Drift | None:
    """Compare the first lists of a model version with its latest.

    The first lists and not the rows it was trained on: those hold candidates that nobody is shown,
    and would differ from every list from the beginning.

    Args:
        log: where lists are logged.
        version: of the model; only its lists are looked at.
        layout: what features mean, see `tactful.ranking.features.layout`.
        lists: how many of the first and of the latest are compared.
        latest: how many of the newest records of the log are looked at.

    Returns:
        The drift; None where there are not twice as many lists yet.
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
    found = {
        name: population_stability(before[:, column], now[:, column])
        for column, name in enumerate((*RANKING_FEATURES, SCORE))
    }
    return Drift(dict(sorted(found.items(), key=lambda pair: -pair[1])))


def population_stability(before: NDArray[np.float32], now: NDArray[np.float32]) -> float:
    """Population stability index of two samples.

    The sum over ten parts of ``(q - p) * ln(q / p)``, where p and q are the shares of the values
    before and now in each part (Siddiqi, "Credit Risk Scorecards", 2006). Parts hold a tenth of the
    values before each; missing values are a part of their own. By custom, less than 0.1 is no
    change and more than 0.25 a large one.

    Args:
        before: values before, NaN for missing, not empty.
        now: values now.

    Returns:
        0 for the same distribution, and more the further they differ.
    """
    known = before[~np.isnan(before)]
    inner = np.linspace(0.0, 1.0, _BINS + 1)[1:-1]
    edges = np.unique(np.quantile(known, inner)) if len(known) else np.zeros(0)
    shares = []
    for values in (before, now):
        missing = np.isnan(values)
        parts = np.bincount(
            np.searchsorted(edges, values[~missing], side="left"), minlength=len(edges) + 1
        )
        counts = np.append(parts, missing.sum())
        shares.append(np.maximum(counts / max(len(values), 1), _FLOOR))
    p, q = shares
    return float(((q - p) * np.log(q / p)).sum())


def _columns(lists: list[Impression] | deque[Impression]) -> NDArray[np.float32]:
    """Features and score of every item, shape (items, columns + 1)."""
    parts = []
    for shown in lists:
        scores = shown.event.properties.get("scores")
        values = np.full(len(shown.items), np.nan, np.float32)
        if isinstance(scores, list) and len(scores) == len(values):
            values = np.array(scores, np.float32)
        assert shown.features is not None
        parts.append(np.column_stack([shown.features, values]))
    return np.concatenate(parts)
