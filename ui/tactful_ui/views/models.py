"""Page "Models": versions compared, their training, and changes of the champion."""

from __future__ import annotations

from typing import Any

import streamlit as st

from tactful.client.messages import LiveQuality, ModelVersion, ModelVersionDetails, ModelVersions
from tactful.client.routes import models as routes
from tactful_ui.components import charts, formats, model_charts, shell, tables, times
from tactful_ui.components.words import text as _
from tactful_ui.report import Estimate
from tactful_ui.views import model_actions

_FIGURES = ("ndcg20", "hr20")
_MOST_COLUMNS = 20
_LARGE_DRIFT = 0.25


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(_("Models"), _("Versions of the ranking model, how good they are, and why."))
    reader = shell.reader()
    found = shell.ask(routes.versions())
    if found.versions:
        _versions(found)
    else:
        st.info(
            _("**No model was trained yet.** Train one on the log of this installation:"),
            icon=":material/hourglass_empty:",
        )
        st.code("tactful train --promote", language=None)
    if not reader.admin:
        st.markdown(_("Training data, drift and changes of models need a key with `admin`."))
        return
    if found.versions:
        _training(found)
    shell.section(_("Live quality by day"), lambda: shell.ask(routes.quality()), _quality)
    model_actions.draw(found)


def _versions(found: ModelVersions) -> None:
    """Draw the table of versions and their main figure."""
    st.subheader(_("Versions"), anchor=False)
    tables.show([_row(version) for version in found.versions], "model-versions")
    rows = [
        {
            "name": _name(version),
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
        }
        for version in found.versions
        if (estimate := _estimate(version, "ndcg20")) is not None
    ]
    if rows:
        chart = model_charts.intervals(rows, "NDCG@20", shell.palette())
        charts.show(chart, "model-ndcg20", rows)
    st.caption(
        _(
            "Each version is measured on its own latest questions, which also chose its number of "
            "trees: compare versions by a rollout or by the live quality before you decide."
        )
    )
    linked = [version for version in found.versions if version.run_url]
    if linked:
        links = " · ".join(f"[{version.version}]({version.run_url})" for version in linked)
        st.markdown(_("Runs in MLflow: {links}", links=links))


def _row(version: ModelVersion) -> dict[str, Any]:
    figures = {
        formats.METRIC_LABELS[name]: formats.estimate(_estimate(version, name)) for name in _FIGURES
    }
    return {
        _("Version"): version.version,
        _("State"): ", ".join(version.aliases),
        **figures,
        _("Trees"): version.trees or None,
        _("Label"): version.label,
        _("Trained"): times.moment(version.trained_at),
        _("Events until"): times.moment(version.trained_until),
        _("Run"): version.run_id,
    }


def _estimate(version: ModelVersion, figure: str) -> Estimate | None:
    value, bounds = version.metrics.get(figure), version.intervals.get(figure)
    if value is None:
        return None
    return Estimate(value, bounds.low, bounds.high) if bounds else Estimate(value, None, None)


def _name(version: ModelVersion) -> str:
    return (
        f"{version.version} ({', '.join(version.aliases)})" if version.aliases else version.version
    )


def _training(found: ModelVersions) -> None:
    """Draw what the training of a chosen version measured."""
    names = {version.version: _name(version) for version in found.versions}
    chosen = st.selectbox(
        _("Version to look at"), list(names), format_func=names.__getitem__, key="version"
    )
    shell.section(
        _("Training of version {version}", version=chosen),
        lambda: shell.ask(routes.version(chosen)),
        _details,
    )


def _details(details: ModelVersionDetails) -> None:
    rows, questions, shown, seconds = st.columns(4)
    rows.metric(_("Rows"), formats.count(details.rows), border=True)
    questions.metric(_("Questions"), formats.count(details.questions), border=True)
    shown.metric(_("Shown recommendations"), formats.count(details.shown), border=True)
    seconds.metric(_("Duration"), formats.duration(details.seconds or None), border=True)
    left, right = st.columns(2)
    with left:
        _curve(details)
    with right:
        _calibration(details)
    _losses(details)
    _gains(details)
    _served(details)


def _curve(details: ModelVersionDetails) -> None:
    st.markdown(_("**Learning curve**"))
    if not details.curve:
        st.caption(_("This version has no record of it."))
        return
    trees, figure = _("Trees"), "NDCG@20"
    rows = [{trees: number, figure: value} for number, value in enumerate(details.curve, 1)]
    chart = model_charts.curve(
        rows, trees, figure, shell.palette(), mark=details.version.trees or None
    )
    charts.show(chart, "learning-curve", rows)


