"""Experiments: assignment, statistics against reference numbers, the canary rule, coverage."""

import time

from benchmarks import (
    _experiments_asos,
    _experiments_canary,
    _experiments_coverage,
    _experiments_oracle,
)
from benchmarks.figures import Figure, Part, main, measure
from tactful_bandits import Arm, Experiment, assign

# Of the same benchmark, and what each waits for.
_NOT_BUILT = {
    "bandit_decisions_per_s": ("1/s", "the bandits are not measured yet"),
    "ddpg_pendulum_return_min": ("1", "there is no DDPG agent yet"),
    "tuner_vs_static": ("1", "there is no tuner yet"),
    "tuner_vs_linear": ("1", "there is no tuner yet"),
    "tuner_worst_loss": ("1", "there is no tuner yet"),
}

PARTS = ("assignment", "oracle", "canary", "coverage", "asos", "missing")


def run(quick: bool, only: str | None = None) -> list[Figure]:
    """Measure part by part."""
    parts = [
        Part("assignment", [("assignments_per_s", "1/s")], lambda: _assignment(quick)),
        Part("oracle", [("oracle_mismatches", "1")], _experiments_oracle.figures),
        Part("canary", _experiments_canary.FIGURES, lambda: _experiments_canary.figures(quick)),
        Part(
            "coverage",
            _experiments_coverage.FIGURES,
            lambda: _experiments_coverage.figures(quick),
        ),
        Part("asos", _experiments_asos.FIGURES, _experiments_asos.figures),
        Part("missing", [], _missing),
    ]
    return measure(parts, only)


def _missing() -> list[Figure]:
    return [Figure(name, None, unit, note=why) for name, (unit, why) in _NOT_BUILT.items()]


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
