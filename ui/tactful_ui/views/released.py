"""Page "Statistics": published noisy counts with error bars, nothing exact."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

import streamlit as st

from tactful_ui.components import charts, formats, shell, tables
from tactful_ui.components.words import text as _
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
        _("Statistics"),
        _("Counts about people are released only with noise. These are the released values."),
    )
    statistics, span = _choose(shell.source())
    if statistics is None:
        st.info(
            _("**No statistic has been released yet.** Name a file of definitions:"),
            icon=":material/hourglass_empty:",
        )
        st.code('[statistics]\ndefinitions = "statistics.yaml"', language=None)
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
            _("Statistic"), titles, format_func=lambda name: titles[name], key="statistic"
        )
        return server.statistic(name, since, until), (since, until)
    if excerpt is None:
        return None, None
    about.selectbox(_("Statistic"), [excerpt.name], key="excerpt", disabled=True)
    cells = tuple(cell for cell in excerpt.counts if since <= cell.start < until)
    return replace(excerpt, counts=cells), None


def _days(excerpt: Statistics | None) -> tuple[datetime, datetime]:
    """Return the chosen days as ``[since, until)``; by default the last known week."""
    starts = [cell.start.date() for cell in excerpt.counts] if excerpt else []
    today = datetime.now(UTC).date()
    last = max(starts, default=today)
    first = last - (_DAYS_AT_FIRST - 1) * _DAY
    chosen = st.date_input(
        _("Days (UTC), at most {most}", most=_MOST_DAYS),
        (first, last),
        format="YYYY-MM-DD",
        key="days",
    )
    # While only the first day is picked, the range holds one date.
    picked = [day for day in chosen if isinstance(day, date)] or [first, last]
    begin, end = picked[0], min(picked[-1], picked[0] + (_MOST_DAYS - 1) * _DAY)
    midnight = time(tzinfo=UTC)
    return datetime.combine(begin, midnight), datetime.combine(end + _DAY, midnight)


def _guarantee(statistics: Statistics) -> None:
    facts = [
        (
            _("Privacy loss ε per unit"),
            formats.decimal(statistics.epsilon, 2),
            _("A smaller ε adds more noise."),
        ),
        (
            _("Cap, events per unit"),
            formats.count(statistics.cap),
            _("Events beyond the cap do not count, which limits the influence of one unit."),
        ),
        (
            _("Panes in these days"),
            formats.count(len({cell.start for cell in statistics.counts})),
            _("Each pane was released once and never again."),
        ),
    ]
    for place, (label, value, text) in zip(st.columns(len(facts)), facts, strict=True):
        place.metric(label, value, border=True, help=text)
    unit = formats.plain(statistics.unit) or _("not stated")
    st.markdown(_("Unit of privacy: **{unit}**", unit=unit))


def _counts(statistics: Statistics) -> None:
    if not statistics.counts:
        st.info(_("Nothing was released for panes that start in these days. Choose other days."))
        return
    keys = st.multiselect(
        _("Keys"),
        statistics.keys,
        default=statistics.keys[:_KEYS_AT_FIRST],
        max_selections=_MOST_KEYS,
        format_func=lambda key: key or _("(no key)"),
        key=f"keys of {statistics.name}",
    )
    st.markdown(formats.bars_sentence(statistics))
    drawn = sorted(
        (cell for cell in statistics.counts if cell.key in keys),
        key=lambda cell: (keys.index(cell.key), cell.start),
    )
    if not drawn:
        st.info(_("Choose at least one key."))
        return
    low, high = charts.span(drawn)
    for key in keys:
        counts = [cell for cell in drawn if cell.key == key]
        st.markdown(
            _("**{key}** (events per pane, UTC)", key=formats.plain(key or _("(no key)")))
            + _caveat(counts)
        )
        chart = charts.counts(key, counts, low, high, shell.palette())
        charts.draw(chart, f"{statistics.name} {key}")
    with st.expander(_("The same as a table")):
        rows = [
            {
                _("Pane starts (UTC)"): f"{cell.start:%Y-%m-%d %H:%M}",
                _("Key"): cell.key,
                _("Released"): cell.value.value,
                _("Low (95 %)"): cell.value.low,
                _("High (95 %)"): cell.value.high,
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
