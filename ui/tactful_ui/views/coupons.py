"""Page "Coupons": funnel, budget and incremental margin of campaigns."""

from __future__ import annotations

import streamlit as st

from tactful.client.messages import CampaignIndex, CampaignInfo, CampaignReport
from tactful.client.routes import experiments as routes
from tactful_ui.components import charts, formats, readouts, shell, tables
from tactful_ui.components.words import text as _


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Coupons"),
        _("Offers of campaigns after actions, their cost and their effect."),
    )
    reader = shell.reader()
    found = shell.ask(routes.campaigns()) if reader.admin else None
    if found is None:
        st.info(
            _("Campaigns are counted exactly, so this page needs the scope `admin`."),
            icon=":material/lock:",
        )
        return
    if not found.campaigns:
        st.info(
            _("**There are no campaigns.** Name a file in `coupons.definitions`; to check it:"),
            icon=":material/hourglass_empty:",
        )
        st.code("tactful coupons check coupons.yaml", language=None)
        _webhook(found)
        return
    by_name = {campaign.name: campaign for campaign in found.campaigns}
    name = st.selectbox(_("Campaign"), list(by_name), key="campaign")
    _decisions(by_name[name])
    _report(name)
    _webhook(found)


def _decisions(campaign: CampaignInfo) -> None:
    offered, redeemed, left = st.columns(3)
    offered.metric(_("Offered"), formats.count(campaign.offered), border=True)
    share = campaign.redeemed / campaign.offered if campaign.offered else None
    redeemed.metric(
        _("Redeemed"),
        f"{formats.count(campaign.redeemed)} ({formats.percent(share)})",
        border=True,
    )
    left.metric(_("Budget left"), formats.decimal(campaign.left, 2), border=True)
    spent = 1 - campaign.left / campaign.budget
    st.progress(
        min(max(spent, 0.0), 1.0),
        text=_("{share} of the budget is promised or spent", share=formats.percent(spent)),
    )
    if campaign.bandit is not None:
        st.caption(
            _(
                "The bandit {key} chooses the value of its coupons",
                key=formats.plain(campaign.bandit),
            )
        )


def _report(name: str) -> None:
    margin = st.slider(_("Profit margin, % of the revenue"), 1, 100, 30, key="margin")
    hours = st.number_input(_("Hours of purchases after a decision"), 1, 10_000, 168, key="hours")
    shell.section(
        _("Funnel and effect"),
        lambda: shell.ask(routes.campaign(name, margin=margin / 100, hours=float(hours))),
        lambda found: _draw(found, name),
    )


def _draw(found: CampaignReport, name: str) -> None:
    steps = [
        (_("matched"), float(found.matched)),
        (_("eligible"), float(found.decided)),
        (_("offered"), float(found.offered)),
        (_("redeemed"), float(found.campaign.redeemed)),
    ]
    rows = [{"step": step, "count": count} for step, count in steps]
    title = _("Actions and coupons")
    charts.show(charts.bars(steps, title, shell.palette(), digits=0), f"{name}-funnel", rows)
    if found.withheld:
        tables.show(
            [
                {_("reason to withhold"): reason, _("decisions"): count}
                for reason, count in found.withheld.items()
            ],
            f"{name}-withheld",
        )
    if found.sample_ratio is not None and found.sample_ratio.verdict == "mismatch":
        st.error(
            _("**Not as many people are held out as should be.** Find out why first."),
            icon=":material/warning:",
        )
    if not found.effects:
        st.caption(_("Too few people yet to compare with the holdout."))
        return
    words = {"revenue": _("revenue of a person"), "margin": _("margin of a person")}
    tables.show(
        [
            {
                _("against the holdout"): words.get(effect.metric, effect.metric),
                _("difference"): formats.signed(effect.difference, 4),
                _("any look"): readouts.interval(effect.anytime),
                _("conclusive"): _("yes") if effect.conclusive else _("no"),
            }
            for effect in found.effects
        ],
        f"{name}-effects",
    )
    st.caption(
        _(
            "{people} people whose time after the decision is over. The intervals have 95 % and "
            "hold at any number of looks.",
            people=formats.count(found.people),
        )
    )


def _webhook(found: CampaignIndex) -> None:
    st.subheader(_("Deliveries to the shop"), anchor=False)
    sent = found.webhook
    if sent is None:
        st.markdown(_("No webhook is set: `actions.webhook_url`."))
        return
    delivered, failed, given_up = st.columns(3)
    delivered.metric(_("Delivered"), formats.count(sent.delivered), border=True)
    failed.metric(_("Failed attempts"), formats.count(sent.failed), border=True)
    given_up.metric(_("Given up"), formats.count(sent.given_up), border=True)
    st.caption(_("Counted since the start of this server."))
