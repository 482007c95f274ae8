"""Cost of the private release of an experiment's metrics."""

from __future__ import annotations

import msgspec


class ReleaseCost(msgspec.Struct, kw_only=True, frozen=True):
    """Cost of the private release of an experiment's metrics, before and while it is drawn.

    Attributes:
        key: of the experiment.
        epsilon: privacy loss of a person in all metrics, arms and days together; 0 if nothing is
            released.
        unit: whose loss it is.
        bound: largest contribution of a person, in words.
        metrics: loss of each released metric, by name.
        refused: reason by the name of a metric that is not released.
        days: days of exposures that were drawn, by metric.
        waiting: days of exposures that the next read-out draws, by metric.
        next_at: time at which the next day closes, by metric, epoch milliseconds.
        charged_days: UTC days of the ledger that the next read-out charges, by metric.
        reason: why nothing is released; empty otherwise.
    """

    key: str
    epsilon: float
    unit: str
    bound: str
    metrics: dict[str, float] = {}
    refused: dict[str, str] = {}
    days: dict[str, int] = {}
    waiting: dict[str, int] = {}
    next_at: dict[str, int] = {}
    charged_days: dict[str, int] = {}
    reason: str = ""
