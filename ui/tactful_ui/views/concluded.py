"""Part of the page "Statistics": days, the largest keys and sums, each with its noise."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import streamlit as st

from tactful.client.routes import privacy as routes
from tactful_ui.components import charts, formats, shell, tables
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError
from tactful_ui.report import Count, Estimate

_KEPT = "concluded"
_KEPT_SECONDS = 60
_DAY = timedelta(days=1)
_LARGEST = 10


@dataclass(frozen=True)
class Concluded:
    """Conclusions from a span of released numbers.

    Attributes:
        top: the largest keys, with the places that noise leaves possible.
        sums: sum of each key over the span.
        days: start of each day, with the sum of each key on it.
    """

    top: Any
    sums: Any
    days: tuple[tuple[datetime, Any], ...]


def draw(name: str, since: datetime, until: datetime) -> None:
    """Draw conclusions from a statistic; nothing for one that cannot be added up."""
    try:
        concluded = _concluded(name, since, until)
    except SourceError:  # means, running totals, or nothing released in the span
        return
    keys = [result.key for result in concluded.top.results]
    if not keys:
        return
    st.subheader(_("Day by day"), anchor=False)
    chosen = st.selectbox(
        _("Key"), keys, format_func=lambda key: key or _("(no key)"), key=f"day of {name}"
    )
    _days(name, concluded, chosen or keys[0])
    largest, sums = st.columns(2)
    with largest:
        st.subheader(_("Largest"), anchor=False)
        _top(concluded.top)
    with sums:
        st.subheader(_("Sums"), anchor=False)
        _sums(concluded.sums)
    st.caption(
        _(
            "Intervals hold in {percent} of 100 cases and come from the noise alone; conclusions "
            "cost no privacy.",
            percent=f"{100 * concluded.sums.confidence:g}",
        )
    )
    st.subheader(_("As it was released"), anchor=False)


def _concluded(name: str, since: datetime, until: datetime) -> Concluded:
    """Return the conclusions, asked of the server once a minute."""
    wanted = name, since, until, shell.reader().name
    kept = st.session_state.get(_KEPT)
    if kept is not None and kept[0] == wanted and time.monotonic() - kept[1] < _KEPT_SECONDS:
        found: Concluded = kept[2]
        return found

    def ask(conclusion: str, begin: datetime, end: datetime) -> Any:
        return shell.ask(routes.conclusion(name, conclusion, begin, end, k=_LARGEST))

    number = (until - since) // _DAY
    days = [since + _DAY * index for index in range(number)]
    sums = [(day, _of_day(ask, day)) for day in days]
    found = Concluded(
        ask("top", since, until),
        ask("sum", since, until),
        tuple((day, answer) for day, answer in sums if answer is not None),
    )
    st.session_state[_KEPT] = wanted, time.monotonic(), found
    return found


def _of_day(ask: Any, day: datetime) -> Any:
    """Return the sums of a day, or None if nothing was released on it."""
    try:
        return ask("sum", day, day + _DAY)
    except SourceError:
        return None


def _days(name: str, concluded: Concluded, key: str) -> None:
    cells = [
        Count(day, key, Estimate(result.value, result.low, result.high))
        for day, answer in concluded.days
        for result in answer.results
        if result.key == key and result.value is not None
    ]
    if not cells:
        st.caption(_("Nothing was released for this key."))
        return
    low = min(0.0, *(cell.value.low or 0.0 for cell in cells))
    high = max(1.0, *(cell.value.high or 0.0 for cell in cells))
    rows = [
        {
            _("Day"): f"{cell.start:%Y-%m-%d}",
            _("Key"): cell.key,
            _("Released"): cell.value.value,
            _("Low"): cell.value.low,
            _("High"): cell.value.high,
        }
        for cell in cells
    ]
    chart = charts.counts(key, cells, low, high, shell.palette())
    charts.show(chart, f"{name}-days", rows)


def _top(top: Any) -> None:
    tables.show(
        [
            {
                _("Key"): result.key or _("(no key)"),
                _("Released"): formats.count(result.value),
                _("Place"): f"{result.best}–{result.worst}",
            }
            for result in top.results
        ],
        f"{top.name}-largest",
    )


def _sums(sums: Any) -> None:
    ordered = sorted(sums.results, key=lambda result: -(result.value or 0.0))
    tables.show(
        [
            {
                _("Key"): result.key or _("(no key)"),
                _("Released"): formats.count(result.value),
                _("Low"): formats.count(result.low),
                _("High"): formats.count(result.high),
            }
            for result in ordered
        ],
        f"{sums.name}-sums",
        height=390 if len(ordered) > _LARGEST else None,
    )
