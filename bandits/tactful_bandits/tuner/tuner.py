"""Agent that tunes objective weights; needs the extra ``tuner``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tactful_bandits.errors import MissingExtraError, PolicyError
from tactful_bandits.tuner.ddpg import DdpgAgent, Effect
from tactful_bandits.tuner.ddpg_settings import DdpgSettings
from tactful_bandits.tuner.simulator import STATE, MarketSettings, MarketSimulator
from tactful_bandits.tuner.weight_bounds import WeightBounds

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise MissingExtraError("the tuner needs torch: pip install 'tactful[tuner]'") from error

TUNER_SETTINGS = DdpgSettings(
    discount=0.0,
    warm_up=400,
    warm_up_reach=0.25,
    noise=0.3,
    critics=4,
    centre_rewards=True,
    weight_decay=0.3,
    average_rate=0.002,
)
"""Settings for objective weights. An hour's click rate is mostly noise: several regularised critics
and averaged actors reduce it, and wide exploration noise makes effects visible. The discount is 0:
later hours depend less on an hour's weights than their estimate would add in noise."""

_MOST_CONTROLS = 4


def effect_of_weights(bounds: WeightBounds) -> Effect:
    """Return the map from an action to the action of its normalised weights.

    Doubled weights give the same order, and a weight below 0 becomes 0: critics need not learn
    these known facts from clicks. Without the map, a weight with a small optimum is learnt too low,
    because noise that would push it below 0 only ever raises it. `largest_step` is ignored: only
    the final weights count.
    """
    champion = torch.tensor(bounds.champion, dtype=torch.float32)

    def effect(actions: Tensor) -> Tensor:
        moved = (champion + bounds.reach * actions).clamp_min(0.0)
        sums = moved.sum(dim=-1, keepdim=True)
        weights = torch.where(sums > 1e-9, moved / sums.clamp_min(1e-9), champion)
        return (weights - champion) / bounds.reach

    return effect


def make_tuner(bounds: WeightBounds, seed: int = 0) -> DdpgAgent:
    """Create an untrained agent for the state of `MarketSimulator`."""
    effect, actions = effect_of_weights(bounds), len(bounds.champion)
    return DdpgAgent(len(STATE), actions, settings=TUNER_SETTINGS, seed=seed, effect=effect)


@dataclass(frozen=True, eq=False)
class TuningCourse:
    """Record of a training run."""

    states: NDArray[np.float64]  # states, ``[hours, states]``
    drawn: NDArray[np.float64]  # actions before clipping, ``[hours, actions]``
    log_densities: NDArray[np.float64]  # log densities of `drawn`, ``[hours]``
    weights: NDArray[np.float64]  # weights in service, ``[hours, weights]``
    rewards: NDArray[np.float64]  # rewards, ``[hours]``
    expected_click_rate: NDArray[np.float64]  # expected click rate of the agent's arm, ``[hours]``
    champion: NDArray[np.float64]  # expected click rate of the champion's arm, ``[hours]``


def tune_in_market(
    agent: DdpgAgent,
    seed: int,
    hours: int,
    bounds: WeightBounds,
    *,
    share: float = 0.1,
    reward_scale: float = 1.0,
    settings: MarketSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TuningCourse:
    """Train an agent in a simulated shop, on a share of its people.

    The champion serves all others at the same time. The reward, times `reward_scale`, is the
    difference of the click rates: influences on both arms, such as a promotion, cancel, and the
    shop never loses more than `share` of the agent's loss. The agent's arm, of a share in (0, 1),
    has as many sessions as `settings` say. Evaluate with another seed. `progress` receives the
    hours that are over, and all.
    """
    if not 0 < share < 1:
        raise PolicyError(f"share is {share}: it must lie between 0 and 1")
    base = settings or MarketSettings()
    shop = MarketSimulator(seed, settings=base)
    # More sessions would cost time and hardly reduce the error of their click rate.
    controls = max(
        1, min(round(base.sessions * (1 - share) / share), _MOST_CONTROLS * base.sessions)
    )
    control = MarketSimulator(seed, people=1, settings=replace(base, sessions=controls))
    weights = np.array(bounds.champion)
    rows = []
    for hour in range(1, hours + 1):
        state = shop.state[0]
        proposal = agent.explore(state)
        weights = bounds.weights(proposal.action, weights)
        step = shop.step(weights)
        control_step = control.step(bounds.champion)
        reward = reward_scale * float(step.click_rate[0] - control_step.click_rate[0])
        agent.observe(state, proposal.action, reward, shop.state[0], terminated=False)
        rates = float(step.expected_click_rate[0]), float(control_step.expected_click_rate[0])
        rows.append((state, proposal.drawn, proposal.log_density, weights, reward, *rates))
        if progress is not None:
            progress(hour, hours)
    return TuningCourse(*(np.array(column) for column in zip(*rows, strict=True)))


def worst_loss(
    expected: NDArray[np.float64], champion: NDArray[np.float64], window: int = 200
) -> float:
    """Compute the largest relative loss in a window of hours; below 0 for a gain.

    Both are click rates on the same course, ``[hours]``.
    """
    kernel = np.ones(min(window, len(expected)))
    agent_sums = np.convolve(expected, kernel, mode="valid")
    champion_sums = np.convolve(champion, kernel, mode="valid")
    return float((1 - agent_sums / champion_sums).max())
