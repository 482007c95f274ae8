"""Page "Metrics": the metrics of experiments, where they are used, and what is registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from tactful.client.messages import MetricDefinition, MetricIndex, PlanInfo
from tactful.client.routes import experiments as routes
from tactful_ui.components import formats, shell, tables, times
from tactful_ui.components.words import text as _

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Metrics"),
        _("Outcomes of users that experiments compare, as defined in metrics.yaml."),
    )
    found = shell.ask(routes.metrics())
    if not found.metrics:
        st.info(_("**No metrics are defined.**"), icon=":material/hourglass_empty:")
        return
    _metrics(found)
    _details({info.definition.name: info.definition for info in found.metrics})
    st.subheader(_("Analyses"), anchor=False)
    if not found.experiments:
        st.caption(_("No experiment names metrics: add it to the experiments of metrics.yaml."))
    for each in found.experiments:
        _plan(each)


def duration(milliseconds: int) -> str:
    """Format a window in its largest whole unit, such as `7d`."""
    for unit, length in _UNITS.items():
        if milliseconds and milliseconds % length == 0:
            return f"{milliseconds // length}{unit}"
    return f"{milliseconds}ms"


def _metrics(found: MetricIndex) -> None:
    tables.show(
        [
            {
                _("metric"): info.definition.name,
                _("kind"): _kind(info.definition.kind),
                _("description"): info.definition.words,
                _("events"): ", ".join(info.definition.events),
                _("window"): _window(info.definition),
                _("cap"): "–" if info.definition.cap is None else f"{info.definition.cap:g}",
                _("better"): _("higher") if info.definition.direction == "higher" else _("lower"),
                _("used by"): ", ".join(f"{it.experiment} ({_role(it.role)})" for it in info.used)
                or "–",
            }
            for info in found.metrics
        ],
        "metrics",
    )


def _details(metrics: Mapping[str, MetricDefinition]) -> None:
    name = st.selectbox(_("Definition"), [*metrics], key="metric")
    metric = metrics[name]
    rows: dict[str, Any] = {
        _("value"): metric.value,
        _("times"): metric.times,
        _("subtracted events"): ", ".join(metric.minus),
        _("numerator"): metric.numerator,
        _("denominator"): metric.denominator,
        _("level"): metric.level,
        _("least outcomes in each arm"): formats.count(metric.minimum_outcomes),
    }
    tables.show(
        [{_("field"): key, _("content"): str(value)} for key, value in rows.items() if value],
        f"metric-{name}",
    )
    if metric.filter:
        st.caption(_("Only events that fit this filter count:"))
        st.json(metric.filter)


def _plan(info: PlanInfo) -> None:
    plan = info.plan
    st.markdown(f"**{formats.plain(plan.experiment)}**")
    guardrails = [f"{guard.metric} ({formats.percent(guard.margin)})" for guard in plan.guardrails]
    tables.show(
        [
            {
                _("goals"): ", ".join(plan.goals) or "–",
                _("guardrails"): ", ".join(guardrails) or "–",
                _("secondary metrics"): ", ".join(plan.secondary) or "–",
                _("earlier outcomes (CUPED)"): duration(plan.cuped_ms) if plan.cuped_ms else "–",
                _("correction"): plan.correction,
                _("segments"): ", ".join(it.name for it in plan.segments) or "–",
            }
        ],
        f"plan-{plan.experiment}",
    )
    if info.registered_at is None:
        st.caption(
            _(
                "Not registered: its effects count as exploratory. A server registers analyses "
                "when it starts."
            )
        )
        return
    at = times.moment(info.registered_at)
    if not info.registered_by:  # its author is shown to administrators only
        st.caption(
            _("Registered {at}. What changes after the first exposure is exploratory.", at=at)
        )
        return
    st.caption(
        _(
            "Registered {at} by {name}. What changes after the first exposure is exploratory.",
            at=at,
            name=formats.plain(info.registered_by),
        )
    )


def _kind(kind: str) -> str:
    known = {
        "binary": _("share of users"),
        "count": _("count"),
        "sum": _("sum"),
        "ratio": _("ratio"),
        "quantile": _("quantile"),
        "retention": _("retention"),
    }
    return known.get(kind, kind)


def _role(role: str) -> str:
    known = {"goal": _("goal"), "guardrail": _("guardrail"), "secondary": _("secondary")}
    return known.get(role, role)


def _window(metric: MetricDefinition) -> str:
    if not metric.window_ms:
        return "–"
    window = duration(metric.window_ms)
    if not metric.delay_ms:
        return window
    return _("{window} after {delay}", window=window, delay=duration(metric.delay_ms))
