"""Page "Privacy": the ledger as a calendar, the forecast in words, erasures and the last audit."""

from __future__ import annotations

import calendar
from datetime import date
from typing import Any

import altair as alt
import streamlit as st

from tactful.client.routes import privacy as routes
from tactful_ui.components import charts, formats, shell, tables, times
from tactful_ui.components.words import text as _
from tactful_ui.errors import NotFound, SourceError

_ALL = "*"
_PAGE = 100


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Privacy"),
        _("Privacy loss of one person by published numbers, and the promises that are kept."),
    )
    reader = shell.reader()
    if not reader.may("analyst"):
        st.info(_("This page needs the scope `analyst`."))
        return
    try:
        ledger = shell.ask(routes.ledger())
    except NotFound:
        st.info(
            _("**No statistics are published here**, so published numbers cost no privacy."),
            icon=":material/shield:",
        )
    except SourceError as failure:
        shell.explain(failure)
    else:
        _forecast(ledger)
        _calendar(ledger)
        _purposes(ledger)
        _queries(ledger)
        st.markdown(_("The released numbers with their noise are under [Statistics](statistics)."))
    shell.section(_("Erasures"), lambda: shell.ask(routes.status()), _overdue)
    if reader.admin:
        shell.section(
            _("Open erasures"),
            lambda: shell.ask(routes.erasures(limit=_PAGE)),
            lambda found: _erasures(found, "open-erasures"),
        )
        shell.section(
            _("Completed erasures"),
            lambda: shell.ask(routes.erasures("done", limit=_PAGE)),
            lambda found: _erasures(found, "completed-erasures"),
        )
    shell.section(_("Last audit"), lambda: shell.ask(routes.status()).audit, _audit)


def _forecast(ledger: Any) -> None:
    """Draw what the month costs, in numbers and in words."""
    whole, budget = ledger.spends[0], ledger.budgets[0] if ledger.budgets else None
    st.subheader(_("This month"), anchor=False)
    facts = [
        (_("ε so far, composed"), whole.epsilon_spent_composed),
        (_("ε at the end of the month"), whole.epsilon_forecast_composed),
        (_("ε reserved each day"), whole.epsilon_each_day),
    ]
    if budget is not None:
        left = budget.epsilon - max(budget.reserved, budget.largest_day)
        facts.append((_("ε left of each day's budget"), left))
    for place, (label, value) in zip(st.columns(len(facts)), facts, strict=True):
        place.metric(label, formats.decimal(value, 2), border=True)
    st.markdown(
        _(
            "A person who is active on every day of {month} loses ε = {spent} so far and ε = "
            "{forecast} by the end of the month, if no statistic is added (tightest composition "
            "at δ = {delta}).",
            month=ledger.month,
            spent=formats.decimal(whole.epsilon_spent_composed, 2),
            forecast=formats.decimal(whole.epsilon_forecast_composed, 2),
            delta=f"{ledger.delta:g}",
        )
    )
    with st.expander(_("Conclusions of an attacker")):
        for line in ledger.in_words.splitlines():
            st.markdown(formats.plain(line))


def _calendar(ledger: Any) -> None:
    """Draw the loss of each day of the month, for a purpose."""
    st.subheader(_("Day by day"), anchor=False)
    lines = {_line(spend): spend for spend in ledger.spends}
    chosen = st.selectbox(_("Purpose"), list(lines), key="ledger_purpose") or next(iter(lines))
    spend = lines[chosen]
    if not spend.epsilon_by_day:
        st.caption(_("The server does not say the loss of single days."))
        return
    rows = _days(ledger, spend.epsilon_by_day)
    if not any(row["epsilon"] for row in rows):
        st.caption(_("Nothing is released for this purpose this month."))
    chart = _month(rows, shell.palette())
    charts.show(chart, f"ledger-{ledger.month}", rows)
    st.caption(_("Days after {today} are a forecast, drawn lighter.", today=ledger.today))


def _days(ledger: Any, losses: list[float]) -> list[dict[str, Any]]:
    """Return one row for each day of the month."""
    year, month = map(int, ledger.month.split("-"))
    first = date(year, month, 1)
    names = [_("Mon"), _("Tue"), _("Wed"), _("Thu"), _("Fri"), _("Sat"), _("Sun")]
    rows = []
    for number, epsilon in enumerate(losses, start=1):
        day = date(year, month, number)
        rows.append(
            {
                "day": day.isoformat(),
                "number": number,
                "weekday": names[day.weekday()],
                "position": day.weekday(),
                "week": (number + first.weekday() - 1) // 7,
                "epsilon": epsilon,
                "forecast": day.isoformat() > ledger.today,
            }
        )
    return rows


