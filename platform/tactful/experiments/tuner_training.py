"""Train a tuner in the simulated shop and compare it with baselines; needs the extra `tuner`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from tactful.errors import ConfigError
from tactful.rerank.tuned_objective import MANIFEST, POLICY, TunerManifest
from tactful_bandits.errors import MissingExtraError
from tactful_bandits.tuner.weight_bounds import OBJECTIVES, WeightBounds
from tactful_privacy.durable_files import replace_file

_CHAMPION = (0.59, 0.12, 0.17, 0.06, 0.06)
_EVALUATED = 9_000  # first seed of the shops in which policies are compared; none learns there
_EVALUATED_HOURS = 500
_SHOPS = 4


def train_in_simulator(
    directory: Path, *, hours: int, seed: int, rivals: bool = True
) -> dict[str, float]:
    """Train, compare, and write a directory that `tactful.rerank.tuned_objective.Tuner` reads.

    Args:
        directory: of the tuner; an older tuner there is replaced at the end.
        hours: length of the training.
        seed: of the agent and the shop.
        rivals: whether to compare with the best fixed and the best linear weights.

    Returns:
        Click rates in shops without training, relative to the champion's and to each baseline's,
        and the worst loss during training.

    Raises:
        ConfigError: if the extra is not installed.
    """
    try:
        import torch

        from tactful_bandits.tuner.baselines import (
            Floats,
            StatePolicy,
            best_static,
            linear_contextual,
            linear_policy,
            play,
        )
        from tactful_bandits.tuner.tuner import (
            make_tuner,
            tune_in_market,
            worst_loss,
        )
    except (MissingExtraError, ModuleNotFoundError) as error:
        raise ConfigError(f"training needs pip install 'tactful[tuner]': {error}") from error
    from tactful_bandits.tuner.simulator import STATE

    torch.set_num_threads(1)
    bounds = WeightBounds(_CHAMPION)
    agent = make_tuner(bounds, seed)
    course = tune_in_market(agent, seed, hours, bounds)
    network = agent.export()

    def rate(policy: StatePolicy) -> float:
        rates, _, _ = play(policy, _EVALUATED + seed, _EVALUATED_HOURS, bounds, environments=_SHOPS)
        return float(rates.mean())

    def always(action: Floats) -> StatePolicy:
        return lambda states: np.tile(action, (len(states), 1))

    tuned = rate(lambda states: np.array([network.act(state) for state in states], np.float64))
    figures = {
        "tuner_vs_champion": tuned / rate(always(np.zeros(len(_CHAMPION)))),
        "worst_loss_where_it_learnt": worst_loss(course.expected_click_rate, course.champion),
    }
    if rivals:
        figures["tuner_vs_static"] = tuned / rate(always(best_static(bounds, seed + 500)))
        linear = linear_policy(linear_contextual(bounds, seed + 600))
        figures["tuner_vs_linear"] = tuned / rate(linear)
    manifest = TunerManifest(
        champion=_CHAMPION,
        reach=bounds.reach,
        objectives=OBJECTIVES,
        state=STATE,
        trained_in="simulator",
        figures=figures,
    )
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(directory / POLICY, network.to_bytes())
    replace_file(directory / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    return figures
