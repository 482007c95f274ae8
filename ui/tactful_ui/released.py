"""The published statistics: noisy counts with their error bars, and nothing exact."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

import streamlit as st

from tactful_ui import charts, formats, shell
from tactful_ui.errors import NoReport, SourceError
from tactful_ui.report import Count, Statistics
from tactful_ui.source import ReportSource

_KEYS_AT_FIRST = 3
_MOST_KEYS = 8
_DAYS_AT_FIRST = 7
_MOST_DAYS = 31
_DAY = timedelta(days=1)


def page() -> None:
    """Draw the page."""
    shell.heading(
        "Statistics",
        "Counts about people leave the platform only with noise. These are the released values.",
    )
    try:
        found = _choose(shell.source())
    except SourceError as failure:
        shell.explain(failure)
        return
    if found is None:
        st.info(
            "**No statistic has been released yet.** The demo publishes counts as it replays.",
            icon=":material/hourglass_empty:",
        )
        return
    _guarantee(found)
    _counts(found)


def _choose(server: ReportSource) -> Statistics | None:
    """The released counts of the days that the reader chooses.

    They come from the server's statistics; where it publishes none, from the excerpt in the report.
    """
    excerpt = _excerpt(server)
    titles = server.statistic_titles()
    if not (titles or excerpt):
        return None
    about, days = st.columns(2)
    with days:
        since, until = _days(excerpt)
    if titles:
        name = about.selectbox(
            "Statistic", titles, format_func=lambda name: titles[name], key="statistic"
        )
        return server.statistic(name, since, until)
    if excerpt is None:
        return None
    about.selectbox("Statistic", [excerpt.name], key="excerpt", disabled=True)
    return replace(
        excerpt, counts=tuple(each for each in excerpt.counts if since <= each.start < until)
    )


def _excerpt(server: ReportSource) -> Statistics | None:
    try:
        return shell.current_report(server).statistics
    except NoReport:
        return None


def _days(excerpt: Statistics | None) -> tuple[datetime, datetime]:
    """The chosen days as ``[since, until)``; at first a week up to the last known pane."""
    starts = [each.start.date() for each in excerpt.counts] if excerpt else []
    today = datetime.now(UTC).date()
    last = max(starts, default=today)
    first = last - (_DAYS_AT_FIRST - 1) * _DAY
    chosen = st.date_input(
        f"Days (UTC), at most {_MOST_DAYS}", (first, last), format="YYYY-MM-DD", key="days"
    )
    # While the reader has picked only the first day, the range holds one date.
    picked = [day for day in chosen if isinstance(day, date)] or [first, last]
    begin, end = picked[0], min(picked[-1], picked[0] + (_MOST_DAYS - 1) * _DAY)
    midnight = time(tzinfo=UTC)
    return datetime.combine(begin, midnight), datetime.combine(end + _DAY, midnight)


def _guarantee(found: Statistics) -> None:
    facts = [
        ("Privacy loss ε per unit", formats.decimal(found.epsilon, 2), "Smaller hides more."),
        (
            "Cap, events per unit",
            formats.count(found.cap),
            "Events beyond the cap do not count, so that nobody can stand out.",
        ),
        (
            "Panes in these days",
            formats.count(len({each.start for each in found.counts})),
            "Each pane was released once and never again.",
        ),
    ]
    for place, (label, value, why) in zip(st.columns(len(facts)), facts, strict=True):
        place.metric(label, value, border=True, help=why)
    st.markdown(f"Unit of privacy: **{formats.plain(found.unit) or 'not stated'}**")


def _counts(found: Statistics) -> None:
    if not found.counts:
        st.info("Nothing was released for panes that start in these days. Choose other days.")
        return
    keys = st.multiselect(
        "Keys",
        found.keys,
        default=found.keys[:_KEYS_AT_FIRST],
        max_selections=_MOST_KEYS,
        format_func=lambda key: key or "(no key)",
        key=f"keys of {found.name}",
    )
    st.markdown(formats.bars_sentence(found))
    drawn = sorted(
        (each for each in found.counts if each.key in keys),
        key=lambda each: (keys.index(each.key), each.start),
    )
    if not drawn:
        st.info("Choose at least one key.")
        return
    low, high = _scale(drawn)
    for key in keys:
        counts = [each for each in drawn if each.key == key]
        st.markdown(
            f"**{formats.plain(key or '(no key)')}** (events per pane, UTC){_caveat(counts)}"
        )
        chart = charts.counts(key, counts, low, high, shell.palette())
        st.altair_chart(chart, width="stretch")
    with st.expander("The same as a table"):
        st.dataframe(
            {
                "Pane starts (UTC)": [f"{each.start:%Y-%m-%d %H:%M}" for each in drawn],
                "Key": [each.key for each in drawn],
                "Released": [each.value.value for each in drawn],
                "Low (95 %)": [each.value.low for each in drawn],
                "High (95 %)": [each.value.high for each in drawn],
            },
            hide_index=True,
            width="stretch",
        )


def _caveat(counts: list[Count]) -> str:
    """How many intervals tell a count from nothing at all, beside what chance alone would give."""
    intervals = [
        (each.value.low, each.value.high)
        for each in counts
        if each.value.low is not None and each.value.high is not None
    ]
    if not intervals:
        return ""
    clear = sum(not low <= 0 <= high for low, high in intervals)
    return (
        f": {clear} of {len(intervals)} intervals leave zero out; if all counts were zero, noise "
        f"would make about {round(0.05 * len(intervals))} do so"
    )


def _scale(drawn: list[Count]) -> tuple[float, float]:
    """One scale for all charts, so that their heights compare, with zero on it."""
    lows = [each.value.value if each.value.low is None else each.value.low for each in drawn]
    highs = [each.value.value if each.value.high is None else each.value.high for each in drawn]
    return min(0.0, *lows), max(1.0, *highs)
