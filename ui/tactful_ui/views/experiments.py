"""Page "Experiments": read-out of the running experiment, and a wizard that plans a rollout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st
import yaml

from tactful.client.messages import ReadOutMessage, RolloutForecast
from tactful.client.routes import experiments as routes
from tactful_ui.components import controls, formats, readouts, releases, shell, tables
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError

_METRICS = ("takers", "taken_lists", "revenue", "latency", "errors", "anomalies")
_STAGES = {"1 % → 100 %": (0.01, 0.05, 0.1, 0.25, 0.5, 1.0), "10 % → 100 %": (0.1, 0.5, 1.0)}
_HALF = "50 %"


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Experiments"),
        _("Effects of the arms, and the plan of a new change with its power."),
    )
    reader = shell.reader()
    running = shell.source().models().get("experiment")
    about: Mapping[str, Any] = running if isinstance(running, Mapping) else {}
    _running(about, admin=reader.admin)
    if reader.admin:
        _measured(str(about.get("key", "")))
        _wizard()
    else:
        releases.draw(shell.ask(routes.metrics()).experiments)
        st.info(
            _(
                "Planning a rollout and exact numbers need the scope `admin`. Rollouts with "
                "`epsilon` show their released numbers on the page Rollouts."
            ),
            icon=":material/lock:",
        )


def _running(about: Mapping[str, Any], *, admin: bool) -> None:
    arms = about.get("arms")
    st.subheader(_("Running experiment"), anchor=False)
    if not isinstance(arms, Mapping) or not arms:
        st.caption(_("No experiment is running."))
        return
    key = str(about.get("key", ""))
    total = sum(arms.values()) or 1.0
    tables.show(
        [
            {_("arm"): name, _("share"): formats.percent(weight / total)}
            for name, weight in arms.items()
        ],
        f"{key}-arms",
    )
    if not admin:
        return
    days = st.slider(_("Days"), 1, 90, 28, key="days")
    shell.section(
        _("Effects"),
        lambda: shell.ask(routes.read_out(key, days=float(days))),
        lambda found: readouts.draw(found, key),
    )


def _measured(running: str) -> None:
    """Draw the read-out of another experiment that names metrics."""
    plans = shell.ask(routes.metrics()).experiments
    keys = [it.plan.experiment for it in plans if it.plan.experiment != running]
    if not keys:
        return
    st.subheader(_("Experiments with metrics"), anchor=False)
    key = controls.choose(_("Experiment"), keys, "measured")
    days = st.slider(_("Days of exposures"), 1, 400, 28, key="measured_days")

    def draw(found: ReadOutMessage) -> None:
        readouts.draw(found, key)
        if found.guardrails:
            st.markdown(f"**{_('Guardrails')}**")
            readouts.draw_guardrails(found.guardrails, key)

    shell.section(_("Effects"), lambda: shell.ask(routes.read_out(key, days=float(days))), draw)


def _wizard() -> None:
    st.subheader(_("Plan a rollout"), anchor=False)
    st.caption(
        _(
            "The plan is fixed when it starts. Its power is computed from the outcomes of the last "
            "28 days, as you change it; nothing is stored until you define it."
        )
    )
    left, right = st.columns(2)
    with left:
        definition = _definition()
    with right:
        if definition is None:
            st.caption(_("Give a key and a change, and its power appears here."))
            return
        people = st.number_input(
            _("People per day, 0 for those of the last 28 days"), 0, key="people", step=100
        )
        given = float(people) or None
        rate = st.number_input(
            _("Share who take something, %, 0 for that of the last 28 days"),
            0.0,
            99.0,
            key="rate",
            step=0.5,
        )
        share = rate / 100 or None
        try:
            planned = shell.ask(routes.plan(definition, people_per_day=given, rate=share))
        except SourceError as failure:
            st.error(formats.plain(str(failure)))
            return
        draw_forecast(planned)
        _define(definition, planned, given, share)


def _definition() -> dict[str, Any] | None:
    """Return the definition in the form; None while it is not complete."""
    key = st.text_input(_("Key"), key="new_key", placeholder="cheaper-first").strip()
    text = st.text_area(
        _("Change (YAML)"),
        key="change",
        placeholder="objective: {relevance: 1, price: 0.3}",
        height=96,
    )
    metrics = st.multiselect(_("Guardrails"), _METRICS, default=["takers"], key="metrics")
    margin = st.slider(_("Tolerated loss, %"), 0, 20, 0, key="margin")
    loss = st.slider(_("Smallest loss to find, %"), 1, 50, 20, key="loss")
    stages = st.selectbox(_("Stages"), [*_STAGES, _HALF], key="stages")
    hours = st.number_input(_("Hours of a stage"), 1, 10_000, 24, key="hours")
    private = st.toggle(
        _("Judge by released counts only (ε = 1)"),
        key="private",
        help=_("Only takers can be guarded then."),
    )
    try:
        change = yaml.safe_load(text)
    except yaml.YAMLError:
        st.error(_("The change is not valid YAML."))
        return None
    if not key or not isinstance(change, dict) or not metrics:
        return None
    chosen = _STAGES.get(stages, (0.5, 1.0))
    guards = [
        {"metric": metric, "margin": margin / 100, "smallest_loss": loss / 100}
        if metric not in ("errors", "anomalies")
        else {"metric": metric}
        for metric in metrics
    ]
    definition: dict[str, Any] = {
        "key": key,
        "change": change,
        "guardrails": guards,
        "stages": list(chosen),
        "stage_hours": float(hours),
    }
    return {**definition, "epsilon": 1.0} if private else definition


def draw_forecast(planned: RolloutForecast) -> None:
    """Draw the power of a plan and its days."""
    days = "–" if planned.days is None else formats.count(planned.days)
    st.metric(_("Days until the end of the stage before 100 %"), days, border=True)
    for guard in planned.guardrails:
        power = formats.decimal(guard.power, 2)
        st.progress(
            guard.power or 0.0,
            text=_(
                "{metric}: a loss of {loss} is found with probability {power}",
                metric=formats.plain(guard.metric),
                loss=formats.percent(guard.loss, 0),
                power=power,
            ),
        )
    if planned.enough:
        st.success(_("The plan has enough power."), icon=":material/check:")
    elif planned.days_needed is not None:
        st.warning(
            _(
                "Too little power: {days} days are needed, with stages of {hours} hours.",
                days=formats.count(planned.days_needed),
                hours=formats.count(planned.stage_hours_needed),
            ),
            icon=":material/warning:",
        )
    else:
        st.warning(
            _("The power cannot be computed: give the people per day."), icon=":material/warning:"
        )
    if planned.proof_days is not None:
        st.caption(
            _(
                "A harmless change has proof to reach everybody after about {days} days.",
                days=formats.count(planned.proof_days),
            )
        )
    st.caption(_("Basis: {basis}", basis=formats.plain(planned.basis)))


def _define(
    definition: dict[str, Any], planned: RolloutForecast, people: float | None, rate: float | None
) -> None:
    accepted = None
    if not planned.enough:
        accepted = st.text_input(
            _("Reason to accept the low power"), key="accepted", max_chars=500
        ).strip()
    start = st.toggle(_("Start at once"), key="start")
    ready = planned.enough or bool(accepted)
    if not st.button(_("Define this rollout"), type="primary", disabled=not ready):
        return
    body = {**definition, "start": start} | ({"accept_low_power": accepted} if accepted else {})
    try:
        shell.ask(routes.define(body, people_per_day=people, rate=rate))
    except SourceError as failure:
        st.error(formats.plain(str(failure)))
        return
    st.success(
        _(
            "{key} is defined. The page Rollouts shows and moves it.",
            key=formats.plain(str(definition["key"])),
        ),
        icon=":material/check:",
    )
