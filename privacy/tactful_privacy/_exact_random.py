"""Single random decisions whose probabilities are exact."""

from __future__ import annotations

from fractions import Fraction

from tactful_privacy._table import Entropy


def uniform_below(limit: int, entropy: Entropy) -> int:
    """Return a uniform integer in [0, limit), for limit >= 1; what is too large is drawn again."""
    bits = (limit - 1).bit_length()
    while True:
        value = int.from_bytes(entropy(-(-bits // 8)), "little") & ((1 << bits) - 1)
        if value < limit:
            return value


def bernoulli(p: Fraction, entropy: Entropy) -> bool:
    """Return true with probability p, exactly."""
    return uniform_below(p.denominator, entropy) < p.numerator


def bernoulli_exp(x: Fraction, entropy: Entropy) -> bool:
    """Return true with probability e^-x, exactly, for x >= 0.

    Canonne, Kamath, Steinke, NeurIPS 2020, alg. 1: the first k at which a coin of probability x/k
    fails is odd with probability e^-x, for x <= 1; a larger x is a product of such.
    """
    while x > 1:
        if not bernoulli_exp(Fraction(1), entropy):
            return False
        x -= 1
    k = 1
    while bernoulli(x / k, entropy):
        k += 1
    return k % 2 == 1
