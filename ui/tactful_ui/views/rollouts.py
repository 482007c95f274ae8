"""Page "Rollouts": stages, effects and guardrails of a change, and the steps that move it."""

from __future__ import annotations

import streamlit as st

from tactful.client.messages import RolloutDetails, RolloutInfo, Source, Step
from tactful.client.routes import experiments as routes
from tactful_ui.components import controls, formats, readouts, shell, tables, times
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError

_PAGE = 1000


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Rollouts"),
        _("Changes that reach people in stages, and are rolled back where they do harm."),
    )
    reader = shell.reader()
    found = shell.ask(routes.rollouts(limit=_PAGE)).experiments
    if not found:
        st.info(
            _("**There are no rollouts yet.** Plan one on the page Experiments, or apply a file:"),
            icon=":material/hourglass_empty:",
        )
        st.code("tactful experiment apply rollouts.yaml", language=None)
        return
    _list(found)
    chosen = _choose(found)
    details = None
    if reader.admin:
        try:
            details = shell.ask(routes.rollout(chosen.key))
        except SourceError as failure:
            shell.explain(failure)
            return
    _state(chosen, details)
    if details is not None:
        _actions(chosen)
    _effects(chosen, admin=reader.admin)
    if details is not None:
        _history(details)


def _list(found: list[RolloutInfo]) -> None:
    rows = [
        {
            _("rollout"): each.key,
            _("state"): state_words(each),
            _("share"): formats.percent(each.share),
            _("looks"): each.looks,
            _("last look"): times.moment(each.looked_at or None),
        }
        for each in found
    ]
    with st.expander(_("All rollouts"), expanded=len(found) <= 5):
        tables.show(rows, "rollouts")


def _choose(found: list[RolloutInfo]) -> RolloutInfo:
    """Return the rollout of the address, or the one chosen; the running ones come first."""
    running = ("canary", "held", "shadow")
    by_key = {
        each.key: each
        for each in sorted(found, key=lambda it: (it.archived, it.state not in running, it.key))
    }
    return by_key[controls.choose(_("Rollout"), list(by_key), "rollout")]


def state_words(rollout: RolloutInfo) -> str:
    """Translate the state of a rollout, with its decision."""
    known = {
        "draft": _("draft"),
        "shadow": _("shadow"),
        "canary": _("in stages"),
        "held": _("held"),
        "rolled back": _("rolled back"),
        "decided": _("decided"),
        "ship": _("shipped"),
        "keep": _("the control is kept"),
        "inconclusive": _("inconclusive"),
    }
    words = known.get(rollout.state, rollout.state)
    if rollout.decision is not None:
        words = f"{words}: {known.get(rollout.decision, rollout.decision)}"
    return f"{words}, {_('archived')}" if rollout.archived else words


def _state(chosen: RolloutInfo, details: RolloutDetails | None) -> None:
    state, share, stage = st.columns(3)
    state.metric(_("State"), state_words(chosen), border=True)
    share.metric(_("Share of the people"), formats.percent(chosen.share), border=True)
    stage.metric(_("Stage"), str(chosen.stage + 1), border=True)
    st.caption(_("Change: {change}", change=formats.plain(str(chosen.change))))
    if chosen.stages:
        steps = [formats.percent(share, 0) for share in chosen.stages]
        if chosen.state in ("canary", "held"):
            steps[chosen.stage] = f"**{steps[chosen.stage]}**"
        st.markdown(_("Stages: {stages}", stages=" → ".join(steps)))
    if details is None:
        return
    if details.reason:
        st.info(formats.plain(details.reason), icon=":material/hourglass:")
    if details.history and chosen.state in ("rolled back", "decided"):
        last = details.history[-1]
        st.markdown(
            _(
                "**Why:** {reason} ({author}, {at})",
                reason=formats.plain(last.reason),
                author=formats.plain(last.changed_by),
                at=times.moment(last.at),
            )
        )


