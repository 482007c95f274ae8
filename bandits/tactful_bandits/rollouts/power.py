"""Power of a guardrail: the probability that it finds a loss that a change really causes."""

from typing import Literal

from scipy import special

from tactful_bandits.analysis.comparison import Estimate, confidence_sequence, level
from tactful_bandits.analysis.samples import Proportion, Sample
from tactful_bandits.analysis.skewed_means import SkewedMean, capped_loss_power
from tactful_bandits.errors import StatisticsError
from tactful_bandits.rollouts.guardrails import Guardrail, watched_alpha


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
    higher. It is 0 while `check_guardrails` would find too few data.

    Args:
        guardrail: The guardrail.
        baseline: Outcomes of units without the change, in a past period as long as a stage.
        units: Units of the control, and of the change, at the end of the stage.
        loss: True loss, as a share of the control's value; of revenue, by fewer buyers. With 0
            the verdict "no harm" has the power that a harmless change advances under `proof`.
        alpha: Part of alpha of this guardrail: `RolloutPlan.stage_alpha`, divided by the number of
            critical guardrails.
        tightest_at: As for `check_guardrails`.
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
    watched = watched_alpha(baseline, alpha)
    if isinstance(baseline, SkewedMean):
        options = {"loss": loss, "margin": guardrail.margin, "alpha": watched}
        return capped_loss_power(baseline, *units, harm=verdict == "harm", **options)
    base = level(baseline)
    if isinstance(baseline, Proportion):
        least = min(base.value, 1 - base.value) * min(units)
        if least < guardrail.minimum_outcomes:
            return 0.0
    scale = 1 - guardrail.margin if guardrail.better == "higher" else 1 + guardrail.margin
    variances = [baseline.variance * scale**2 / units[0], baseline.variance / units[1]]
    error = sum(variances) ** 0.5
    if error == 0:
        return 0.0
    estimate = Estimate(0.0, 1.0, sum(units), sum(units) - 2)
    bound = confidence_sequence(
        estimate, alpha=watched, tightest_at=tightest_at, alternative="greater"
    )
    beyond = (loss - guardrail.margin) * abs(base.value) / error
    return float(special.ndtr((beyond if verdict == "harm" else -beyond) + bound.low))
