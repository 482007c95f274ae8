"""The audited pipeline, from contributions to public outputs."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.audit.noise import StatedNoise, chance_of, exact_delta
from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.counting.released import read_released
from tactful_privacy.ledger.budget import Budget
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import DAY_MS, Statistic

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
            panes, cursor = [], None
            while True:
                page = read_released(opened, "audited", cursor=cursor, limit=1)
                panes += [np.array(list(pane.values.values())) for pane in page.panes]
                if (cursor := page.cursor) is None:
                    break
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
            counter.add(user, pane * statistic.pane_ms, statistic.keys[key])
        return counter
