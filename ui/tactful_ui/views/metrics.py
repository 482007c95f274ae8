"""Page "Metrics": the metrics of experiments, where they are used, and what is registered."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from tactful.client.messages import MetricDefinition, MetricIndex, MetricInfo, PlanInfo
from tactful.client.routes import experiments as routes
from tactful_ui.components import formats, readouts, shell, tables, times
from tactful_ui.components.words import text as _

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}
_CORRECTIONS = {"holm": "Holm", "bh": "Benjamini–Hochberg"}


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Metrics"),
        _("Outcomes of users that experiments compare, as defined in metrics.yaml."),
    )
    found = shell.ask(routes.metrics())
    if not found.metrics:
        st.info(
            _("**No metrics are defined.** Write them into a file, and check it:"),
            icon=":material/hourglass_empty:",
        )
        st.code("tactful metrics check metrics.yaml", language=None)
        st.caption(_("The setting `recommend.metrics` names the file; a server reads it at start."))
        return
    _metrics(found)
    _details({info.definition.name: info.definition for info in found.metrics})
    st.subheader(_("Analyses"), anchor=False)
    if not found.experiments:
        st.caption(_("No experiment names metrics: add it to the experiments of metrics.yaml."))
    for each in found.experiments:
        _plan(each)


def _span(milliseconds: int) -> str:
    """Format a time as `metrics.yaml` writes it: in its largest whole unit, such as `7d`."""
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
                _("cap"): _number(info.definition.cap) or "–",
                _("better"): _("higher") if info.definition.direction == "higher" else _("lower"),
                _("used by"): _uses(info) or "–",
            }
            for info in found.metrics
        ],
        "metrics",
    )


def _details(metrics: Mapping[str, MetricDefinition]) -> None:
    name = st.selectbox(_("Definition"), [*metrics], key="metric")
    metric = metrics[name]
    rows = {
        _("value"): metric.value,
        _("times"): metric.times,
        _("subtracted events"): ", ".join(metric.minus),
        _("numerator"): metric.numerator,
        _("denominator"): metric.denominator,
        _("level"): _number(metric.level),
        _("least outcomes in each arm"): formats.count(metric.minimum_outcomes),
    }
    _fields(rows, f"metric-{name}")
    if metric.filter:
        st.caption(_("Only events that fit this filter count:"))
        st.json(metric.filter)


def _plan(info: PlanInfo) -> None:
    plan = info.plan
    st.markdown(f"**{formats.plain(plan.experiment)}**")
    guards = [f"{guard.metric} ({formats.percent(guard.margin)})" for guard in plan.guardrails]
    rows = {
        _("goals"): ", ".join(plan.goals),
        _("guardrails (tolerated loss)"): ", ".join(guards),
        _("secondary metrics"): ", ".join(plan.secondary),
        _("earlier outcomes (CUPED)"): _span(plan.cuped_ms) if plan.cuped_ms else "",
        _("correction"): _CORRECTIONS.get(plan.correction, _("none")),
        _("probability of a false claim"): formats.percent(plan.alpha),
        _("segments"): ", ".join(it.name for it in plan.segments),
        _("exposures since"): "" if plan.start is None else times.moment(plan.start),
        _("privacy loss ε of released metrics"): ""
        if plan.epsilon is None
        else f"{plan.epsilon:g}",
    }
    _fields(rows, f"plan-{plan.experiment}")
    _registered(info)


def _fields(rows: Mapping[str, str], name: str) -> None:
    """Draw the fields that have a content."""
    shown = [{_("field"): field, _("content"): content} for field, content in rows.items()]
    tables.show([row for row in shown if row[_("content")]], name)


def _registered(info: PlanInfo) -> None:
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


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _uses(info: MetricInfo) -> str:
    return ", ".join(f"{it.experiment} ({readouts.role_words(it.role)})" for it in info.used)


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


def _window(metric: MetricDefinition) -> str:
    if not metric.window_ms:
        return "–"
    window = _span(metric.window_ms)
    if not metric.delay_ms:
        return window
    return _("{window} after {delay}", window=window, delay=_span(metric.delay_ms))
