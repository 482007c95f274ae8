"""Power of a guardrail: the probability that it finds a loss that a change really causes."""

import math
from typing import Any, Literal

from tactful_bandits.analysis.comparison import Estimate, confidence_sequence
from tactful_bandits.analysis.noisy_samples import ReleasedProportion
from tactful_bandits.analysis.samples import Proportion, Sample
from tactful_bandits.analysis.skewed_means import SkewedMean, capped_at, common_cap
from tactful_bandits.errors import StatisticsError
from tactful_bandits.rollouts.guardrails import Guardrail, parts_of
from tactful_privacy.lazy_imports import LazyModule

special = LazyModule("scipy.special")


def guardrail_power(
    guardrail: Guardrail,
    baseline: Sample,
    units: tuple[int, int],
    *,
    loss: float = 0.2,
    alpha: float = 0.05,
    tightest_at: float = 20_000,
    verdict: Literal["harm", "no harm"] = "harm",
) -> float:
    """Estimate the probability of a verdict at a number of units, for a true loss.

    Earlier looks and what is kept for the last look are left out: the true power is a little
    higher. It is 0 while units, or rare outcomes, are fewer than the guardrail's minimum.

    Args:
        guardrail: The guardrail.
        baseline: Outcomes of units without the change, in a past period as long as a stage.
        units: Units of the control, and of the change, at the end of the stage.
        loss: True loss, as a share of the control's value; of revenue, by fewer buyers. With 0
            the verdict "no harm" has the power that a harmless change advances under `proof`.
        alpha: Part of alpha of this guardrail: `RolloutPlan.stage_alpha`, divided by the number of
            critical guardrails.
        tightest_at: The argument of `check_guardrails`.
        verdict: The verdict.

    Raises:
        StatisticsError: The loss, the units or `alpha` are out of range.
    """
    if not 0 <= loss <= 1 or min(units) < 2:
        raise StatisticsError(
            f"loss must lie in [0, 1], and each arm needs 2 units, not {loss} and {units}"
        )
    if min(units) < guardrail.minimum_units:
        return 0.0
    if _rarer_outcomes(baseline) * min(units) < guardrail.minimum_outcomes:
        return 0.0
    watched, _, _ = parts_of(alpha, baseline)
    scale = 1 - guardrail.margin if guardrail.better == "higher" else 1 + guardrail.margin
    allowed = scale * baseline.value
    if isinstance(baseline, SkewedMean):
        cap, amounts = common_cap(baseline), baseline
        baseline = capped_at(cap, amounts)
        # As for `check_guardrails`: no harm excludes that all amounts fall, harm is a lower mean.
        fallen = capped_at(cap, amounts.scaled(scale)).value
        allowed = scale * baseline.value if verdict == "harm" else fallen
    sign = 1 if guardrail.better == "higher" else -1
    changed = baseline.value - sign * loss * abs(baseline.value)
    error = math.sqrt(baseline.variance * (scale**2 / units[0] + 1 / units[1]))
    if error == 0:
        return 0.0
    beyond = sign * (allowed - changed) / error
    options: Any = {"alpha": watched, "tightest_at": tightest_at}
    unit = Estimate(0.0, 1.0, sum(units), sum(units) - 2)
    bound = confidence_sequence(unit, alternative="less", **options).high
    return float(special.ndtr((beyond if verdict == "harm" else -beyond) - bound))


def _rarer_outcomes(baseline: Sample) -> float:
    """Return the share of the rarer outcome, of which a verdict needs some; else 1."""
    if isinstance(baseline, SkewedMean):
        return len(baseline.positive) / baseline.units
    if isinstance(baseline, Proportion | ReleasedProportion):
        return min(baseline.value, 1 - baseline.value)
    return 1.0
