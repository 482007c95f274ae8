"""Each day's cap, chosen once and kept in the ledger like everything that is published."""

from __future__ import annotations

import os

from tactful_privacy.bounding import BoundedCounts
from tactful_privacy.budget import date_of
from tactful_privacy.cap_choice import MECHANISM
from tactful_privacy.errors import LedgerError, ParameterError
from tactful_privacy.laplace import Entropy
from tactful_privacy.ledger import Ledger
from tactful_privacy.query import Query
from tactful_privacy.statistic import Statistic


def cap_query(statistic: Statistic, day: int) -> Query:
    """Return the question whose answer gives the cap of a UTC day: it is about the day before.

    Raises:
        ParameterError: The caps of this statistic are not chosen.
    """
    if statistic.cap_choice is None:
        raise ParameterError(f"the cap of {statistic.name!r} is fixed")
    return Query(
        name=f"{statistic.name}: cap of {date_of(day)}",
        first_day=day - 1,
        last_day=day - 1,
        epsilon=statistic.cap_choice.epsilon,
        tenant=statistic.tenant,
        purpose=statistic.purpose,
        mechanism=MECHANISM,
        within=statistic.name,
    )


def decide_cap(
    counts: BoundedCounts, ledger: Ledger, day: int, *, entropy: Entropy = os.urandom
) -> int:
    """Choose the cap of a day from the contributions of the day before, or read it if it is chosen.

    Guarantee: `CapChoice.epsilon` for one user and the day before; the statistic reserved it. The
    noisy histogram is in the ledger before the cap is used; after a crash the same cap comes out.

    Args:
        counts: Where the day is undecided.
        ledger: Where the statistic is registered.
        day: What `BoundedCounts.undecided` returned.
        entropy: See `DiscreteLaplace`.

    Returns:
        The cap.
    """
    statistic = counts.statistic
    query = cap_query(statistic, day)
    choice = statistic.cap_choice
    assert choice is not None  # or the query could not have been made
    answer = ledger.answer_once(query, lambda: choice.noisy(counts.contributions(day), entropy))
    if answer.values is None or len(answer.values) != len(choice.candidates):
        raise LedgerError(f"the answer of {query.name!r} is damaged: restore the ledger")
    cap = choice.cap(answer.values)
    counts.decide(day, cap)
    return cap


def chosen_caps(
    ledger: Ledger, statistic: Statistic, first_day: int, last_day: int
) -> dict[int, int]:
    """Return the cap of each UTC day in [first_day, last_day] whose cap was chosen.

    On other days it is the `cap` of the statistic.
    """
    choice = statistic.cap_choice
    if choice is None:
        return {}
    found = {}
    for answer in ledger.answers(first_day - 1, last_day - 1):
        day = answer.query.last_day + 1
        mine = answer.query.within == statistic.name and answer.values is not None
        if mine and answer.query == cap_query(statistic, day):
            found[day] = choice.cap(answer.values)  # type: ignore[arg-type]
    return found
