"""Formats of numbers and sentences, the same on every page.

A missing number is an en dash. A negative number has a true minus sign.
"""

from __future__ import annotations

import re

from tactful_ui.components.words import text as _
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
    """Format a number with fixed decimals and thousands separators."""
    return MISSING if value is None else _minus(f"{value:,.{digits}f}")


def count(value: float | None) -> str:
    """Format a whole number with thousands separators."""
    return decimal(value, 0)


def percent(share: float | None, digits: int = 1) -> str:
    """Format a share of 0..1 as a percentage."""
    return MISSING if share is None else f"{decimal(100 * share, digits)} %"


def milliseconds(value: float | None) -> str:
    """Format a duration in milliseconds with about three figures."""
    if value is None:
        return MISSING
    return f"{decimal(value, 0 if value >= 100 else 1 if value >= 10 else 2)} ms"


def duration(seconds: float | None) -> str:
    """Format a duration in seconds, in its two largest units."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{decimal(seconds, 1)} s"
    minutes, remainder = divmod(round(seconds), 60)
    return (
        f"{minutes} min {remainder} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
    )


def estimate(value: Estimate | None, digits: int = 3) -> str:
    """Format a value with its interval in brackets."""
    if value is None:
        return MISSING
    if value.low is None or value.high is None:
        return decimal(value.value, digits)
    low, high = decimal(value.low, digits), decimal(value.high, digits)
    return f"{decimal(value.value, digits)} [{low}, {high}]"


def signed(value: float, digits: int = 3) -> str:
    """Format a difference with its sign, also a positive one."""
    text = decimal(value, digits)
    return text if text.startswith("−") else f"+{text}"


def plain(text: str) -> str:
    """Escape text from the server so that Markdown shows it literally.

    Only a bare web address still becomes a link, to the address shown.
    """
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|$~:])", r"\\\1", text)


def difference_sentence(experiment: Experiment) -> str:
    """Describe the difference between the arms, and whether it is conclusive."""
    gap = experiment.difference
    if gap is None:
        return "The difference between the arms has not been computed yet."
    text = f"The arms differ by {signed(100 * gap.value, 2)} percentage points in hit rate"
    if gap.low is None or gap.high is None:
        return f"{text}; no interval is given, so nothing can be concluded."
    text += f", 95 % interval {signed(100 * gap.low, 2)} to {signed(100 * gap.high, 2)}"
    if gap.low <= 0 <= gap.high:
        return f"{text}. The interval contains zero: the result is inconclusive."
    return f"{text}. The interval excludes zero: the arms differ."


def bars_sentence(statistics: Statistics) -> str:
    """Explain the error bars of a private statistic."""
    sentences = [
        _(
            "Each dot is a count plus random noise that was drawn once and then stored; the bar or "
            "band contains the count without noise in 95 of 100 cases."
        )
    ]
    if statistics.epsilon and statistics.cap:
        scale = decimal(statistics.cap / statistics.epsilon, 1)
        sentences.append(
            _(
                "The noise is discrete Laplace with scale {scale} (cap {cap} ÷ ε {epsilon}): "
                "enough to hide the contribution of one unit of privacy ({unit}).",
                scale=scale,
                cap=count(statistics.cap),
                epsilon=decimal(statistics.epsilon, 2),
                unit=plain(statistics.unit or "user"),
            )
        )
    sentences.append(_("Noise can make a small count negative."))
    return " ".join(sentences)


def _minus(text: str) -> str:
    return text.replace("-", "−") if text.strip("-0.,") else text.replace("-", "")
