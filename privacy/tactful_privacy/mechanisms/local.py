"""Local differential privacy: reports are randomised on the device.

No server needs to be trusted with the true answers. The price is noise: in n reports at epsilon 1,
a count is uncertain by about the square root of n, while a trusted counter adds a few units. So use
this for answers that nobody should collect.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import Exact, clopper_pearson, exp_bounds, fraction
from tactful_privacy.mechanisms._table import (
    BITS,
    DEFAULT_CONFIDENCE,
    MASS,
    MAX_EPSILON,
    Entropy,
    Table,
    open_share,
)

MAX_CATEGORIES = 100_000

_WHOLE = 1 << 64


@dataclass(frozen=True, eq=False)
class Estimate:
    """Estimated number of people in each category."""

    # unbiased estimate for each category, ``[categories]``; may be negative
    counts: NDArray[np.float64]
    low: NDArray[np.float64]  # lower confidence limits, not below 0
    high: NDArray[np.float64]  # upper confidence limits, not above the number of reports
    confidence: float  # least probability that the limits of a category contain its count
    reports: int


class RandomizedResponse:
    """K-ary randomised response: the true answer with some probability, else another.

    Guarantee: pure epsilon-local differential privacy of one answer; the unit is one report, and
    reports of one person add up (k-ary randomised response: Warner 1965; Kairouz, Bonawitz, Ramage,
    ICML 2016). The true category weighs ``floor(w e^epsilon)`` where each other weighs w, in whole
    numbers that fill 64 bits, so no ratio of probabilities exceeds e^epsilon and delta is 0.

    OpenDP calls it ``make_randomized_response`` with ``prob=truth``. Best for few categories, below
    about 3 e^epsilon + 2; beyond, `OneHotReport` is more precise.

    Attributes:
        epsilon: Privacy loss of a report.
        truth: Probability of the true category.
        other: Probability of each other category.

    Example:
        >>> response = RandomizedResponse(categories=4, epsilon="1")
        >>> round(float(response.truth), 3), round(float(response.other), 3)
        (0.475, 0.175)
        >>> len(response.report([0, 2, 2]))
        3
    """

    def __init__(self, categories: int, epsilon: Exact, *, entropy: Entropy = os.urandom) -> None:
        """Choose the probabilities; `ParameterError` for a parameter out of range.

        Args:
            categories: Number of answers, 2 to 100,000, numbered 0, 1, ...
            epsilon: Exact; floats are refused.
            entropy: Entropy of the device; see `DiscreteLaplace`.
        """
        self.categories = _categories(categories)
        self.epsilon = _epsilon(epsilon)
        self._entropy = entropy
        lower, upper = exp_bounds(self.epsilon, BITS)
        weight = (MASS << BITS) // (upper + ((categories - 1) << BITS))
        # Distribution of (report - true category) modulo the number of categories.
        self._shift = Table([weight * lower >> BITS, *[weight] * (categories - 1)], 0)
        self.truth, self.other = self._shift.probability(0), self._shift.probability(1)

    @property
    def weights(self) -> dict[str, int | str]:
        """Weights for a device in another language: ``categories``, ``truth``, ``other``.

        The weights are whole numbers as text, since JSON readers round large numbers.
        `randomizedResponse` of the browser client takes them unchanged.
        """
        truth, other = (str(self._shift.weight(k)) for k in (0, 1))
        return {"categories": self.categories, "truth": truth, "other": other}

    def report(self, categories: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return one private report for each true category, ``[people]``."""
        true = _checked(categories, self.categories)
        return (true + self._shift.sample(len(true), self._entropy)) % self.categories

    def estimate(
        self, reports: Sequence[int] | NDArray[np.int64], confidence: Exact = DEFAULT_CONFIDENCE
    ) -> Estimate:
        """Estimate the number of people in each category.

        Args:
            reports: Reported categories, ``[people]``.
            confidence: Confidence of each category's interval, exact.

        Raises:
            ParameterError: There is no report, or a category is out of range.
        """
        counted = np.bincount(_checked(reports, self.categories), minlength=self.categories)
        return _estimate(counted, len(reports), self.truth, self.other, confidence)


