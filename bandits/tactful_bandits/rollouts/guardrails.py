"""Guardrails: metrics that a change must not harm, checked at every look.

A canary is checked repeatedly and rolled back at the first look that shows harm. A rule that
compares measured values ("roll back when clicks fell by 10 %") rolls back half of the harmless
changes, and one that tests anew at every look a third. Here one-sided confidence sequences detect
harm; their probability of a false alarm is bounded over all looks and all guardrails together. A
part of that probability is kept for one more test at the planned last look, which also spends the
alpha that the sequence saved for looks after it. Its level counts only rejections that the sequence
has not made before (`tactful_bandits.analysis.saved_alpha`). Another part is for rare outcomes
such as errors, where exact intervals replace asymptotic ones. Skewed outcomes such as revenue are
capped before (`tactful_bandits.analysis.skewed_means`), with exact intervals for few buyers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tactful_bandits.analysis.comparison import (
    Estimate,
    Interval,
    confidence_sequence,
    fixed_horizon_p_value,
    level,
    proportion_sequence,
    welch_freedom,
)
from tactful_bandits.analysis.noisy_samples import ReleasedProportion
from tactful_bandits.analysis.samples import Proportion, Sample
from tactful_bandits.analysis.saved_alpha import last_level
from tactful_bandits.analysis.skewed_means import (
    SPENT_ON_SKEWED,
    SkewedMean,
    capped_at,
    capped_loss,
    common_cap,
    variance_of_equals,
)
from tactful_bandits.errors import DefinitionError, StatisticsError

Better = Literal["higher", "lower"]
"""Desired direction of a metric: clicks higher, latency and errors lower."""

GuardrailVerdict = Literal["too few data", "harm", "undecided", "no harm"]
"""Verdict of one look at a guardrail. "no harm" is shown, not assumed."""


# Shares of alpha reserved for the last look, and for exact intervals of rare outcomes.
_KEPT_FOR_THE_LAST_LOOK = 0.1
_KEPT_FOR_RARE_OUTCOMES = 0.1


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A metric that the treatment must not harm.

    Attributes:
        metric: Name of the metric, such as ``click_rate``.
        better: Desired direction.
        critical: Whether harm rolls back; a guardrail that is not critical only warns.
        margin: Acceptable loss (non-inferiority), as a share of the control's value, in [0, 1).
        minimum_units: Units that each arm needs before a verdict.
        minimum_outcomes: For a share, the numbers of yes and of no that each arm needs for the
            normal approximation, for a `SkewedMean` the number of outcomes above 0; the treatment's
            count as if it did no harm. Below it, exact counts are judged by exact, wider intervals,
            and released ones not at all.
        smallest_loss: Loss, as a share of the control's value, in [0, 1), that must be excluded
            before everybody gets the change (`RolloutPlan.proof`); None where a share of the
            control's value means nothing, as of errors that the control never has.

    Raises:
        DefinitionError: An attribute is out of range; the message names the metric.
    """

    metric: str
    better: Better = "higher"
    critical: bool = True
    margin: float = 0.0
    minimum_units: int = 400
    minimum_outcomes: int = 50
    smallest_loss: float | None = 0.2

    def __post_init__(self) -> None:
        """Validate the attributes."""
        where = f"guardrail {self.metric!r}"
        if not self.metric:
            raise DefinitionError("a guardrail needs the name of its metric")
        if self.better not in get_args(Better):
            expected = ", ".join(get_args(Better))
            raise DefinitionError(f"{where}: better must be one of {expected}, not {self.better!r}")
        if not 0 <= self.margin < 1:
            raise DefinitionError(f"{where}: margin must lie in [0, 1), not {self.margin}")
        if self.smallest_loss is not None and not 0 <= self.smallest_loss < 1:
            raise DefinitionError(
                f"{where}: smallest_loss must lie in [0, 1), not {self.smallest_loss}"
            )
        if self.minimum_units < 2 or self.minimum_outcomes < 0:
            raise DefinitionError(
                f"{where}: minimum_units must be at least 2 and minimum_outcomes at least 0"
            )


@dataclass(frozen=True, slots=True)
class GuardrailLook:
    """Result of one guardrail at one look."""

    guardrail: Guardrail  # the guardrail
    verdict: GuardrailVerdict  # verdict of this look
    # Interval, valid at all looks, of the treatment's loss beyond the margin: above 0 is harm. None
    # without enough data.
    loss: Interval | None

    @property
    def rolls_back(self) -> bool:
        """Whether the change must be rolled back."""
        return self.verdict == "harm" and self.guardrail.critical


