"""Draw conclusions from released numbers, each with its interval.

Post-processing of released numbers alone costs no privacy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tactful.schemas.statistics import ConcludedNumber, Conclusion, ConclusionQuery
from tactful_privacy.analysis.conclusions import (
    mean_released,
    quantile_released,
    share_released,
    top_released,
)
from tactful_privacy.analysis.consistency import consistent
from tactful_privacy.counting.released import ReleasedPane, sum_released
from tactful_privacy.errors import ParameterError

MAX_PANES, MAX_CELLS = 2_000, 2_000_000

Levels = Sequence[Sequence[ReleasedPane]]


def conclude(kind: str, levels: Levels, query: ConclusionQuery) -> Conclusion:
    """Draw one conclusion; `ParameterError` if these panes allow none.

    The levels hold released panes of the statistic and, for `consistent`, of its longer periods.
    """
    draw = _KINDS[kind]
    panes = levels[0]
    if not panes:
        raise ParameterError("nothing is released in this span: give another since and until")
    first = panes[0]
    return Conclusion(
        name=first.statistic,
        conclusion=kind,
        since=min(pane.counted_from for pane in panes),
        until=max(pane.end for pane in panes),
        panes=len(panes),
        epsilon=float(first.epsilon),
        delta=first.delta,
        cap=first.cap,
        unit=first.unit,
        method=first.method,
        confidence=_number(query.confidence),
        results=draw(levels, query),
    )


def _sum(levels: Levels, query: ConclusionQuery) -> list[ConcludedNumber]:
    panes = levels[0]
    groups = [[key] for key in panes[0].values] if query.keys is None else [_split(query.keys)]
    sums = []
    scaled = panes[0].scaled
    for keys in groups:
        total = sum_released(panes, keys, query.confidence)
        sums.append(
            ConcludedNumber(
                key=",".join(keys),
                value=scaled(total.value),
                low=scaled(total.value - total.half_width),
                high=scaled(total.value + total.half_width),
            )
        )
    return sums


def _share(levels: Levels, query: ConclusionQuery) -> list[ConcludedNumber]:
    if query.part is None or query.rest is None:
        raise ParameterError("a share needs part and rest: keys with commas between")
    share = share_released(levels[0], _split(query.part), _split(query.rest), query.confidence)
    return [ConcludedNumber(key=query.part, value=share.value, low=share.low, high=share.high)]


def _quantile(levels: Levels, query: ConclusionQuery) -> list[ConcludedNumber]:
    quantile = quantile_released(levels[0], query.probability, query.confidence)
    return [ConcludedNumber(key=quantile.key, low_key=quantile.low, high_key=quantile.high)]


def _top(levels: Levels, query: ConclusionQuery) -> list[ConcludedNumber]:
    k = min(query.k, len(levels[0][0].values))
    scaled = levels[0][0].scaled
    return [
        ConcludedNumber(
            key=ranked.key,
            value=scaled(ranked.value),
            low=scaled(ranked.value - ranked.half_width),
            high=scaled(ranked.value + ranked.half_width),
            best=ranked.best,
            worst=ranked.worst,
        )
        for ranked in top_released(levels[0], k, query.confidence)
    ]


def _consistent(levels: Levels, query: ConclusionQuery) -> list[ConcludedNumber]:
    if len(levels) < 2:
        raise ParameterError("the statistic has no longer periods to agree with")
    scaled = levels[0][0].scaled
    return [
        ConcludedNumber(
            key=key,
            value=scaled(value),
            low=scaled(value - period.half_width),
            high=scaled(value + period.half_width),
            start=period.start,
            end=period.end,
        )
        for level in consistent(levels, query.confidence)
        for period in level
        for key, value in period.values.items()
    ]


def _mean(levels: Levels, query: ConclusionQuery) -> list[ConcludedNumber]:
    if len(levels) < 2 or levels[0][0].amounts is None:
        raise ParameterError("the statistic publishes no mean: give it aggregate: mean")
    sums, counts = levels
    groups = [[key] for key in sums[0].values] if query.keys is None else [_split(query.keys)]
    concluded = []
    for keys in groups:
        mean, key = mean_released(sums, counts, keys, query.confidence), ",".join(keys)
        if mean is None:
            concluded.append(ConcludedNumber(key=key))
        else:
            number = ConcludedNumber(key=key, value=mean.value, low=mean.low, high=mean.high)
            concluded.append(number)
    return concluded


_KINDS: dict[str, Callable[[Levels, ConclusionQuery], list[ConcludedNumber]]] = {
    "sum": _sum,
    "share": _share,
    "quantile": _quantile,
    "top": _top,
    "consistent": _consistent,
    "mean": _mean,
}


def _split(keys: str) -> list[str]:
    return keys.split(",")


def _number(text: str) -> float:
    over, _, under = text.partition("/")
    return float(over) / float(under) if under else float(over)