def _calibration(details: ModelVersionDetails) -> None:
    st.markdown(_("**Calibration**"))
    found = details.calibration
    if found is None:
        st.caption(_("Too few items were taken to calibrate."))
        return
    x, y = _("Predicted share"), _("Share that was taken")
    rows = [{x: p, y: o} for p, o in zip(found.predicted, found.observed, strict=True)]
    charts.show(model_charts.calibration(rows, x, y, shell.palette()), "calibration", rows)
    st.caption(_("Calibration error {error}", error=formats.decimal(found.error, 4)))


def _losses(details: ModelVersionDetails) -> None:
    st.markdown(_("**Loss without some columns**"))
    if not details.losses:
        st.caption(_("This version has no record of it."))
        return
    titles = {
        "real_time": _("Real-time"),
        "offline": _("Offline"),
        "content": _("Content"),
        "intent": _("Intent"),
    }
    for figure, column in zip(_FIGURES, st.columns(2), strict=True):
        label = formats.METRIC_LABELS[figure]
        rows = [
            {
                "name": titles.get(group, group),
                "value": lost[figure].value,
                "low": lost[figure].low,
                "high": lost[figure].high,
            }
            for group, lost in details.losses.items()
            if figure in lost
        ]
        with column:
            if rows:
                title = _("Loss of {figure}", figure=label)
                chart = model_charts.intervals(rows, title, shell.palette())
                charts.show(chart, f"loss-{figure}", rows)
    st.caption(
        _(
            "Each kind of columns is set to its median or to missing when the questions are "
            "scored; the model is not trained again, so this is an upper bound."
        )
    )


def _gains(details: ModelVersionDetails) -> None:
    if not details.gains:
        return
    with st.expander(_("Importance of columns")):
        pairs = list(details.gains.items())[:_MOST_COLUMNS]
        title = _("Total gain")
        rows = [{_("Column"): name, title: gain} for name, gain in details.gains.items()]
        charts.show(charts.bars(pairs, title, shell.palette()), "gain", rows)


def _served(details: ModelVersionDetails) -> None:
    st.markdown(_("**Drift and skew while it served**"))
    served = details.served
    if served is None:
        st.caption(_("They are measured by the next training while this version serves."))
        return
    if served.skew is not None:
        share = formats.percent(served.skew, 2)
        st.markdown(
            _("{share} of the served values differ from those computed again.", share=share)
        )
    if not served.drift:
        st.caption(_("Drift needs 1,000 recommendations of this version."))
        return
    large = [name for name, value in served.drift.items() if value > _LARGE_DRIFT]
    if large:
        names = formats.plain(", ".join(large))
        st.warning(_("Large drift: {names}", names=names), icon=":material/trending_up:")
    rows = [
        {
            _("Column"): name,
            _("Stability index"): round(value, 4),
            _("Skew"): served.skew_by_feature.get(name, 0.0),
        }
        for name, value in served.drift.items()
    ]
    tables.show(rows, "model-drift", height=280)


def _quality(quality: LiveQuality) -> None:
    """Draw the quality of logged recommendations by day."""
    if not quality.days:
        st.markdown(
            _(
                "Nothing was measured yet: the server measures every hour, once the 24 hours after "
                "a recommendation are over. Measure now with `tactful models quality`."
            )
        )
        return
    for name, column in zip(_FIGURES[::-1], st.columns(2), strict=True):
        label = formats.METRIC_LABELS[name]
        rows = [
            {"day": day.day, "value": figure.value, "low": figure.low, "high": figure.high}
            for day in quality.days
            if (figure := getattr(day, name)) is not None
        ]
        with column:
            if rows:
                chart = model_charts.days(rows, label, shell.palette())
                charts.show(chart, f"live-{name}", rows)
            else:
                st.caption(_("Nothing was taken after a recommendation yet."))
    catalogue = max(quality.catalogue, 1)
    tables.show(
        [
            {
                _("Day"): day.day,
                _("Recommendations"): day.recommendations,
                _("Followed by a take"): day.followed,
                _("Coverage"): formats.percent(min(1.0, day.items / catalogue)),
                _("Diversity"): formats.decimal(day.diversity),
                _("Novelty (bits)"): formats.decimal(day.novelty, 2),
                _("Popularity bias"): formats.decimal(day.popularity_bias, 2),
            }
            for day in reversed(quality.days)
        ],
        "live-quality",
    )
    st.caption(
        _(
            "Of recommendations whose user took something ({label} or stronger) within {hours} "
            "hours. Measured {at}.",
            label=formats.plain(quality.label),
            hours=formats.decimal(quality.outcome_hours, 0),
            at=times.moment(quality.measured_at),
        )
    )
