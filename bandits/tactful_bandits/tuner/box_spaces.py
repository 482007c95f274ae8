"""Spaces of a gymnasium environment as vectors; needs the extra ``tuner``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import MissingExtraError, PolicyError

try:
    import gymnasium
    from gymnasium import spaces
except ModuleNotFoundError as error:
    raise MissingExtraError("environments need gymnasium: pip install 'tactful[tuner]'") from error


@dataclass(frozen=True, eq=False)
class BoxSpaces:
    """Map between an environment and an agent, whose actions lie between -1 and 1."""

    states: int  # length of a flat observation
    low: NDArray[np.float64]  # lower bounds of the actions, in the shape of the space
    high: NDArray[np.float64]  # upper bounds

    @classmethod
    def of(cls, env: gymnasium.Env[Any, Any]) -> BoxSpaces:
        """Read the spaces of an environment.

        Raises:
            PolicyError: if observations or actions are not a Box, an action has no finite bounds,
                or one of them is empty.
        """
        observations, actions = env.observation_space, env.action_space
        for name, space in (("observation", observations), ("action", actions)):
            if not isinstance(space, spaces.Box):
                raise PolicyError(
                    f"{name}_space is {space}: an agent learns with a Box of numbers only; wrap "
                    "the environment (gymnasium.wrappers.FlattenObservation, RescaleAction)"
                )
            if not int(np.prod(space.shape)):
                raise PolicyError(f"{name}_space {space} has no numbers")
        assert isinstance(actions, spaces.Box)
        low, high = np.asarray(actions.low, np.float64), np.asarray(actions.high, np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            raise PolicyError(
                f"action_space is {actions}: every action needs two finite bounds, the lower one "
                "below the upper"
            )
        shape = observations.shape
        assert shape is not None
        return cls(int(np.prod(shape)), low, high)

    @property
    def actions(self) -> int:
        """Length of a flat action."""
        return self.low.size

    def state(self, observation: ArrayLike) -> NDArray[np.float32]:
        """Flatten an observation.

        Raises:
            PolicyError: if it has another size than its space.
        """
        state = np.asarray(observation, dtype=np.float32).ravel()
        if state.size != self.states:
            raise PolicyError(f"an observation has {state.size} numbers, its space {self.states}")
        return state

    def action(self, proposed: ArrayLike) -> NDArray[np.float32]:
        """Scale an action between -1 and 1 to the bounds of the environment."""
        flat = np.clip(np.asarray(proposed, np.float64), -1, 1).reshape(self.low.shape)
        scaled = self.low + (flat + 1) / 2 * (self.high - self.low)
        return np.clip(scaled, self.low, self.high).astype(np.float32)
