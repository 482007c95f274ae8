"""Predicted power of guardrails, against simulated verdicts."""

from collections.abc import Callable

import numpy as np
import pytest

from tactful_bandits.analysis.noisy_samples import ReleasedProportion
from tactful_bandits.analysis.samples import Mean, Proportion, Sample
from tactful_bandits.analysis.skewed_means import SkewedMean
from tactful_bandits.errors import StatisticsError
from tactful_bandits.rollouts.guardrails import Guardrail, check_guardrails
from tactful_bandits.rollouts.power import guardrail_power

Draw = Callable[[np.random.Generator, int, float], Sample]


def takers(rng: np.random.Generator, users: int, lost: float) -> Sample:
    return Proportion(users, int(rng.binomial(users, 0.12 * (1 - lost))))


def revenue(rng: np.random.Generator, users: int, lost: float) -> Sample:
    amounts = np.zeros(users)
    bought = rng.binomial(users, 0.2 * (1 - lost))
    amounts[:bought] = rng.lognormal(3, 1.5, bought)
    return SkewedMean.from_units(amounts)


@pytest.mark.parametrize(
    ("draw", "units", "margin", "lost"),
    [
        (takers, (18_000, 6_000), 0.0, 0.15),
        (takers, (18_000, 6_000), 0.2, 0.0),
        (revenue, (9_000, 6_000), 0.0, 0.25),
        (revenue, (9_000, 6_000), 0.25, 0.0),
    ],
)
def test_power_is_that_of_simulated_looks(
    draw: Draw, units: tuple[int, int], margin: float, lost: float
) -> None:
    """They differ by at most .15; three standard errors of 150 looks are .12."""
    rng = np.random.default_rng(1)
    guardrail = Guardrail("m", margin=margin)
    wanted = "harm" if lost > margin else "no harm"
    predicted = guardrail_power(
        guardrail,
        draw(rng, 100_000, 0.0),
        units,
        loss=lost,
        alpha=0.02,
        verdict="harm" if lost > margin else "no harm",
    )
    found = 0
    for _ in range(150):
        samples = {"m": (draw(rng, units[0], 0.0), draw(rng, units[1], lost))}
        (look,) = check_guardrails([guardrail], samples, alpha=0.02)
        found += look.verdict == wanted
    assert 0.3 < predicted < 0.98
    assert abs(found / 150 - predicted) < 0.15


def test_without_enough_data_there_is_no_power() -> None:
    """Too few units, too few rare outcomes, and outcomes that never vary."""
    guardrail, share = Guardrail("m"), Proportion(10_000, 300)
    assert guardrail_power(guardrail, share, (100_000, 399), loss=1) == 0
    assert guardrail_power(guardrail, share, (100_000, 1_600), loss=1) == 0
    assert guardrail_power(guardrail, share, (100_000, 1_700), loss=1) > 0.5
    released = ReleasedProportion(300, 9_700, 20, 20)
    assert guardrail_power(guardrail, released, (100_000, 1_600), loss=1) == 0
    few_buyers = SkewedMean.from_units([0.0] * 970 + [9.0] * 30)
    assert guardrail_power(guardrail, few_buyers, (100_000, 1_600), loss=1) == 0
    assert guardrail_power(guardrail, few_buyers, (100_000, 1_700), loss=1) > 0.5
    assert guardrail_power(guardrail, Mean.from_units([1.0] * 9), (9_000, 9_000)) == 0
    with pytest.raises(StatisticsError, match="loss must lie in"):
        guardrail_power(guardrail, share, (9_000, 9_000), loss=2)
