"""What has been spent of one person's privacy this month, and what it will come to."""

import calendar
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tactful_privacy._exact import Exact, fraction
from tactful_privacy.accounting import DELTA, Composed, has_pld, largest_belief, tightest
from tactful_privacy.budget import ANY, UNIT, Budget, Charge, Loss
from tactful_privacy.ledger import Ledger

_EPOCH = datetime.date(1970, 1, 1)


@dataclass(frozen=True)
class Spend:
    """What a purpose of a tenant has cost somebody who was active on every day.

    Attributes:
        tenant: Whose people; ``*`` in the line of everything together.
        purpose: What for; ``*`` likewise.
        each_day: Epsilon that registered statistics take of each day from today on.
        days: Days of the month that something was released or asked about.
        spent: Epsilon of those days, added.
        spent_composed: The same by the tightest composition.
        forecast: Epsilon of the whole month, if nothing more is asked or registered, added.
        forecast_composed: The same by the tightest composition.
    """

    tenant: str
    purpose: str
    each_day: Fraction
    days: int
    spent: Fraction
    spent_composed: Composed
    forecast: Fraction
    forecast_composed: Composed


@dataclass(frozen=True)
class Room:
    """A budget, and what of it is left.

    Attributes:
        budget: The limit on each day, or on so many days in a row.
        taken: Epsilon that is reserved of each day from today on, or of so many days from today on.
        largest_day: Largest epsilon granted on a day of the month so far, or on so many days up to
            one of them.
    """

    budget: Budget
    taken: Fraction
    largest_day: Fraction


@dataclass(frozen=True)
class Odometer:
    """One month of a ledger.

    Attributes:
        month: Such as ``2026-03``.
        today: The day up to which is told, such as ``2026-03-17``.
        days_in_month: How many days the month has.
        delta: At which the composed figures hold.
        spends: Everything together first, then each tenant and purpose.
        rooms: Each budget, the one over everything first.
    """

    month: str
    today: str
    days_in_month: int
    delta: Fraction
    spends: tuple[Spend, ...]
    rooms: tuple[Room, ...]

    def in_words(self) -> str:
        """Say what the month means for one person, without jargon where it can be helped."""
        return _words(self)


def read_odometer(ledger: Ledger, *, today: int, delta: Exact = DELTA) -> Odometer:
    """Tell what a month has cost and will have cost.

    A statistic costs its whole loss on each day of which it has released anything, and a query on
    each day that it asks about. Both are about a person who is active on all of those days.

    Args:
        ledger: What was granted and released.
        today: UTC day, days since 1970-01-01; its month is told.
        delta: At which composed figures are to hold; where the deltas declared for the month add up
            to more, at their sum.
    """
    target = fraction(delta, "delta")
    date = _EPOCH + datetime.timedelta(days=today)
    length = calendar.monthrange(date.year, date.month)[1]
    first = today - date.day + 1
    last = first + length - 1
    charges = ledger.charges()
    released = ledger.released_days(first, last)
    statistics = ledger.statistics()

    def past(charge: Charge) -> set[int]:
        if charge.name in statistics:
            return {day for day in released.get(charge.name, []) if day <= today}
        return {day for day in range(first, last + 1) if charge.on(day)}

    def whole(charge: Charge) -> set[int]:
        coming = {day for day in range(today, last + 1) if charge.on(day)}
        return past(charge) | (coming if charge.name in statistics else set())

    # Below the sum of the declared deltas nothing could be said without knowing the mechanisms.
    declared = sum((c.loss.delta * len(whole(c)) for c in charges), Fraction(0))
    target = max(target, declared)

    def spend(tenant: str, purpose: str) -> Spend:
        line = Budget(Fraction(1), tenant=tenant, purpose=purpose)
        here = [charge for charge in charges if line.covers(charge.tenant, charge.purpose)]
        before = [(c.loss, len(past(c))) for c in here]
        all_of_it = [(c.loss, len(whole(c))) for c in here]
        return Spend(
            tenant=tenant,
            purpose=purpose,
            each_day=_added([(c.loss, 1) for c in here if c.name in statistics and c.on(today)]),
            days=len(set().union(*map(past, here))),
            spent=_added(before),
            spent_composed=tightest(before, delta=target),
            forecast=_added(all_of_it),
            forecast_composed=tightest(all_of_it, delta=target),
        )

    def room(budget: Budget) -> Room:
        here = [c for c in charges if budget.covers(c.tenant, c.purpose)]

        def granted(first_day: int, charged: Sequence[Charge]) -> Fraction:
            days = {c.name: c.days_in(first_day, budget.days) for c in charged}
            return budget.spent({c.name: c.loss for c in charged if days[c.name]}, days)[0]

        standing = [c for c in here if c.name in statistics and c.on(today)]
        past = (granted(day - budget.days + 1, here) for day in range(first, today + 1))
        return Room(budget, granted(today, standing), max(past))

    lines = sorted({(c.tenant, c.purpose) for c in charges})
    return Odometer(
        month=f"{date:%Y-%m}",
        today=date.isoformat(),
        days_in_month=length,
        delta=target,
        spends=(spend(ANY, ANY), *(spend(*line) for line in lines)),
        rooms=tuple(room(budget) for budget in ledger.budgets),
    )


def _added(losses: Sequence[tuple[Loss, int]]) -> Fraction:
    return sum((loss.epsilon * times for loss, times in losses), Fraction(0))


def _words(odometer: Odometer) -> str:
    whole = odometer.spends[0]
    if not whole.forecast:
        return f"Nothing is released in {odometer.month}, so nothing can be learnt from it."
    day = float(max(odometer.rooms[0].largest_day, whole.each_day))
    month = whole.forecast_composed
    sentences = [
        "One day of one person: whoever thinks it as likely as not that somebody did a certain"
        " thing on a certain day, and then sees everything that is released, can become"
        f" {_sure(day)} of it (epsilon {day:.3g} for {UNIT}).",
        f"All of {odometer.month}, for somebody active on every day of it: the same onlooker,"
        " asking about a habit that shows on all of these days, can become"
        f" {_sure(month.epsilon)} (epsilon {month.epsilon:.3g}"
        + (f" at delta {month.delta:g}" if month.delta else "")
        + f"; {float(whole.forecast):.3g} by addition).",
    ]
    if month.epsilon > 5:
        sentences.append(
            "That is no protection to speak of for what somebody does day after day; each single"
            " day stays protected as said. Who wants a promise for a month divides the daily"
            " budget, or registers less."
        )
    if not has_pld():
        sentences.append("With tactful[accounting] installed the month is composed more tightly.")
    return "\n".join(sentences)


def _sure(epsilon: float) -> str:
    share = 100 * largest_belief(epsilon)
    return "all but certain (above 99.9 %)" if share > 99.9 else f"at most {share:.0f} % sure"
