"""Exact confidence limits of a probability."""

from __future__ import annotations


def clopper_pearson(successes: int, trials: int, alpha: float) -> tuple[float, float]:
    """Return confidence limits, each wrong with probability at most alpha.

    Clopper and Pearson, Biometrika 1934: exact, from quantiles of the beta distribution.
    """
    # Imported late: publishing counts needs no statistics library.
    from scipy import special

    failures = trials - successes
    low = special.betaincinv(successes, failures + 1, alpha) if successes else 0.0
    high = special.betaincinv(successes + 1, failures, 1 - alpha) if failures else 1.0
    return float(low), float(high)
