"""Running statistics of states and returns, by which an agent normalises both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class RunningStatistics:
    """Mean and standard deviation of all states, and standard deviation of discounted returns.

    Rewards are divided by that of the discounted sum of rewards since the start of the episode:
    the values of a critic then have about the same size in every environment, sparse rewards
    included (Engstrom et al., "Implementation matters in deep policy gradients", ICLR 2020).
    Updates follow Welford, Technometrics 4 (1962).
    """

    def __init__(self, states: int) -> None:
        """Begin without any state."""
        self._states = np.zeros((2, states))  # mean, sum of squared deviations
        self._returns = np.zeros(2)
        self._counts = np.zeros(2)  # of states and of returns
        self._return = 0.0

    def update(self, state: NDArray[np.float32], reward: float, discount: float) -> None:
        """Add one step."""
        self._return = discount * self._return + reward
        self._counts += 1
        count = self._counts[0]
        for rows, value in ((self._states, state), (self._returns, self._return)):
            off = value - rows[0]
            rows[0] += off / count
            rows[1] += off * (value - rows[0])

    def end_episode(self) -> None:
        """Start the next return at 0."""
        self._return = 0.0

    @property
    def mean(self) -> NDArray[np.float32]:
        """Mean of the states, ``[states]``."""
        mean: NDArray[np.float32] = self._states[0].astype(np.float32)
        return mean

    @property
    def deviation(self) -> NDArray[np.float32]:
        """Standard deviation of the states, ``[states]``; 1 for a state that never changed."""
        spread = np.sqrt(self._states[1] / max(self._counts[0], 1))
        deviation: NDArray[np.float32] = np.where(spread > 1e-6, spread, 1.0).astype(np.float32)
        return deviation

    @property
    def scale(self) -> float:
        """Standard deviation of the returns; 1 while they are all alike."""
        spread = float(np.sqrt(self._returns[1] / max(self._counts[1], 1)))
        return spread if spread > 1e-8 else 1.0

    def to_array(self) -> NDArray[np.float64]:
        """Return all values, to be saved."""
        return np.concatenate([self._states.ravel(), self._returns, self._counts, [self._return]])

    def restore(self, values: NDArray[np.float64]) -> None:
        """Continue with the values of `to_array`."""
        cuts = np.cumsum([self._states.size, 2, 2])
        states, self._returns, self._counts, last = np.split(np.array(values), cuts)
        self._states, self._return = states.reshape(2, -1), float(last[0])
