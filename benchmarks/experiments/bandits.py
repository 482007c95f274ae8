"""How fast policies choose and learn, how little they lose, and whether people can be unlearnt."""

import time

import numpy as np

from benchmarks.figures import Figure
from tactful_bandits.policies.choice import Rule, Thompson, UpperConfidence
from tactful_bandits.policies.linear import LinearBandit
from tactful_bandits.policies.memory import Observation

FIGURES = [
    ("bandit_decisions_per_s", "1/s"),
    ("bandit_decisions_per_s_ucb", "1/s"),
    ("bandit_regret_vs_uniform", "1"),
    ("bandit_unlearning_differences", "1"),
]
_ARMS, _FEATURES = 20, 20


def figures(quick: bool) -> list[Figure]:
    """Time choose and update one decision at a time, then let policies learn and forget."""
    decisions = 2_000 if quick else 20_000
    return [
        _speed("bandit_decisions_per_s", Thompson(), "linear Thompson, 64 draws", decisions),
        _speed("bandit_decisions_per_s_ucb", UpperConfidence(), "LinUCB", decisions),
        _regret(5 if quick else 20),
        _unlearning(20 if quick else 100),
    ]


def _speed(name: str, rule: Rule, what: str, decisions: int) -> Figure:
    rng = np.random.default_rng(0)
    contexts = rng.normal(size=(decisions, _FEATURES)).clip(-4, 4)
    rates = []
    for _ in range(5):
        policy = LinearBandit(_ARMS, _FEATURES, rule=rule, explore=0.05)
        start = time.process_time()
        for x in contexts:
            choice = policy.choose(x, rng)
            policy.update(choice.arm, x, float(rng.random() < 0.1))
        rates.append(decisions / (time.process_time() - start))
    rates.sort()
    note = f"{what}; choose with exact propensity and update, 20 arms, 20 features, of CPU time"
    return Figure(name, rates[2], "1/s", rates[0], rates[-1], 5, note)


def _regret(runs: int) -> Figure:
    ratios = []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        theta = rng.normal(size=(_ARMS, 10)) * 0.3
        policy = LinearBandit(_ARMS, 10, rule=Thompson(0.3, draws=16))
        lost = chance = 0.0
        for _ in range(3000):
            x = rng.normal(size=10).clip(-4, 4)
            means = theta @ x
            arm = policy.choose(x, rng).arm
            policy.update(arm, x, float(np.clip(means[arm] + 0.3 * rng.normal(), -8, 8)))
            lost += means.max() - means[arm]
            chance += means.max() - means.mean()
        ratios.append(lost / chance)
    note = "regret of 3,000 decisions over that of choosing by chance; 20 arms, 10 features"
    mean = float(np.mean(ratios))
    return Figure("bandit_regret_vs_uniform", mean, "1", min(ratios), max(ratios), runs, note)


def _unlearning(runs: int) -> Figure:
    different = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        seen = [
            Observation(int(rng.integers(4)), rng.normal(size=6).clip(-8, 8), float(rng.random()))
            for _ in range(200)
        ]
        policy, never = LinearBandit(4, 6), LinearBandit(4, 6)
        policy.learn(seen)
        policy.forget(seen[::7])
        never.learn(entry for at, entry in enumerate(seen) if at % 7)
        different += policy.to_bytes() != never.to_bytes()
    note = "policies that unlearnt a person and differ by any bit from one that never saw them"
    return Figure("bandit_unlearning_differences", different, "1", runs=runs, note=note)
