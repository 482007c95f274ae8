"""Read-outs of experiments: sample ratio, effects, charts over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import streamlit as st

from tactful.client.messages import (
    Bounds,
    Effect,
    GuardrailPoint,
    ReadOutMessage,
    SegmentEffects,
)
from tactful_ui.components import charts, formats, shell, tables, times
from tactful_ui.components.words import text as _

_DIGITS = 4
_HEIGHT = 220


def draw(found: ReadOutMessage, name: str) -> None:
    """Draw a read-out; `name` begins the names of files."""
    _ratio(found)
    if found.reason:
        st.info(formats.plain(found.reason), icon=":material/hourglass_empty:")
    for note in found.notes:
        st.info(formats.plain(note), icon=":material/info:")
    if not found.effects:
        return
    since = times.moment(found.since) if found.since else "–"
    st.caption(
        _(
            "Since {since}. Intervals have {confidence}: the first holds at any number of "
            "looks, the second for one planned look. A verdict holds for all metrics "
            "together, so it needs more than one interval beside 0. Chance to win and "
            "expected loss are by a flat prior, for one look.",
            since=since,
            confidence=formats.percent(found.confidence, 0),
        )
    )
    for effect in found.effects:
        _verdict(effect)
    tables.show([_row(effect) for effect in found.effects], f"{name}-effects")
    _series(found, name)
    for segment in found.segments:
        _segment(segment, name)


def draw_guardrails(points: Sequence[GuardrailPoint], name: str) -> None:
    """Draw each guardrail as a confidence sequence of its loss against its margin."""
    if not points:
        st.caption(_("No guardrail could be judged yet."))
        return
    for metric in dict.fromkeys(point.metric for point in points):
        own = [point for point in points if point.metric == metric]
        last = own[-1]
        st.markdown(f"**{formats.plain(metric)}**: {verdict_words(last.verdict)}")
        rows = [
            {
                "at": point.at,
                "low": 100 * point.loss.low,
                "high": 100 * point.loss.high,
                "value": 50 * (point.loss.low + point.loss.high),
            }
            for point in own
            if point.loss is not None and point.loss.low is not None and point.loss.high is not None
        ]
        if not rows:
            st.caption(_("Too few data for an interval yet."))
            continue
        title = _("Loss, % of the control")
        chart = band(rows, title, {_("margin"): 100 * last.margin}, shell.palette())
        charts.show(chart, f"{name}-guardrail-{metric}", rows)


def band(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    rules: Mapping[str, float],
    palette: charts.Palette,
) -> Any:
    """Draw values over time with their intervals, and named horizontal lines.

    Args:
        rows: `at` in epoch milliseconds, `value`, `low` and `high`.
        title: of the axis of values.
        rules: height of each line by its name.
        palette: the colours.
    """
    data = alt.InlineData(values=[dict(row) for row in rows])
    x = alt.X("at:T", title=None, scale=alt.Scale(type="utc"), axis=alt.Axis(grid=False))
    y = alt.Y("value:Q", title=title, axis=alt.Axis(tickCount=5))
    known = "isValid(datum.low) && isValid(datum.high)"
    base = alt.Chart(data).encode(x=x)
    tooltip = [
        alt.Tooltip("at:T", title="UTC", format="%Y-%m-%d %H:%M"),
        *(alt.Tooltip(f"{name}:Q", format=".4~g") for name in ("value", "low", "high")),
    ]
    marks = "mark_area" if len(rows) > 1 else "mark_rule"
    lines = alt.InlineData(values=[{"name": key, "height": it} for key, it in rules.items()])
    last = rows[-1]
    named = "; ".join(f"{key} {it:g}" for key, it in rules.items())
    return alt.layer(
        getattr(base.transform_filter(known), marks)(
            color=palette.platform, opacity=0.25 if len(rows) > 1 else 0.8
        ).encode(y=alt.Y("low:Q", title=title), y2="high:Q"),
        base.mark_line(color=palette.platform).encode(y=y),
        base.mark_circle(color=palette.platform, size=28, opacity=1).encode(y=y, tooltip=tooltip),
        alt.Chart(lines)
        .mark_rule(color=palette.reference, strokeDash=[6, 4], strokeWidth=2)
        .encode(y="height:Q", tooltip=["name:N", "height:Q"]),
    ).properties(
        height=_HEIGHT,
        description=(
            f"{title} over time, {len(rows)} points with intervals; the last is "
            f"{last['value']:.4g}, from {last['low']} to {last['high']}. Lines: {named}."
        ),
    )


def verdict_words(verdict: str) -> str:
    """Translate the verdict of a guardrail or a metric."""
    known = {
        "too few data": _("too few data"),
        "harm": _("harm"),
        "undecided": _("undecided"),
        "no harm": _("no harm"),
        "higher": _("higher"),
        "lower": _("lower"),
        "inconclusive": _("inconclusive"),
        "ok": _("as expected"),
        "mismatch": _("mismatch"),
        "better": _("better"),
        "worse": _("worse"),
    }
    return known.get(verdict, formats.plain(verdict))


def interval(bounds: Bounds, digits: int = _DIGITS) -> str:
    """Format an interval; an end without a bound is infinite."""
    low = "−∞" if bounds.low is None else formats.decimal(bounds.low, digits)
    high = "∞" if bounds.high is None else formats.decimal(bounds.high, digits)
    return f"[{low}, {high}]"


def _segment(found: SegmentEffects, name: str) -> None:
    """Draw the effects in a part of the users."""
    people = ", ".join(
        f"{formats.plain(arm)} {formats.count(count)}" for arm, count in found.people.items()
    )
    st.markdown(_("**Segment {name}**: {people}", name=formats.plain(found.segment), people=people))
    if found.exploratory:
        st.caption(
            _(
                "Exploratory: the segment was defined or changed after the first exposure. With "
                "enough segments some differ by chance."
            )
        )
    if found.effects:
        tables.show([_row(effect) for effect in found.effects], f"{name}-{found.segment}")
    else:
        st.caption(_("Too few users for an effect yet."))


def _ratio(found: ReadOutMessage) -> None:
    ratio = found.sample_ratio
    people = ", ".join(
        f"{formats.plain(arm)} {formats.count(count)}" for arm, count in ratio.people.items()
    )
    p = formats.decimal(ratio.p, 3)
    if ratio.verdict == "mismatch":
        st.error(
            _(
                "**The arms do not have the people they should** ({people}). No other number is "
                "reliable until the cause is found.",
                people=people,
            ),
            icon=":material/warning:",
        )
    elif ratio.verdict == "ok":
        text = _("Sample ratio as expected: {people} (p = {p}).", people=people, p=p)
        st.markdown(f":material/check: {text}")
    if ratio.crossed:
        st.caption(
            _(
                "{share} of the users saw several arms, and are left out.",
                share=formats.percent(ratio.crossed),
            )
        )
    if found.source == "released":
        st.caption(
            _("These are released counts: their noise is part of every interval."),
        )


def _verdict(effect: Effect) -> None:
    """Say in one sentence what is known of a metric."""
    sentence = _(
        "**{metric}** ({words}): {arm} differs by {difference}{relative}, any look {anytime}: "
        "{verdict}.",
        metric=formats.plain(effect.metric),
        words=formats.plain(effect.words),
        arm=formats.plain(effect.treatment.arm),
        difference=formats.signed(effect.difference, _DIGITS),
        relative=""
        if effect.relative is None
        else f" ({formats.signed(100 * effect.relative, 1)} %)",
        anytime=formats.plain(interval(effect.anytime)),
        verdict=verdict_words(effect.verdict),
    )
    marks = [
        *([role_words(effect.role)] if effect.role else []),
        *_outcomes(effect),
        *([_("adjusted by earlier outcomes")] if effect.adjusted else []),
        *([_("exploratory")] if effect.exploratory else []),
    ]
    st.markdown(f"{sentence} _{', '.join(marks)}_" if marks else sentence)


def _outcomes(effect: Effect) -> list[str]:
    """Return the outcomes so far of those that a verdict needs, while it has too few."""
    if effect.verdict != "too few data" or effect.outcomes is None:
        return []
    return [
        _(
            "{count} of {least} outcomes",
            count=formats.count(effect.outcomes),
            least=formats.count(effect.minimum_outcomes),
        )
    ]


def role_words(role: str) -> str:
    """Translate the role of a metric in an experiment."""
    known = {"goal": _("goal"), "guardrail": _("guardrail"), "secondary": _("secondary")}
    return known.get(role, formats.plain(role))


def _row(effect: Effect) -> dict[str, Any]:
    control, treatment = effect.control, effect.treatment
    return {
        _("metric"): effect.metric,
        _("arm"): treatment.arm,
        _("control"): f"{formats.decimal(control.value, _DIGITS)} {interval(control.interval)}",
        _("treatment"): (
            f"{formats.decimal(treatment.value, _DIGITS)} {interval(treatment.interval)}"
        ),
        _("difference"): formats.signed(effect.difference, _DIGITS),
        _("any look"): interval(effect.anytime),
        _("one look"): interval(effect.fixed),
        _("chance to win"): formats.percent(effect.chance_to_win),
        _("loss if chosen"): formats.decimal(effect.loss_of_treatment, _DIGITS),
        _("loss if not chosen"): formats.decimal(effect.loss_of_control, _DIGITS),
        _("people"): formats.count(control.people + treatment.people),
        **({} if effect.p is None else {_("p, corrected"): formats.decimal(effect.p, 3)}),
    }


def _series(found: ReadOutMessage, name: str) -> None:
    keys = list(dict.fromkeys((point.arm, point.metric) for point in found.series))
    if not keys:
        return
    chosen = st.selectbox(
        _("Effect over time"),
        keys,
        format_func=lambda key: f"{key[1]} · {key[0]}",
        key=f"{name}-series",
    )
    rows = [
        {
            "at": point.at,
            "value": point.difference,
            "low": point.anytime.low,
            "high": point.anytime.high,
            "people": point.people,
        }
        for point in found.series
        if (point.arm, point.metric) == chosen
    ]
    chart = band(rows, _("Difference"), {_("no difference"): 0.0}, shell.palette())
    charts.show(chart, f"{name}-{chosen[1]}", rows)
