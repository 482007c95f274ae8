"""Spent and forecast privacy loss of one person in a month."""

import calendar
import datetime
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tactful_privacy.ledger.budget import ANY, UNIT, Budget, Charge, Loss
from tactful_privacy.ledger.composition import DELTA, Composed, has_pld, largest_belief, tightest
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import Statistic
from tactful_privacy.mechanisms._exact import Exact, fraction

_EPOCH = datetime.date(1970, 1, 1)


@dataclass(frozen=True)
class Spend:
    """Loss of a tenant and purpose for a person who was active on every day.

    Attributes:
        tenant: Tenant of the users; ``*`` in the total.
        purpose: Purpose of the charges; ``*`` in the total.
        each_day: Epsilon that registered statistics reserve of each day from today on.
        days: Number of days of the month with a release or a query.
        spent: Epsilon of those days by addition.
        spent_composed: Epsilon of those days by the tightest composition.
        forecast: Epsilon of the whole month by addition, without new queries and statistics.
        forecast_composed: Epsilon of the whole month by the tightest composition.
        daily: Epsilon of each day of the month by addition, forecast from today on.
    """

    tenant: str
    purpose: str
    each_day: Fraction
    days: int
    spent: Fraction
    spent_composed: Composed
    forecast: Fraction
    forecast_composed: Composed
    daily: tuple[Fraction, ...]


@dataclass(frozen=True)
class Room:
    """A budget and its use."""

    budget: Budget  # the limit on each day, or on each run of days
    taken: Fraction  # epsilon reserved of each day, or of a run of days, from today on
    # largest epsilon granted on a day of the month so far, or on a run of days that ends on one of
    # them
    largest_day: Fraction


@dataclass(frozen=True)
class Odometer:
    """One month of a ledger.

    Attributes:
        month: Month, such as ``2026-03``.
        today: Last day of the spent figures, such as ``2026-03-17``.
        days_in_month: Number of days in the month.
        delta: Delta of the composed figures.
        spends: The total first, then each tenant and purpose.
        rooms: Each budget, the budget over everything first.
    """

    month: str
    today: str
    days_in_month: int
    delta: Fraction
    spends: tuple[Spend, ...]
    rooms: tuple[Room, ...]

    def in_words(self) -> str:
        """Describe the loss of the month for one person in plain sentences."""
        return _words(self)


def read_odometer(ledger: Ledger, *, today: int, delta: Exact = DELTA) -> Odometer:
    """Read the spent and forecast privacy loss of a month from the ledger.

    A statistic costs its whole loss on each day with a release, one of weeks or months on each day
    that it counts, since its release comes later, and a query on each day it is
    about. Both count for a person who is active on all of those days.

    Args:
        ledger: Ledger with charges and releases.
        today: UTC day, days since 1970-01-01; the odometer covers its month.
        delta: Delta of composed figures; raised to the sum of the declared deltas of the month if
            that is larger.
    """
    target = fraction(delta, "delta")
    month = _Month.read(ledger, today)
    # No epsilon holds below the sum of the declared deltas without knowing the mechanisms.
    declared = sum((c.loss.delta * len(month.whole(c)) for c in month.charges), Fraction(0))
    target = max(target, declared)
    lines = sorted({(charge.tenant, charge.purpose) for charge in month.charges})
    date = _EPOCH + datetime.timedelta(days=today)
    return Odometer(
        month=f"{date:%Y-%m}",
        today=date.isoformat(),
        days_in_month=month.last - month.first + 1,
        delta=target,
        spends=tuple(month.spend(*line, delta=target) for line in ((ANY, ANY), *lines)),
        rooms=tuple(month.room(budget) for budget in ledger.budgets),
    )


