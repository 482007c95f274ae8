"""Privacy budgets of one user and UTC day, and charges against them."""

import datetime
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tactful_privacy.errors import BudgetError, ParameterError
from tactful_privacy.mechanisms._exact import Exact, fraction

ANY = "*"
UNIT = "one user, one UTC day"
"""Unit of privacy of every release."""
DEFAULT_TENANT = "default"
DEFAULT_PURPOSE = "statistics"

MAX_DAYS = 400
"""Most days of one budget or query."""

Composition = Literal["basic", "zcdp"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ROUNDED_UP = 1 + 1e-12


@dataclass(frozen=True)
class Loss:
    """Privacy loss of one mechanism for one user and one UTC day."""

    epsilon: Fraction  # the mechanism is (epsilon, delta)-private
    # Declared delta, 0 for a pure mechanism. The computed delta of the noise tables (at most 1e-12
    # a statistic) comes on top.
    delta: Fraction = Fraction(0)
    # The mechanism is also rho-zCDP (Bun and Steinke, TCC 2016), like Gaussian noise; None: not
    # known. A pure mechanism is (epsilon^2 / 2)-zCDP (there, prop. 1.4).
    rho: Fraction | None = None
    # L1 sensitivity where the noise is discrete Laplace of scale sensitivity / epsilon; it makes
    # tight composition tighter. None: any mechanism.
    sensitivity: int | None = None

    def __post_init__(self) -> None:
        """Check and normalise."""
        object.__setattr__(self, "epsilon", fraction(self.epsilon, "epsilon"))
        object.__setattr__(self, "delta", fraction(self.delta, "delta"))
        if self.epsilon <= 0:
            raise ParameterError(f"epsilon is {self.epsilon}: it must be above 0")
        if not 0 <= self.delta < 1:
            raise ParameterError(f"delta is {self.delta}: it must lie in [0, 1)")
        if self.rho is not None:
            object.__setattr__(self, "rho", fraction(self.rho, "rho"))
            if self.rho <= 0:
                raise ParameterError(f"rho is {self.rho}: it must be above 0")

    def __str__(self) -> str:
        """Return the loss as text, such as ``epsilon 1, delta 1e-06``."""
        parts = [f"epsilon {self.epsilon}"]
        if self.delta:
            parts.append(f"delta {float(self.delta):g}")
        return ", ".join(parts)

    @property
    def zcdp(self) -> Fraction | None:
        """Rho of the mechanism under zCDP; None if not known."""
        if self.rho is not None:
            return self.rho
        return None if self.delta else self.epsilon**2 / 2


@dataclass(frozen=True)
class Budget:
    """Limit on the loss of one user and one UTC day, or several days in a row.

    A budget applies to all charges that its tenant and purpose match. All budgets of a ledger apply
    at once: a statistic is charged to every budget that matches it.

    Attributes:
        epsilon: Limit on epsilon.
        delta: Limit on delta. Under zCDP, the delta at which the limit on epsilon holds.
        tenant: Tenant of the users; ``*`` matches all.
        purpose: Purpose of the charge; ``*`` matches all.
        composition: ``basic`` adds up epsilons and deltas (Dwork and Roth 2014, th. 3.16).
            ``zcdp`` adds up rhos, and epsilon is ``rho + 2 sqrt(rho ln(1/delta))`` (Bun and
            Steinke, TCC 2016, prop. 1.3). Both hold for queries that depend on earlier answers
            (Rogers, Roth, Ullman, Vadhan, NIPS 2016; Feldman and Zrnic, NeurIPS 2021).
        days: The limit holds for any run of this many UTC days, for a user who is active on all of
            them: each day of each loss counts. Reserved loss counts whether or not it is released.

    Example:
        >>> Budget(Fraction(1), tenant="bakery").covers("bakery", "statistics")
        True
    """

    epsilon: Fraction
    delta: Fraction = Fraction(0)
    tenant: str = ANY
    purpose: str = ANY
    composition: Composition = "basic"
    days: int = 1

    def __post_init__(self) -> None:
        """Check and normalise."""
        object.__setattr__(self, "epsilon", fraction(self.epsilon, "epsilon"))
        object.__setattr__(self, "delta", fraction(self.delta, "delta"))
        for what, name in (("tenant", self.tenant), ("purpose", self.purpose)):
            if name != ANY:
                check_name(name, f"a budget's {what}")
        if self.epsilon <= 0:
            raise ParameterError(f"{self}: daily_epsilon is {self.epsilon}: it must be above 0")
        if not 0 <= self.delta < 1:
            raise ParameterError(f"{self}: delta is {self.delta}: it must lie in [0, 1)")
        if self.composition not in ("basic", "zcdp"):
            raise ParameterError(f"{self}: composition is {self.composition!r}: basic or zcdp")
        if type(self.days) is not int or not 1 <= self.days <= MAX_DAYS:
            raise ParameterError(f"{self}: days is {self.days!r}: give 1 to {MAX_DAYS}")
        if self.composition == "zcdp" and not self.delta:
            raise ParameterError(f"{self}: with zcdp give the delta at which epsilon is to hold")

    def __str__(self) -> str:
        """Name the budget by its tenant, purpose and days."""
        span = "" if self.days == 1 else f" of {self.days} days"
        if self.tenant == self.purpose == ANY:
            return f"the budget{span}"
        return f"the budget{span} of tenant {self.tenant!r}, purpose {self.purpose!r}"

    @property
    def unit(self) -> str:
        """Unit of privacy of the limit."""
        return UNIT if self.days == 1 else f"one user, any {self.days} UTC days in a row"

    @property
    def key(self) -> tuple[str, str, int]:
        """Tenant, purpose and days; a ledger has one budget for each combination."""
        return self.tenant, self.purpose, self.days

    def covers(self, tenant: str, purpose: str) -> bool:
        """Whether a charge of this tenant and purpose counts against the budget."""
        return self.tenant in (ANY, tenant) and self.purpose in (ANY, purpose)

    def spent(
        self, losses: Mapping[str, Loss], days: Mapping[str, int] | None = None
    ) -> tuple[Fraction, Fraction]:
        """Return the composed (epsilon, delta) of losses by name, never too small.

        Each loss counts for its number of days; one if None. Under zCDP, a loss without a known rho
        raises `BudgetError`.
        """
        times = {name: 1 if days is None else days[name] for name in losses}
        if self.composition == "basic":
            return (
                sum((loss.epsilon * times[name] for name, loss in losses.items()), Fraction(0)),
                sum((loss.delta * times[name] for name, loss in losses.items()), Fraction(0)),
            )
        rho = Fraction(0)
        for name, loss in losses.items():
            if loss.zcdp is None:
                raise BudgetError(
                    f"{name!r} is ({loss.epsilon}, {loss.delta})-private, but not known to be zCDP,"
                    f" the composition of {self}: state its rho"
                )
            rho += loss.zcdp * times[name]
        return Fraction(epsilon_of_zcdp(rho, self.delta)), self.delta if rho else Fraction(0)

    def refuse_more_than_fits(
        self,
        taken: Mapping[str, Loss],
        asked: Mapping[str, Loss],
        when: str,
        days: Mapping[str, int] | None = None,
    ) -> None:
        """Raise `BudgetError` if new losses together with granted ones exceed the limit.

        Losses and numbers of days are by name, as for `spent`. The message lists the losses, and
        says `when` they are taken.
        """
        epsilon, delta = self.spent({**taken, **asked}, days)
        if epsilon <= self.epsilon and delta <= self.delta:
            return
        limit = f"epsilon {self.epsilon}" + (f", delta {float(self.delta):g}" if self.delta else "")
        raise BudgetError(
            f"{self} is {limit} for {self.unit}: {_listed(asked)} more {when} would make it"
            f" epsilon {_number(epsilon)}" + (f", delta {float(delta):g}" if delta else "") + ";"
            f" taken before: {_listed(taken) or 'nothing'}."
            " Lower an epsilon, or remove a statistic or query"
        )


def epsilon_of_zcdp(rho: Fraction, delta: Fraction) -> float:
    """Return an epsilon for which rho-zCDP implies (epsilon, delta), rounded up.

    ``rho + 2 sqrt(rho ln(1/delta))`` (Bun and Steinke, TCC 2016, prop. 1.3).
    """
    return (float(rho) + 2 * math.sqrt(float(rho) * -math.log(float(delta)))) * _ROUNDED_UP


def check_name(name: str, what: str) -> None:
    """Raise `ParameterError` unless the text is a valid name of a tenant or purpose."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ParameterError(
            f"{what} is {name!r}: give 1 to 64 of a-z, 0-9, '.', '_' and '-',"
            " beginning with a letter or digit"
        )


def _listed(losses: Mapping[str, Loss]) -> str:
    return ", ".join(f"{name!r} costs {losses[name]}" for name in sorted(losses))


def _number(value: Fraction) -> str:
    return str(value) if value.denominator < 10**6 else f"{float(value):.6g}"


def total_budget(daily_epsilon: Exact) -> Budget:
    """Return the budget over everything."""
    return Budget(fraction(daily_epsilon, "daily_epsilon"))


@dataclass(frozen=True)
class Charge:
    """Loss charged to the budgets on each day of a span.

    Example: ``Charge("views.hourly", "default", "statistics", 0, 2**62, Loss(1))`` charges epsilon
    1 on every day from 1970-01-01 on, without end.

    Attributes:
        name: Name of the statistic or query.
        tenant: Tenant of the users.
        purpose: Purpose of the charge.
        first_day: First UTC day, days since 1970-01-01.
        last_day: Last UTC day.
        loss: Loss on each day.
    """

    name: str
    tenant: str
    purpose: str
    first_day: int
    last_day: int
    loss: Loss

    def on(self, day: int) -> bool:
        """Whether the charge applies on a day."""
        return self.first_day <= day <= self.last_day

    def days_in(self, first_day: int, days: int) -> int:
        """Count the days of a run on which the charge applies."""
        last_day = min(self.last_day, first_day + days - 1)
        return max(0, last_day - max(self.first_day, first_day) + 1)


def refuse_overspending(
    budgets: Iterable[Budget], taken: Sequence[Charge], asked: Sequence[Charge]
) -> None:
    """Raise `BudgetError` unless new charges fit all budgets on all of their days.

    The message names the day and lists the charges.
    """
    for budget in budgets:
        new = [charge for charge in asked if budget.covers(charge.tenant, charge.purpose)]
        if not new:
            continue
        granted = [charge for charge in taken if budget.covers(charge.tenant, charge.purpose)]
        if budget.days > 1:
            _refuse_days_in_a_row(budget, granted, new)
            continue
        first = min(charge.first_day for charge in new)
        last = max(charge.last_day for charge in new)
        # The sum rises only on a day on which a charge begins, so only these days are checked.
        days = {first} | {c.first_day for c in (*new, *granted) if first < c.first_day <= last}
        for day in sorted(days):
            budget.refuse_more_than_fits(
                {charge.name: charge.loss for charge in granted if charge.on(day)},
                {charge.name: charge.loss for charge in new if charge.on(day)},
                _span(day, last),
            )


def _refuse_days_in_a_row(budget: Budget, taken: Sequence[Charge], asked: Sequence[Charge]) -> None:
    """Raise an error unless every run of days that includes a new charge fits.

    The loss of a run is piecewise linear in its first day. So it is largest at the first or last
    possible run, or where a charge begins or ends together with the run.
    """
    length = budget.days
    first = min(charge.first_day for charge in asked) - length + 1
    last = max(charge.last_day for charge in asked)
    turns = {turn for c in (*taken, *asked) for turn in (c.first_day, c.last_day - length + 1)}
    for day in sorted({first, last} | {turn for turn in turns if first < turn < last}):
        days = {c.name: c.days_in(day, length) for c in (*taken, *asked)}
        if not any(days[c.name] for c in asked):
            continue
        budget.refuse_more_than_fits(
            {c.name: c.loss for c in taken if days[c.name]},
            {c.name: c.loss for c in asked if days[c.name]},
            f"a day, on {max(days[c.name] for c in asked)} of the {length} days from"
            f" {date_of(day)} on,",
            days,
        )


def _span(day: int, last: int) -> str:
    if date_of(last).startswith("day"):  # without end
        return f"every day from {date_of(day)} on" if day else "every day"
    return f"on {date_of(day)}"


def date_of(day: int) -> str:
    """Return a UTC day as text, such as ``2026-03-01``."""
    try:
        return (datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat()
    except OverflowError:
        return f"day {day}"
