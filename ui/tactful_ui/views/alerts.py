"""Page "Alerts": what is wrong now, the history, silences, and the rules with their levels."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import streamlit as st

from tactful.client import Request
from tactful.client.messages import (
    AlertInfo,
    AlertPage,
    AlertRule,
    AlertRuleInfo,
    AlertRules,
    Silence,
)
from tactful.client.routes import alerts as routes
from tactful_ui.components import formats, shell, tables, times
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError

LIVE_SECONDS = 15
"""Refresh interval of the open alerts: the server evaluates as often."""

_LEVELS = ("above", "below", "clear", "rises", "falls", "deviations", "psi")
_DONE = "alerts_done"
_ICONS = {"critical": ":material/error:", "warning": ":material/warning:"}
_MOST = 1000


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Alerts"), _("Rules over metrics and published statistics, and what they have found.")
    )
    reader = shell.reader()
    if done := st.session_state.pop(_DONE, None):
        st.toast(done, icon=":material/check:")
    st.fragment(partial(_now, reader), run_every=LIVE_SECONDS)()
    shell.section(_("Silences"), _silences, partial(_draw_silences, reader))
    shell.section(_("Rules"), _rules, partial(_draw_rules, reader))
    shell.section(_("History"), _history, _draw_history)


def _now(reader: shell.Reader) -> None:
    """Draw the open alerts; they are drawn again without the rest of the page."""
    shell.section(_("Open now"), lambda: shell.ask(routes.alerts()), partial(_draw_open, reader))


def _draw_open(reader: shell.Reader, found: AlertPage) -> None:
    if found.evaluated_at is None:
        st.info(_("No server has evaluated the rules yet."), icon=":material/hourglass_empty:")
    elif not found.alerts:
        st.success(_("No alert is open."), icon=":material/check:")
    for alert in found.alerts:
        _draw_alert(alert, reader)
    if found.evaluated_at is not None:
        st.caption(_("Evaluated at {at}.", at=times.moment(found.evaluated_at)))


def _draw_alert(alert: AlertInfo, reader: shell.Reader) -> None:
    with st.container(border=True):
        icon = _ICONS.get(alert.severity, ":material/info:")
        st.markdown(f"{icon} **{_severity(alert.severity)}** · {formats.plain(alert.message)}")
        notes = [
            _("since {at}", at=times.moment(alert.opened_at)),
            _runbook(alert.runbook),
        ]
        if alert.acknowledged_at is not None:
            who = formats.plain(alert.acknowledged_by)
            notes.append(_("acknowledged by {name}", name=who) if who else _("acknowledged"))
        if alert.silenced:
            notes.append(_("silenced"))
        st.markdown(" · ".join(notes))
        for problem in alert.undelivered:
            st.caption(_("Not delivered: {reason}", reason=formats.plain(problem)))
        if reader.admin:
            _alert_actions(alert)


def _runbook(address: str) -> str:
    """Return a link to the runbook, or its place where nobody serves the documentation."""
    if address.startswith(("http://", "https://")):
        return f"[{_('runbook')}]({address})"
    code = address.replace("`", "")
    return f"{_('runbook')} `{code}`"


def _alert_actions(alert: AlertInfo) -> None:
    note, acknowledge, silence = st.columns([3, 1, 1], vertical_alignment="bottom")
    words = note.text_input(_("Note"), key=f"note-{alert.id}", max_chars=2000)
    known = alert.acknowledged_at is not None
    if acknowledge.button(_("Acknowledge"), key=f"ack-{alert.id}", disabled=known):
        _do(routes.acknowledge(alert.id, words), _("The alert is acknowledged."))
    if silence.button(_("Silence for an hour"), key=f"silence-{alert.id}"):
        request = routes.silence(alert.rule, 60, labels=alert.labels, reason=words)
        _do(request, _("The alert is silenced."))


def _silences() -> list[Silence]:
    return shell.ask(routes.silences(limit=_MOST)).silences


def _draw_silences(reader: shell.Reader, found: list[Silence]) -> None:
    if not found:
        st.caption(_("Nothing is silenced."))
    else:
        tables.show([_silence_row(silence, reader) for silence in found], "silences")
    if not reader.admin:
        return
    with st.expander(_("Begin or end a silence")), st.form("silence", border=False):
        rule = st.text_input(_("Rule, * stands for anything"), max_chars=64)
        minutes = st.number_input(_("Minutes"), 1, 525_600, 60)
        reason = st.text_input(_("Reason"), max_chars=2000)
        if st.form_submit_button(_("Begin the silence")) and rule.strip():
            request = routes.silence(rule.strip(), int(minutes), reason=reason)
            _do(request, _("The silence has begun."))
    for silence in found:
        label = _("End silence {number} ({rule})", number=silence.id, rule=silence.rule)
        if st.button(label, key=f"end-{silence.id}"):
            _do(routes.end_silence(silence.id), _("The silence has ended."))


def _silence_row(silence: Silence, reader: shell.Reader) -> dict[str, Any]:
    row = {
        _("number"): silence.id,
        _("rule"): silence.rule,
        _("until"): times.moment(silence.ends_at),
    }
    if reader.admin:
        row |= {_("made by"): silence.made_by, _("reason"): formats.plain(silence.reason)}
    return row


def _rules() -> AlertRules:
    return shell.ask(routes.rules(limit=_MOST))


def _draw_rules(reader: shell.Reader, found: AlertRules) -> None:
    tables.show([_rule_row(info, reader) for info in found.rules], "rules", height=420)
    if not reader.admin:
        return
    by_name = {info.rule.name: info for info in found.rules}
    with st.expander(_("Edit a rule")):
        name = st.selectbox(_("Rule"), list(by_name), key="rule")
        if name is not None:
            _edit(by_name[name])
    with st.expander(_("Send a test message")):
        if not found.routes:
            st.markdown(_("There is no route: name a file with routes in `alerts.rules`."))
        for route in found.routes:
            if st.button(_("Test {route}", route=route), key=f"test-{route}"):
                _test(route)


def _rule_row(info: AlertRuleInfo, reader: shell.Reader) -> dict[str, Any]:
    rule = info.rule
    levels = {name: getattr(rule, name) for name in _LEVELS if _has_level(rule, name)}
    row = {
        _("rule"): rule.name,
        _("what is wrong"): rule.summary,
        _("kind"): rule.kind,
        _("levels"): ", ".join(f"{name} {value:g}" for name, value in levels.items()),
        _("for"): rule.hold,
        _("severity"): _severity(rule.severity),
        _("evaluated"): rule.enabled,
        _("source"): info.source,
    }
    return row | ({_("changed by"): info.changed_by} if reader.admin else {})


def _has_level(rule: AlertRule, name: str) -> bool:
    """Return whether a level is in use: 0 means none for a rise or a fall."""
    value = getattr(rule, name, None)
    return value is not None and (value != 0 or name not in ("rises", "falls"))


def _edit(info: AlertRuleInfo) -> None:
    rule = info.rule
    with st.form(f"edit-{rule.name}", border=False):
        st.caption(formats.plain(rule.summary))
        changes: dict[str, Any] = {}
        for name in _LEVELS:
            value = getattr(rule, name, None)
            if value is not None:
                changes[name] = st.number_input(
                    name, value=float(value), format="%g", key=f"{rule.name}-{name}"
                )
        severities = ["info", "warning", "critical"]
        changes["severity"] = st.selectbox(
            _("Severity"),
            severities,
            index=severities.index(rule.severity),
            format_func=_severity,
            key=f"{rule.name}-severity",
        )
        changes["enabled"] = st.toggle(_("Evaluate it"), rule.enabled, key=f"{rule.name}-enabled")
        if st.form_submit_button(_("Save")):
            request = routes.put_rule(msgspec.structs.replace(rule, **changes))
            _do(request, _("The rule is saved; it counts from the next evaluation on."))
    if info.source == "edited" and st.button(_("Restore the rule of the files")):
        _do(routes.delete_rule(rule.name), _("The rule of the files holds again."))


def _test(route: str) -> None:
    try:
        results = shell.ask(routes.test(route)).results
    except SourceError as failure:
        shell.explain(failure)
        return
    for name, problem in results.items():
        if problem:
            st.error(f"{formats.plain(name)}: {formats.plain(problem)}")
        else:
            st.success(_("{sink}: arrived", sink=formats.plain(name)))


def _history() -> list[AlertInfo]:
    return shell.ask(routes.alerts(state="cleared", limit=200)).alerts


def _draw_history(found: list[AlertInfo]) -> None:
    if not found:
        st.caption(_("No alert has cleared yet."))
        return
    rows = [
        {
            _("number"): alert.id,
            _("opened"): times.moment(alert.opened_at),
            _("cleared"): times.moment(alert.cleared_at),
            _("severity"): _severity(alert.severity),
            _("what is wrong"): formats.plain(alert.message),
        }
        for alert in found
    ]
    tables.show(rows, "alerts")


def _do(request: Request[Any], done: str) -> None:
    """Send a change, and draw the page again with a note that it is done."""
    try:
        shell.ask(request)
    except SourceError as failure:
        shell.explain(failure)
        return
    st.session_state[_DONE] = done
    st.rerun()


def _severity(severity: str) -> str:
    known = {"info": _("info"), "warning": _("warning"), "critical": _("critical")}
    return known.get(severity, severity)
