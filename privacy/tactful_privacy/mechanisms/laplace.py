"""Discrete Laplace noise from an exact integer table.

A mechanism on floats leaks through the low bits of its answers (Mironov, CCS 2012). This mechanism
has no floats: each noise value k has an integer weight, the operating system's entropy selects by
weight, and so the probability of every output is a known rational number. Its delta is therefore
*computed* from the sampled table.
"""

import os
from fractions import Fraction

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import Exact, exp_bounds, fraction
from tactful_privacy.mechanisms._table import BITS, MASS, MAX_EPSILON, TableNoise
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
