"""Life cycle of one user, from stored features and the fitted model.

::

    {"stage": "lapsing", "return_probability": 0.14, "horizon_days": 30, "visits": 3,
     "first_day": "2026-08-01", "last_day": "2026-09-15", "value": 61.5, "value_unit": "money",
     "calibrated": True, "brier": 0.17, "base_brier": 0.24, "reason": ""}

It is one feature more of a user, with the name :data:`NAME`, so conditions of flags, campaigns and
segments read it: ``{"lifecycle.stage": "lapsing", "lifecycle.value": {"$gte": 50}}``. Time
changes it without an event, so it is computed when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, Final

import msgspec
import numpy as np

from tactful.config.privacy import DAY_MS
from tactful.config.recommendation import LifecycleSettings
from tactful.lifecycle.model import ReturnModel, Visits
from tactful.lifecycle.stored import Fitted
from tactful.schemas.users import LifeCycle, Stage

NAME: Final = "lifecycle"
"""Name of the feature."""

DAYS: Final = "visit_days"
"""Feature with the days on which a user had an event: its newest time by day."""

SPENT: Final = "spent_728d"
"""Feature with the value of a user in money."""

NO_CONSENT = "consent does not allow to personalise"
NOT_COMPUTED = (
    f"the feature {DAYS} is not in features.yaml as it is packaged, or not computed from the log "
    "yet: run `tactful features backfill`"
)
NOT_FITTED = "no model is fitted yet"
BY_WORKERS = "workers compute the features of users, so the server fits no model"

_EPOCH = date(1970, 1, 1)


def life_cycle(
    features: Mapping[str, Any], at: int, fitted: Fitted | None, settings: LifecycleSettings
) -> LifeCycle:
    """Return the life cycle of a user.

    Args:
        features: stored features of the user with the shape of `lifecycle.sources`, without those
            that a backfill has to compute.
        at: time, epoch milliseconds; later events are ignored.
        fitted: the latest fit; None before the first.
        settings: thresholds of the stages.
    """
    unknown = LifeCycle(horizon_days=settings.horizon_days)
    if DAYS not in features:
        return msgspec.structs.replace(unknown, reason=NOT_COMPUTED)
    today = at // DAY_MS
    days = days_of(features[DAYS], today)
    if not days:
        return msgspec.structs.replace(unknown, reason="there is no event")
    priced = fitted is None or fitted.priced
    seen = msgspec.structs.replace(
        unknown,
        visits=len(days),
        first_day=_text(days[0]),
        last_day=_text(days[-1]),
        value=(features.get(SPENT) or 0.0) if priced else float(len(days)),
        value_unit="money" if priced else "visits",
    )
    if fitted is None or fitted.model is None:
        reason = NOT_FITTED if fitted is None else fitted.reason
        return msgspec.structs.replace(seen, reason=reason)
    probability, share = _return(fitted.model, days, today, fitted.horizon_days)
    return msgspec.structs.replace(
        seen,
        stage=_stage(len(days), share, settings),
        return_probability=probability,
        horizon_days=fitted.horizon_days,
        calibrated=fitted.calibrated,
        brier=fitted.brier,
        base_brier=fitted.base_brier,
    )


def days_of(stored: Iterable[str], today: int) -> list[int]:
    """Return days of the feature :data:`DAYS` until `today`, as days since the epoch, ascending."""
    return [day for day in sorted(map(day_number, stored)) if day <= today]


def day_number(text: str) -> int:
    """Return a day such as ``2026-08-01`` as days since the epoch."""
    return (date.fromisoformat(text) - _EPOCH).days


def _return(
    model: ReturnModel, days: list[int], today: int, horizon_days: int
) -> tuple[float, float]:
    """Return the probability of a return now, and its share of that just after the last visit."""
    recency = float(days[-1] - days[0])
    ages = np.array([today - days[0], recency])
    both = np.ones(2)
    visits = Visits(both * (len(days) - 1), both * recency, ages)
    now, fresh = model.returns(visits, horizon_days)
    return float(now), float(now / fresh)


def _stage(visits: int, share: float, settings: LifecycleSettings) -> Stage:
    if share < settings.lost_below:
        return "lost"
    if share < settings.lapsing_below:
        return "lapsing"
    return "new" if visits == 1 else "active"


def _text(day: int) -> str:
    return date.fromordinal(_EPOCH.toordinal() + day).isoformat()
