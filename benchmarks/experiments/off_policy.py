"""Off-policy estimates: published values, and how often intervals cover and verdicts err."""

import json

import numpy as np

from benchmarks.experiments.oracle import shared_file
from benchmarks.figures import Figure
from tactful_bandits.evaluation.off_policy import (
    LoggedDecisions,
    clipped_ips,
    direct_method,
    doubly_robust,
    ips,
    self_normalised_doubly_robust,
    shrunk_doubly_robust,
    snips,
    switch_doubly_robust,
)
from tactful_bandits.evaluation.verdict import evaluate_policy

FIGURES = [
    ("off_policy_mismatches", "1"),
    ("off_policy_coverage_95_min", "1"),
    ("off_policy_false_verdicts", "1"),
]


def figures(quick: bool) -> list[Figure]:
    """Compare with reference values, then simulate logs whose truth is known."""
    runs = 200 if quick else 2000
    return [_mismatches(), _coverage(runs), _false_verdicts(runs // 2)]


def _mismatches() -> Figure:
    folder = shared_file("ope_oracle")
    if not folder.exists():
        return Figure("off_policy_mismatches", None, "1", note=f"no reference values in {folder}")
    arrays = np.load(folder / "digits_ope_oracle.npz")
    values = json.loads((folder / "digits_ope_oracle.json").read_text(encoding="utf-8"))["values"]
    log = LoggedDecisions.from_policy(
        arrays["action"],
        arrays["reward"],
        arrays["pscore"],
        arrays["action_dist"],
        model=arrays["q_hat"],
    )
    ours = {
        "ipw": ips(log),
        "ipw_clip10": clipped_ips(log, 10),
        "snipw": snips(log),
        "dm": direct_method(log),
        "dr": doubly_robust(log),
        "dr_clip10": doubly_robust(log, limit=10),
        "sndr": self_normalised_doubly_robust(log),
        "switch-dr": switch_doubly_robust(log, 10),
        "dr-os": shrunk_doubly_robust(log, 10),
    }
    wrong = sum(abs(ours[name].value - value) > 1e-9 for name, value in values.items())
    note = "values of nine estimators that differ by more than 1e-9 from those of obp 0.5.7"
    return Figure("off_policy_mismatches", wrong, "1", runs=len(values), note=note)


def _coverage(runs: int) -> Figure:
    rng = np.random.default_rng(1)
    mu, pi = (rng.dirichlet(np.ones(4) * 3, 6) for _ in range(2))
    true, model = rng.uniform(0.1, 0.7, (6, 4)), rng.uniform(0, 1, (6, 4))
    value = float((pi * true).sum(axis=1).mean())
    covered = {estimator: 0 for estimator in (ips, snips, doubly_robust)}
    for _ in range(runs):
        x = rng.integers(6, size=500)
        actions = (rng.random((500, 1)) > mu[x].cumsum(axis=1)).sum(axis=1).clip(0, 3)
        rewards = (rng.random(500) < true[x, actions]).astype(float)
        log = LoggedDecisions.from_policy(actions, rewards, mu[x, actions], pi[x], model=model[x])
        for estimator in covered:
            covered[estimator] += value in estimator(log).interval()
    shares = sorted(count / runs for count in covered.values())
    note = "least coverage of nominal 95 % over inverse propensity, self-normalised, doubly robust"
    return Figure("off_policy_coverage_95_min", shares[0], "1", shares[0], shares[-1], runs, note)


def _false_verdicts(runs: int) -> Figure:
    rng = np.random.default_rng(2)
    policy = np.tile([0.2, 0.8], (1500, 1))
    called = 0
    for _ in range(runs):
        actions = (rng.random(1500) < 0.3).astype(int)
        rewards = (rng.random(1500) < 0.2).astype(float)
        log = LoggedDecisions.from_policy(
            actions, rewards, np.where(actions == 1, 0.3, 0.7), policy
        )
        called += evaluate_policy(log).verdict != "inconclusive"
    note = "share of logs called better or worse where every policy earns the same"
    return Figure("off_policy_false_verdicts", called / runs, "1", runs=runs, note=note)
