"""Discrete Laplace noise from an exact integer table.

A mechanism on floats leaks through the low bits of its answers (Mironov, CCS 2012). This mechanism
has no floats: each noise value k has an integer weight, the operating system's entropy selects by
weight, and so the probability of every output is a known rational number. Its delta is therefore
*computed* from the sampled table.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import Exact, exp_bounds, fraction
from tactful_privacy.mechanisms._table import (
    BITS,
    DEFAULT_CONFIDENCE,
    MASS,
    MAX_EPSILON,
    Table,
    TableNoise,
    open_share,
)
from tactful_privacy.mechanisms._table import Entropy as Entropy

MAX_SCALE = 100_000


def noise_scale(sensitivity: int, epsilon: Exact) -> Fraction:
    """Check the parameters of a `DiscreteLaplace` and return its scale."""
    return checked_scale(sensitivity, epsilon, largest=MAX_SCALE)


def checked_scale(sensitivity: int, epsilon: Exact, *, largest: int) -> Fraction:
    """Check sensitivity and epsilon and return their quotient, the scale.

    The sensitivity must be a positive integer, epsilon an exact number above 0 and at most 40, and
    the scale at most `largest`; else `ParameterError` is raised.
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
    if scale > largest:
        raise ParameterError(
            f"the noise scale sensitivity/epsilon is {float(scale):.0f}, above {largest}:"
            " lower the contribution cap or spend more epsilon"
        )
    return scale


def check_covered(epsilon: Exact, least: Fraction) -> None:
    """Check that an epsilon is not below that of the noise, nor above 40."""
    value = fraction(epsilon, "epsilon")
    if not least <= value <= MAX_EPSILON:
        raise ParameterError(
            f"epsilon is {value}: give {least}, the epsilon of this noise, up to {MAX_EPSILON}"
        )


