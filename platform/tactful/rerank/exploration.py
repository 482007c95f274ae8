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
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.errors import ConfigError
from tactful.util.scalars import is_number, is_whole_number


@dataclass(frozen=True)
class Exploration:
    """Exploration options of an arm."""

    # difference of value that makes an item e times as likely, from 0.001 to 100; 0 for none
    temperature: float = 0.0
    places: int = 20  # number of first places that are drawn, from 1 to 100; the others go by value
    # number of items of the highest value that take part, from 2 to 1,000; others are never drawn,
    # so nothing can be learned about them
    pool: int = 100

    @classmethod
    def of(cls, options: object, *, where: str) -> Exploration:
        """Parse options as read from a file.

        Raises:
            ConfigError: if one is unknown or out of range.
        """
        if not isinstance(options, Mapping) or not options.keys() <= {
            "temperature",
            "places",
            "pool",
        }:
            raise ConfigError(f"{where}: must be `temperature`, `places` and `pool` by name")
        temperature = options.get("temperature", 0.0)
        if not is_number(temperature) or not (temperature == 0 or 0.001 <= temperature <= 100.0):
            raise ConfigError(f"{where}.temperature: must be 0, or a number from 0.001 to 100")
        for name, low, high in (("places", 1, 100), ("pool", 2, 1_000)):
            value = options.get(name, low)
            if not is_whole_number(value) or not low <= value <= high:
                raise ConfigError(f"{where}.{name}: must be a whole number from {low} to {high}")
        return cls(**{**options, "temperature": float(temperature)})


def generator_of(recommendation_id: str) -> np.random.Generator:
    """Return the random generator of one recommendation, always the same for its id."""
    digest = hashlib.sha256(f"exploration:{recommendation_id}".encode()).digest()
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
