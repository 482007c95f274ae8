"""Page "Bandits": arms and their shares over time, estimates, verdict, regret; stop."""

from __future__ import annotations

from typing import Any

import streamlit as st

from tactful.client.messages import BanditInfo, BanditOutcomes
from tactful.client.routes import experiments as routes
from tactful_ui.components import charts, controls, formats, readouts, shell, tables
from tactful_ui.components.words import text as _


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Bandits"),
        _("Arms that are chosen for each user by what has paid, within bounds."),
    )
    reader = shell.reader()
    found = _all()
    if not found:
        st.info(
            _("**There is no bandit.** Define one, then apply it:"),
            icon=":material/hourglass_empty:",
        )
        st.code("tactful bandit apply bandits.yaml", language=None)
        return
    key = controls.choose(_("Bandit"), [bandit.key for bandit in found], "bandit")
    days = st.slider(_("Days"), 1, 90, 28, key="days") if reader.admin else None
    details = shell.compute(routes.bandit(key, days=days))
    _state(details.bandit)
    with st.expander(_("Definition")):
        st.json(details.definition)
    if details.outcomes is None or not reader.admin:
        st.info(
            _("Shares, rewards, verdict and regret come from the log and need the scope `admin`."),
            icon=":material/lock:",
        )
        return
    _outcomes(details.outcomes, key)
    if details.bandit.state != "off":
        _stop(details.bandit)


def _all() -> list[BanditInfo]:
    """Return the bandits of all pages of the answer."""
    return [bandit for page in shell.ask_all(routes.bandits()) for bandit in page.bandits]


def _state(bandit: BanditInfo) -> None:
    state, policy, reward = st.columns(3)
    state.metric(_("State"), _state_words(bandit.state), border=True)
    policy.metric(_("Policy"), formats.plain(bandit.policy), border=True)
    reward.metric(_("Reward"), formats.plain(bandit.reward), border=True)
    st.markdown(
        _(
            "Arms: {arms}. By default **{default}** serves. Every arm gets at least {least}.",
            arms=", ".join(map(formats.plain, bandit.arms)),
            default=formats.plain(bandit.default),
            least=formats.percent(bandit.min_share),
        )
    )
    for rollout in bandit.rollouts:
        st.caption(
            _("The rollout {key} gives it to a share of the users.", key=formats.plain(rollout))
        )


def _state_words(state: str) -> str:
    return {"shadow": _("in shadow"), "live": _("live"), "off": _("off")}.get(state, state)


def _outcomes(found: BanditOutcomes, key: str) -> None:
    decisions, waiting, reward = st.columns(3)
    decisions.metric(_("Decisions"), formats.count(found.decisions), border=True)
    waiting.metric(_("Waiting for a reward"), formats.count(found.waiting), border=True)
    reward.metric(_("Mean reward"), formats.decimal(found.reward, 4), border=True)
    st.subheader(_("Shares of the arms over time"), anchor=False)
    _series(found, key)
    st.subheader(_("Estimates"), anchor=False)
    _arms(found, key)
    _verdict(found)
    _regret(found)
    for reason in found.reasons:
        st.caption(formats.plain(reason))


def _series(found: BanditOutcomes, key: str) -> None:
    rows: list[dict[str, Any]] = [
        {"at": point.at, "arm": name, "share": share}
        for point in found.series
        for name, share in point.shares.items()
    ]
    if not rows:
        st.caption(_("No decision of these days has a known reward yet."))
        return
    title = _("Share of the decisions")
    chart = charts.over_time(rows, value="share", series="arm", title=title, number=".1%")
    charts.show(chart, f"{key}-shares", rows)


def _arms(found: BanditOutcomes, key: str) -> None:
    tables.show(
        [
            {
                _("arm"): arm.name,
                _("share"): formats.percent(arm.share),
                _("mean reward"): formats.decimal(arm.reward, 4),
                _("estimate if it always served"): formats.decimal(arm.value, 4),
                _("interval"): "–" if arm.interval is None else readouts.interval(arm.interval),
                _("effective decisions"): formats.count(arm.effective),
                _("reliable"): _("yes") if arm.reliable else _("no"),
            }
            for arm in found.arms
        ],
        f"{key}-arms",
    )


def _verdict(found: BanditOutcomes) -> None:
    if (verdict := found.verdict) is None:
        return
    st.markdown(
        _(
            "In shadow, against what served: **{verdict}**, gain {gain} {interval} in the mean "
            "reward.",
            verdict=readouts.verdict_words(verdict.verdict),
            gain=formats.signed(verdict.gain, 4),
            interval=formats.plain(readouts.interval(verdict.interval)),
        )
    )
    for reason in verdict.reasons:
        st.caption(formats.plain(reason))


def _regret(found: BanditOutcomes) -> None:
    if (regret := found.regret) is None:
        return
    st.markdown(
        _(
            "The best arm is **{best}**: regret {regret} {interval} of the bandit, which earns "
            "{value}. Below 0 the bandit is better than any single arm.",
            best=formats.plain(regret.best),
            regret=formats.signed(regret.regret, 4),
            interval=formats.plain(readouts.interval(regret.interval)),
            value=formats.decimal(regret.value, 4),
        )
    )


def _stop(bandit: BanditInfo) -> None:
    st.subheader(_("Stop"), anchor=False)
    with st.form(f"stop-{bandit.key}", border=False):
        st.caption(_("Its default arm serves at once, and nothing more is learnt."))
        reason = controls.reason(f"{bandit.key}-{bandit.state}")
        if st.form_submit_button(_("Stop this bandit"), type="primary"):
            controls.change(routes.stop_bandit(bandit.key, reason=reason), because=reason)
