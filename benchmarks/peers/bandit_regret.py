"""Regret of mabwiser and Vowpal Wabbit on given problems; run by a Python that has both.

Usage: ``python bandit_regret.py INPUT OUTPUT``. INPUT is the ``.npz`` of
`benchmarks.experiments.bandit_peers`: for each problem ``NAME_contexts`` ``[runs, n, features]``,
``NAME_rewards`` and ``NAME_means`` ``[runs, n, arms]``, and ``NAME_delay``. OUTPUT is JSON: by
problem and policy, the mean regret of a decision in each run.

Decisions are made in batches of ten, and learnt a batch later, or `delay` decisions later.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mabwiser.mab import MAB, LearningPolicy
from vowpalwabbit import Workspace

BATCH = 10
Learn = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
Choose = Callable[[np.ndarray], np.ndarray]


def mabwiser(policy: Any, arms: int, seed: int, *, contextual: bool) -> tuple[Choose, Learn]:
    """Return a policy of mabwiser; it chooses by chance until it has learnt something."""
    mab = MAB(list(range(arms)), policy, seed=seed)
    rng = np.random.default_rng(seed)
    begun = False

    def choose(x: np.ndarray) -> np.ndarray:
        if not begun:
            return rng.integers(arms, size=len(x))
        if contextual:
            chosen = mab.predict(x)
            return np.array(chosen if isinstance(chosen, list) else [chosen])
        return np.array([mab.predict() for _ in x])

    def learn(x: np.ndarray, chosen: np.ndarray, rewards: np.ndarray) -> None:
        nonlocal begun
        fit = mab.partial_fit if begun else mab.fit
        fit(chosen, rewards, x) if contextual else fit(chosen, rewards)
        begun = True

    return choose, learn


def vowpal(options: str, arms: int, seed: int) -> tuple[Choose, Learn]:
    """Return a policy of Vowpal Wabbit with a model per arm."""
    vw = Workspace(f"--cb_explore_adf {options} -q sa --quiet --random_seed {seed + 1}")
    rng = np.random.default_rng(seed)
    chances: dict[tuple[bytes, int], float] = {}

    def shared(x: np.ndarray) -> str:
        return "shared |s " + " ".join(f"f{at}:{value:.5f}" for at, value in enumerate(x))

    def choose(x: np.ndarray) -> np.ndarray:
        chosen = []
        for row in x:
            lines = [shared(row), *(f"|a arm{arm}" for arm in range(arms))]
            shares = np.array(vw.predict("\n".join(lines)))
            arm = int(rng.choice(arms, p=shares / shares.sum()))
            chances[row.tobytes(), arm] = float(shares[arm])
            chosen.append(arm)
        return np.array(chosen)

    def learn(x: np.ndarray, chosen: np.ndarray, rewards: np.ndarray) -> None:
        for row, arm, reward in zip(x, chosen, rewards, strict=True):
            lines = [shared(row)]
            for each in range(arms):
                label = ""
                if each == arm:
                    label = f"0:{-reward:.5f}:{chances.get((row.tobytes(), int(arm)), 1.0):.5f} "
                lines.append(f"{label}|a arm{each}")
            vw.learn("\n".join(lines))

    return choose, learn


def regret(
    policy: tuple[Choose, Learn],
    contexts: np.ndarray,
    rewards: np.ndarray,
    means: np.ndarray,
    delay: int,
) -> float:
    """Play one run, and return the mean regret of a decision."""
    choose, learn = policy
    n = len(contexts)
    chosen = np.zeros(n, np.int64)
    learnt = 0
    for begin in range(0, n, BATCH):
        ready = max(0, begin - delay)
        if ready > learnt:
            part = slice(learnt, ready)
            learn(contexts[part], chosen[part], rewards[np.arange(learnt, ready), chosen[part]])
            learnt = ready
        chosen[begin : begin + BATCH] = choose(contexts[begin : begin + BATCH])
    return float((means.max(axis=1) - means[np.arange(n), chosen]).mean())


def policies(arms: int, seed: int, *, contextual: bool) -> dict[str, tuple[Choose, Learn]]:
    """Return all policies for a run."""
    found = {
        "vw squarecb": vowpal("--squarecb", arms, seed),
        "vw epsilon": vowpal("--epsilon 0.05", arms, seed),
    }
    learning = (
        {"mabwiser LinUCB": LearningPolicy.LinUCB(alpha=0.3)}
        if contextual
        else {
            "mabwiser TS": LearningPolicy.ThompsonSampling(),
            "mabwiser UCB1": LearningPolicy.UCB1(alpha=0.3),
        }
    )
    for name, policy in learning.items():
        found[name] = mabwiser(policy, arms, seed, contextual=contextual)
    return found


def main(source: Path, target: Path) -> None:
    """Play all problems."""
    found: dict[str, dict[str, list[float]]] = {}
    with np.load(source) as arrays:
        for name in sorted({key.rsplit("_", 1)[0] for key in arrays.files}):
            contexts, rewards = arrays[f"{name}_contexts"], arrays[f"{name}_rewards"]
            means, delay = arrays[f"{name}_means"], int(arrays[f"{name}_delay"])
            for run in range(len(contexts)):
                contextual = contexts.shape[2] > 1
                for policy, made in policies(rewards.shape[2], run, contextual=contextual).items():
                    lost = regret(made, contexts[run], rewards[run], means[run], delay)
                    found.setdefault(name, {}).setdefault(policy, []).append(lost)
    target.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
