"""How numbers and sentences are written, the same on every page.

A number that is not there is an en dash. A negative number carries a true minus sign.
"""

from __future__ import annotations

import re
from datetime import datetime

from tactful_ui.report import Estimate, Experiment, Statistics

MISSING = "–"

METRIC_LABELS = {
    "hr20": "HR@20",
    "ndcg20": "NDCG@20",
    "mrr20": "MRR@20",
    "coverage20": "Coverage@20",
}

METRIC_MEANINGS = {
    "hr20": "share of questions answered among the 20 shown",
    "ndcg20": "hits weighted by their place, 0 to 1",
    "mrr20": "mean of 1 / place of the answer, 0 to 1",
    "coverage20": "share of the catalogue shown at least once",
}


def decimal(value: float | None, digits: int = 3) -> str:
    """A number with a fixed count of decimals, thousands apart."""
    return MISSING if value is None else _minus(f"{value:,.{digits}f}")


def count(value: float | None) -> str:
    """A whole number, thousands apart."""
    return decimal(value, 0)


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 0..1 as a percentage."""
    return MISSING if share is None else f"{decimal(100 * share, digits)} %"


def milliseconds(value: float | None) -> str:
    """A duration given in milliseconds, with about three figures."""
    if value is None:
        return MISSING
    return f"{decimal(value, 0 if value >= 100 else 1 if value >= 10 else 2)} ms"


def duration(seconds: float | None) -> str:
    """A duration given in seconds, in the two units that matter."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{decimal(seconds, 1)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(value: datetime | None) -> str:
    """A moment to the minute, in UTC."""
    return MISSING if value is None else f"{value:%Y-%m-%d %H:%M} UTC"


def estimate(value: Estimate | None, digits: int = 3) -> str:
    """A value with its interval in brackets."""
    if value is None:
        return MISSING
    if value.low is None or value.high is None:
        return decimal(value.value, digits)
    low, high = decimal(value.low, digits), decimal(value.high, digits)
    return f"{decimal(value.value, digits)} [{low}, {high}]"


def signed(value: float, digits: int = 3) -> str:
    """A difference, with its sign also where it is positive."""
    said = decimal(value, digits)
    return said if said.startswith("−") else f"+{said}"


def plain(text: str) -> str:
    """Text from the server as literal Markdown: what is written is what is shown, no markup.

    Only a bare web address still becomes a link, to the address that is read.
    """
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|$~:])", r"\\\1", text)


def difference_sentence(experiment: Experiment) -> str:
    """What the difference between the arms says, and whether it says anything."""
    gap = experiment.difference
    if gap is None:
        return "The difference between the arms has not been computed yet."
    said = f"The arms differ by {signed(100 * gap.value, 2)} percentage points in hit rate"
    if gap.low is None or gap.high is None:
        return f"{said}; no interval is given, so nothing can be concluded."
    said += f", 95 % interval {signed(100 * gap.low, 2)} to {signed(100 * gap.high, 2)}"
    if gap.low <= 0 <= gap.high:
        return f"{said}. The interval contains zero: inconclusive, which is a result too."
    return f"{said}. The interval leaves zero out: the arms differ."


def bars_sentence(statistics: Statistics) -> str:
    """What the error bars of a private statistic mean."""
    said = (
        "Each dot is a count plus random noise that was drawn once and then kept; the bar or band "
        "is the range that holds the count itself 95 times in 100."
    )
    if statistics.epsilon and statistics.cap:
        scale = decimal(statistics.cap / statistics.epsilon, 1)
        said += (
            f" The noise is discrete Laplace with scale {scale} (cap {count(statistics.cap)} ÷"
            f" ε {decimal(statistics.epsilon, 2)}): as much as it takes to hide whatever one unit"
            f" of privacy ({plain(statistics.unit or 'user')}) added."
        )
    return f"{said} A small count may come out below zero; that is the noise, not a mistake."


def _minus(text: str) -> str:
    return text.replace("-", "−") if text.strip("-0.,") else text.replace("-", "")
