"""Exact numbers: parameters as fractions, e^x between two integers, confidence limits."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from tactful_privacy.errors import ParameterError

Exact = Fraction | str | int


def fraction(value: Exact, name: str) -> Fraction:
    """Convert an int, a fraction or text (``"0.1"``, ``"1/24"``) to a fraction.

    Anything else raises `ParameterError`, also a float: 0.1 is not one tenth.
    """
    if isinstance(value, bool) or not isinstance(value, Fraction | str | int):
        raise ParameterError(
            f"{name} is {value!r} ({type(value).__name__}): give an exact number, that is an int,"
            f' a Fraction, or text such as "0.1" or "1/24"'
        )
    try:
        return Fraction(value)
    except (ValueError, ZeroDivisionError) as error:
        raise ParameterError(f"{name} is {value!r}, which is not a number") from error


def decode_fraction(kind: type, value: Any) -> Fraction:
    """Decode a number that JSON holds as text; a ``dec_hook`` of msgspec."""
    assert kind is Fraction, f"no structure of this library has a field of {kind}"
    return fraction(value, "a number")


def exp_bounds(x: Fraction, bits: int) -> tuple[int, int]:
    """Bound e^x by integers, ``lower <= e^x * 2^bits <= upper``, for x >= 0.

    Taylor's series on ``x / 2^h < 1/2`` with every term rounded down, then h squarings, the lower
    bound rounded down and the upper bound up each time.
    """
    # Fixed-point numbers with `guard` fractional bits; 128 of them absorb the rounding errors.
    guard = bits + 128
    halvings = max(0, x.numerator.bit_length() - x.denominator.bit_length() + 2)
    numerator, denominator = x.numerator, x.denominator << halvings
    terms, term, lower = 0, 1 << guard, 0
    while term:
        lower += term
        terms += 1
        term = term * numerator // (denominator * terms)
    # Each term lost less than 2 to rounding, and the omitted tail is less than 4.
    upper = lower + 2 * terms + 4
    for _ in range(halvings):
        lower = lower * lower >> guard
        upper = -(-upper * upper >> guard)
    return lower >> 128, -(-upper >> 128)


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
