"""Discrete Laplace noise from an exact integer table.

A mechanism on floats leaks through the low bits of its answers (Mironov, CCS 2012). This one has
no floats: each noise value k has an integer weight, the weights are drawn from with the operating
system's entropy, and so the probability of every output is a known rational number. What is
promised about privacy is therefore *computed* from the very table that is sampled.
"""

import math
import os
from collections.abc import Callable
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tactful_privacy._exact import Exact, exp_bounds, fraction
from tactful_privacy.errors import ParameterError

Entropy = Callable[[int], bytes]

MAX_SCALE = 100_000
MAX_EPSILON = 40

_BITS = 192
_REJECTED = 1 << 48
_UNDECIDED = np.iinfo(np.int32).min
_LARGEST_TRANSFORM = 1 << 25
_DEFAULT_CONFIDENCE = Fraction(95, 100)


def noise_scale(sensitivity: int, epsilon: Exact) -> Fraction:
    """Return sensitivity / epsilon, having checked both.

    Raises:
        ParameterError: As `DiscreteLaplace`.
    """
    if isinstance(sensitivity, bool) or not isinstance(sensitivity, int) or sensitivity < 1:
        raise ParameterError(f"sensitivity is {sensitivity!r}: give a positive integer")
    loss = fraction(epsilon, "epsilon")
    if not 0 < loss <= MAX_EPSILON:
        raise ParameterError(
            f"epsilon is {loss}: it must lie above 0 and at most {MAX_EPSILON},"
            " beyond which nothing is protected"
        )
    scale = sensitivity / loss
    if scale > MAX_SCALE:
        raise ParameterError(
            f"the noise scale sensitivity/epsilon is {float(scale):.0f}, above {MAX_SCALE}:"
            " lower the contribution cap or spend more epsilon"
        )
    return scale


