"""Alerts and their rules, as files, HTTP and the metadata hold them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Severity = Literal["info", "warning", "critical"]
"""Severities, the mildest first."""

Duration = Annotated[str, Meta(pattern=r"^[0-9]{1,5}(s|m|h|d)$")]
"""A number of seconds, minutes, hours or days, such as ``90s``."""

RuleName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
_Metric = Annotated[str, Meta(pattern=r"^([a-z][a-z0-9_]{0,127})?$")]
_Text = Annotated[str, Meta(max_length=300)]
_Key = Annotated[str, Meta(max_length=256)]
_Keys = Annotated[list[_Key], Meta(max_length=100)]
_Labels = Annotated[dict[_Key, _Key], Meta(max_length=16)]
_Share = Annotated[float, Meta(gt=0, le=1)]

_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def milliseconds(duration: str) -> int:
    """Convert a duration to milliseconds.

    >>> milliseconds("5m")
    300000
    """
    return int(duration[:-1]) * _UNITS[duration[-1]]


class Signal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The value that a rule looks at: of a metric, or of a published statistic.

    Attributes:
        metric: name of a sample of `/metrics`, also of counters that are not published there.
        labels: labels that a sample must have; `*` in a value stands for anything.
        by: labels with one value, and one alert, for each of their values.
        change: `increase` of a counter in the time `within`; else its present value.
        within: span of an increase.
        share_of: labels of the whole: the value is then the share of the increase of `labels`
            in that of `share_of`.
        whole: metric of the whole; empty for the same metric.
        least: least increase of the whole; below it, a share has no value.
        aggregate: how several samples become one value.
        statistic: name of a published statistic: the value is its latest release, an interval.
        keys: keys of the statistic that are added up; none means all.
        over: another statistic: the value is then the ratio of the two.
        over_keys: keys of that one that are added up; none means all.
        releases: number of latest releases that must all lie beyond a threshold.
    """

    metric: _Metric = ""
    labels: _Labels = {}
    by: Annotated[list[_Key], Meta(max_length=4)] = []
    change: Literal["none", "increase"] = "none"
    within: Duration = "5m"
    share_of: _Labels | None = None
    whole: _Metric = ""
    least: Annotated[float, Meta(ge=0)] = 0.0
    aggregate: Literal["sum", "max", "min"] = "sum"
    statistic: _Key = ""
    keys: _Keys = []
    over: _Key = ""
    over_keys: _Keys = []
    releases: Annotated[int, Meta(ge=1, le=20)] = 1


def _said(text: str) -> Meta:
    """Describe a field that rules of all kinds have, for the OpenAPI document."""
    return Meta(description=text)


class _Rule(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"
):
    """Fields of rules of all kinds."""

    name: Annotated[RuleName, _said("name of the rule, and of its section in the runbook")]
    summary: Annotated[_Text, _said("what is wrong when it fires, for people")]
    value: Annotated[Signal, _said("value that it looks at")]
    hold: Annotated[
        Duration, _said("time for which the condition must hold before the alert opens")
    ] = msgspec.field(default="1m", name="for")
    clear_for: Annotated[
        Duration, _said("time for which it must no longer hold before the alert clears")
    ] = "1m"
    severity: Annotated[Severity, _said("severity of its alerts")] = "warning"
    route: Annotated[
        str, Meta(max_length=64), _said("route of its messages; empty: all of its severity")
    ] = ""
    enabled: Annotated[bool, _said("whether it is evaluated")] = True

    @property
    def kind(self) -> str:
        """The kind of rule, such as ``threshold``."""
        return str(self.__struct_config__.tag)


class ThresholdRule(_Rule, frozen=True, kw_only=True, tag="threshold"):
    """Fires while a value lies beyond a level.

    The whole released interval of a published statistic must lie beyond the level.

    Attributes:
        kind: `threshold`.
        above: it fires above this level …
        below: … or below this one.
        clear: level at which it clears; none: the same level.
    """

    above: float | None = None
    below: float | None = None
    clear: float | None = None


class ChangeRule(_Rule, frozen=True, kw_only=True, tag="change"):
    """Fires while a value differs from its own mean of the time before.

    Attributes:
        kind: `change`.
        against: span of that mean.
        rises: relative rise that fires; 1 means twice the mean. 0 for none.
        falls: relative fall that fires; 0.5 means half of the mean. 0 for none.
        floor: least mean; a smaller one counts as this, so that small numbers do not fire.
    """

    against: Duration = "1h"
    rises: Annotated[float, Meta(ge=0)] = 0.0
    falls: Annotated[float, Meta(ge=0, le=1)] = 0.0
    floor: Annotated[float, Meta(ge=0)] = 0.0


class AbsenceRule(_Rule, frozen=True, kw_only=True, tag="absence"):
    """Fires while a value is missing, or a counter no longer grows, that did before.

    Attributes:
        kind: `absence`.
    """


class AnomalyRule(_Rule, frozen=True, kw_only=True, tag="anomaly"):
    """Fires while a value is unusual for its hour, by median and MAD of earlier periods.

    Attributes:
        kind: `anomaly`.
        season: the hours that are compared with each other.
        deviations: number of robust standard deviations that fires.
        direction: which side fires.
        least_periods: number of earlier values of the hour without which it does not fire.
        least_change: relative difference from the median that it takes, too.
        least_value: median from which on the hour is judged; quiet hours are not.
    """

    season: Literal["hour_of_week", "hour_of_day"] = "hour_of_week"
    deviations: Annotated[float, Meta(gt=0)] = 6.0
    direction: Literal["below", "above", "both"] = "both"
    least_periods: Annotated[int, Meta(ge=2, le=8)] = 3
    least_change: Annotated[float, Meta(ge=0)] = 0.3
    least_value: Annotated[float, Meta(ge=0)] = 0.0


