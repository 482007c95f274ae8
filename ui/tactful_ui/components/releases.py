"""Released metrics of experiments: their cost, then their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from tactful.client.messages import PlanInfo, ReleaseCost
from tactful.client.routes import experiments as routes
from tactful_ui.components import controls, formats, readouts, shell, tables, times
from tactful_ui.components.words import text as _


def draw(plans: Sequence[PlanInfo]) -> None:
    """Draw the released read-out of an experiment whose analysis has an epsilon, if there is one.

    A read-out that would draw further days waits for the reader, who sees its cost before.
    """
    keys = [it.plan.experiment for it in plans if it.plan.epsilon is not None]
    if not keys:
        return
    st.subheader(_("Released metrics of experiments"), anchor=False)
    key = controls.choose(_("Experiment"), keys, "released")
    shell.section(_("Cost"), lambda: shell.ask(routes.release_cost(key)), _cost_and_numbers)


def _cost_and_numbers(cost: ReleaseCost) -> None:
    if cost.reason:
        st.info(formats.plain(cost.reason), icon=":material/hourglass_empty:")
    if cost.metrics:
        _cost(cost)
        if _numbers(cost):  # whose notes name the metrics that are not released
            return
    if cost.refused:
        st.caption(_("These metrics are not released:"))
        for name, why in cost.refused.items():
            st.markdown(f"- **{formats.plain(name)}**: {formats.plain(why)}")


def _cost(cost: ReleaseCost) -> None:
    """Draw the privacy loss of each metric, and the days that the next read-out draws."""
    st.caption(
        _(
            "Privacy loss ε = {epsilon} of a person in all days and metrics together; a person "
            "counts in one arm, on one day.",
            epsilon=f"{cost.epsilon:g}",
        )
    )
    tables.show(
        [
            {
                _("metric"): name,
                "ε": f"{epsilon:g}",
                _("released days"): cost.days.get(name, 0),
                _("days to release"): cost.waiting.get(name, 0),
                _("days to charge"): cost.charged_days.get(name, 0),
                _("next day closes"): times.moment(cost.next_at.get(name)),
            }
            for name, epsilon in cost.metrics.items()
        ],
        f"{cost.key}-cost",
    )


def _numbers(cost: ReleaseCost) -> bool:
    """Draw the released numbers, and return whether there are any.

    Days that are to be charged wait for the reader's consent.
    """
    waiting = any(cost.waiting.values()) and not cost.reason
    if not waiting and not any(cost.days.values()):
        st.caption(_("No day has closed yet, so there is no number."))
        return False
    agreed = not waiting or st.toggle(
        _("Charge the ledger for the days to release, and show the numbers"),
        key=f"release-{cost.key}",
    )
    if agreed:
        found = shell.compute(routes.read_out(cost.key, source="released"))
        readouts.draw(found, f"{cost.key}-released")
    return agreed
