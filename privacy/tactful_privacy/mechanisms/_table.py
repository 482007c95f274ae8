"""Random integers drawn from tables of integer weights, with exact probabilities.

value       -2  -1   0   1   2
weight       1   4   8   4   1     total 18: P(X = 0) = 8/18
cumulative   1   5  13  17  18     a uniform integer below 18 selects the value
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import Exact, exp_bounds, fraction

Entropy = Callable[[int], bytes]

BITS = 192
MASS = (1 << 64) - (1 << 48)
"""Largest sum of the weights of a table: one in 65,536 of the 64-bit draws is repeated."""

MAX_EPSILON = 40
DEFAULT_CONFIDENCE = Fraction(95, 100)

_UNDECIDED = np.iinfo(np.int32).min
_LARGEST_TRANSFORM = 1 << 25


class Table:
    """The distribution P(X = lowest + i) = weights[i] / total, sampled exactly.

    The total is below 2^64; `cumulative` holds the running sums of weights, uint64 ``[values]``.
    """

    def __init__(self, weights: Sequence[int], lowest: int) -> None:
        """Build from positive weights that sum to less than 2^64."""
        self.lowest = lowest
        self.highest = lowest + len(weights) - 1
        self.cumulative = np.cumsum(np.array(weights, dtype=np.uint64), dtype=np.uint64)
        self.total = int(self.cumulative[-1])
        self._guide = _guide(self.cumulative, lowest)

    @property
    def weights(self) -> NDArray[np.uint64]:
        """The weights, computed from the cumulative sums used for sampling."""
        return np.diff(self.cumulative, prepend=np.uint64(0))

    def weight(self, k: int) -> int:
        """Return the weight of one value, 0 outside the table."""
        index = k - self.lowest
        if not 0 <= index < len(self.cumulative):
            return 0
        return int(self.cumulative[index]) - (int(self.cumulative[index - 1]) if index else 0)

    def probability(self, k: int) -> Fraction:
        """Return P(X = k)."""
        return Fraction(self.weight(k), self.total)

    def sample(self, n: int, entropy: Entropy) -> NDArray[np.int64]:
        """Return n >= 0 independent draws, ``[n]``.

        The first 16 of a draw's 64 bits usually decide its value; the other 48 bits are fetched
        only if needed. Draws beyond the sum of the weights are repeated.
        """
        if n < 0:
            raise ParameterError(f"n is {n}: give 0 or more draws")
        prefix = np.frombuffer(entropy(2 * n), dtype="<u2")
        draws: NDArray[np.int64] = self._guide[prefix].astype(np.int64)
        undecided = np.flatnonzero(draws == _UNDECIDED)
        if undecided.size:
            rest = np.frombuffer(entropy(8 * undecided.size), dtype="<u8")
            bits = (prefix[undecided].astype(np.uint64) << np.uint64(48)) | (rest >> np.uint64(16))
            index = np.searchsorted(self.cumulative, bits, side="right")
            draws[undecided] = index + self.lowest
            rejected = undecided[index == len(self.cumulative)]
            if rejected.size:
                draws[rejected] = self.sample(rejected.size, entropy)
        return draws

    def excess(self, epsilon: Exact, shift: int) -> Fraction:
        """Return sum_k max(0, P(X = k) - e^epsilon P(X = k - shift)) for an epsilon in [0, 40].

        The largest amount by which any set of outputs breaks e^epsilon between two values that are
        `shift` apart (Dwork and Roth 2014, def. 2.4). e^epsilon is rounded down at 192 bits, so the
        result is never too small.
        """
        value = fraction(epsilon, "epsilon")
        if not 0 <= value <= MAX_EPSILON:
            raise ParameterError(f"epsilon is {value}: it must lie between 0 and {MAX_EPSILON}")
        factor = exp_bounds(value, BITS)[0]
        # moved[i] is the weight of lowest + i - shift; Python integers from here on, in chunks,
        # because the products have more than 64 bits.
        weight = self.weights
        moved = np.zeros_like(weight)
        size = max(0, len(weight) - abs(shift))
        moved[max(0, shift) :][:size] = weight[max(0, -shift) :][:size]
        excess = 0
        for start in range(0, len(weight), 1 << 16):
            chunk = slice(start, start + (1 << 16))
            for w, m in zip(weight[chunk].tolist(), moved[chunk].tolist(), strict=True):
                excess += max(0, (w << BITS) - factor * m)
        return Fraction(excess, self.total << BITS)


class TableNoise:
    """Integer noise from a table that is symmetric around zero.

    `DiscreteLaplace` and `DiscreteGaussian` document their guarantees.
    """

    def __init__(self, side: Sequence[int], entropy: Entropy) -> None:
        """Build from the weights of 0, 1, 2, ..., also used for -1, -2, ..."""
        self._table = Table([*side[:0:-1], *side], -(len(side) - 1))
        self._entropy = entropy

    def probability(self, k: int) -> Fraction:
        """Return P(Z = k), exactly."""
        return self._table.probability(k)

    def sample(self, n: int) -> NDArray[np.int64]:
        """Return n >= 0 fresh independent draws, shape ``[n]``."""
        return self._table.sample(n, self._entropy)

    @cached_property
    def variance(self) -> Fraction:
        """Variance of one draw, exactly."""
        right = self._table.weights[self._table.highest :].tolist()
        return Fraction(2 * sum(w * k * k for k, w in enumerate(right)), self._table.total)

    def quantile(self, probability: Exact) -> int:
        """Return the smallest k with P(Z <= k) >= probability, exactly."""
        p = open_share(probability, "probability")
        return int(np.searchsorted(self._table.cumulative, self._share(p))) + self._table.lowest

    def interval(self, confidence: Exact = DEFAULT_CONFIDENCE) -> int:
        """Return the smallest h with P(|Z| <= h) >= confidence, exactly.

        A released value plus or minus h is then an interval of at least that confidence for the
        count before noise.
        """
        p = open_share(confidence, "confidence")
        # P(|Z| <= h) is cumulative[h] - cumulative[-h - 1], counted from the centre k.
        c, k = self._table.cumulative, self._table.highest
        below = np.concatenate([c[:k][::-1], np.zeros(1, np.uint64)])
        return int(np.searchsorted(c[k:] - below, self._share(p)))

    def interval_of_sum(self, n: int, confidence: Exact = DEFAULT_CONFIDENCE) -> int:
        """Return h with P(|Z_1 + ... + Z_n| <= h) >= confidence for independent draws.

        Computed by n-fold convolution of the table with a Fourier transform. The mass outside the
        transform's range is at most 1e-12 (Chernoff bound from the table's own moments). The
        confidence, below 1 - 1e-6, is raised by more than the rounding error, so h is never too
        small and at most the next integer too large. A sum too wide to be computed in memory raises
        `ParameterError`.
        """
        if n < 1:
            raise ParameterError(f"a sum of {n} draws has no interval: give 1 or more")
        if n == 1:
            return self.interval(confidence)
        p = open_share(confidence, "confidence")
        margin = max(1e-9, n * 1e-14)
        if p > 1 - Fraction(1, 10**6):
            raise ParameterError(f"confidence {p} is too near 1 for a sum: at most 1 - 1e-6")
        summed = self.mass_of_sum(n)
        middle = len(summed) // 2
        inside = summed[middle] + 2 * np.cumsum(summed[middle + 1 :])
        return int(np.searchsorted(np.append(summed[middle], inside), float(p) + margin))

    def mass_of_sum(self, n: int) -> NDArray[np.float64]:
        """Return P(Z_1 + ... + Z_n = k) for k = -R..R, where P(|sum| > R) <= 1e-12.

        The error of each probability is about 1e-14 n at most. A sum too wide to be computed in
        memory raises `ParameterError`.
        """
        if n < 0:
            raise ParameterError(f"a sum of {n} draws: give 0 or more")
        if n == 0:
            return np.ones(1)
        mass = self._table.weights.astype(np.float64) / float(self._table.total)
        reach = self._reach_of_sum(mass, n)
        size = 1 << (2 * reach + 1).bit_length()
        if size > _LARGEST_TRANSFORM:
            raise ParameterError(
                f"a sum of {n} draws of standard deviation {float(self.variance) ** 0.5:.0f} is too"
                " wide to be convolved: sum fewer values"
            )
        # The convolution is cyclic: values beyond the transform's size wrap around, with a mass of
        # at most 1e-12. The distribution is symmetric, so its transform is real.
        values = np.arange(self._table.lowest, self._table.highest + 1)
        circle = np.bincount(values % size, weights=mass, minlength=size)
        right = np.fft.irfft(np.fft.rfft(circle).real ** n, size)[: reach + 1].clip(min=0)
        return np.concatenate([right[:0:-1], right])

    def _reach_of_sum(self, mass: NDArray[np.float64], n: int) -> int:
        """Return R with P(|sum of n draws| > R) <= 1e-12, by Chernoff's bound."""
        values = np.arange(self._table.lowest, self._table.highest + 1)
        deviation = max(1.0, float(self.variance) ** 0.5)
        bounds: list[float] = [
            (math.log(2e12) + n * math.log(float(mass @ np.cosh(rate * values)))) / rate
            for rate in (2.0**-i / deviation for i in range(-3, 16))
        ]
        return math.ceil(min(bounds))

    def _share(self, probability: Fraction) -> np.uint64:
        """Return the smallest integer mass of at least this share of the table."""
        return np.uint64(math.ceil(probability * self._table.total))


def open_share(value: Exact, name: str) -> Fraction:
    """Check that a number lies strictly between 0 and 1; messages call it `name`."""
    p = fraction(value, name)
    if not 0 < p < 1:
        raise ParameterError(f"{name} is {p}: it must lie between 0 and 1")
    return p


def _guide(cumulative: NDArray[np.uint64], lowest: int) -> NDArray[np.int32]:
    """Return the value of each 16-bit prefix, or `_UNDECIDED`, ``[65536]``."""
    # A prefix decides if its smallest and largest 64-bit number select the same value.
    first = np.arange(1 << 16, dtype=np.uint64) << np.uint64(48)
    last = first | np.uint64((1 << 48) - 1)
    low = np.searchsorted(cumulative, first, side="right")
    high = np.searchsorted(cumulative, last, side="right")
    decided = (low == high) & (low < len(cumulative))
    return np.where(decided, low + lowest, _UNDECIDED).astype(np.int32)
