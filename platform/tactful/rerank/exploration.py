"""Exploration: draw some of the order at random, with known probabilities.

The next item is drawn with probability proportional to `exp(value / temperature)`, by the largest
of `value / temperature` plus Gumbel noise: for values that do not change this is Gumbel top-k,
that is the Plackett-Luce distribution (Kool, van Hoof and Welling, "Stochastic Beams and Where to
Find Them", ICML 2019). All of it is computed in logarithms, so values of any size and sign keep
their order: the item with the larger value always has the larger probability.

The probability of each item at its place given the items above it is exact, and so is their
product, that of the whole recommendation.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray


class Exploration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exploration options of an arm."""

    # difference of value that makes an item e times as likely, from 0.001 to 100; 0 for none
    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    # number of first places that are drawn; the others go by value
    places: Annotated[int, Meta(ge=1, le=100)] = 20
    # number of items of the highest value that take part; others are never drawn, so nothing can
    # be learned about them
    pool: Annotated[int, Meta(ge=2, le=1_000)] = 100

    def __post_init__(self) -> None:
        """Refuse a temperature so low that differences of values overflow."""
        if 0 < self.temperature < 0.001:
            raise ValueError("temperature: must be 0, or a number from 0.001 to 100")


def generator_of(recommendation_id: str, purpose: str = "exploration") -> np.random.Generator:
    """Return the random generator of one recommendation, always the same for its id."""
    digest = hashlib.sha256(f"{purpose}:{recommendation_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16]))


def draw(
    values: NDArray[np.float64], temperature: float, generator: np.random.Generator
) -> tuple[int, float]:
    """Draw one of several items by finite values; return its number and the probability."""
    logs = log_probabilities(values, temperature)
    drawn = int(np.argmax(logs + generator.gumbel(size=len(logs))))
    return drawn, float(np.exp(logs[drawn]))


def log_probabilities(values: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return the logarithms of the probabilities with which items are drawn first."""
    # The largest is taken off first: a difference of finite values overflows less early.
    logs = (values - values.max()) / temperature
    normalised: NDArray[np.float64] = logs - np.log(np.exp(logs).sum())
    return normalised
