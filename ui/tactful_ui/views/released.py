"""Page "Statistics": published noisy counts with error bars, nothing exact."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

import streamlit as st

from tactful_ui.components import charts, formats, shell, tables
from tactful_ui.report import Count, Statistics
from tactful_ui.source import ReportSource
from tactful_ui.views import concluded

_KEYS_AT_FIRST = 3
_MOST_KEYS = 8
_DAYS_AT_FIRST = 7
_MOST_DAYS = 31
_DAY = timedelta(days=1)


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        "Statistics",
        "The platform releases counts about people only with noise. These are the released values.",
    )
    statistics, span = _choose(shell.source())
    if statistics is None:
        st.info(
            "**No statistic has been released yet.** The demo publishes counts during the replay.",
            icon=":material/hourglass_empty:",
        )
        return
    _guarantee(statistics)
    if span is not None:
        concluded.draw(statistics.name, *span)
    _counts(statistics)


def _choose(
    server: ReportSource,
) -> tuple[Statistics | None, tuple[datetime, datetime] | None]:
    """Return the released counts of the chosen days, and these if the server has the statistic.

    They come from the server's statistics or, if there are none, from the report's excerpt.
    """
    report = shell.report_if_any(server)
    excerpt = report.statistics if report else None
    titles = server.statistic_titles()
    if not (titles or excerpt):
        return None, None
    about, days = st.columns(2)
    with days:
        since, until = _days(excerpt)
    if titles:
        name = about.selectbox(
            "Statistic", titles, format_func=lambda name: titles[name], key="statistic"
        )
        return server.statistic(name, since, until), (since, until)
    if excerpt is None:
        return None, None
    about.selectbox("Statistic", [excerpt.name], key="excerpt", disabled=True)
    cells = tuple(cell for cell in excerpt.counts if since <= cell.start < until)
    return replace(excerpt, counts=cells), None


def _days(excerpt: Statistics | None) -> tuple[datetime, datetime]:
    """Return the chosen days as ``[since, until)``; by default the last known week."""
    starts = [cell.start.date() for cell in excerpt.counts] if excerpt else []
    today = datetime.now(UTC).date()
    last = max(starts, default=today)
    first = last - (_DAYS_AT_FIRST - 1) * _DAY
    chosen = st.date_input(
        f"Days (UTC), at most {_MOST_DAYS}", (first, last), format="YYYY-MM-DD", key="days"
    )
    # While only the first day is picked, the range holds one date.
    picked = [day for day in chosen if isinstance(day, date)] or [first, last]
    begin, end = picked[0], min(picked[-1], picked[0] + (_MOST_DAYS - 1) * _DAY)
    midnight = time(tzinfo=UTC)
    return datetime.combine(begin, midnight), datetime.combine(end + _DAY, midnight)


def _guarantee(statistics: Statistics) -> None:
    facts = [
        (
            "Privacy loss ε per unit",
            formats.decimal(statistics.epsilon, 2),
            "A smaller ε adds more noise.",
        ),
        (
            "Cap, events per unit",
            formats.count(statistics.cap),
            "Events beyond the cap do not count, which limits the influence of one unit.",
        ),
        (
            "Panes in these days",
            formats.count(len({cell.start for cell in statistics.counts})),
            "Each pane was released once and never again.",
        ),
    ]
    for place, (label, value, text) in zip(st.columns(len(facts)), facts, strict=True):
        place.metric(label, value, border=True, help=text)
    st.markdown(f"Unit of privacy: **{formats.plain(statistics.unit) or 'not stated'}**")


def _counts(statistics: Statistics) -> None:
    if not statistics.counts:
        st.info("Nothing was released for panes that start in these days. Choose other days.")
        return
    keys = st.multiselect(
        "Keys",
        statistics.keys,
        default=statistics.keys[:_KEYS_AT_FIRST],
        max_selections=_MOST_KEYS,
        format_func=lambda key: key or "(no key)",
        key=f"keys of {statistics.name}",
    )
    st.markdown(formats.bars_sentence(statistics))
    drawn = sorted(
        (cell for cell in statistics.counts if cell.key in keys),
        key=lambda cell: (keys.index(cell.key), cell.start),
    )
    if not drawn:
        st.info("Choose at least one key.")
        return
    low, high = charts.span(drawn)
    for key in keys:
        counts = [cell for cell in drawn if cell.key == key]
        st.markdown(
            f"**{formats.plain(key or '(no key)')}** (events per pane, UTC){_caveat(counts)}"
        )
        chart = charts.counts(key, counts, low, high, shell.palette())
        charts.draw(chart, f"{statistics.name} {key}")
    with st.expander("The same as a table"):
        rows = [
            {
                "Pane starts (UTC)": f"{cell.start:%Y-%m-%d %H:%M}",
                "Key": cell.key,
                "Released": cell.value.value,
                "Low (95 %)": cell.value.low,
                "High (95 %)": cell.value.high,
            }
            for cell in drawn
        ]
        tables.show(rows, statistics.name or "statistic")


def _caveat(counts: list[Count]) -> str:
    """Count the intervals without zero, beside the number expected by chance alone."""
    intervals = [
        (cell.value.low, cell.value.high)
        for cell in counts
        if cell.value.low is not None and cell.value.high is not None
    ]
    if not intervals:
        return ""
    clear = sum(not low <= 0 <= high for low, high in intervals)
    return (
        f": {clear} of {len(intervals)} intervals exclude zero; if all counts were zero, noise "
        f"would make about {round(0.05 * len(intervals))} do so"
    )
