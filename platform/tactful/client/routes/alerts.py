"""Requests about alerts, their rules, silences and test messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tactful.client.exchange import segment
from tactful.client.request import Request
from tactful.schemas.alerts import (
    Acknowledgement,
    AlertInfo,
    AlertPage,
    AlertRule,
    AlertRuleInfo,
    AlertRules,
    AlertTest,
    AlertTestResult,
    NewSilence,
    Silence,
    Silences,
)


def alerts(
    *,
    state: Literal["open", "cleared", "all"] = "open",
    rule: str | None = None,
    cursor: str | None = None,
    limit: int | None = None,
) -> Request[AlertPage]:
    """Request one page of alerts, newest first."""
    params = {"state": state, "rule": rule, "cursor": cursor, "limit": limit}
    return Request("GET", "/v1/alerts", AlertPage, params=params)


def acknowledge(alert_id: int, note: str = "") -> Request[AlertInfo]:
    """Acknowledge an alert; the caller is recorded."""
    path = f"/v1/alerts/{alert_id}/acknowledge"
    return Request("POST", path, AlertInfo, body=Acknowledgement(note=note), repeatable=True)


def rules(*, cursor: str | None = None, limit: int | None = None) -> Request[AlertRules]:
    """Request one page of the rules, by name."""
    params = {"cursor": cursor, "limit": limit}
    return Request("GET", "/v1/alerts/rules", AlertRules, params=params)


def put_rule(rule: AlertRule) -> Request[AlertRuleInfo]:
    """Define a rule, or edit the one of its name."""
    return Request("PUT", f"/v1/alerts/rules/{segment(rule.name)}", AlertRuleInfo, body=rule)


def delete_rule(name: str) -> Request[bytes]:
    """Delete an edited rule: the one of the files holds again."""
    return Request("DELETE", f"/v1/alerts/rules/{segment(name)}", bytes)


def silences(*, cursor: str | None = None, limit: int | None = None) -> Request[Silences]:
    """Request one page of the silences that have not ended."""
    params = {"cursor": cursor, "limit": limit}
    return Request("GET", "/v1/alerts/silences", Silences, params=params)


def silence(
    rule: str, minutes: int = 60, *, labels: Mapping[str, str] | None = None, reason: str = ""
) -> Request[Silence]:
    """Hold back the messages of alerts for some minutes; `*` stands for anything."""
    body = NewSilence(rule=rule, minutes=minutes, labels=dict(labels or {}), reason=reason)
    return Request("POST", "/v1/alerts/silences", Silence, body=body)


def end_silence(silence_id: int) -> Request[bytes]:
    """End a silence now."""
    return Request("DELETE", f"/v1/alerts/silences/{silence_id}", bytes)


def test(route: str) -> Request[AlertTestResult]:
    """Send a test message to each sink of a route."""
    body: Any = AlertTest(route=route)
    return Request("POST", "/v1/alerts/test", AlertTestResult, body=body)