class DriftRule(_Rule, frozen=True, kw_only=True, tag="drift"):
    """Fires while a histogram differs from that of the days before.

    Both must hold: a population stability index of at least `psi`, and a two-sample
    Kolmogorov-Smirnov test at the level `alpha`, corrected (Holm) for all drift tests of the
    evaluation.

    Attributes:
        kind: `drift`.
        reference: span of the histogram to compare with, before `value.within`.
        psi: least population stability index.
        alpha: level of all drift tests of one evaluation together.
    """

    reference: Duration = "7d"
    psi: Annotated[float, Meta(gt=0)] = 0.25
    alpha: _Share = 0.001


_Action = Annotated[str, Meta(pattern=r"^[a-z_]+\..{1,63}$")]


class DecisionRule(_Rule, frozen=True, kw_only=True, tag="decision"):
    """Sends a message for each decision that the audit trail records, once.

    It looks at no value, and its alerts clear as they open.

    Attributes:
        kind: `decision`.
        actions: actions of the audit trail, such as `rollout.* → rolled back`; `*` stands for
            anything.
    """

    value: Annotated[Signal, _said("of no use to a decision: leave it out")] = Signal()
    actions: Annotated[list[_Action], Meta(min_length=1, max_length=20)]


AlertRule = ThresholdRule | ChangeRule | AbsenceRule | AnomalyRule | DriftRule | DecisionRule


class AlertRuleInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A rule as it is evaluated now.

    Attributes:
        rule: the rule.
        source: `packaged`, `file` or `edited`.
        changed_by: who edited it; empty if nobody did.
        changed_at: time of that, epoch milliseconds; 0 if nobody did.
        runbook: address of its section in the runbook.
    """

    rule: AlertRule
    source: Literal["packaged", "file", "edited"]
    changed_by: str = ""
    changed_at: int = 0
    runbook: str = ""


class AlertRules(msgspec.Struct, kw_only=True, frozen=True):
    """One page of the rules, by name.

    Attributes:
        rules: the rules.
        routes: names of the routes, on the first page.
        next_cursor: send it as ``cursor`` for the next page; None at the end.
    """

    rules: list[AlertRuleInfo]
    routes: list[str] = []
    next_cursor: str | None = None


class AlertInfo(msgspec.Struct, kw_only=True, frozen=True):
    """One alert, open or cleared.

    Attributes:
        id: grows with every alert.
        rule: name of the rule that opened it.
        labels: the values of the labels that it is about.
        severity: severity of the rule at that time.
        state: `open` or `cleared`.
        message: what is wrong, with the value where it may be shown.
        opened_at: epoch milliseconds.
        cleared_at: epoch milliseconds; None while it is open.
        acknowledged_at: epoch milliseconds; None if nobody did.
        acknowledged_by: who acknowledged it.
        note: what they wrote.
        silenced: whether a silence holds its messages back now.
        undelivered: reasons why a message of it has not arrived, by sink.
        runbook: address of the section of its rule in the runbook.
    """

    id: int
    rule: str
    labels: dict[str, str]
    severity: Severity
    state: Literal["open", "cleared"]
    message: str
    opened_at: int
    cleared_at: int | None = None
    acknowledged_at: int | None = None
    acknowledged_by: str = ""
    note: str = ""
    silenced: bool = False
    undelivered: list[str] = []
    runbook: str = ""


class AlertPage(msgspec.Struct, kw_only=True, frozen=True):
    """One page of alerts, newest first.

    Attributes:
        alerts: the alerts.
        open: number of all open alerts.
        evaluated_at: time of the last evaluation, epoch milliseconds; None before the first.
        next_cursor: send it as ``cursor`` for the next page; None at the end.
    """

    alerts: list[AlertInfo]
    open: int
    evaluated_at: int | None = None
    next_cursor: str | None = None


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Acknowledgement by somebody who takes care of an alert.

    Attributes:
        note: words for the others.
    """

    note: Annotated[str, Meta(max_length=2_000)] = ""


class NewSilence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Alerts whose messages are held back for a time; they open all the same.

    Attributes:
        rule: name of a rule; `*` stands for anything.
        labels: labels that an alert must have, too.
        minutes: for how long.
        reason: why.
    """

    rule: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9_*]+$")]
    labels: _Labels = {}
    minutes: Annotated[int, Meta(ge=1, le=525_600)] = 60
    reason: Annotated[str, Meta(max_length=2_000)] = ""


class Silence(msgspec.Struct, kw_only=True, frozen=True):
    """A silence of some alerts.

    Attributes:
        id: its number.
        rule: name of a rule; `*` stands for anything.
        labels: labels that an alert must have, too.
        begins_at: epoch milliseconds.
        ends_at: epoch milliseconds.
        made_by: who made it.
        reason: why.
    """

    id: int
    rule: str
    labels: dict[str, str]
    begins_at: int
    ends_at: int
    made_by: str
    reason: str = ""


class Silences(msgspec.Struct, kw_only=True, frozen=True):
    """Silences that have not ended, newest first.

    Attributes:
        silences: the silences.
        next_cursor: send it as ``cursor`` for the next page; None at the end.
    """

    silences: list[Silence]
    next_cursor: str | None = None


class AlertTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route that a test message is sent to.

    Attributes:
        route: name of the route.
    """

    route: Annotated[str, Meta(min_length=1, max_length=64)]


class AlertTestResult(msgspec.Struct, kw_only=True, frozen=True):
    """Result of a test message.

    Attributes:
        route: name of the route.
        results: by sink: empty for success, else the reason of the failure.
    """

    route: str
    results: dict[str, str]