def steps_of(rollout: RolloutInfo) -> list[Step]:
    """Return the steps that a rollout can take now, the most usual first."""
    if rollout.archived:
        return []
    steps: dict[str, list[Step]] = {
        "draft": ["start", "shadow", "archive"],
        "shadow": ["advance", "rollback"],
        "canary": ["hold", "rollback", "decide"],
        "held": ["advance", "rollback"],
    }
    return steps.get(rollout.state, ["archive"])


def _actions(chosen: RolloutInfo) -> None:
    steps = steps_of(chosen)
    if not steps:
        return
    words = {
        "start": _("Start"),
        "shadow": _("Start the shadow"),
        "advance": _("Advance"),
        "hold": _("Hold"),
        "rollback": _("Roll back"),
        "decide": _("Decide"),
        "archive": _("Archive"),
    }
    decisions = {
        "ship": _("shipped"),
        "keep": _("the control is kept"),
        "inconclusive": _("inconclusive"),
    }
    with st.expander(_("Move this rollout")), st.form(f"move-{chosen.key}", border=False):
        step = st.radio(
            _("Step"), steps, format_func=lambda name: words[name], horizontal=True, key="step"
        )
        decision = None
        if "decide" in steps:
            decision = st.selectbox(
                _("Decision, for the step Decide"),
                list(decisions),
                format_func=decisions.__getitem__,
                key="decision",
            )
        reason = controls.reason(f"{chosen.key}-{chosen.state}")
        if st.form_submit_button(_("Move"), type="primary"):
            decided = decision if step == "decide" else None
            moved = routes.move(chosen.key, step, reason=reason, decision=decided)
            controls.change(moved, because=reason)


def _effects(chosen: RolloutInfo, *, admin: bool) -> None:
    st.subheader(_("Effects"), anchor=False)
    source: Source | None = None
    sources: list[Source] = ["exact", "released"]
    if admin:
        words = {"exact": _("exact"), "released": _("released with noise")}
        source = st.segmented_control(
            _("Numbers"),
            sources,
            format_func=words.__getitem__,
            key=f"source-{chosen.key}",
            default=None,
            help=_("At first those by which the rollout is judged."),
        )
    try:
        found = shell.ask(routes.read_out(chosen.key, source=source))
        if len(found.stages) > 1:
            stage = st.selectbox(
                _("Stage"),
                found.stages,
                index=found.stages.index(found.stage) if found.stage in found.stages else 0,
                format_func=lambda number: str(number + 1),
                key=f"stage-{chosen.key}",
            )
            if stage != found.stage:
                found = shell.ask(routes.read_out(chosen.key, source=source, stage=stage))
    except SourceError as failure:
        shell.explain(failure)
        return
    readouts.draw(found, chosen.key)
    st.subheader(_("Guardrails"), anchor=False)
    st.caption(
        _(
            "The band holds the true loss with the confidence of the plan, at every look. Harm is "
            "a band wholly above the margin."
        )
    )
    readouts.draw_guardrails(found.guardrails, chosen.key)


def _history(details: RolloutDetails) -> None:
    st.subheader(_("History"), anchor=False)
    rows = [
        {
            _("time"): times.moment(line.at),
            _("change"): line.action,
            _("share"): formats.percent(line.share),
            _("by"): line.changed_by,
            _("reason"): line.reason,
        }
        for line in reversed(details.history)
    ]
    tables.show(rows, f"{details.rollout.key}-history")
    looks = [
        {
            _("look"): look.number,
            _("time"): times.moment(look.at),
            _("stage"): look.stage + 1,
            _("sample ratio"): readouts.verdict_words(look.sample_ratio),
            _("guardrails"): ", ".join(
                f"{metric}: {readouts.verdict_words(verdict)}"
                for metric, verdict in look.guardrails.items()
            ),
        }
        for look in details.looks
    ]
    if looks:
        st.caption(_("Latest looks"))
        tables.show(looks, f"{details.rollout.key}-looks")
