"""Charts: Altair specifications of typed values.

A colour has one meaning on every page: `platform` is the platform's result, `reference` the value
it is compared with, `other` is the rest. The colours are Okabe and Ito's, which stay apart for
colour-blind readers (https://jfly.uni-koeln.de/color/), in the shade that contrasts with the theme.
No information depends on colour alone, and every chart carries a description for screen readers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import altair as alt
import streamlit as st

from tactful_ui.components import formats, tables
from tactful_ui.report import Arm, Count, Estimate, Federated, Ranking

Chart: TypeAlias = alt.LayerChart | alt.FacetChart


@dataclass(frozen=True)
class Palette:
    """Colours by role, for one background."""

    platform: str
    reference: str
    other: str
    text: str


LIGHT = Palette(platform="#0072B2", reference="#D55E00", other="#6F7680", text="#31333F")
DARK = Palette(platform="#56B4E9", reference="#E69F00", other="#A3A8B4", text="#FAFAFA")

# Heights are those of the whole chart, including the axis, as Streamlit measures them.
_ROW_HEIGHT = 38
_AXIS_HEIGHT = 50
_TITLE_HEIGHT = 24
_MAX_BARS = 60
_DRAWN = frozenset({"colour", "interval", "label", "pane"})
_KNOWN_INTERVAL = "isValid(datum.low) && isValid(datum.high)"
_NAMES = alt.Axis(labelLimit=220, labelOverlap=False, ticks=False, domain=False, grid=False)
_MIDNIGHT_OR_HOUR = "utcFormat(datum.value, utchours(datum.value) == 0 ? '%b %d' : '%H:%M')"


def show(chart: Any, name: str, rows: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Draw a chart with its data as CSV; Streamlit's toolbar of each chart saves it as PNG.

    Args:
        chart: an Altair chart with a description.
        name: name of the files, without their endings; also the key of the button.
        rows: data of the chart, the same columns in each; those that it draws if not given.
    """
    draw(chart, name)
    tables.download(rows_of(chart) if rows is None else rows, name)


def draw(chart: Any, name: str) -> None:
    """Draw a chart without a button, where one table holds the data of several charts."""
    st.altair_chart(chart, width="stretch", key=f"chart-{name}")


def rows_of(chart: Any) -> list[dict[str, Any]]:
    """Return the largest data of a chart or of its layers, without what is for drawing alone."""
    parts = [chart, *getattr(chart, "layer", [])]
    data = [getattr(part, "data", None) for part in parts]
    rows = [it.values for it in data if isinstance(it, alt.InlineData)]
    largest: list[Mapping[str, Any]] = max(rows, key=lambda it: sum(map(len, it)), default=[])
    return [{name: it for name, it in row.items() if name not in _DRAWN} for row in largest]


def quality(rankings: Sequence[Ranking], metric: str, palette: Palette) -> Chart | None:
    """Draw one metric as dots with intervals, one row per ranking in order."""
    named = [
        (row.label, row.metrics[metric], palette.platform if row.served else palette.other)
        for row in rankings
        if metric in row.metrics
    ]
    if not named:
        return None
    label = formats.METRIC_LABELS[metric]
    summary = "; ".join(f"{name} {formats.estimate(value)}" for name, value, _ in named)
    return _dots(named, title=None, digits=3).properties(
        description=f"{label} with 95 % intervals: {summary}."
    )


def arms(rows: Sequence[Arm], palette: Palette) -> Chart:
    """Draw the hit rate of every experiment arm in per cent, as dots with intervals."""
    named = [(arm.name, _scaled(arm.rate, 100), palette.platform) for arm in rows]
    summary = "; ".join(f"{name} {formats.estimate(value, 1)} %" for name, value, _ in named)
    return _dots(named, title="Hit rate (%)", digits=1).properties(
        description=f"Hit rate by arm with 95 % intervals: {summary}."
    )


