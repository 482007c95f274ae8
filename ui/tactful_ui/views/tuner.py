"""Page "Tuner": weights of trained tuners over time, their bounds, verdict and regret."""

from __future__ import annotations

from typing import Any

import streamlit as st

from tactful.client.messages import Regret, TunerInfo, Verdict
from tactful.client.routes import experiments as routes
from tactful_ui.components import charts, formats, readouts, shell, tables
from tactful_ui.components.words import text as _


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Tuner"),
        _("Networks that set the weights of the ranking by the state of the shop, within bounds."),
    )
    days = st.slider(_("Days"), 1, 90, 7, key="days")
    reader = shell.reader()
    found = shell.ask(routes.tuners(days=float(days))).tuners
    if not found:
        st.info(
            _("**No rollout has a tuner.** Train one, then roll it out:"),
            icon=":material/hourglass_empty:",
        )
        st.code("tactful tuner train tuners/first", language=None)
        return
    by_key = {tuner.key: tuner for tuner in found}
    key = st.selectbox(_("Rollout"), list(by_key), key="tuner")
    _tuner(by_key[key], admin=reader.admin)


def _tuner(found: TunerInfo, *, admin: bool) -> None:
    share, noise, trained = st.columns(3)
    share.metric(_("Share of the people"), formats.percent(found.share), border=True)
    noise.metric(_("Noise of an action"), formats.decimal(found.noise, 2), border=True)
    trained.metric(_("Trained in"), formats.plain(found.trained_in or "–"), border=True)
    if found.weights:
        st.subheader(_("Weights and their bounds"), anchor=False)
        tables.show(
            [
                {
                    _("objective"): weight.objective,
                    _("champion"): formats.decimal(weight.champion, 3),
                    _("now"): formats.decimal(weight.now, 3),
                    _("least"): formats.decimal(weight.low, 3),
                    _("most"): formats.decimal(weight.high, 3),
                }
                for weight in found.weights
            ],
            f"{found.key}-bounds",
        )
        if all(weight.now is None for weight in found.weights):
            st.caption(_("The champion's weights hold: signals are missing, old, or out of range."))
    if not admin:
        st.info(
            _(
                "Weights over time, verdict and regret come from the log and need the scope "
                "`admin`."
            ),
            icon=":material/lock:",
        )
        return
    st.subheader(_("Weights over time"), anchor=False)
    _series(found)
    _verdict(found.verdict)
    _regret(found.regret, found.key)
    if found.reason:
        st.caption(formats.plain(found.reason))


def _series(found: TunerInfo) -> None:
    rows: list[dict[str, Any]] = [
        {"at": point.at, "objective": name, "weight": weight}
        for point in found.series
        for name, weight in point.weights.items()
    ]
    if not rows:
        st.caption(_("No recommendation with its weights was made in these days."))
        return
    title = _("Mean weight")
    chart = charts.over_time(rows, value="weight", series="objective", title=title, number=".3f")
    charts.show(chart, f"{found.key}-weights", rows)


def _verdict(verdict: Verdict | None) -> None:
    st.subheader(_("Verdict before it served"), anchor=False)
    if verdict is None:
        st.markdown(_("It was not evaluated: `tactful tuner evaluate` does so by a probe."))
        return
    st.markdown(
        _(
            "**{verdict}**: gain {gain} {interval} in the share of recommendations from which "
            "something is taken.",
            verdict=readouts.verdict_words(verdict.verdict),
            gain=formats.signed(verdict.gain, 4),
            interval=formats.plain(readouts.interval(verdict.interval)),
        )
    )
    if not verdict.current:
        st.warning(_("Another network was evaluated, not the present one."))
    for reason in verdict.reasons:
        st.caption(formats.plain(reason))


def _regret(regret: Regret | None, key: str) -> None:
    st.subheader(_("Regret against the best fixed weights"), anchor=False)
    if regret is None:
        st.caption(_("It cannot be estimated."))
        return
    st.markdown(
        _(
            "The best fixed weights near its own are **{best}**: {regret} {interval} against the "
            "tuner's {value}, by {count} recommendations. Below 0 the tuner is better.",
            best=formats.plain(regret.best),
            regret=formats.signed(regret.regret, 4),
            interval=formats.plain(readouts.interval(regret.interval)),
            value=formats.decimal(regret.value, 4),
            count=formats.count(regret.recommendations),
        )
    )
    tables.show(
        [
            {
                _("weights"): arm.name,
                _("value"): formats.decimal(arm.value, 4),
                _("effective recommendations"): formats.count(arm.effective),
                _("reliable"): _("yes") if arm.reliable else _("no"),
            }
            for arm in regret.arms
        ],
        f"{key}-regret",
    )