class OneHotReport:
    """A row of randomised bits, one for each category.

    Guarantee: pure epsilon-local differential privacy of one row; the unit is one report, and
    reports of one person add up. A true category instead of another changes two bits. ``symmetric``
    flips each bit with the same probability, ``1 / (1 + e^(epsilon/2))``: basic RAPPOR (Erlingsson,
    Pihur, Korolova, CCS 2014), OpenDP's ``make_randomized_response_bitvec`` with ``f=2 *
    flipped``. ``optimized`` sets the true bit by a fair coin and the others with ``1 / (1 +
    e^epsilon)``, which has the least variance (Wang, Blocki, Li, Jha, USENIX Security 2017). The
    probabilities are multiples of 2^-64, rounded towards privacy, so delta is 0.

    Attributes:
        epsilon: Privacy loss of a report.
        kept: Probability that the bit of the true category is set.
        flipped: Probability that the bit of another category is set.
    """

    def __init__(
        self,
        categories: int,
        epsilon: Exact,
        *,
        kind: Literal["symmetric", "optimized"] = "optimized",
        entropy: Entropy = os.urandom,
    ) -> None:
        """Choose the probabilities; `ParameterError` for a parameter out of range.

        Args:
            categories: Number of bits, 2 to 100,000.
            epsilon: Exact; floats are refused.
            kind: ``symmetric`` or ``optimized``, see above.
            entropy: Entropy of the device; see `DiscreteLaplace`.
        """
        self.categories = _categories(categories)
        self.epsilon = _epsilon(epsilon)
        self._entropy = entropy
        if kind not in ("symmetric", "optimized"):
            raise ParameterError(f"kind is {kind!r}: give 'symmetric' or 'optimized'")
        loss = self.epsilon / 2 if kind == "symmetric" else self.epsilon
        lower = exp_bounds(loss, BITS)[0]
        self._other = -(-(_WHOLE << BITS) // ((1 << BITS) + lower))
        self._true = _WHOLE - self._other if kind == "symmetric" else _WHOLE // 2
        self.kept, self.flipped = Fraction(self._true, _WHOLE), Fraction(self._other, _WHOLE)

    def report(self, categories: Sequence[int] | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return one private row for each true category, ``[people, categories]``."""
        true = _checked(categories, self.categories)
        drawn = np.frombuffer(self._entropy(8 * len(true) * self.categories), dtype="<u8")
        drawn = drawn.reshape(len(true), self.categories)
        rows = drawn < np.uint64(self._other)
        people = np.arange(len(true))
        rows[people, true] = drawn[people, true] < np.uint64(self._true)
        return rows

    def estimate(
        self, set_bits: Sequence[int], reports: int, confidence: Exact = DEFAULT_CONFIDENCE
    ) -> Estimate:
        """Estimate the number of people in each category.

        Args:
            set_bits: Number of reports with each bit set, ``[categories]``.
            reports: Number of reports.
            confidence: Confidence of each category's interval, exact.

        Raises:
            ParameterError: There is no report, or a count exceeds the number of reports.
        """
        counted = np.asarray(set_bits)
        if counted.shape != (self.categories,) or not (
            (counted >= 0).all() and (counted <= reports).all()
        ):
            raise ParameterError(
                f"set_bits must be {self.categories} numbers between 0 and {reports}: the number of"
                " reports with each bit set"
            )
        return _estimate(counted, reports, self.kept, self.flipped, confidence)


def _estimate(
    counted: NDArray[np.int64], reports: int, true: Fraction, other: Fraction, confidence: Exact
) -> Estimate:
    """Remove the bias of randomised counts and of their confidence limits.

    A count is a sum of independent coins, of probability `true` for people of the category and
    `other` for the rest. Such a sum is no more spread than a binomial one of the same mean
    (Hoeffding, Annals of Mathematical Statistics 1956), so Clopper-Pearson limits of the mean hold.
    """
    if reports < 1:
        raise ParameterError("there is no report to estimate from")
    share = open_share(confidence, "confidence")
    limits = [clopper_pearson(int(c), reports, float(1 - share) / 2) for c in counted]
    low, high = np.array(limits).T
    p, q = float(true), float(other)

    def debiased(mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return reports * (mean - q) / (p - q)

    return Estimate(
        counts=debiased(counted / reports),
        low=np.clip(debiased(low), 0, reports),
        high=np.clip(debiased(high), 0, reports),
        confidence=float(share),
        reports=reports,
    )


def _checked(categories: Sequence[int] | NDArray[np.int64], number: int) -> NDArray[np.int64]:
    values = np.asarray(categories)
    if values.size == 0:
        return np.zeros(0, dtype=np.int64)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ParameterError("categories must be a sequence of integers")
    if values.min() < 0 or values.max() >= number:
        raise ParameterError(f"categories must lie between 0 and {number - 1}")
    return values.astype(np.int64)


def _categories(number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise ParameterError(f"categories is {number!r}: give an integer")
    if not 2 <= number <= MAX_CATEGORIES:
        raise ParameterError(f"categories is {number}: give 2 to {MAX_CATEGORIES:,}")
    return number


def _epsilon(value: Exact) -> Fraction:
    loss = fraction(value, "epsilon")
    if not 0 < loss <= MAX_EPSILON:
        raise ParameterError(f"epsilon is {loss}: it must lie above 0 and at most {MAX_EPSILON}")
    return loss