def check_guardrails(
    guardrails: Sequence[Guardrail],
    samples: Mapping[str, tuple[Sample, Sample] | None],
    *,
    alpha: float = 0.05,
    tightest_at: float = 20_000,
    last_look: bool = False,
) -> tuple[GuardrailLook, ...]:
    """Check all guardrails at one look; valid for any number of looks.

    Args:
        guardrails: The guardrails to check.
        samples: Control and treatment by metric, all outcomes so far, exact or released; None for a
            metric of which an arm has fewer than two units yet.
        alpha: Probability that a harmless change is ever rolled back, over all looks and all
            critical guardrails (each gets an equal part). The others share as much again.
        tightest_at: Units of both arms at which harm is detected soonest; choose it beforehand.
        last_look: Whether this is the planned last look; there is only one.

    Raises:
        StatisticsError: A metric has no samples, or `alpha` or `tightest_at` is out of range.
    """
    looks = []
    for guardrail in guardrails:
        if guardrail.metric not in samples:
            raise StatisticsError(
                f"guardrail {guardrail.metric!r}: no samples of this metric; samples exist for "
                f"{sorted(samples)}"
            )
        alike = sum(other.critical == guardrail.critical for other in guardrails)
        pair = samples[guardrail.metric]
        if pair is None:
            looks.append(GuardrailLook(guardrail, "too few data", None))
        else:
            looks.append(_look(guardrail, *pair, alpha / alike, tightest_at, last_look))
    return tuple(looks)


def _look(
    guardrail: Guardrail,
    control: Sample,
    treatment: Sample,
    alpha: float,
    tightest_at: float,
    last_look: bool,
) -> GuardrailLook:
    if min(control.units, treatment.units) < guardrail.minimum_units:
        return GuardrailLook(guardrail, "too few data", None)
    seen_at_last = False
    watched, kept, rare = parts_of(alpha, control)
    if _is_normal(guardrail, control, treatment):
        estimate = strict = _loss(guardrail, control, treatment)
        if isinstance(control, SkewedMean) and isinstance(treatment, SkewedMean):
            estimate, strict = _capped_losses(guardrail, control, treatment)
        loss = _ends(estimate, strict, watched, tightest_at)
        if last_look:
            # Units arrive at the same rate in both arms, so the first look was possible when the
            # smaller arm had enough.
            last = estimate.units
            first = last * guardrail.minimum_units / min(control.units, treatment.units)
            span = {"tightest_at": tightest_at, "first": first, "last": last}
            p = fixed_horizon_p_value(estimate, alternative="greater")
            seen_at_last = p < last_level(alpha=watched, kept=kept, **span)
    elif isinstance(control, Proportion) and isinstance(treatment, Proportion):
        loss = _exact_loss(guardrail, control, treatment, rare)
    elif isinstance(control, SkewedMean) and isinstance(treatment, SkewedMean):
        loss = _capped_loss(guardrail, control, treatment, rare)
    else:
        return GuardrailLook(guardrail, "too few data", None)
    verdict: GuardrailVerdict = "undecided"
    if loss.low > 0 or seen_at_last:
        verdict = "harm"
    elif loss.high < 0:
        verdict = "no harm"
    return GuardrailLook(guardrail, verdict, loss)


def parts_of(alpha: float, sample: Sample) -> tuple[float, float, float]:
    """Divide a guardrail's alpha: looks at any time, the last look, and rare outcomes."""
    if isinstance(sample, SkewedMean):
        alpha *= SPENT_ON_SKEWED
    kept, rare = _KEPT_FOR_THE_LAST_LOOK * alpha, _KEPT_FOR_RARE_OUTCOMES * alpha
    return alpha - kept - rare, kept, rare


def _capped_losses(
    guardrail: Guardrail, control: SkewedMean, treatment: SkewedMean
) -> tuple[Estimate, Estimate]:
    """Estimate the loss of capped outcomes beyond the margin, for harm and for its absence.

    If all amounts fall by a fifth, their capped mean falls by less, since those above the cap stay
    there. So no harm is what excludes a control whose amounts are scaled by the margin, and harm
    what is below its capped mean scaled by the margin.
    """
    cap = common_cap(control, treatment)
    capped_control, capped_treatment = capped_at(cap, control), capped_at(cap, treatment)
    fallen = capped_at(cap, control.scaled(_scale(guardrail)))
    strict = _loss(replace(guardrail, margin=0.0), fallen, capped_treatment)
    return _loss(guardrail, capped_control, capped_treatment), strict