def rounds(learned: Federated, top: int, palette: Palette) -> Chart | None:
    """Draw top-1 or top-5 accuracy by round, beside the Markov chain's."""
    reference = learned.markov_top1 if top == 1 else learned.markov_top5
    points = [
        {"round": step.number, "share": 100 * share}
        for step in learned.rounds
        if (share := step.top1 if top == 1 else step.top5) is not None
    ]
    if not points:
        return None
    title = f"Top-{top} accuracy (%)"
    x = alt.X("round:Q", title="Round", axis=alt.Axis(tickMinStep=1, format="d", grid=False))
    y = alt.Y("share:Q", title=title, scale=alt.Scale(zero=False, padding=12))
    layers: list[Any] = [
        alt.Chart(_data(points))
        .mark_line(
            color=palette.platform, point={"color": palette.platform, "filled": True, "size": 40}
        )
        .encode(x=x, y=y, tooltip=["round:Q", alt.Tooltip("share:Q", title=title, format=".1f")])
    ]
    summary = f"{title} by round: from {points[0]['share']:.1f} to {points[-1]['share']:.1f}"
    if reference is not None:
        line = [{"share": 100 * reference, "round": points[0]["round"], "name": "Markov chain"}]
        layers += [
            alt.Chart(_data(line))
            .mark_rule(color=palette.reference, strokeDash=[6, 4], strokeWidth=2)
            .encode(y="share:Q", tooltip=["name:N", alt.Tooltip("share:Q", format=".1f")]),
            alt.Chart(_data(line))
            .mark_text(color=palette.reference, align="left", dy=-9, fontWeight="bold")
            .encode(x="round:Q", y="share:Q", text="name:N"),
        ]
        summary += f"; a Markov chain has {100 * reference:.1f}"
    return alt.layer(*layers).properties(height=280, description=f"{summary}.")


def counts(key: str, cells: Sequence[Count], low: float, high: float, palette: Palette) -> Chart:
    """Draw released counts of one key over time, on the scale `low`..`high`.

    Beyond about 60 panes bars would touch, so the same intervals are drawn as a band.
    """
    values = [
        {
            "start": count.start.isoformat(),
            "pane": f"{count.start:%Y-%m-%d %H:%M}",
            "value": count.value.value,
            "low": count.value.low,
            "high": count.value.high,
        }
        for count in sorted(cells, key=lambda count: count.start)
    ]
    hours = alt.Axis(grid=False, labelExpr=_MIDNIGHT_OR_HOUR, labelOverlap=True)
    x = alt.X("start:T", title=None, scale=alt.Scale(type="utc"), axis=hours)
    y = alt.Y(
        "value:Q", title="Events", scale=alt.Scale(domain=[low, high]), axis=alt.Axis(tickCount=4)
    )
    base = alt.Chart(_data(values)).encode(x=x)
    tooltip = [
        alt.Tooltip("pane:N", title="Pane starts (UTC)"),
        alt.Tooltip("value:Q", title="Released", format=",.0f"),
        alt.Tooltip("low:Q", title="Low", format=",.0f"),
        alt.Tooltip("high:Q", title="High", format=",.0f"),
    ]
    known = base.transform_filter(_KNOWN_INTERVAL)
    if len(values) > _MAX_BARS:
        whiskers = known.mark_area(color=palette.platform, opacity=0.25)
    else:
        whiskers = known.mark_rule(color=palette.platform, strokeWidth=1.5, opacity=0.6)
    marks = base.mark_line(color=palette.platform, strokeWidth=1, opacity=0.5).encode(y=y)
    dots = base.mark_circle(color=palette.platform, size=28, opacity=1).encode(y=y, tooltip=tooltip)
    zero = alt.Chart(_data([{"zero": 0}])).mark_rule(color=palette.other).encode(y="zero:Q")
    numbers = [count.value.value for count in cells]
    return alt.layer(zero, whiskers.encode(y=alt.Y("low:Q"), y2="high:Q"), marks, dots).properties(
        height=190,
        description=(
            f"{len(values)} privately released counts of {key} with 95 % intervals, "
            f"between {min(numbers):,.0f} and {max(numbers):,.0f} events per pane."
        ),
    )


