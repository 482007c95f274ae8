"""An agent that tunes objective weights around a champion's; needs the extra ``tuner``."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tactful_bandits.ddpg import DdpgAgent, DdpgSettings, Effect
from tactful_bandits.errors import MissingExtraError, PolicyError
from tactful_bandits.market_simulator import STATE, MarketSettings, MarketSimulator
from tactful_bandits.weight_bounds import WeightBounds

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
"""For weights of lists. An hour's click rate is mostly chance: critics are several and held back,
actors are averaged, and the noise is wide enough for its effect to be seen. What follows an hour
counts for nothing: it depends less on that hour's weights than its estimate would add in chance."""

_MOST_CONTROLS = 4


def effect_of_weights(bounds: WeightBounds) -> Effect:
    """What an action comes to once its weights are none below 0 and of sum 1, again as an action.

    Weights twice as large order a list alike, and one that is pushed below 0 is 0: critics need not
    learn from clicks what is known. Without it, a weight whose best value is small is learnt too
    low, as noise that would push it below 0 only ever raises it.

    Args:
        bounds: Of the weights. Their `largest_step` is left out: what counts is where weights go.
    """
    champion = torch.tensor(bounds.champion, dtype=torch.float32)

    def effect(actions: Tensor) -> Tensor:
        moved = (champion + bounds.reach * actions).clamp_min(0.0)
        sums = moved.sum(dim=-1, keepdim=True)
        weights = torch.where(sums > 1e-9, moved / sums.clamp_min(1e-9), champion)
        return (weights - champion) / bounds.reach

    return effect


def make_tuner(bounds: WeightBounds, seed: int = 0) -> DdpgAgent:
    """An agent that has learnt nothing yet and sees what `MarketSimulator` tells of an hour.

    Args:
        bounds: Of the weights that it sets.
        seed: Of its networks and its noise.
    """
    return DdpgAgent(
        len(STATE),
        len(bounds.champion),
        settings=TUNER_SETTINGS,
        seed=seed,
        effect=effect_of_weights(bounds),
    )


@dataclass(frozen=True, eq=False)
class TuningCourse:
    """What happened while an agent learnt.

    Attributes:
        states: What it saw, ``[hours, states]``.
        drawn: Actions before they were cut off, ``[hours, actions]``.
        log_densities: Of `drawn` under what drew them, ``[hours]``.
        weights: In service, ``[hours, weights]``.
        rewards: What the agent learnt from, ``[hours]``.
        expected_click_rate: What the shop would expect where the agent acts, ``[hours]``.
        champion: The same where the champion does, ``[hours]``.
    """

    states: NDArray[np.float64]
    drawn: NDArray[np.float64]
    log_densities: NDArray[np.float64]
    weights: NDArray[np.float64]
    rewards: NDArray[np.float64]
    expected_click_rate: NDArray[np.float64]
    champion: NDArray[np.float64]


def tune_in_market(
    agent: DdpgAgent,
    seed: int,
    hours: int,
    bounds: WeightBounds,
    *,
    share: float = 0.1,
    reward_scale: float = 1.0,
    settings: MarketSettings | None = None,
) -> TuningCourse:
    """Let an agent learn in a simulated shop, on a share of its people.

    All others are served by the champion at the same time. The reward is the click rate over
    theirs: what moves both arms alike, such as a promotion, does not disturb what is learnt, and
    the shop never loses more than `share` of what the agent loses.

    Args:
        agent: Which learns.
        seed: Of the shop; never the one that it is evaluated with.
        hours: How long.
        bounds: How far weights may go.
        share: Of all people, above 0 and below 1; as many sessions as `settings` say.
        reward_scale: What rewards are multiplied by; what is learnt should not depend on it.
        settings: What the shop is like.

    Raises:
        PolicyError: The share lies outside (0, 1).
    """
    if not 0 < share < 1:
        raise PolicyError(f"share is {share}: it must lie between 0 and 1")
    own = settings or MarketSettings()
    shop = MarketSimulator(seed, settings=own)
    # More of them would cost time to simulate and hardly make their click rate any surer.
    others = max(1, min(round(own.sessions * (1 - share) / share), _MOST_CONTROLS * own.sessions))
    control = MarketSimulator(seed, people=1, settings=replace(own, sessions=others))
    weights = np.array(bounds.champion)
    states, drawn, densities, used = [], [], [], []
    rewards, expected, champion = [], [], []
    for _ in range(hours):
        state = shop.state[0]
        proposal = agent.explore(state)
        weights = bounds.weights(proposal.action, weights)
        step = shop.step(weights)
        beside = control.step(bounds.champion)
        reward = reward_scale * float(step.click_rate[0] - beside.click_rate[0])
        agent.observe(state, proposal.action, reward, shop.state[0], terminated=False)
        states.append(state)
        drawn.append(proposal.drawn)
        densities.append(proposal.log_density)
        used.append(weights)
        rewards.append(reward)
        expected.append(float(step.expected_click_rate[0]))
        champion.append(float(beside.expected_click_rate[0]))
    return TuningCourse(
        np.array(states),
        np.array(drawn),
        np.array(densities),
        np.array(used),
        np.array(rewards),
        np.array(expected),
        np.array(champion),
    )


def worst_loss(
    expected: NDArray[np.float64], champion: NDArray[np.float64], window: int = 200
) -> float:
    """Largest relative loss against the champion over any `window` hours in a row; may be below 0.

    Args:
        expected: Click rates while learning, ``[hours]``.
        champion: Those of the champion on the same course, ``[hours]``.
        window: Over how many hours both are summed.
    """
    kernel = np.ones(min(window, len(expected)))
    ours = np.convolve(expected, kernel, mode="valid")
    theirs = np.convolve(champion, kernel, mode="valid")
    return float((1 - ours / theirs).max())