def _capped_loss(
    guardrail: Guardrail, control: SkewedMean, treatment: SkewedMean, alpha: float
) -> Interval:
    """Compute the interval of the losses of `_capped_losses` by bets."""
    scale, cap = _scale(guardrail), common_cap(control, treatment)
    loss = capped_loss(control, treatment, scale=scale, alpha=alpha, cap=cap)
    strict = capped_loss(control.scaled(scale), treatment, alpha=alpha, cap=cap)
    if guardrail.better == "higher":
        return Interval(loss.low, strict.high, loss.confidence, loss.method)
    return Interval(-loss.high, -strict.low, loss.confidence, loss.method)


def _ends(estimate: Estimate, strict: Estimate, alpha: float, tightest_at: float) -> Interval:
    """Combine two one-sided intervals, each valid at all looks with ``1 - alpha``.

    `strict` is the estimate of the upper end.
    """
    low = confidence_sequence(estimate, alpha=alpha, tightest_at=tightest_at, alternative="greater")
    high = confidence_sequence(strict, alpha=alpha, tightest_at=tightest_at, alternative="less")
    return Interval(low.low, high.high, 1 - 2 * alpha, low.method)


def _loss(guardrail: Guardrail, control: Sample, treatment: Sample) -> Estimate:
    """Estimate the treatment's absolute loss beyond the margin.

    The margin is proportional to the control's value and so adds its error: if higher is better,
    the loss is ``(1 - margin) c - t``.
    """
    c, scale = level(control), _scale(guardrail)
    allowed = c.value * scale
    value = allowed - treatment.value if guardrail.better == "higher" else treatment.value - allowed
    var_c = (scale * c.standard_error) ** 2
    var_t = _variance(guardrail, treatment, allowed) / treatment.units
    freedom = welch_freedom(var_c, c.degrees_of_freedom, var_t, treatment.degrees_of_freedom)
    variance = max(var_c + var_t, variance_of_equals(control, treatment, scale))
    return Estimate(value, variance**0.5, c.units + treatment.units, freedom)


def _exact_loss(
    guardrail: Guardrail, control: Proportion, treatment: Proportion, alpha: float
) -> Interval:
    c = proportion_sequence(control, alpha=alpha / 2)
    t = proportion_sequence(treatment, alpha=alpha / 2)
    scale = _scale(guardrail)
    if guardrail.better == "higher":
        return Interval(scale * c.low - t.high, scale * c.high - t.low, 1 - alpha, c.method)
    return Interval(t.low - scale * c.high, t.high - scale * c.low, 1 - alpha, c.method)


def _scale(guardrail: Guardrail) -> float:
    return 1 - guardrail.margin if guardrail.better == "higher" else 1 + guardrail.margin


def _is_normal(guardrail: Guardrail, control: Sample, treatment: Sample) -> bool:
    """Return whether outcomes are frequent enough for the normal approximation.

    For the treatment, the expected outcomes without harm count if they are more: a treatment that
    fails completely has no outcomes, and the check must not wait for them.
    """
    if isinstance(control, SkewedMean) and isinstance(treatment, SkewedMean):
        buyers = len(control.positive), len(treatment.positive)
        without_harm = treatment.units * _scale(guardrail) * buyers[0] / control.units
        return min(buyers[0], max(buyers[1], without_harm)) >= guardrail.minimum_outcomes
    counts = _outcomes(control)
    if counts is None:
        return True
    allowed = min(max(control.value * _scale(guardrail), 0.0), 1.0)
    expected = (treatment.units * allowed, treatment.units * (1 - allowed))
    observed = _outcomes(treatment) or expected
    enough = guardrail.minimum_outcomes
    return min(counts) >= enough and max(min(expected), min(observed)) >= enough


def _outcomes(arm: Sample) -> tuple[float, float] | None:
    """Return a share's numbers of yes and no, or None for other samples."""
    if isinstance(arm, Proportion):
        return arm.successes, arm.units - arm.successes
    return (arm.successes, arm.failures) if isinstance(arm, ReleasedProportion) else None


def _variance(guardrail: Guardrail, treatment: Sample, allowed: float) -> float:
    """Return the variance of one unit of the treatment, at least that without harm.

    A share with few outcomes has too small an observed variance: without outcomes it is 0.
    """
    observed = _outcomes(treatment)
    if observed is None or min(observed) >= guardrail.minimum_outcomes:
        return treatment.variance
    p, null = (min(max(share, 0.0), 1.0) for share in (treatment.value, allowed))
    return treatment.variance + max(null * (1 - null) - p * (1 - p), 0.0)
