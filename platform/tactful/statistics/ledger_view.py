"""Report the ledger of published numbers: for a terminal, a program and HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tactful.schemas.subjects.privacy import LedgerBudget, LedgerQuery, LedgerSpend, PrivacyLedger

if TYPE_CHECKING:
    from tactful_privacy.ledger.ledger import Ledger

_DAY_MS = 86_400_000
_QUERIES = 100
_EVERYTHING = "*"


def report_month(ledger: Ledger, day: int) -> PrivacyLedger:
    """Report the month of a UTC day, days since 1970-01-01."""
    from tactful_privacy.ledger.budget import UNIT, date_of
    from tactful_privacy.ledger.odometer import read_odometer

    odometer = read_odometer(ledger, today=day)
    first = day - int(odometer.today[-2:]) + 1
    answers = ledger.answers(first, first + odometer.days_in_month - 1)
    return PrivacyLedger(
        month=odometer.month,
        today=odometer.today,
        unit=UNIT,
        delta=float(odometer.delta),
        spends=[
            LedgerSpend(
                tenant=spend.tenant,
                purpose=spend.purpose,
                epsilon_each_day=float(spend.each_day),
                days=spend.days,
                epsilon_spent=float(spend.spent),
                epsilon_spent_composed=spend.spent_composed.epsilon,
                epsilon_forecast=float(spend.forecast),
                epsilon_forecast_composed=spend.forecast_composed.epsilon,
                epsilon_by_day=[float(epsilon) for epsilon in spend.daily],
            )
            for spend in odometer.spends
        ],
        budgets=[
            LedgerBudget(
                tenant=room.budget.tenant,
                purpose=room.budget.purpose,
                epsilon=float(room.budget.epsilon),
                delta=float(room.budget.delta),
                composition=room.budget.composition,
                reserved=float(room.taken),
                largest_day=float(room.largest_day),
                days=room.budget.days,
            )
            for room in odometer.rooms
        ],
        queries=[
            LedgerQuery(
                name=answer.query.name,
                first_day=date_of(answer.query.first_day),
                last_day=date_of(answer.query.last_day),
                tenant=answer.query.tenant,
                purpose=answer.query.purpose,
                epsilon=float(answer.query.epsilon),
                delta=float(answer.query.delta),
                mechanism=answer.query.mechanism,
                answered=answer.values is not None,
                reserved_by=answer.query.within,
            )
            for answer in answers[-_QUERIES:]
        ],
        in_words=odometer.in_words(),
    )


def day_of(milliseconds: int) -> int:
    """Return the UTC day of a time, days since 1970-01-01."""
    return milliseconds // _DAY_MS


def as_text(report: PrivacyLedger) -> str:
    """Lay the report out for a terminal."""
    lines = [
        f"{report.month}, up to {report.today}; epsilon for {report.unit}",
        "",
        _row("tenant", "purpose", "a day", "days", "spent", "composed", "forecast", "composed"),
    ]
    lines += [
        _row(
            _all(spend.tenant),
            _all(spend.purpose),
            f"{spend.epsilon_each_day:.3g}",
            str(spend.days),
            f"{spend.epsilon_spent:.4g}",
            f"{spend.epsilon_spent_composed:.4g}",
            f"{spend.epsilon_forecast:.4g}",
            f"{spend.epsilon_forecast_composed:.4g}",
        )
        for spend in report.spends
    ]
    lines += ["", _row("tenant", "purpose", "budget", "days", "reserved", "largest", "left", "")]
    lines += [
        _row(
            _all(budget.tenant),
            _all(budget.purpose),
            f"{budget.epsilon:.4g}",
            str(budget.days),
            f"{budget.reserved:.4g}",
            f"{budget.largest_day:.4g}",
            f"{budget.epsilon - max(budget.reserved, budget.largest_day):.4g}",
            "",
        )
        for budget in report.budgets
    ]
    if report.queries:
        lines += ["", "Asked once:"]
    lines += [
        f"  {query.name}: {query.first_day} to {query.last_day}, epsilon {query.epsilon:g} a day"
        + (f", reserved by {query.reserved_by}" if query.reserved_by else "")
        + ("" if query.answered else " (charged, not answered)")
        for query in report.queries
    ]
    composed = f"Composed figures hold at delta {report.delta:g}."
    return "\n".join([*lines, "", report.in_words, composed])


def _all(name: str) -> str:
    return "all" if name == _EVERYTHING else name


def _row(*cells: str) -> str:
    widths = (14, 14, 8, 6, 10, 12, 10, 10)
    return "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
