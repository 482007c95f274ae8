"""The tuner outside its own simulator: environments of other projects, and differing markets.

Environments are compared with stable-baselines3's TD3, in an environment of its own: the Python of
`.venv-agents`, or the one that `TACTFUL_BENCH_AGENTS` names, with the packages that
docs/how-to/measure.md lists; both agents are trained there, with the same number of steps and the
same seeds, and are judged in the same episodes. The figure is the mean of our returns minus those
of the peer, divided by the range between a random policy and the better agent, in the worst
environment.
"""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import Figure
from tactful_bandits.tuner.baselines import best_static
from tactful_bandits.tuner.static_comparison import MARKETS, StaticComparison, compare_in_market
from tactful_bandits.tuner.tuner import make_tuner, tune_in_market
from tactful_bandits.tuner.weight_bounds import CHAMPION, WeightBounds

_ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("TACTFUL_BENCH_AGENTS", _ROOT / ".venv-agents" / "bin" / "python"))
ENVIRONMENTS = {"Pendulum-v1": 8_000, "MountainCarContinuous-v0": 20_000, "parking-v0": 20_000}
"""Steps of training by environment."""

CHANCE = {"Pendulum-v1": -1290.0, "MountainCarContinuous-v0": -33.0, "parking-v0": -41.7}
"""Mean return of uniform actions by environment, over 15 to 30 episodes."""

ENVIRONMENT_FIGURES = [
    ("foreign_env_vs_best_peer", "1"),
    *((f"foreign_{name}_return", "1") for name in ENVIRONMENTS),
    *((f"foreign_{name}_peer_return", "1") for name in ENVIRONMENTS),
]
MARKET_FIGURES = [
    ("tuner_vs_static_foreign_min", "1"),
    *((f"tuner_vs_static_{name}", "1") for name in MARKETS if name != "default"),
]
_EPISODES = 30
_BOUNDS = WeightBounds(CHAMPION)


def environments(quick: bool) -> list[Figure]:
    """Train both agents in each environment."""
    torch.set_num_threads(1)
    seeds = 1 if quick else 5
    names = ["Pendulum-v1"] if quick else list(ENVIRONMENTS)
    found, scores = [], []
    for name in names:
        steps = 3_000 if quick else ENVIRONMENTS[name]
        ours, peer = _returns(name, steps, seeds)
        span = max(float(np.mean(ours)), float(np.mean(peer))) - CHANCE[name]
        scores.append((float(np.mean(ours)) - float(np.mean(peer))) / span)
        note = f"{name}, mean of {_EPISODES} episodes after {steps:,} steps"
        for label, values in (("return", ours), ("peer_return", peer)):
            by = "tactful" if label == "return" else "stable-baselines3 TD3"
            mean, text = (
                float(np.mean(values)),
                f"{note}, {by}; a random policy has {CHANCE[name]:g}",
            )
            found.append(
                Figure(f"foreign_{name}_{label}", mean, "1", min(values), max(values), seeds, text)
            )
    note = (
        "ours minus TD3's of stable-baselines3, over the range from chance to the better, in the "
        "worst environment; low and high are the worst and the best one"
    )
    worst = Figure(
        "foreign_env_vs_best_peer", min(scores), "1", min(scores), max(scores), seeds, note
    )
    missing = [
        Figure(f"foreign_{name}_{label}", None, "1", note="not measured in a quick run")
        for name in ENVIRONMENTS
        if name not in names
        for label in ("return", "peer_return")
    ]
    return [worst, *found, *missing]


def _returns(name: str, steps: int, seeds: int) -> tuple[list[float], list[float]]:
    """Return the results of both agents by seed; both train at the same time, a process each."""
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(trained_return, agent, name, steps, seed)
            for seed in range(seeds)
            for agent in ("tactful", "peer")
        ]
        found = [run.result() for run in runs]
    return found[::2], found[1::2]


def markets(quick: bool) -> list[Figure]:
    """Train a tuner in each differing market, and compare with the best fixed weights there."""
    torch.set_num_threads(1)
    seeds, hours = (1, 1_500) if quick else (5, 4_000)
    names = [name for name in MARKETS if name != "default"]
    found, handed = [], []
    for name in names:
        runs = [market_result(name, seed, hours) for seed in range(seeds)]
        ratios = [run.mean for run in runs]
        better = sum(run.policy_is_better for run in runs)
        # The fixed weights are the result if the tuner is not better.
        handed += [run.mean if run.policy_is_better else 1.0 for run in runs]
        note = (
            f"click rate of the network over that of the best fixed weights, {hours:,} hours of "
            f"training; better beyond noise in {better} of {seeds}, else the fixed weights are used"
        )
        mean = float(np.mean(ratios))
        found.append(
            Figure(f"tuner_vs_static_{name}", mean, "1", min(ratios), max(ratios), len(runs), note)
        )
    note = "result of the training over the best fixed weights, the worst market and seed"
    worst = Figure(
        "tuner_vs_static_foreign_min",
        min(handed),
        "1",
        min(handed),
        max(handed),
        len(handed),
        note,
    )
    return [worst, *found]


def market_result(name: str, seed: int, hours: int) -> StaticComparison:
    """Train in a market, and compare in ten shops without training."""
    settings, agent = MARKETS[name], make_tuner(_BOUNDS, seed)
    tune_in_market(agent, seed, hours, _BOUNDS, settings=settings)
    network = agent.export()
    static = best_static(_BOUNDS, seed + 500, settings=settings, hours=300, rounds=8)
    return compare_in_market(
        lambda states: np.array([network.act(state) for state in states], dtype=np.float64),
        static,
        range(9_000 + 10 * seed, 9_010 + 10 * seed),
        _BOUNDS,
        settings=settings,
        hours=400,
    )


def trained_return(agent: str, name: str, steps: int, seed: int) -> float:
    """Train an agent, `tactful` or `peer`, and return its mean return afterwards."""
    script = Path(__file__).with_name("agents_peer.py")
    command = [str(PYTHON), str(script), agent, name, str(steps), str(seed), str(_EPISODES)]
    paths = os.pathsep.join(str(_ROOT / folder) for folder in ("bandits", "privacy"))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["mean"])
