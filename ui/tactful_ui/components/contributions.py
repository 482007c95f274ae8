"""Bars of what made an item rank where it does."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from tactful.client.messages import ExplainedItem
from tactful_ui.components import formats
from tactful_ui.components.charts import Chart, Palette
from tactful_ui.components.words import text as _

MOST = 6
"""Features that are drawn by name; the others are added up."""


def rows_of(item: ExplainedItem, most: int = MOST) -> list[tuple[str, float]]:
    """Return the strongest contributions to the margin, and the sum of the others last."""
    known = {name: value for name, value in (item.contributions or {}).items() if value}
    strongest = sorted(known, key=lambda name: -abs(known[name] or 0.0))
    rows = [(name, known[name] or 0.0) for name in strongest[:most]]
    if rest := strongest[most:]:
        rows.append((_("{count} others", count=len(rest)), sum(known[it] or 0.0 for it in rest)))
    return rows


def chart(rows: Sequence[tuple[str, float]], title: str, palette: Palette) -> Chart:
    """Draw contributions as bars to both sides of zero, each with its value."""
    values = [
        {"name": name, "value": value, "label": formats.signed(value, 2), "up": value >= 0}
        for name, value in rows
    ]
    reach = 1.35 * max((abs(value) for _name, value in rows), default=1.0) or 1.0
    colour = alt.condition("datum.up", alt.value(palette.platform), alt.value(palette.reference))
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=alt.Y(
            "name:N",
            sort=None,
            title=None,
            axis=alt.Axis(labelLimit=180, ticks=False, domain=False, grid=False),
        ),
        x=alt.X(
            "value:Q",
            title=None,
            scale=alt.Scale(domain=[-reach, reach], nice=False),
            axis=alt.Axis(labels=False, ticks=False, grid=False, domain=False),
        ),
        tooltip=[alt.Tooltip("name:N", title=_("Feature")), alt.Tooltip("label:N", title=title)],
    )
    text = base.encode(text="label:N")
    summary = "; ".join(f"{name} {formats.signed(value, 2)}" for name, value in rows)
    return alt.layer(
        base.mark_bar(height=11).encode(color=colour),
        text.transform_filter("datum.up").mark_text(align="left", dx=4, color=palette.text),
        text.transform_filter("!datum.up").mark_text(align="right", dx=-4, color=palette.text),
    ).properties(height=22 * len(values) + 12, description=f"{title}: {summary}.")
