"""Metrics that are compared between the arms of an experiment, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from tactful_streaming.contract.log_entries import Event

ROLLOUTS = "rollouts"
"""Property of a logged recommendation: the rollouts of its user, as `key:arm`."""

LARGEST_AMOUNT = 1e9
"""Largest amount of money in one event; the square of a larger one would drown all others."""


class Metric(NamedTuple):
    """A metric."""

    words: str  # description in plain words
    better: Literal["higher", "lower"]  # the desired direction
    # Relative loss to exclude before every user gets a change; None of what the control never has
    smallest_loss: float | None = 0.2


METRICS = {
    "taken_lists": Metric("share of lists from which something was taken", "higher"),
    "takers": Metric("share of people who took something from a list", "higher"),
    "revenue": Metric("spent on items of lists, each person", "higher"),
    "latency": Metric("milliseconds that a list took", "lower"),
    "errors": Metric("share of people with a list that its model failed to rank", "lower", None),
    "anomalies": Metric("share of people with a list whose scores order nothing", "lower", None),
}


def number_of(event: Event, name: str, default: float = 0.0) -> float:
    """Return a property as a number; `default` where it is none."""
    value = event.properties.get(name, default)
    return float(value) if isinstance(value, int | float) else default


def spent_in(event: Event) -> float:
    """Return the cost of a purchase; 0 if it is negative or above `LARGEST_AMOUNT`.

    Any client can send such amounts.
    """
    amount = number_of(event, "price") * number_of(event, "quantity", 1.0)
    return amount if 0 <= amount <= LARGEST_AMOUNT else 0.0
