"""Privacy loss by published numbers, erasures in time, and the last audit."""

from __future__ import annotations

import msgspec


class AuditFinding(msgspec.Struct, kw_only=True, frozen=True):
    """Result of one check of a privacy audit.

    Attributes:
        pipeline: checked pipeline.
        check: name of the check.
        passed: whether the measured value is allowed.
        measured: measured value.
        allowed: largest allowed value.
        detail: description of the check.
    """

    pipeline: str
    check: str
    passed: bool
    measured: float
    allowed: float
    detail: str = ""


class PrivacyAudit(msgspec.Struct, kw_only=True, frozen=True):
    """Result of `tactful privacy audit --keep`.

    Attributes:
        at: time of the audit, epoch milliseconds.
        passed: whether every check of the real pipelines passed.
        trustworthy: whether every planted bug was caught.
        epsilon: claimed epsilon, as an exact number.
        cap: most events of a user and day that count.
        epsilon_lower_bound: the largest epsilon that the attack proved.
        planted_bugs: number of planted bugs.
        planted_bugs_caught: number of those that the audit caught.
        findings: results of the checks of the real pipelines.
    """

    at: int
    passed: bool
    trustworthy: bool
    epsilon: str
    cap: int
    epsilon_lower_bound: float
    planted_bugs: int
    planted_bugs_caught: int
    findings: list[AuditFinding]


class PrivacyStatus(msgspec.Struct, kw_only=True, frozen=True):
    """Whether the promises about privacy are kept, without a number of users.

    Attributes:
        erasures_overdue: whether an erasure is past its due time.
        erase_days: days within which erasures are promised.
        audit: the last kept audit; null if none was kept.
    """

    erasures_overdue: bool
    erase_days: float
    audit: PrivacyAudit | None = None


class LedgerSpend(msgspec.Struct, kw_only=True, frozen=True):
    """Privacy loss by a tenant's purpose of a user who is active on every day of a month.

    Attributes:
        tenant: of the users; `*` for the total.
        purpose: of the statistics; `*` for the total.
        epsilon_each_day: reserved on each day from today on.
        days: days of the month so far with releases.
        epsilon_spent: of those days, added.
        epsilon_spent_composed: the same by the tightest composition, at the report's delta.
        epsilon_forecast: of the whole month if no statistic is added, added.
        epsilon_forecast_composed: the same by the tightest composition.
        epsilon_by_day: of each day of the month, forecast from today on, added.
    """

    tenant: str
    purpose: str
    epsilon_each_day: float
    days: int
    epsilon_spent: float
    epsilon_spent_composed: float
    epsilon_forecast: float
    epsilon_forecast_composed: float
    epsilon_by_day: list[float] = []


class LedgerBudget(msgspec.Struct, kw_only=True, frozen=True):
    """A limit for one user and UTC day, or for several days in a row.

    Attributes:
        tenant: of the users; `*` matches all.
        purpose: of the statistics; `*` matches all.
        epsilon: the limit.
        delta: the limit on delta.
        composition: of losses, `basic` or `zcdp`.
        reserved: epsilon reserved on each day from today on, or on `days` days from today on.
        largest_day: largest epsilon granted on a day of the month so far, or on `days` days up to
            one of them.
        days: number of days in a row.
    """

    tenant: str
    purpose: str
    epsilon: float
    delta: float
    composition: str
    reserved: float
    largest_day: float
    days: int = 1


class LedgerQuery(msgspec.Struct, kw_only=True, frozen=True):
    """A single query.

    Attributes:
        name: of the query.
        first_day: its first UTC day.
        last_day: its last UTC day.
        tenant: of the users.
        purpose: of the query.
        epsilon: charged on each of the days.
        delta: charged on each of the days.
        mechanism: of the answer.
        answered: whether the answer is stored; it is charged in either case.
        reserved_by: the statistic that had reserved it, if any.
    """

    name: str
    first_day: str
    last_day: str
    tenant: str
    purpose: str
    epsilon: float
    delta: float
    mechanism: str
    answered: bool
    reserved_by: str | None


class PrivacyLedger(msgspec.Struct, kw_only=True, frozen=True):
    """Cost of published numbers in this month, so far and at its end.

    Attributes:
        month: such as `2026-03`.
        today: the last day of the report.
        unit: the protected unit of a day's figures.
        delta: at which composed figures hold.
        spends: the total first, then each tenant and purpose.
        budgets: the overall budget first.
        queries: queries about days of the month, at most the latest 100.
        in_words: meaning of the month for one user.
    """

    month: str
    today: str
    unit: str
    delta: float
    spends: list[LedgerSpend]
    budgets: list[LedgerBudget]
    queries: list[LedgerQuery]
    in_words: str