class DiscreteLaplace(TableNoise):
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
    uncovered mass is d times the smallest weight for every spread of the d units over the cells.
    The worst case is the whole sensitivity in one cell; `delta` computes it.

    Assumed: the entropy source is a cryptographic one, and each draw is used once and not shown.

    Attributes:
        sensitivity: Largest L1 distance between the tables of two neighbouring data sets.
        epsilon: Privacy loss at that distance.
        scale: sensitivity / epsilon, the mean absolute size of the noise (roughly).

    Example:
        >>> noise = DiscreteLaplace(5, "1")
        >>> noise.interval("0.95")
        15
        >>> float(noise.delta("1")) < 1e-15
        True
    """

    def __init__(self, sensitivity: int, epsilon: Exact, *, entropy: Entropy = os.urandom) -> None:
        """Build the table.

        Args:
            sensitivity: L1 sensitivity, a positive integer.
            epsilon: Fraction, int, or text such as ``"0.1"``; floats are refused.
            entropy: ``entropy(n)`` returns n random bytes. Other sources than the operating
                system's are for tests only: a seeded source makes the noise predictable and the
                guarantee void.

        Raises:
            ParameterError: The sensitivity is not a positive integer, epsilon is not exact or is
                above 40, or the scale is above 100,000 (64 bits no longer resolve the tail).
        """
        self.scale = noise_scale(sensitivity, epsilon)
        self.sensitivity = sensitivity
        self.epsilon = fraction(epsilon, "epsilon")
        super().__init__(_weights(self.scale, sensitivity), entropy)

    def delta(self, epsilon: Exact) -> Fraction:
        """Return the smallest delta for which the table is (epsilon, delta)-private.

        Computes ``sum_k max(0, P(Z = k) - e^epsilon P(Z = k - sensitivity))``, the largest excess
        of any set of outputs (Dwork and Roth 2014, def. 2.4), in integers. e^epsilon is rounded
        down at 192 bits, so the result is never too small. The distribution is symmetric, so both
        directions give the same delta. For an epsilon below that of the table, the result holds
        for a change within one cell.
        """
        return self._table.excess(epsilon, self.sensitivity)


def _weights(scale: Fraction, sensitivity: int) -> list[int]:
    """Return the weights for k = 0, 1, ...; both sides together stay below 2^64."""
    one = 1 << BITS
    lower = exp_bounds(1 / scale, BITS)[0]
    ratio = -(-(one << BITS) // lower)  # e^(-1/scale), rounded up
    weights = [MASS * (one - ratio) // (one + ratio)]
    while (falling := -(-weights[-1] * ratio >> BITS)) < weights[-1]:
        weights.append(falling)
    return weights + [weights[-1]] * sensitivity


MAX_WIDE_SCALE = 10**9


class WideLaplace:
    """Discrete Laplace noise of any scale, from two small tables.

    Guarantee: as `DiscreteLaplace`, with L1 distance `sensitivity`, privacy loss `epsilon` and the
    computed ``delta(epsilon)``; `scale` is their quotient. One table of all values would grow with
    the scale, and 64 bits would no longer resolve its tail. The geometric distribution is
    memoryless, so a draw is the sum of a coarse and a fine one:

        |Z| = m * H + R      block H of width m, place R in 0..m-1

    Why: H is geometric, R a geometric variable cut off at m, and both are independent;
    a fair sign is added, and minus zero is drawn again (Canonne, Kamath, Steinke, NeurIPS 2020,
    alg. 2). The table of R falls by ``r[i+1] = ceil(r[i] * e^(-1/scale))``, and that of H by
    ``h[j+1] = ceil(h[j] * e^(-1/scale) * r[m-1] / r[0])``. So the step from the end of one block
    to the beginning of the next falls by no more than e^(-1/scale) either, *exactly*, for any
    rounding of R. H ends before a step would rise. So one unit costs at most 1/scale wherever both
    outputs are possible. For a change of d units, the mass of the last d values lies beyond the
    end. This mass is convex in d, so it is largest when the whole change falls on one cell, the
    case that `delta` computes.
    """

    def __init__(self, sensitivity: int, epsilon: Exact, *, entropy: Entropy = os.urandom) -> None:
        """Build the two tables.

        Args:
            sensitivity: L1 sensitivity, a positive integer.
            epsilon: Fraction, int, or text such as ``"0.1"``; floats are refused.
            entropy: See `DiscreteLaplace`.

        Raises:
            ParameterError: The sensitivity is not a positive integer, epsilon is not exact or is
                above 40, or the scale is below 1 or above a thousand million.
        """
        self.scale = checked_scale(sensitivity, epsilon, largest=MAX_WIDE_SCALE)
        if self.scale < 1:
            raise ParameterError(
                f"the noise scale is {float(self.scale):.3g}: below 1 use DiscreteLaplace"
            )
        self.sensitivity = sensitivity
        self.epsilon = fraction(epsilon, "epsilon")
        self._entropy = entropy
        ratio = -(-(1 << 2 * BITS) // exp_bounds(1 / self.scale, BITS)[0])  # rounded up
        self._block = 1 << math.ceil(math.log2(6 * math.sqrt(self.scale)))
        fine = _fine(ratio, self._block)
        self._fine = Table(fine, 0)
        self._coarse = Table(_coarse(ratio, fine), 0)
        # The mass of both signs, without minus zero.
        self._total = 2 * self._coarse.total * self._fine.total - self._weight(0)

    def probability(self, k: int) -> Fraction:
        """Return P(Z = k), exactly."""
        return Fraction(self._weight(abs(k)), self._total)

    def sample(self, n: int) -> NDArray[np.int64]:
        """Return n >= 0 fresh independent draws, shape ``[n]``."""
        size = self._coarse.sample(n, self._entropy) * self._block
        size += self._fine.sample(n, self._entropy)
        signs = np.frombuffer(self._entropy(-(-n // 8)), dtype=np.uint8)
        negative = np.unpackbits(signs)[:n].astype(bool)
        draws = np.where(negative, -size, size)
        repeated = np.flatnonzero(negative & (size == 0))
        if repeated.size:
            draws[repeated] = self.sample(repeated.size)
        return draws

    def delta(self, epsilon: Exact) -> Fraction:
        """Return a delta for which the noise is (epsilon, delta)-private.

        This is the uncovered mass at the end of the table. The epsilon is that of the noise or
        more, and at most 40.
        """
        check_covered(epsilon, self.epsilon)
        fine = self._fine.weights.tolist()
        blocks, rest = divmod(self.sensitivity, self._block)
        last = self._coarse.highest
        uncovered = sum(self._coarse.weight(last - j) for j in range(blocks)) * self._fine.total
        if rest:
            uncovered += self._coarse.weight(last - blocks) * sum(fine[-rest:])
        return Fraction(uncovered, self._total)

    @cached_property
    def variance(self) -> Fraction:
        """Variance of one draw, exactly."""
        h, r = self._coarse.weights.tolist(), self._fine.weights.tolist()
        h1, h2 = (sum(w * j**p for j, w in enumerate(h)) for p in (1, 2))
        r1, r2 = (sum(w * i**p for i, w in enumerate(r)) for p in (1, 2))
        m = self._block
        squares = m * m * h2 * self._fine.total + 2 * m * h1 * r1 + self._coarse.total * r2
        return Fraction(2 * squares, self._total)

    def interval(self, confidence: Exact = DEFAULT_CONFIDENCE) -> int:
        """Return the smallest h with P(|Z| <= h) >= confidence, exactly."""
        p = open_share(confidence, "confidence")
        # Mass needed on one side, zero included.
        needed = -(-(math.ceil(p * self._total) + self._weight(0)) // 2)
        coarse, fine = self._coarse.cumulative, self._fine.cumulative
        # First the block that contains the needed mass, then the place within the block.
        block = int(np.searchsorted(coarse, np.uint64(-(-needed // self._fine.total))))
        before = int(coarse[block - 1]) * self._fine.total if block else 0
        within = -(-(needed - before) // self._coarse.weight(block))
        return block * self._block + int(np.searchsorted(fine, np.uint64(within)))

    def _weight(self, size: int) -> int:
        block, rest = divmod(size, self._block)
        return self._coarse.weight(block) * self._fine.weight(rest)


def _fine(ratio: int, block: int) -> list[int]:
    """Return the weights of 0..block-1, each rounded up from the previous one."""
    weights = [MASS // block]
    for _ in range(block - 1):
        weights.append(-(-weights[-1] * ratio >> BITS))
    return weights


def _coarse(ratio: int, fine: list[int]) -> list[int]:
    """Return the weights of the blocks, up to the last falling step."""
    first, last = fine[0], fine[-1]
    # Ratio of successive blocks: e^(-1/scale) * last / first, rounded up.
    fall = -(-ratio * last // first)
    weights = [MASS * ((1 << BITS) - fall) >> BITS]
    while (falling := -(-weights[-1] * fall >> BITS)) * first <= weights[-1] * last:
        weights.append(falling)
    return weights
