"""Train a tuner in a simulated market or an own environment; needs the extra `tuner`.

The directory that is written is read by `tactful.rerank.tuned_objective.Tuner`. It holds
the best fixed weights where the trained network does not beat them beyond noise.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.errors import ConfigError, ModelError
from tactful.rerank import tuned_objective
from tactful_bandits.errors import MissingExtraError, PolicyError
from tactful_bandits.tuner.network import NetworkPolicy
from tactful_bandits.tuner.weight_bounds import CHAMPION, OBJECTIVES, WeightBounds
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file

if TYPE_CHECKING:
    import gymnasium

    from tactful_bandits.tuner.static_comparison import StaticComparison

Progress = Callable[[int, int], None]

_EVALUATED = 9_000  # first seed of the shops in which policies are compared; none learns there
_EVALUATED_HOURS = 500
_SHOPS = 8
_EPISODES = 20
_SEARCHED = 500  # added to the seed of a training for the search of fixed weights
_TRAINING = "training"  # folder with an unfinished or finished training, to be continued


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a training."""

    figures: dict[str, float]  # by name, from seeds without training
    # `tuner` if it beats the best fixed weights beyond noise, else `fixed`: the directory then
    # holds those; empty if they were not compared
    verdict: str
    fixed: dict[str, float]  # best fixed weights, or actions in the units of the environment


class _Run(msgspec.Struct, frozen=True):
    """Settings that a continued training must share with its beginning."""

    environment: str
    seed: int


