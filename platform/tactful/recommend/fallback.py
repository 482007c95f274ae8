"""Reasons why a recommendation is less than a personal list of full length."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tactful.metrics.registry import RecommendationKind
from tactful.schemas.recommendations import NOT_PERSONALISED, OVERLOADED, RecommendRequest

_RECENT_DAYS = 28  # of the window of popularity
_RECENT_MS = _RECENT_DAYS * 86_400_000

_KINDS: Mapping[str, RecommendationKind] = {
    NOT_PERSONALISED: "not_personal",
    OVERLOADED: "overloaded",
}


def kind_of(fallback: str | None) -> RecommendationKind:
    """Return the kind of a recommendation by its reason for being incomplete."""
    if fallback is None:
        return "complete"
    return _KINDS.get(fallback, "fallback")


def fallback_reason(
    request: RecommendRequest,
    count: int,  # number of items of the answer
    *,
    items: int,  # number of items of the catalogue
    trained: bool,  # whether a model serves
    known: bool,  # whether the user has a history
    cohorts: bool,  # whether an unknown user is in cohorts
    crossed: bool,  # whether the items follow from a profile that crossed
    quiet_since: int,  # time of the latest event if none is recent, epoch milliseconds, else 0
) -> str | None:
    """Return the reasons in one text; None for a personal list of full length."""
    if not count and not items:
        return "the catalogue is empty: send items with PUT /v1/items"
    reasons = []
    if not trained:
        reasons.append(
            "no model is trained yet: ordered by own repeats, similar visits and popularity"
        )
    if quiet_since:
        until = time.strftime("%Y-%m-%d %H:%M", time.gmtime(quiet_since / 1000))
        reasons.append(
            f"no event in the {_RECENT_DAYS} days before: events reach until {until} UTC; "
            '`as_of`: "last" answers for that time'
        )
    if request.subject is None and not request.items:
        reasons.append("no user is named: not personal")
    elif not known:
        by = "the cohorts of the user" if cohorts else "popularity"
        by = "a profile that crossed from another domain" if crossed else by
        reasons.append(f"this user has no history yet: ordered by {by}")
    if not request.candidates and count < request.count:
        reasons.append(
            f"only {count} items passed the filters and placement rules, or were found by any "
            "recall channel"
        )
    return "; ".join(reasons) or None


def quiet_since(latest: int, at: int) -> int:
    """Return the time of the latest event if it is not recent at the time `at`, else 0.

    Times are epoch milliseconds; `latest` is 0 while it is unknown.
    """
    return latest if 0 < latest < at - _RECENT_MS else 0
