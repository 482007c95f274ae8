"""Charts of models: figures with intervals, curves, and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import altair as alt

from tactful_ui.components.charts import Chart, Palette

Rows: TypeAlias = Sequence[Mapping[str, Any]]

_ROW_HEIGHT = 34
_AXIS_HEIGHT = 60
_NAMES = alt.Axis(labelLimit=220, labelOverlap=False, ticks=False, domain=False, grid=False)


def intervals(rows: Rows, title: str, palette: Palette) -> Chart:
    """Draw values with 95 % intervals, one row per `name`, in order; `low` may be None."""
    base = alt.Chart(_data(rows)).encode(y=alt.Y("name:N", sort=None, title=None, axis=_NAMES))
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, padding=12))
    tooltip = ["name:N", *(alt.Tooltip(f"{it}:Q", format=".4f") for it in ("value", "low", "high"))]
    zero = alt.Chart(_data([{"zero": 0}])).mark_rule(color=palette.other, strokeDash=[4, 4])
    crosses = any(row["low"] is not None and row["low"] <= 0 for row in rows)
    layers = [zero.encode(x="zero:Q")] if crosses else []
    layers += [
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_rule(color=palette.platform, strokeWidth=2.5)
        .encode(x=alt.X("low:Q", title=title), x2="high:Q"),
        base.mark_circle(color=palette.platform, size=80, opacity=1).encode(x=x, tooltip=tooltip),
    ]
    said = "; ".join(f"{row['name']} {row['value']:.4f}" for row in rows)
    return alt.layer(*layers).properties(
        height=_ROW_HEIGHT * len(rows) + _AXIS_HEIGHT,
        description=f"{title} with 95 % intervals: {said}.",
    )


def curve(rows: Rows, x: str, y: str, palette: Palette, *, mark: float | None = None) -> Chart:
    """Draw a curve of numbers; a vertical line at `mark`. `x` and `y` are keys and titles."""
    base = alt.Chart(_data([{"x": row[x], "y": row[y]} for row in rows]))
    layers = [
        base.mark_line(color=palette.platform, strokeWidth=2).encode(
            x=alt.X("x:Q", title=x, axis=alt.Axis(tickMinStep=1, grid=False)),
            y=alt.Y("y:Q", title=y, scale=alt.Scale(zero=False, padding=12)),
            tooltip=[alt.Tooltip("x:Q", title=x), alt.Tooltip("y:Q", title=y, format=".4f")],
        )
    ]
    if mark is not None:
        line = alt.Chart(_data([{"x": mark}])).mark_rule(color=palette.other, strokeDash=[4, 4])
        layers.append(line.encode(x="x:Q"))
    values = [row[y] for row in rows]
    return alt.layer(*layers).properties(
        height=260,
        description=f"{y} by {x}: {len(values)} points from {values[0]:.4f} to {values[-1]:.4f}.",
    )


def days(rows: Rows, title: str, palette: Palette) -> Chart:
    """Draw a figure by `day`, with its 95 % interval where `low` and `high` are known."""
    base = alt.Chart(_data(rows)).encode(
        x=alt.X("day:T", title=None, axis=alt.Axis(grid=False, format="%b %d", labelOverlap=True))
    )
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False, padding=12))
    tooltip = [
        alt.Tooltip("day:T", format="%Y-%m-%d"),
        *(alt.Tooltip(f"{it}:Q", format=".4f") for it in ("value", "low", "high")),
    ]
    known = base.transform_filter("isValid(datum.low) && isValid(datum.high)")
    values = [row["value"] for row in rows]
    return alt.layer(
        known.mark_rule(color=palette.platform, opacity=0.5).encode(
            y=alt.Y("low:Q", title=title), y2="high:Q"
        ),
        base.mark_line(color=palette.platform, strokeWidth=1.5).encode(y=y),
        base.mark_circle(color=palette.platform, size=40, opacity=1).encode(y=y, tooltip=tooltip),
    ).properties(
        height=220,
        description=f"{title} by day: {len(values)} days, {min(values):.4f} to {max(values):.4f}.",
    )


def calibration(rows: Rows, x: str, y: str, palette: Palette) -> Chart:
    """Draw observed shares by predicted ones, beside the line on which they agree."""
    points = [{"x": row[x], "y": row[y]} for row in rows]
    top = max((max(row["x"], row["y"]) for row in points), default=1.0)
    line = alt.Chart(_data([{"x": 0.0, "y": 0.0}, {"x": top, "y": top}]))
    base = alt.Chart(_data(points))
    encoded = {"x": alt.X("x:Q", title=x), "y": alt.Y("y:Q", title=y)}
    furthest = max((abs(row["x"] - row["y"]) for row in points), default=0.0)
    return alt.layer(
        line.mark_line(color=palette.other, strokeDash=[4, 4]).encode(**encoded),
        base.mark_line(color=palette.platform).encode(**encoded),
        base.mark_circle(color=palette.platform, size=60, opacity=1).encode(
            **encoded,
            tooltip=[
                alt.Tooltip("x:Q", title=x, format=".4f"),
                alt.Tooltip("y:Q", title=y, format=".4f"),
            ],
        ),
    ).properties(
        height=260,
        description=f"{y} by {x}: {len(points)} points, at most {furthest:.4f} from agreement.",
    )


def _data(rows: Rows) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])