def over_time(
    rows: Sequence[Mapping[str, Any]], *, value: str, series: str, title: str, number: str
) -> alt.Chart:
    """Draw a line of values for each series.

    Args:
        rows: points: `at`, a time, and the columns that `value` and `series` name.
        value: column of the value.
        series: column of the name of the line.
        title: title of the values.
        number: format of the values, as d3 writes it.
    """
    names = ", ".join(dict.fromkeys(row[series] for row in rows))
    times = len({row["at"] for row in rows})
    axis = alt.Axis(grid=False)
    if times == 1:  # the default label of a single time is its milliseconds
        axis = alt.Axis(grid=False, tickCount=1, format="%Y-%m-%d %H:%M")
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=list(rows)))
        .mark_line(point=True)
        .encode(
            x=alt.X("at:T", title=None, scale=alt.Scale(type="utc"), axis=axis),
            y=alt.Y(f"{value}:Q", title=title, axis=alt.Axis(format=number)),
            color=alt.Color(f"{series}:N", title=None),
            strokeDash=alt.StrokeDash(f"{series}:N", title=None),
            tooltip=[
                alt.Tooltip("at:T", format="%Y-%m-%d %H:%M"),
                f"{series}:N",
                alt.Tooltip(f"{value}:Q", format=number),
            ],
        )
        .properties(
            height=260, description=f"{title} over time of {names}, {times} points in time."
        )
    )
    return chart


def span(cells: Sequence[Count]) -> tuple[float, float]:
    """Return a scale with zero that holds all intervals, to make heights comparable."""
    lows = [cell.value.value if cell.value.low is None else cell.value.low for cell in cells]
    highs = [cell.value.value if cell.value.high is None else cell.value.high for cell in cells]
    return min(0.0, *lows, 0.0), max(1.0, *highs, 1.0)


def bars(
    pairs: Sequence[tuple[str, float]], title: str, palette: Palette, digits: int = 1
) -> Chart:
    """Draw horizontal bars in the order given, each with its value at its end."""
    values = [
        {"name": name, "value": value, "label": formats.decimal(value, digits)}
        for name, value in pairs
    ]
    longest = max((value for _, value in pairs), default=0.0)
    room = alt.Scale(domain=[0, 1.12 * longest or 1.0], nice=False)
    base = alt.Chart(_data(values)).encode(
        y=alt.Y("name:N", sort=None, title=None, axis=_NAMES),
        x=alt.X("value:Q", title=title, scale=room, axis=alt.Axis(grid=False, tickCount=5)),
        tooltip=[alt.Tooltip("name:N", title="Name"), alt.Tooltip("label:N", title=title)],
    )
    summary = "; ".join(f"{name} {formats.decimal(value, digits)}" for name, value in pairs)
    return alt.layer(
        base.mark_bar(color=palette.platform, height=16),
        base.mark_text(align="left", dx=5, color=palette.text).encode(text="label:N"),
    ).properties(
        height=26 * len(values) + _AXIS_HEIGHT + _TITLE_HEIGHT, description=f"{title}: {summary}."
    )


def _dots(named: Sequence[tuple[str, Estimate, str]], *, title: str | None, digits: int) -> Chart:
    values = [
        {
            "name": name,
            "value": value.value,
            "low": value.low,
            "high": value.high,
            "label": formats.decimal(value.value, digits),
            "interval": formats.estimate(value, digits),
            "colour": colour,
        }
        for name, value, colour in named
    ]
    colour = alt.Color("colour:N", scale=None)
    base = alt.Chart(_data(values)).encode(
        y=alt.Y("name:N", sort=None, title=None, axis=_NAMES), color=colour
    )
    x = alt.X(
        "value:Q", title=title, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(tickCount=5)
    )
    tooltip = [
        alt.Tooltip("name:N", title="Name"),
        alt.Tooltip("interval:N", title=title or "Value"),
    ]
    whiskers = base.transform_filter(_KNOWN_INTERVAL).mark_rule(strokeWidth=2.5)
    return alt.layer(
        whiskers.encode(x="low:Q", x2="high:Q"),
        base.mark_circle(size=90, opacity=1).encode(x=x, tooltip=tooltip),
        base.mark_text(dy=-12, fontSize=12).encode(x=x, text="label:N"),
    ).properties(height=_ROW_HEIGHT * len(values) + _AXIS_HEIGHT + (_TITLE_HEIGHT if title else 0))


def _data(values: list[dict[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=values)


def _scaled(value: Estimate, by: float) -> Estimate:
    return Estimate(
        by * value.value,
        None if value.low is None else by * value.low,
        None if value.high is None else by * value.high,
    )
