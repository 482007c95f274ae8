"""Published statistics, conclusions from them, and the query parameters of these."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tactful.schemas.fields import Moment

CONCLUSIONS = ("sum", "share", "quantile", "top", "consistent", "mean")
"""Kinds of conclusion."""

_Exact = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+|/0*[1-9][0-9]*)?$", max_length=32)]
_Keys = Annotated[str, Meta(min_length=1, max_length=4_096)]


class StatisticInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A published statistic and its guarantee.

    Attributes:
        name: last part of its path.
        epsilon: privacy loss of one user per unit.
        cap: most events of one user that count per unit.
        unit: unit of privacy, e.g. ``user-day``.
        title: description.
        pane_ms: length of a pane, milliseconds; 0 of months, which differ.
        kind: ``panes`` or ``gaussian_panes``; ``running_totals`` or ``gaussian_totals`` since
            midnight (UTC); ``found_keys`` of a day, from a minimum number of users on; or
            ``means``.
        method: the mechanism.
        bounds: of a sum or mean: the range that clamps numbers; absent for counts.
        resolution: of a sum or mean: the step of numbers; absent for counts.
        period: ``week`` from Monday or ``month`` where these are the panes; else absent.
    """

    name: str
    epsilon: float
    cap: int
    unit: str
    title: str = ""
    pane_ms: int = 0
    kind: str = "panes"
    method: str = ""
    bounds: list[float] | UnsetType = UNSET
    resolution: float | UnsetType = UNSET
    period: str | UnsetType = UNSET


class StatisticsIndex(msgspec.Struct, kw_only=True, frozen=True):
    """The published statistics."""

    statistics: list[StatisticInfo]
    next_cursor: str | None = None


class StatisticCell(msgspec.Struct, kw_only=True, frozen=True):
    """One released number.

    Attributes:
        pane_start: start of the pane, epoch milliseconds.
        key: counted key, e.g. a category.
        value: the released (noisy) count, sum or mean. A mean is left out where noise exceeds
            its count.
        low: lower end of its confidence interval.
        high: upper end.
        counted_from: start of the count, epoch milliseconds: the start of the pane, or midnight
            (UTC) before a running total.
    """

    pane_start: int
    key: str
    value: float
    low: float
    high: float
    counted_from: int | None = None


class StatisticsPage(msgspec.Struct, kw_only=True, frozen=True):
    """One page of a published statistic, oldest pane first.

    Attributes:
        name: the statistic.
        epsilon: privacy loss of one user per unit.
        cap: most events of one user that count per unit.
        unit: unit of privacy, e.g. ``user-day``.
        cells: released numbers.
        next_cursor: send it as ``cursor`` for the next page; None at the end.
        delta: computed bound on the probability that epsilon does not hold.
        pane_ms: length of a pane, milliseconds; 0 of months, which differ.
        kind: ``panes`` or ``gaussian_panes``; ``running_totals`` or ``gaussian_totals`` since
            midnight (UTC); ``found_keys`` of a day, from a minimum number of users on; or
            ``means``.
        method: the mechanism.
        confidence: level of the intervals.
        bounds: of a sum or mean: the range that clamps numbers; absent for counts.
        resolution: of a sum or mean: the step of numbers; absent for counts.
        period: ``week`` from Monday or ``month`` where these are the panes; else absent.
    """

    name: str
    epsilon: float
    cap: int
    unit: str
    cells: list[StatisticCell]
    next_cursor: str | None = None
    delta: float = 0.0
    pane_ms: int = 0
    kind: str = "panes"
    method: str = ""
    confidence: float = 0.95
    bounds: list[float] | UnsetType = UNSET
    resolution: float | UnsetType = UNSET
    period: str | UnsetType = UNSET


class ConclusionQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Span of panes, and parameters of the conclusion.

    Attributes:
        since: start of the first pane.
        until: end of the span; panes start before it.
        confidence: level of the intervals.
        keys: for a sum or mean: these keys together, separated by commas; else each key by itself.
        part: for a share: keys of the part.
        rest: for a share: keys of the rest of the whole.
        probability: for a quantile.
        k: number of the largest keys.
    """

    since: Moment
    until: Moment
    confidence: _Exact = "0.95"
    keys: _Keys | None = None
    part: _Keys | None = None
    rest: _Keys | None = None
    probability: _Exact = "0.5"
    k: Annotated[int, Meta(ge=1, le=1_000)] = 10


class ConcludedNumber(msgspec.Struct, kw_only=True, frozen=True):
    """One number concluded from released ones.

    Attributes:
        key: the key; keys that were added up are separated by commas.
        value: the estimate; None of a quantile, whose bucket is the key, and of a mean where
            noise exceeds its count.
        low: lower end of its interval.
        high: upper end.
        low_key: lowest bucket of a quantile's interval.
        high_key: highest one.
        best: best place of a key among the largest, 1 for the largest.
        worst: worst place.
        start: start of a period, epoch milliseconds.
        end: its end.
    """

    key: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    low_key: str | None = None
    high_key: str | None = None
    best: int | None = None
    worst: int | None = None
    start: int | None = None
    end: int | None = None


class Conclusion(msgspec.Struct, kw_only=True, frozen=True):
    """Conclusion from released numbers of a span.

    Attributes:
        name: the statistic.
        conclusion: kind of conclusion.
        since: start of the first pane, epoch milliseconds.
        until: end of the last pane.
        panes: number of panes.
        epsilon: privacy loss of one user per unit; the conclusion adds none.
        delta: computed bound on the probability that epsilon does not hold.
        cap: most events of one user that count per unit.
        unit: unit of privacy.
        method: the mechanism.
        confidence: level of the intervals; for places, level of all together.
        results: concluded numbers.
    """

    name: str
    conclusion: str
    since: int
    until: int
    panes: int
    epsilon: float
    delta: float
    cap: int
    unit: str
    method: str
    confidence: float
    results: list[ConcludedNumber]
