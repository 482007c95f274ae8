"""Charts of numbers over time: one line for each series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

import altair as alt

from tactful_ui.components import formats
from tactful_ui.components.charts import Chart, Palette

_HEIGHT = 200
_TIME = "time"


@dataclass(frozen=True)
class Line:
    """A series by a name for readers; None where there is no number."""

    name: str
    numbers: Sequence[float | None]


def rows_of(times: Sequence[int], lines: Sequence[Line], zone: tzinfo) -> list[dict[str, object]]:
    """Return a row for each time (epoch ms), with the numbers of all lines."""
    return [
        {_TIME: _local(at, zone).isoformat()} | {line.name: line.numbers[row] for line in lines}
        for row, at in enumerate(times)
    ]


def draw(
    title: str, times: Sequence[int], lines: Sequence[Line], palette: Palette, zone: tzinfo
) -> Chart | None:
    """Draw lines over time, in the reader's zone; None without a number.

    Lines differ in colour and dashes; a gap in the numbers is a gap in the line.
    """
    values = [
        # The chart's scale is UTC: the wall clock of the reader is drawn as if it were.
        {
            _TIME: _local(at, zone).replace(tzinfo=UTC).isoformat(),
            "series": line.name,
            "value": line.numbers[row],
        }
        for line in lines
        for row, at in enumerate(times)
    ]
    if all(point["value"] is None for point in values):
        return None
    names = [line.name for line in lines]
    highest = max((x for line in lines for x in line.numbers if x is not None), default=0.0)
    scale = alt.Scale(zero=True) if highest > 0 else alt.Scale(domain=[0, 1])
    colours = [palette.platform, palette.reference, palette.other]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("time:T", title=None, scale=alt.Scale(type="utc"), axis=alt.Axis(grid=False)),
        y=alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=4)),
        color=alt.Color(
            "series:N",
            sort=names,
            scale=alt.Scale(domain=names, range=[colours[n % 3] for n in range(len(names))]),
            legend=None if len(names) == 1 else alt.Legend(title=None, orient="top"),
        ),
        strokeDash=alt.StrokeDash("series:N", sort=names, legend=None),
        tooltip=[
            alt.Tooltip("time:T", title="Time", format="%Y-%m-%d %H:%M:%S"),
            alt.Tooltip("series:N", title="Series"),
            alt.Tooltip("value:Q", title=title, format=",.4~g"),
        ],
    )
    return alt.layer(base.mark_line(strokeWidth=1.5, interpolate="linear")).properties(
        height=_HEIGHT, description=_description(title, lines)
    )


def _description(title: str, lines: Sequence[Line]) -> str:
    parts = []
    for line in lines:
        known = [number for number in line.numbers if number is not None]
        if known:
            last, highest = (formats.decimal(number, 3) for number in (known[-1], max(known)))
            parts.append(f"{line.name} now {last}, at most {highest}")
    return f"{title} over time: {'; '.join(parts)}."


def _local(at: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(at / 1000, zone)
