"""Sample ratio mismatch: test whether the arms got their expected units.

A mismatch means that units were lost or added between assignment and analysis, differently in the
arms; no other number of the experiment is reliable then. Compare with
`tactful_bandits.Experiment.shares`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful_bandits.errors import StatisticsError
from tactful_privacy.lazy_imports import LazyModule

special = LazyModule("scipy.special")


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Result of the check at one look.

    Attributes:
        log_e_value: Natural logarithm of the evidence against the expected shares.
        fixed_horizon_p: Pearson's chi-square p-value, for one look planned beforehand.
        alpha: Probability of a false alarm over all looks.
    """

    log_e_value: float
    fixed_horizon_p: float
    alpha: float

    @property
    def mismatch(self) -> bool:
        """Whether this look raises the alarm; over all looks, one alarm is enough."""
        return self.log_e_value >= -math.log(self.alpha)


def check_sample_ratio(
    counts: Sequence[int],
    shares: Sequence[float],
    *,
    alpha: float = 0.001,
    concentration: float = 1000,
) -> SampleRatio:
    """Test the arms' units against expected shares, at any number of looks.

    The e-value is the Bayes factor of a Dirichlet mixture around the expected shares ``θ``, with
    parameters ``k θ``, against ``θ`` itself. Under ``θ`` it is a martingale that starts at 1, so
    by Ville's inequality it ever reaches ``1 / alpha`` with probability at most `alpha`.

    Args:
        counts: Units per arm so far; each unit counts once.
        shares: Expected share per arm, each above 0, summing to 1.
        alpha: Probability of a false alarm over all looks.
        concentration: ``k``: larger values detect smaller mismatches.

    Raises:
        StatisticsError: Lengths differ, counts are negative or not whole, shares are not above 0 or
            do not sum to 1.

    Source: Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data" (NeurIPS 2022),
    arXiv 2011.03567.
    """
    n = np.asarray(counts, dtype=np.float64)
    theta = np.asarray(shares, dtype=np.float64)
    _require_counts(n, theta)
    if not 0 < alpha < 1:
        raise StatisticsError(f"alpha must lie between 0 and 1, not {alpha}")
    if not 0 < concentration < math.inf:
        raise StatisticsError(f"concentration must be above 0, not {concentration}")
    prior = concentration * theta
    log_e_value = (
        special.gammaln(concentration)
        - special.gammaln(concentration + n.sum())
        + np.sum(special.gammaln(prior + n) - special.gammaln(prior) - n * np.log(theta))
    )
    return SampleRatio(float(log_e_value), _chi_square_p_value(n, theta), alpha)


def _chi_square_p_value(counts: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    expected = counts.sum() * shares
    if not expected.any():
        return 1.0
    statistic = np.sum((counts - expected) ** 2 / expected)
    return float(special.chdtrc(len(counts) - 1, statistic))


def _require_counts(counts: NDArray[np.float64], shares: NDArray[np.float64]) -> None:
    if counts.ndim != 1 or counts.shape != shares.shape or len(counts) < 2:
        raise StatisticsError(
            f"one count and one share per arm are needed, not {counts.shape} and {shares.shape}"
        )
    if not ((counts >= 0) & (counts == np.floor(counts)) & np.isfinite(counts)).all():
        raise StatisticsError(f"counts must be whole and not negative, not {counts.tolist()}")
    if not (np.all(shares > 0) and abs(shares.sum() - 1) <= 1e-6):
        raise StatisticsError(
            f"shares must be above 0 and sum to 1, not {shares.tolist()}; "
            "leave arms of weight 0 out"
        )
