"""A private choice that is charged to the ledger and made once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.errors import LedgerError, ParameterError
from tactful_privacy.laplace import Entropy
from tactful_privacy.ledger import Ledger
from tactful_privacy.query import Query
from tactful_privacy.selection import permute_and_flip


def choose_once(
    ledger: Ledger,
    query: Query,
    scores: Callable[[], Sequence[int]],
    sensitivity: int,
    *,
    monotone: bool = False,
    entropy: Entropy = os.urandom,
) -> int:
    """Return the position of a high score, chosen with what the query is charged.

    Guarantee: pure `query.epsilon` for one user on each of the query's days, if no score moves by
    more than `sensitivity` when the contributions of one user and day are added or removed. The
    choice is by `permute_and_flip`; it is charged before it is made, and kept: asked again, the
    same position is returned and no score is looked at.

    Args:
        ledger: What is charged.
        query: What is asked, of which days, for how much.
        scores: Returns one integer for each option; called only when the answer is not stored.
        sensitivity: Most that one score moves.
        monotone: As of `permute_and_flip`.
        entropy: See `DiscreteLaplace`.

    Raises:
        BudgetError: A budget would be exceeded on one of the days.
        LedgerError: As of `Ledger.answer_once`.
        ParameterError: The query states a delta, which this choice does not need.
    """
    if query.delta:
        raise ParameterError(f"query {query.name!r}: a choice costs no delta, state none")

    def draw() -> NDArray[np.int64]:
        made = permute_and_flip(
            scores(), sensitivity, query.epsilon, monotone=monotone, entropy=entropy
        )
        return np.array([made.index], dtype=np.int64)

    answer = ledger.answer_once(query, draw)
    if answer.values is None or answer.values.shape != (1,):
        raise LedgerError(f"the answer of {query.name!r} is no choice: it belongs to another kind")
    return int(answer.values[0])
