"""What is compared between the arms of an experiment on lists, by name."""

from __future__ import annotations

from typing import Literal, NamedTuple

ROLLOUTS = "rollouts"
"""Property of a logged list: which rollouts its person takes part in, as ``key:arm``."""


class Metric(NamedTuple):
    """What is compared.

    Attributes:
        words: how a person would say it.
        better: which way it should go.
    """

    words: str
    better: Literal["higher", "lower"]


METRICS = {
    "taken_lists": Metric("share of lists from which something was taken", "higher"),
    "takers": Metric("share of people who took something from a list", "higher"),
    "revenue": Metric("spent on items of lists, each person", "higher"),
    "latency": Metric("milliseconds that a list took", "lower"),
}