def train_in_simulator(
    directory: Path,
    *,
    hours: int,
    seed: int,
    rivals: bool = True,
    market: str = "default",
    progress: Progress | None = None,
) -> TrainingResult:
    """Train in a simulated market, compare, and write the better of network and fixed weights.

    An older tuner in the directory is replaced at the end. Figures are click rates in shops without
    training, relative to the champion's and, with `rivals`, to those of the best fixed and the best
    linear weights, and the worst loss during training.

    Raises:
        ModelError: if the extra is not installed.
        ConfigError: if there is no such market.
    """
    torch = _torch()
    from tactful_bandits.tuner import baselines, simulator
    from tactful_bandits.tuner.static_comparison import MARKETS, compare_in_market
    from tactful_bandits.tuner.tuner import make_tuner, tune_in_market, worst_loss

    if market not in MARKETS:
        raise ConfigError(f"there is no market {market!r}; there are {', '.join(MARKETS)}")
    torch.set_num_threads(1)
    bounds, settings = WeightBounds(CHAMPION), MARKETS[market]
    agent = make_tuner(bounds, seed)
    course = tune_in_market(agent, seed, hours, bounds, settings=settings, progress=progress)
    network = agent.export()
    seeds = range(_EVALUATED + _SHOPS * seed, _EVALUATED + _SHOPS * (seed + 1))

    def act(states: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([network.act(state) for state in states], np.float64)

    def relative(action: NDArray[np.float64]) -> StaticComparison:
        return compare_in_market(
            act, action, seeds, bounds, settings=settings, hours=_EVALUATED_HOURS
        )

    figures = {
        "tuner_vs_champion": relative(np.zeros(len(CHAMPION))).mean,
        "worst_loss_where_it_learnt": worst_loss(course.expected_click_rate, course.champion),
    }
    verdict, fixed = "", {}
    if rivals:
        static = baselines.best_static(bounds, seed + _SEARCHED, settings=settings)
        compared = relative(static)
        figures |= _told(compared, "tuner_vs_static")
        matrix = baselines.linear_contextual(bounds, seed + 600, settings=settings)
        linear, _, _ = baselines.play(
            baselines.linear_policy(matrix), seeds[0], _EVALUATED_HOURS, bounds, settings=settings
        )
        tuned, _, _ = baselines.play(act, seeds[0], _EVALUATED_HOURS, bounds, settings=settings)
        figures["tuner_vs_linear"] = float(tuned.mean() / linear.mean())
        fixed = dict(zip(OBJECTIVES, bounds.weights(static).tolist(), strict=True))
        network, verdict = _better(network, static, compared)
    manifest = tuned_objective.TunerManifest(
        champion=CHAMPION,
        reach=bounds.reach,
        objectives=OBJECTIVES,
        state=simulator.STATE,
        trained_in="simulator" if market == "default" else f"simulator {market}",
        figures=figures,
        verdict=verdict,
    )
    _write(directory, network, manifest)
    return TrainingResult(figures=figures, verdict=verdict, fixed=fixed)


def train_in_environment(
    directory: Path,
    environment: str,
    *,
    steps: int,
    seed: int,
    rivals: bool = True,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train in the environment of ``module:factory``, compare, and write the better policy.

    A training that was stopped is continued. Figures are returns of episodes without training. The
    result can serve if the environment has the attributes `objectives` and `state_names`, names in
    the order of its actions and observations, and `bounds` (`WeightBounds`), and maps actions to
    weights by these bounds.

    Raises:
        ModelError: if the extra is not installed.
        ConfigError: if the environment cannot be made or learnt in, or the directory holds the
            training of another.
    """
    torch = _torch()
    from tactful_bandits.tuner.ddpg import DdpgAgent
    from tactful_bandits.tuner.environment_comparison import best_constant, compare_in_environment

    torch.set_num_threads(1)
    env = load_environment(environment)
    try:
        names = _names(env, environment)
        folder = directory / _TRAINING
        _begin(folder, _Run(environment, seed))
        agent = DdpgAgent.for_environment(env, seed=seed, replay_path=folder / "replay")
        if (folder / "agent").exists():
            agent.load(folder / "agent")
        agent.learn(env, steps, seed=seed, save_to=folder / "agent", progress=progress)
        # Without a champion action 0 is no safe one, so the network answers in all states.
        network = agent.export(everywhere=not names)
        figures: dict[str, float] = {"steps": float(agent.replay.added)}
        verdict, fixed = "", {}
        if rivals:
            constant = best_constant(env, _EVALUATED + _SEARCHED + seed)
            seeds = range(_EVALUATED * 1000, _EVALUATED * 1000 + _EPISODES)
            compared = compare_in_environment(env, network.act, constant, seeds)
            figures |= _told(compared, "return_minus_static")
            fixed = _fixed(env, names, constant)
            network, verdict = _better(network, constant, compared)
    except PolicyError as error:
        raise ConfigError(f"{environment}: {error}") from error
    finally:
        env.close()
    none = {"champion": (), "reach": 1.0, "objectives": (), "state": ()}
    manifest = tuned_objective.TunerManifest(
        **(names or none), trained_in=environment, figures=figures, verdict=verdict
    )
    _write(directory, network, manifest)
    return TrainingResult(figures=figures, verdict=verdict, fixed=fixed)


def load_environment(name: str) -> gymnasium.Env[Any, Any]:
    """Make the environment of ``module:factory``; modules in the working directory are found, too.

    Raises:
        ConfigError: if the module, the factory or what it returns is not as expected.
    """
    import gymnasium

    module_name, _, factory_name = name.partition(":")
    if not module_name or not factory_name:
        raise ConfigError(
            f"--environment {name}: write module:factory, such as shop.simulation:make"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's, and may raise anything
        raise ConfigError(
            f"--environment {name}: module {module_name} cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise ConfigError(
            f"--environment {name}: {module.__file__} has no function {factory_name}: define one "
            "that returns a gymnasium environment"
        )
    try:
        env = factory()
    except Exception as error:
        raise ConfigError(
            f"--environment {name}: {factory_name}() failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(env, gymnasium.Env):
        raise ConfigError(
            f"--environment {name}: {factory_name}() returns {type(env).__name__}, not a "
            "gymnasium environment"
        )
    return env


def _torch() -> Any:
    try:
        import torch

        from tactful_bandits.tuner import gym_env  # noqa: F401 - checks the rest of the extra
    except (MissingExtraError, ModuleNotFoundError) as error:
        raise ModelError(
            f"training a tuner needs PyTorch: pip install 'tactful[tuner]' ({error})"
        ) from error
    return torch


def _names(env: gymnasium.Env[Any, Any], environment: str) -> dict[str, Any]:
    """Return the fields of a manifest that an environment states; empty if it states none."""
    from tactful_bandits.tuner.box_spaces import BoxSpaces

    spaces, plain = BoxSpaces.of(env), env.unwrapped
    stated = [getattr(plain, name, None) for name in ("objectives", "state_names", "bounds")]
    if all(value is None for value in stated):
        return {}
    objectives, state, bounds = stated
    if objectives is None or state is None or not isinstance(bounds, WeightBounds):
        raise ConfigError(
            f"{environment}: to serve, it needs objectives, state_names and bounds (WeightBounds)"
        )
    if not len(objectives) == spaces.actions == len(bounds.champion):
        raise ConfigError(
            f"{environment}: {len(objectives)} objectives, {spaces.actions} actions and "
            f"{len(bounds.champion)} weights of the champion: these must be as many"
        )
    if len(state) != spaces.states:
        raise ConfigError(
            f"{environment}: {len(state)} state_names for {spaces.states} observations"
        )
    if not (np.all(spaces.low == -1) and np.all(spaces.high == 1)):
        raise ConfigError(
            f"{environment}: actions that become weights by its bounds lie between -1 and 1"
        )
    return {
        "champion": bounds.champion,
        "reach": bounds.reach,
        "objectives": tuple(objectives),
        "state": tuple(state),
    }


def _begin(folder: Path, run: _Run) -> None:
    """Create the folder of a training, or check that it belongs to this one."""
    path = folder / "run.json"
    try:
        known = msgspec.json.decode(path.read_bytes(), type=_Run)
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, msgspec.json.encode(run))
        return
    except (OSError, *DECODE_ERRORS) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; delete {folder}") from error
    if known != run:
        raise ConfigError(
            f"{folder} holds a training in {known.environment} with seed {known.seed}: choose "
            "another directory, or delete it"
        )


def _fixed(
    env: gymnasium.Env[Any, Any], names: dict[str, Any], constant: NDArray[np.float64]
) -> dict[str, float]:
    from tactful_bandits.tuner.box_spaces import BoxSpaces

    if names:
        weights = WeightBounds(names["champion"], reach=names["reach"]).weights(constant)
        return dict(zip(names["objectives"], weights.tolist(), strict=True))
    actions = BoxSpaces.of(env).action(constant).ravel().tolist()
    return {f"action_{number}": value for number, value in enumerate(actions)}


def _told(compared: StaticComparison, name: str) -> dict[str, float]:
    interval = compared.interval
    return {name: compared.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _better(
    network: NetworkPolicy, constant: NDArray[np.float64], compared: StaticComparison
) -> tuple[NetworkPolicy, str]:
    from tactful_bandits.tuner.static_comparison import constant_policy

    if compared.policy_is_better:
        return network, "tuner"
    return constant_policy(constant, len(network.mean)), "fixed"


def _write(
    directory: Path, network: NetworkPolicy, manifest: tuned_objective.TunerManifest
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(directory / tuned_objective.POLICY, network.to_bytes())
    document = msgspec.json.format(msgspec.json.encode(manifest))
    replace_file(directory / tuned_objective.MANIFEST, document)