@dataclass(frozen=True)
class _Month:
    """Charges and releases of a month; days count from 1970-01-01."""

    first: int
    today: int
    last: int
    charges: list[Charge]
    statistics: Mapping[str, Statistic]
    released: Mapping[str, Collection[int]]  # statistic -> days

    @classmethod
    def read(cls, ledger: Ledger, today: int) -> "_Month":
        date = _EPOCH + datetime.timedelta(days=today)
        first = today - date.day + 1
        last = first + calendar.monthrange(date.year, date.month)[1] - 1
        released = ledger.released_days(first, last)
        return cls(first, today, last, ledger.charges(), ledger.statistics(), released)

    def past(self, charge: Charge) -> set[int]:
        """Return the days up to today that a charge has cost."""
        statistic = self.statistics.get(charge.name)
        if statistic is not None and statistic.period is not None:
            return {day for day in range(self.first, self.today + 1) if charge.on(day)}
        if statistic is not None:
            return {day for day in self.released.get(charge.name, []) if day <= self.today}
        return {day for day in range(self.first, self.last + 1) if charge.on(day)}

    def whole(self, charge: Charge) -> set[int]:
        """Return the days of the month that a charge has cost or will cost."""
        coming = {day for day in range(self.today, self.last + 1) if charge.on(day)}
        return self.past(charge) | (coming if charge.name in self.statistics else set())

    def spend(self, tenant: str, purpose: str, *, delta: Fraction) -> Spend:
        line = Budget(Fraction(1), tenant=tenant, purpose=purpose)
        charges = [charge for charge in self.charges if line.covers(charge.tenant, charge.purpose)]
        spent = [(charge.loss, len(self.past(charge))) for charge in charges]
        wholes = [(charge.loss, self.whole(charge)) for charge in charges]
        forecast = [(loss, len(days)) for loss, days in wholes]
        return Spend(
            tenant=tenant,
            purpose=purpose,
            each_day=_added([(charge.loss, 1) for charge in self._standing(charges)]),
            days=len(set().union(*map(self.past, charges))),
            spent=_added(spent),
            spent_composed=tightest(spent, delta=delta),
            forecast=_added(forecast),
            forecast_composed=tightest(forecast, delta=delta),
            daily=tuple(
                _added([(loss, 1) for loss, days in wholes if day in days])
                for day in range(self.first, self.last + 1)
            ),
        )

    def room(self, budget: Budget) -> Room:
        charges = [c for c in self.charges if budget.covers(c.tenant, c.purpose)]

        def granted(first_day: int, charged: Sequence[Charge]) -> Fraction:
            days = {c.name: c.days_in(first_day, budget.days) for c in charged}
            return budget.spent({c.name: c.loss for c in charged if days[c.name]}, days)[0]

        past = (
            granted(day - budget.days + 1, charges) for day in range(self.first, self.today + 1)
        )
        return Room(budget, granted(self.today, self._standing(charges)), max(past))

    def _standing(self, charges: Iterable[Charge]) -> list[Charge]:
        """Return the charges of statistics that are in force today."""
        return [c for c in charges if c.name in self.statistics and c.on(self.today)]


def _added(losses: Sequence[tuple[Loss, int]]) -> Fraction:
    return sum((loss.epsilon * times for loss, times in losses), Fraction(0))


def _words(odometer: Odometer) -> str:
    whole = odometer.spends[0]
    if not whole.forecast:
        return f"Nothing is released in {odometer.month}, so nobody learns anything from it."
    day = float(max(odometer.rooms[0].largest_day, whole.each_day))
    month = whole.forecast_composed
    sentences = [
        "One day of one person: an attacker who holds a certain action of a person on a certain"
        " day for as likely as not, and then reads all releases, can become"
        f" {_sure(day)} of it (epsilon {day:.3g} for {UNIT}).",
        f"All of {odometer.month}, for a person active on every day: the same attacker, who asks"
        " about a habit that shows on all of these days, can become"
        f" {_sure(month.epsilon)} (epsilon {month.epsilon:.3g}"
        + (f" at delta {month.delta:g}" if month.delta else "")
        + f"; {float(whole.forecast):.3g} by addition).",
    ]
    if month.epsilon > 5:
        sentences.append(
            "This hardly protects habits of a whole month; each single day stays protected as"
            " stated above. For a guarantee over a month, divide the daily budget or register"
            " fewer statistics."
        )
    if not has_pld():
        sentences.append("Install tactful[accounting] for a tighter figure of the month.")
    return "\n".join(sentences)


def _sure(epsilon: float) -> str:
    share = 100 * largest_belief(epsilon)
    return "all but certain (above 99.9 %)" if share > 99.9 else f"at most {share:.0f} % sure"
