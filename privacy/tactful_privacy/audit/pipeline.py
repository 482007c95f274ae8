"""The audited pipeline, from contributions to public outputs, and properties of its noise."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.counting.released import released_panes
from tactful_privacy.ledger.budget import Budget
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import DAY_MS, Statistic
from tactful_privacy.mechanisms._exact import Exact, exp_bounds
from tactful_privacy.mechanisms._table import BITS

_BUCKETS = 40
_FEW = 50


class StatedNoise(Protocol):
    """Integer noise with stated probabilities."""

    def probability(self, k: int) -> Fraction:
        """Return P(Z = k)."""

    def sample(self, n: int) -> NDArray[Any]:
        """Return n independent draws, ``[n]``."""

    def interval(self, confidence: Exact = ...) -> int:
        """Return the smallest h with P(|Z| <= h) >= confidence."""


def probabilities(noise: StatedNoise) -> dict[int, Fraction]:
    """Return P(Z = k) for every k within `reach`."""
    far = reach(noise)
    return {k: noise.probability(k) for k in range(-far, far + 1)}


def reach(noise: StatedNoise) -> int:
    """Return a value beyond which the probabilities sum to less than 1e-13."""
    far = 1
    while noise.probability(far) > Fraction(1, 10**16):
        far *= 2
    return far * 2


def exact_delta(noise: StatedNoise, change: int, epsilon: Fraction) -> Fraction:
    """Compute delta by its definition, in fractions.

    It is ``sum_k max(0, P(k) - e^epsilon P(k - change))``. The mass beyond `reach` is added as a
    whole.
    """
    factor = Fraction(exp_bounds(epsilon, BITS)[0], 1 << BITS)
    p = probabilities(noise)
    beyond = 1 - sum(p.values(), Fraction(0))
    return sum((max(Fraction(0), v - factor * p.get(k - change, 0)) for k, v in p.items()), beyond)


def gaussian_delta(distance: float, epsilon: float) -> float:
    """Return the smallest delta of normal noise for a change in standard deviations.

    Source: Balle, Wang, ICML 2018, th. 8.
    """
    normal = NormalDist()
    mean, shift = distance / 2, epsilon / distance
    return normal.cdf(mean - shift) - math.exp(epsilon) * normal.cdf(-mean - shift)


def chance_of(draws: NDArray[Any], noise: StatedNoise) -> float:
    """Return the p-value of draws against the stated probabilities.

    Uses chi-square, or an exact test of the number of nonzero draws if these are too few.
    """
    p = probabilities(noise)
    edge, tail = 0, (1 - float(p[0])) / 2
    # The tails are counted together; chi-square needs enough draws in them, too.
    while (share := float(p.get(edge + 1, 0))) and len(draws) * min(share, tail - share) > _FEW:
        edge, tail = edge + 1, tail - share
    if len(draws) * tail <= _FEW:
        return binomial_chance(int(np.count_nonzero(draws)), len(draws), 2 * tail)
    inner = [float(p[k]) for k in range(-edge, edge + 1)]
    observed = np.bincount(np.clip(draws, -edge - 1, edge + 1) + edge + 1, minlength=2 * edge + 3)
    return _chi_square(observed, [tail, *inner, tail])


def chance_of_normal(draws: NDArray[Any], sigma: float) -> float:
    """Return the p-value against normal noise, for integers with sigma far above 1."""
    normal = NormalDist(0, sigma)
    edges = [math.floor(normal.inv_cdf(i / _BUCKETS)) for i in range(1, _BUCKETS)]
    below = [0.0, *(normal.cdf(edge + 0.5) for edge in edges), 1.0]
    observed = np.bincount(np.searchsorted(edges, draws), minlength=_BUCKETS)
    return _chi_square(observed, np.diff(below).tolist())


def binomial_chance(successes: int, draws: int, share: float) -> float:
    """Return the two-sided p-value of a number of successes with probability `share`."""
    fewer = float(special.bdtr(successes, draws, share))
    more = float(special.bdtrc(successes - 1, draws, share)) if successes else 1.0
    return min(1.0, 2 * min(fewer, more))


def _chi_square(observed: NDArray[Any], shares: Sequence[float]) -> float:
    expected = np.array(shares) * observed.sum()
    statistic = float((((observed - expected) ** 2) / expected).sum())
    return float(special.chdtrc(len(expected) - 1, statistic))


MAX_DELTA = Fraction(1, 10**12)


class Contribution(NamedTuple):
    """One event of one user."""

    user: str
    pane: int
    key: int


@dataclass(frozen=True, eq=False)
class Output:
    """Public output of a day."""

    values: NDArray[Any]  # published numbers, ``[panes, keys]``
    listed: NDArray[np.bool_]  # whether a key appears at all, ``[keys]``


def laplace_likelihood(
    values: NDArray[Any], present: NDArray[Any], absent: NDArray[Any]
) -> NDArray[Any]:
    """Return the scaled log likelihood ratio for Laplace noise, ``[keys]``."""
    without, with_ = np.abs(values - absent[:, None]), np.abs(values - present[:, None])
    return np.asarray((without - with_).sum(axis=0))


class Pipeline:
    """Bounded counts, publisher, ledger and reading, combined as in the product.

    Planted bugs are subclasses with one wrong step.
    """

    name = "panes"
    panes = 8
    delta = MAX_DELTA
    shares_noise = False
    spreads: tuple[str, ...] = ("together", "spread")
    amount = 1  # of each contribution

    def __init__(self, cap: int, epsilon: Fraction) -> None:
        """Set up a statistic that publishes a day of eight panes."""
        self.cap = cap
        self.epsilon = epsilon

    def statistic(self, keys: int) -> Statistic:
        """Return the public definition with some number of keys."""
        names = tuple(f"key {index}" for index in range(keys))
        return Statistic("audited", names, DAY_MS // self.panes, self.cap, self.epsilon)

    def change(self) -> int:
        """Return the L1 sensitivity of the counts before noise to one user."""
        return self.cap

    def counter(self, statistic: Statistic, secret: bytes) -> BoundedCounts:
        """Return the counter that bounds contributions."""
        return BoundedCounts(statistic, secret=secret, start=0)

    def noise(self) -> StatedNoise:
        """Return the noise of one cell."""
        return self.statistic(1).mechanism()

    def delta_of_noise(self) -> tuple[Fraction | float, str]:
        """Return the delta of a change by one user, and its computation in words."""
        change = self.change()
        delta = exact_delta(self.noise(), change, self.epsilon)
        return delta, f"a change of {change}, computed in fractions from its probabilities"

    def chance_of(self, draws: NDArray[Any]) -> float:
        """Return the p-value of draws against the probabilities of one cell's noise."""
        return chance_of(draws, self.noise())

    def likelihood(
        self, values: NDArray[Any], present: NDArray[np.int64], absent: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Return the likelihood ratio of each key's output with and without a person, ``[keys]``.

        Any increasing function of the ratio is valid.
        """
        return laplace_likelihood(values, present, absent)

    def exact(
        self, contributions: Iterable[Contribution], keys: int, restart_after: int | None = None
    ) -> NDArray[np.int64]:
        """Return the values before noise, ``[panes, keys]``, of contributions in order of arrival.

        After `restart_after` contributions the counter is lost and restored from its snapshot.
        """
        counter = self._filled(contributions, keys, restart_after)
        return np.array([pane.counts for pane in counter.closed(DAY_MS)])

    def publish(self, contributions: Iterable[Contribution], keys: int, ledger: Path) -> Output:
        """Return the public output of a day; the file of the ledger may hold the day already."""
        counter = self._filled(contributions, keys)
        loss = counter.statistic.loss
        opened = Ledger(ledger, budgets=[Budget(loss.epsilon, loss.delta)])
        try:
            Publisher(counter, opened).store(DAY_MS)
            released = released_panes(opened, "audited", start=None, end=None, limit=1)
            panes = [list(pane.values.values()) for pane in released]
        finally:
            opened.close()
        return Output(np.array(panes), np.ones(keys, dtype=bool))

    def _filled(
        self, contributions: Iterable[Contribution], keys: int, restart_after: int | None = None
    ) -> BoundedCounts:
        statistic = self.statistic(keys)
        secret = secrets.token_bytes(32)
        counter = self.counter(statistic, secret)
        for index, (user, pane, key) in enumerate(contributions):
            if index == restart_after:
                snapshot, counter = counter.snapshot(), self.counter(statistic, secret)
                counter.restore(snapshot)
            at = pane * statistic.pane_ms
            counter.add(user, at, statistic.keys[key], amount=self.amount)
        return counter