def _month(rows: list[dict[str, Any]], palette: charts.Palette) -> Any:
    """Draw a month as weeks of seven days, darker where a day costs more."""
    total = sum(row["epsilon"] for row in rows)
    year, month = (int(part) for part in rows[0]["day"].split("-")[:2])
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X(
            "weekday:N",
            sort=alt.EncodingSortField("position"),
            title=None,
            axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False),
        ),
        y=alt.Y("week:O", title=None, axis=None),
        tooltip=[
            alt.Tooltip("day:N", title=_("Day")),
            alt.Tooltip("epsilon:Q", title="ε", format=".3g"),
        ],
    )
    squares = base.mark_rect(
        stroke="gray", strokeOpacity=0.4, strokeWidth=1, cornerRadius=3
    ).encode(
        color=alt.Color(
            "epsilon:Q",
            title="ε",
            legend=alt.Legend(gradientLength=100),
            scale=alt.Scale(range=["transparent", palette.platform], domainMin=0),
        ),
        opacity=alt.condition("datum.forecast", alt.value(0.3), alt.value(0.65)),
    )
    numbers = base.mark_text(fontSize=12).encode(text="number:Q", color=alt.value(palette.text))
    return (squares + numbers).properties(
        height=240,
        description=(
            f"{calendar.month_name[month]} {year}: epsilon {total:.3g} in all, "
            f"at most {max(row['epsilon'] for row in rows):.3g} on a day"
        ),
    )


def _purposes(ledger: Any) -> None:
    st.subheader(_("By purpose"), anchor=False)
    tables.show(
        [
            {
                _("Purpose"): _line(spend),
                _("Days with releases"): spend.days,
                _("ε a day"): round(spend.epsilon_each_day, 4),
                _("ε so far"): round(spend.epsilon_spent_composed, 4),
                _("ε by the end"): round(spend.epsilon_forecast_composed, 4),
            }
            for spend in ledger.spends
        ],
        "purposes",
    )
    tables.show(
        [
            {
                _("Budget of"): _line(budget),
                _("Days"): budget.days,
                _("Limit ε"): round(budget.epsilon, 4),
                _("Reserved ε"): round(budget.reserved, 4),
                _("Left ε"): round(budget.epsilon - max(budget.reserved, budget.largest_day), 4),
            }
            for budget in ledger.budgets
        ],
        "budgets",
    )


def _queries(ledger: Any) -> None:
    if not ledger.queries:
        return
    st.subheader(_("Single questions"), anchor=False)
    tables.show(
        [
            {
                _("Question"): query.name,
                _("First day"): query.first_day,
                _("Last day"): query.last_day,
                _("Purpose"): _line(query),
                _("ε a day"): round(query.epsilon, 4),
                _("Answered"): _("yes") if query.answered else _("no, but charged"),
            }
            for query in ledger.queries
        ],
        "queries",
    )


def _line(spend: Any) -> str:
    """Return tenant and purpose in words."""
    if spend.tenant == spend.purpose == _ALL:
        return _("everything")
    purpose = _("all purposes") if spend.purpose == _ALL else spend.purpose
    return purpose if spend.tenant in (_ALL, "default") else f"{spend.tenant}: {purpose}"


def _overdue(status: Any) -> None:
    days = f"{status.erase_days:g}"
    if status.erasures_overdue:
        st.error(
            _(
                "**An erasure is past its due time.** Erasures are promised within {days} days: "
                "see the log of the server.",
                days=days,
            ),
            icon=":material/timer_off:",
        )
    else:
        st.success(
            _("No erasure is overdue. They are promised within {days} days.", days=days),
            icon=":material/task_alt:",
        )


def _erasures(found: Any, name: str) -> None:
    if not found.erasures:
        st.caption(_("There are none."))
        return
    rows = [
        {
            _("Receipt"): erasure.receipt,
            _("State"): _state(erasure.state),
            _("Requested"): times.moment(erasure.requested_at),
            _("Due"): times.moment(erasure.due_at),
            _("Done"): times.moment(erasure.done_at),
            _("Removed records"): sum(step.removed for step in erasure.steps),
        }
        for erasure in found.erasures
    ]
    tables.show(rows, name)
    if found.next_cursor:
        st.markdown(_("The first {number}; `GET /v1/erasures` has all of them.", number=len(rows)))


def _state(state: str) -> str:
    known = {"requested": _("suppressed"), "purging": _("being removed"), "done": _("done")}
    return known.get(state, state)


def _audit(audit: Any) -> None:
    if audit is None:
        st.info(_("No audit was kept yet. Attack the published counts with:"))
        st.code("tactful privacy audit --keep", language=None)
        return
    if audit.passed and audit.trustworthy:
        st.success(
            _(
                "Passed on {at}: the attack proved ε ≥ {proved} where ε = {claimed} is claimed, "
                "and found {caught} of {planted} planted mistakes.",
                at=times.moment(audit.at),
                proved=formats.decimal(audit.epsilon_lower_bound, 2),
                claimed=audit.epsilon,
                caught=audit.planted_bugs_caught,
                planted=audit.planted_bugs,
            ),
            icon=":material/verified_user:",
        )
    elif audit.passed:
        text = _("The audit of {at} missed a planted mistake: its verdict is not reliable.")
        st.warning(text.format(at=times.moment(audit.at)), icon=":material/help:")
    else:
        text = _("**The audit of {at} failed**: published counts reveal more than is claimed.")
        st.error(text.format(at=times.moment(audit.at)), icon=":material/gpp_bad:")
    with st.expander(_("All checks")):
        tables.show(
            [
                {
                    _("Pipeline"): finding.pipeline,
                    _("Check"): finding.check,
                    _("Passed"): _("yes") if finding.passed else _("no"),
                    _("Measured"): finding.measured,
                    _("Allowed"): finding.allowed,
                }
                for finding in audit.findings
            ],
            "audit",
        )