class DiscreteLaplace:
    """Integer noise Z with P(Z = k) proportional to e^(-|k| epsilon / sensitivity).

    Guarantee: adding independent draws to every cell of an integer table gives a release that is
    (epsilon, delta)-indistinguishable for any two tables whose L1 distance is at most
    `sensitivity`, where ``delta(epsilon)`` is computed and is about
    ``sensitivity * scale / 2^64``: below 1e-15 while sensitivity * scale < 18,000.

    Why: the weights fall from the centre by ``w[k+1] = ceil(w[k] * e^(-1/scale))``. Neighbouring
    weights thus differ by a factor within [1, e^(1/scale)] *exactly*, so moving any cells by d
    units in all costs exactly d/scale <= epsilon wherever both outputs are possible (Ghosh,
    Roughgarden, Sundararajan, STOC 2009: the two-sided geometric mechanism). Only the end of the
    table is not covered. There the weights are constant for `sensitivity` further cells, so the
    uncovered mass is d times the smallest weight no matter how the d units are spread over the
    cells, and the worst case is the whole sensitivity in one cell, which is what
    `delta` computes.

    Assumed: the entropy source is a cryptographic one, and each draw is used once and not shown.

    Attributes:
        sensitivity: Largest L1 distance between the tables of two neighbouring data sets.
        epsilon: Privacy loss at that distance.
        scale: sensitivity / epsilon, the mean absolute size of the noise (roughly).
    """

    def __init__(self, sensitivity: int, epsilon: Exact, *, entropy: Entropy = os.urandom) -> None:
        """Build the table.

        Args:
            sensitivity: L1 sensitivity, a positive integer.
            epsilon: Fraction, int, or text such as ``"0.1"``; floats are refused.
            entropy: ``entropy(n)`` returns n random bytes. Anything but the operating system's
                is for tests only: a seeded source makes the noise known and the promise void.

        Raises:
            ParameterError: Not a positive integer or exact number, or the scale is above 100,000
                (beyond it 64 bits no longer resolve the tail), or epsilon above 40.
        """
        self.scale = noise_scale(sensitivity, epsilon)
        self.sensitivity = sensitivity
        self.epsilon = fraction(epsilon, "epsilon")
        self._entropy = entropy
        side = _weights(self.scale, sensitivity)
        self._largest = len(side) - 1
        weights = np.array(side[:0:-1] + side, dtype=np.uint64)
        self._cumulative = np.cumsum(weights, dtype=np.uint64)
        self._guide = _guide(self._cumulative, self._largest)

    @property
    def _total(self) -> int:
        return int(self._cumulative[-1])

    @property
    def _weight(self) -> NDArray[np.uint64]:
        """Weights for k = -largest..largest, read back from the table that is sampled."""
        return np.diff(self._cumulative, prepend=np.uint64(0))

    def probability(self, k: int) -> Fraction:
        """Return P(Z = k), exactly."""
        if abs(k) > self._largest:
            return Fraction(0)
        return Fraction(int(self._weight[k + self._largest]), self._total)

    def sample(self, n: int) -> NDArray[np.int64]:
        """Return n fresh independent draws, shape ``[n]``.

        The first 16 of a draw's 64 bits mostly decide its value already; the other 48 are fetched
        only where they do not. Draws beyond the sum of the weights (one in 65,536) are repeated.
        """
        prefix = np.frombuffer(self._entropy(2 * n), dtype="<u2")
        draws: NDArray[np.int64] = self._guide[prefix].astype(np.int64)
        undecided = np.flatnonzero(draws == _UNDECIDED)
        if undecided.size:
            rest = np.frombuffer(self._entropy(8 * undecided.size), dtype="<u8")
            bits = (prefix[undecided].astype(np.uint64) << np.uint64(48)) | (rest >> np.uint64(16))
            index = np.searchsorted(self._cumulative, bits, side="right")
            draws[undecided] = index - self._largest
            rejected = undecided[index == len(self._cumulative)]
            if rejected.size:
                draws[rejected] = self.sample(rejected.size)
        return draws

    def delta(self, epsilon: Exact) -> Fraction:
        """Return the smallest delta for which the table is (epsilon, delta)-private.

        ``sum_k max(0, P(Z = k) - e^epsilon P(Z = k - sensitivity))``, the largest excess of any
        set of outputs (Dwork and Roth 2014, def. 2.4), in integers. e^epsilon is rounded down at
        192 bits, so the result is never too small. The distribution is symmetric: both directions
        give the same. For an epsilon below the one the table was built for this is the figure of a
        change within one cell.
        """
        value = fraction(epsilon, "epsilon")
        if not 0 <= value <= MAX_EPSILON:
            raise ParameterError(f"epsilon is {value}: it must lie between 0 and {MAX_EPSILON}")
        factor = exp_bounds(value, _BITS)[0]
        weight = self._weight
        moved = np.zeros_like(weight)
        moved[self.sensitivity :] = weight[: -self.sensitivity]
        excess = 0
        for start in range(0, len(weight), 1 << 16):
            here = weight[start : start + (1 << 16)].tolist()
            there = moved[start : start + (1 << 16)].tolist()
            for w, m in zip(here, there, strict=True):
                excess += max(0, (w << _BITS) - factor * m)
        return Fraction(excess, self._total << _BITS)

    @cached_property
    def variance(self) -> Fraction:
        """Variance of one draw, exactly."""
        right = self._weight[self._largest :].tolist()
        return Fraction(2 * sum(w * k * k for k, w in enumerate(right)), self._total)

    def quantile(self, probability: Exact) -> int:
        """Return the smallest k with P(Z <= k) >= probability, exactly."""
        p = _probability(probability, "probability")
        return int(np.searchsorted(self._cumulative, self._share(p))) - self._largest

    def interval(self, confidence: Exact = _DEFAULT_CONFIDENCE) -> int:
        """Return the smallest h with P(|Z| <= h) >= confidence, exactly.

        A released value plus or minus h is then an interval of at least that confidence for the
        count before noise.
        """
        p = _probability(confidence, "confidence")
        c, k = self._cumulative, self._largest
        below = np.concatenate([c[:k][::-1], np.zeros(1, np.uint64)])
        return int(np.searchsorted(c[k:] - below, self._share(p)))

    def interval_of_sum(self, n: int, confidence: Exact = _DEFAULT_CONFIDENCE) -> int:
        """Return h with P(|Z_1 + ... + Z_n| <= h) >= confidence for independent draws.

        The n-fold convolution of the table by Fourier transform. Outside the transform's range
        lies at most 1e-12 (Chernoff bound from the table's own moments); the confidence is raised
        by more than the rounding error, so h is never too small and at most the next integer too
        large.

        Raises:
            ParameterError: n is below 1, the confidence is not below 1 - 1e-6, or the sum is too
                wide to be computed in memory.
        """
        if n < 1:
            raise ParameterError(f"a sum of {n} draws has no interval: give 1 or more")
        if n == 1:
            return self.interval(confidence)
        p = _probability(confidence, "confidence")
        margin = max(1e-9, n * 1e-14)
        if p > 1 - Fraction(1, 10**6):
            raise ParameterError(f"confidence {p} is too near 1 for a sum: at most 1 - 1e-6")
        mass = self._weight.astype(np.float64) / float(self._total)
        size = 1 << (2 * self._reach_of_sum(mass, n) + 1).bit_length()
        if size > _LARGEST_TRANSFORM:
            raise ParameterError(
                f"a sum of {n} draws of scale {float(self.scale):.0f} is too wide to be convolved:"
                " sum fewer values"
            )
        values = np.arange(-self._largest, self._largest + 1)
        circle = np.bincount(values % size, weights=mass, minlength=size)
        summed = np.fft.irfft(np.fft.rfft(circle).real ** n, size)
        inside = summed[0] + 2 * np.cumsum(summed[1 : size // 2])
        return int(np.searchsorted(np.append(summed[0], inside), float(p) + margin))

    def _reach_of_sum(self, mass: NDArray[np.float64], n: int) -> int:
        """Return R with P(|sum of n draws| > R) <= 1e-12, by Chernoff's bound."""
        values = np.arange(-self._largest, self._largest + 1)
        rates = [2.0**-i / max(1.0, float(self.scale)) for i in range(1, 16)]
        bounds = [
            (math.log(2e12) + n * math.log(float(mass @ np.cosh(rate * values)))) / rate
            for rate in rates
        ]
        return math.ceil(min(bounds))

    def _share(self, probability: Fraction) -> np.uint64:
        """Return the least integer mass that is at least this share of the whole table."""
        return np.uint64(math.ceil(probability * self._total))


def _probability(value: Exact, name: str) -> Fraction:
    p = fraction(value, name)
    if not 0 < p < 1:
        raise ParameterError(f"{name} is {p}: it must lie between 0 and 1")
    return p


def _weights(scale: Fraction, sensitivity: int) -> list[int]:
    """Return the weights for k = 0, 1, ... so that both sides together stay below 2^64."""
    one = 1 << _BITS
    lower = exp_bounds(1 / scale, _BITS)[0]
    ratio = -(-(one << _BITS) // lower)  # e^(-1/scale), rounded up
    weights = [((1 << 64) - _REJECTED) * (one - ratio) // (one + ratio)]
    while (falling := -(-weights[-1] * ratio >> _BITS)) < weights[-1]:
        weights.append(falling)
    return weights + [weights[-1]] * sensitivity


def _guide(cumulative: NDArray[np.uint64], largest: int) -> NDArray[np.int32]:
    """Return the value that each 16-bit prefix decides, or the mark of an undecided one."""
    first = np.arange(1 << 16, dtype=np.uint64) << np.uint64(48)
    last = first | np.uint64((1 << 48) - 1)
    low = np.searchsorted(cumulative, first, side="right")
    high = np.searchsorted(cumulative, last, side="right")
    decided = (low == high) & (low < len(cumulative))
    return np.where(decided, low - largest, _UNDECIDED).astype(np.int32)
