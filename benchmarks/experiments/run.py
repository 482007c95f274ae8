"""Experiments: assignment, statistics, the canary rule, policies, off-policy estimates, tuner."""

import time

from benchmarks.experiments import asos as _experiments_asos
from benchmarks.experiments import bandit_peers as _experiments_bandit_peers
from benchmarks.experiments import bandit_serving as _experiments_bandit_serving
from benchmarks.experiments import bandits as _experiments_bandits
from benchmarks.experiments import canary as _experiments_canary
from benchmarks.experiments import coverage as _experiments_coverage
from benchmarks.experiments import default_plan as _experiments_default_plan
from benchmarks.experiments import flags as _experiments_flags
from benchmarks.experiments import foreign as _experiments_foreign
from benchmarks.experiments import off_policy as _experiments_off_policy
from benchmarks.experiments import oracle as _experiments_oracle
from benchmarks.experiments import revenue as _experiments_revenue
from benchmarks.experiments import tuner as _experiments_tuner
from benchmarks.experiments import uplift as _experiments_uplift
from benchmarks.figures import Figure, Part, main, measure
from tactful_bandits.assignment.assign import Arm, Experiment, assign

PARTS = (
    "assignment",
    "oracle",
    "canary",
    "revenue",
    "default-plan",
    "coverage",
    "asos",
    "bandits",
    "bandit-peers",
    "bandit-serving",
    "off-policy",
    "tuner",
    "pendulum",
    "foreign_environments",
    "foreign_markets",
    "uplift",
)


def run(quick: bool, only: str | None = None) -> list[Figure]:
    """Measure part by part."""
    parts = [
        Part(
            "assignment",
            [("assignments_per_s", "1/s"), *_experiments_flags.FIGURES],
            lambda: [*_assignment(quick), *_experiments_flags.figures(quick)],
        ),
        Part("oracle", [("oracle_mismatches", "1")], _experiments_oracle.figures),
        Part("canary", _experiments_canary.FIGURES, lambda: _experiments_canary.figures(quick)),
        Part("revenue", _experiments_revenue.FIGURES, lambda: _experiments_revenue.figures(quick)),
        Part(
            "default-plan",
            _experiments_default_plan.FIGURES,
            lambda: _experiments_default_plan.figures(quick),
        ),
        Part(
            "coverage",
            _experiments_coverage.FIGURES,
            lambda: _experiments_coverage.figures(quick),
        ),
        Part("asos", _experiments_asos.FIGURES, _experiments_asos.figures),
        Part("bandits", _experiments_bandits.FIGURES, lambda: _experiments_bandits.figures(quick)),
        Part(
            "bandit-peers",
            _experiments_bandit_peers.FIGURES,
            lambda: _experiments_bandit_peers.figures(quick),
        ),
        Part(
            "bandit-serving",
            _experiments_bandit_serving.FIGURES,
            lambda: _experiments_bandit_serving.figures(quick),
        ),
        Part(
            "off-policy",
            _experiments_off_policy.FIGURES,
            lambda: _experiments_off_policy.figures(quick),
        ),
        Part("tuner", _experiments_tuner.FIGURES, lambda: _experiments_tuner.figures(quick)),
        Part("pendulum", _experiments_tuner.PENDULUM, lambda: _experiments_tuner.pendulum(quick)),
        Part(
            "foreign_environments",
            _experiments_foreign.ENVIRONMENT_FIGURES,
            lambda: _experiments_foreign.environments(quick),
        ),
        Part(
            "foreign_markets",
            _experiments_foreign.MARKET_FIGURES,
            lambda: _experiments_foreign.markets(quick),
        ),
        Part("uplift", _experiments_uplift.FIGURES, lambda: _experiments_uplift.figures(quick)),
    ]
    return measure(parts, only)


def _assignment(quick: bool) -> list[Figure]:
    """Assignments of one process, in seconds of its own CPU time."""
    experiment = Experiment("ranking-model", (Arm("champion", 0.9), Arm("challenger", 0.1)))
    users = [f"user-{number}" for number in range(20_000 if quick else 200_000)]
    rates = []
    for _ in range(5):
        start = time.process_time()
        for user in users:
            assign(experiment, user)
        rates.append(len(users) / (time.process_time() - start))
    rates.sort()
    note = "one experiment, one thread, per second of CPU time; ids of 6 to 11 characters"
    return [Figure("assignments_per_s", rates[2], "1/s", rates[0], rates[-1], 5, note)]


if __name__ == "__main__":
    main("experiments", run, parts=PARTS)
