"""Charts of answers of the HTTP API for notebooks, by one function each.

They need ``altair``, which the extra ``notebook`` brings, and return its charts.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tactful.schemas.experiments.readouts import ReadOutMessage
from tactful.schemas.statistics import StatisticsPage

if TYPE_CHECKING:
    import altair as alt

_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#6F7680"
"""Colours of Okabe and Ito, which stay apart for colour-blind readers."""


def released(
    pages: StatisticsPage | Iterable[StatisticsPage], *, keys: Sequence[str] | None = None
) -> alt.LayerChart | alt.FacetChart:
    """Draw a released statistic over time, each key with the band of its intervals.

    Args:
        pages: one page or several of one statistic.
        keys: keys to draw; all if not given.
    """
    import altair as alt

    parts = [pages] if isinstance(pages, StatisticsPage) else [*pages]
    values = [
        {
            "start": dt.datetime.fromtimestamp(cell.pane_start / 1000, dt.UTC).isoformat(),
            "key": cell.key,
            "value": cell.value,
            "low": cell.low,
            "high": cell.high,
        }
        for page in parts
        for cell in page.cells
        if keys is None or cell.key in keys
    ]
    name = parts[0].name if parts else "statistic"
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("start:T", title=None, scale=alt.Scale(type="utc")),
        color=alt.Color("key:N", title=None),
    )
    line = base.mark_line(point=True).encode(
        y=alt.Y("value:Q", title=name), tooltip=["start:T", "key:N", "value:Q", "low:Q", "high:Q"]
    )
    band = base.mark_area(opacity=0.2).encode(y="low:Q", y2="high:Q")
    return alt.layer(band, line).properties(
        description=f"{len(values)} released numbers of {name} with their intervals."
    )


def effects(read_out: ReadOutMessage) -> alt.LayerChart | alt.FacetChart:
    """Draw the effect on each metric as a share of the control, with the anytime-valid interval."""
    import altair as alt

    values = []
    for effect in read_out.effects:
        scale = abs(effect.control.value) or 1.0
        low, high = effect.anytime.low, effect.anytime.high
        values.append(
            {
                "metric": f"{effect.metric} ({effect.treatment.arm})",
                "difference": effect.difference / scale,
                "low": None if low is None else low / scale,
                "high": None if high is None else high / scale,
                "verdict": effect.verdict,
            }
        )
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=alt.Y("metric:N", title=None, sort=None),
        color=alt.Color(
            "verdict:N",
            scale=alt.Scale(domain=["higher", "lower", "inconclusive"], range=[_BLUE, _RED, _GREY]),
        ),
        tooltip=["metric:N", "difference:Q", "low:Q", "high:Q", "verdict:N"],
    )
    x = alt.X("difference:Q", title="Effect, as a share of the control", axis=alt.Axis(format="+%"))
    known = base.transform_filter("isValid(datum.low) && isValid(datum.high)")
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(color=_GREY).encode(x="zero:Q")
    whiskers = known.mark_rule(strokeWidth=2.5).encode(x="low:Q", x2="high:Q")
    dots = base.mark_circle(size=90, opacity=1).encode(x=x)
    said = "; ".join(f"{it['metric']} {it['difference']:+.1%}, {it['verdict']}" for it in values)
    return alt.layer(zero, whiskers, dots).properties(
        height=38 * max(len(values), 1) + 50, description=f"Effects of {read_out.key}: {said}."
    )


def learning_curve(
    curves: Mapping[str, Sequence[float]], *, title: str = "Loss", best: int | None = None
) -> alt.LayerChart | alt.FacetChart:
    """Draw a metric by round of training.

    Args:
        curves: numbers by round for each set, such as ``{"train": [...], "held back": [...]}``.
        title: name of the metric.
        best: round that was kept, which is marked.
    """
    import altair as alt

    values = [
        {"round": number, "value": value, "set": name}
        for name, curve in curves.items()
        for number, value in enumerate(curve)
    ]
    line = (
        alt.Chart(alt.InlineData(values=values))
        .mark_line()
        .encode(
            x=alt.X("round:Q", title="Round", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
            color=alt.Color("set:N", title=None),
            tooltip=["set:N", "round:Q", "value:Q"],
        )
    )
    layers: list[Any] = [line]
    if best is not None:
        mark = alt.Chart(alt.InlineData(values=[{"round": best}]))
        layers.append(mark.mark_rule(color=_GREY, strokeDash=[6, 4]).encode(x="round:Q"))
    ends = "; ".join(f"{name} {curve[-1]:.4g}" for name, curve in curves.items() if len(curve))
    return alt.layer(*layers).properties(description=f"{title} by round, at the end: {ends}.")
