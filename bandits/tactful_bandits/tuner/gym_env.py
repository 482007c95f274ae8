"""Simulated shop as gymnasium environments; needs the extra ``tuner``.

Episodes are truncated after some hours and never terminate: the states afterwards still have a
value, so agents must continue to bootstrap at the cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful_bandits.errors import MissingExtraError, PolicyError
from tactful_bandits.tuner.simulator import STATE, MarketSettings, MarketSimulator, MarketStep
from tactful_bandits.tuner.weight_bounds import CHAMPION, OBJECTIVES, WeightBounds

try:
    import gymnasium
    from gymnasium import spaces
except ModuleNotFoundError as error:
    raise MissingExtraError("environments need gymnasium: pip install 'tactful[tuner]'") from error


Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reward:
    """Reward of an hour.

    ``clicks * click_rate + purchases * (purchases - returns) / sessions + margin * max(0, margin)
    - shortfall * max(0, least_margin - margin)``
    """

    clicks: float = 1.0  # weight of the click rate
    purchases: float = 0.0  # weight of kept purchases per session
    margin: float = 0.0  # weight of the mean standardised margin of the clicked items
    shortfall: float = 0.0  # penalty per unit of margin below `least_margin`, a soft constraint
    least_margin: float = 0.0  # margin below which the penalty begins

    def of(self, step: MarketStep, sessions: int) -> Floats:
        """Compute the rewards of a step, ``[environments]``."""
        kept = (step.purchases - step.returns) / sessions
        reward: Floats = (
            self.clicks * step.click_rate
            + self.purchases * kept
            + self.margin * np.maximum(step.margin, 0)
            - self.shortfall * np.maximum(self.least_margin - step.margin, 0)
        )
        return reward


class MarketEnv(gymnasium.Env[Floats, Floats]):
    """Simulated shop. Actions are bounded changes of the champion's weights."""

    objectives, state_names = OBJECTIVES, STATE  # names that `tactful tuner train` reads

    def __init__(
        self,
        *,
        settings: MarketSettings | None = None,
        bounds: WeightBounds | None = None,
        reward: Reward | None = None,
        hours: int = 500,
    ) -> None:
        """Create the environment; call `reset` before the first step.

        By default the reward of an hour is its click rate.
        """
        self.settings = settings or MarketSettings()
        self.bounds = bounds or WeightBounds(CHAMPION)
        self.reward = reward or Reward()
        self.hours = hours
        self.observation_space = spaces.Box(-np.inf, np.inf, (len(STATE),), np.float64)
        self.action_space = spaces.Box(-1, 1, (len(self.bounds.champion),), np.float64)
        self._market: MarketSimulator | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Start a new episode."""
        super().reset(seed=seed)
        chosen = int(self.np_random.integers(2**63))
        self._market = MarketSimulator(chosen, settings=self.settings)
        self._weights = np.array(self.bounds.champion)
        self._hour = 0
        return self._market.state[0], {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Simulate an hour; `info` holds its click rates, promotion and weights."""
        if self._market is None:
            raise PolicyError("the environment must be reset before its first step")
        self._weights = self.bounds.weights(action, self._weights)
        step = self._market.step(self._weights)
        self._hour += 1
        info = {
            "weights": self._weights,
            "click_rate": float(step.click_rate[0]),
            "expected_click_rate": float(step.expected_click_rate[0]),
            "promotion": bool(step.promotion[0]),
        }
        reward = float(self.reward.of(step, self.settings.sessions)[0])
        return self._market.state[0], reward, False, self._hour >= self.hours, info


class MarketVectorEnv(gymnasium.vector.VectorEnv[Floats, Floats, NDArray[Any]]):
    """Several simulated shops, simulated by one set of array operations.

    All episodes end together; the next step starts new ones (`AutoresetMode.NEXT_STEP`).
    """

    def __init__(
        self,
        environments: int,
        *,
        settings: MarketSettings | None = None,
        bounds: WeightBounds | None = None,
        reward: Reward | None = None,
        hours: int = 500,
    ) -> None:
        """Create the environments; the arguments are those of `MarketEnv`."""
        single = MarketEnv(settings=settings, bounds=bounds, reward=reward, hours=hours)
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}
        self.settings, self.bounds, self.reward = single.settings, single.bounds, single.reward
        self.hours, self.num_envs = hours, environments
        self.single_observation_space = single.observation_space
        self.single_action_space = single.action_space
        self.observation_space = gymnasium.vector.utils.batch_space(
            single.observation_space, environments
        )
        self.action_space = gymnasium.vector.utils.batch_space(single.action_space, environments)
        self._market: MarketSimulator | None = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Start new episodes in all shops, with one seed."""
        super().reset(seed=seed[0] if isinstance(seed, list) else seed)
        chosen = int(self.np_random.integers(2**63))
        self._market = MarketSimulator(chosen, environments=self.num_envs, settings=self.settings)
        self._weights = np.tile(self.bounds.champion, (self.num_envs, 1))
        self._hour = 0
        return self._market.state, {}

    def step(
        self, actions: Floats
    ) -> tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Simulate an hour in every shop."""
        if self._market is None:
            raise PolicyError("the environments must be reset before their first step")
        no = np.zeros(self.num_envs, dtype=np.bool_)
        if self._hour >= self.hours:
            state, info = self.reset()
            return state, np.zeros(self.num_envs), no, no.copy(), info
        self._weights = self.bounds.weights(actions, self._weights)
        step = self._market.step(self._weights)
        self._hour += 1
        info = {
            "weights": self._weights,
            "click_rate": step.click_rate,
            "expected_click_rate": step.expected_click_rate,
            "promotion": step.promotion,
        }
        reward = self.reward.of(step, self.settings.sessions)
        return self._market.state, reward, no, np.full_like(no, self._hour >= self.hours), info
