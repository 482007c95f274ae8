"""Daily caps, chosen once and kept in the ledger."""

from __future__ import annotations

import os

from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.errors import LedgerError, ParameterError
from tactful_privacy.ledger.budget import date_of
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.query import Query
from tactful_privacy.ledger.statistic import CAP_MECHANISM, Statistic
from tactful_privacy.mechanisms._table import Entropy


def cap_query(statistic: Statistic, day: int) -> Query:
    """Return the query whose answer about the day before gives the cap of a UTC day."""
    if statistic.cap_choice is None:
        raise ParameterError(f"the cap of {statistic.name!r} is fixed")
    return Query(
        name=f"{statistic.name}: cap of {date_of(day)}",
        first_day=day - 1,
        last_day=day - 1,
        epsilon=statistic.cap_choice.epsilon,
        tenant=statistic.tenant,
        purpose=statistic.purpose,
        mechanism=CAP_MECHANISM,
        within=statistic.name,
    )


def decide_cap(
    counts: BoundedCounts, ledger: Ledger, day: int, *, entropy: Entropy = os.urandom
) -> int:
    """Choose the cap of an undecided day from the contributions of the day before, at most once.

    Guarantee: `CapChoice.epsilon` for one user and the day before; the statistic reserved it. The
    noisy histogram is in the ledger before the cap is used; after a crash the same cap results.
    """
    statistic = counts.statistic
    query = cap_query(statistic, day)
    choice = statistic.cap_choice
    assert choice is not None  # checked by cap_query
    answer = ledger.answer_once(query, lambda: choice.noisy(counts.contributions(day), entropy))
    if answer.values is None or len(answer.values) != len(choice.candidates):
        raise LedgerError(f"the answer of {query.name!r} is damaged: restore the ledger")
    cap = choice.cap(answer.values)
    counts.decide(day, cap)
    return cap


def chosen_caps(
    ledger: Ledger, statistic: Statistic, first_day: int, last_day: int
) -> dict[int, int]:
    """Return the chosen caps of UTC days; other days have the `cap` of the statistic."""
    choice = statistic.cap_choice
    if choice is None:
        return {}
    caps = {}
    for answer in ledger.answers(first_day - 1, last_day - 1):
        day = answer.query.last_day + 1
        if answer.values is None or answer.query.within != statistic.name:
            continue
        if answer.query == cap_query(statistic, day):
            caps[day] = choice.cap(answer.values)
    return caps
