"""Guardrails: metrics that a change must not harm, judged at every look while it is tried out.

A canary is looked at again and again, and rolled back at the first look that shows harm. A rule
that compares what was measured ("roll back when clicks fell by 10 %"), or one that tests anew at
every look, rolls back half and a third of the changes that harm nothing. Here harm is called by
one-sided confidence sequences, whose chance of ever calling it without cause is bounded over all
looks and all guardrails together. A part of that chance is kept for the last look, if one is
planned: there one more test spends it, and what a confidence sequence saved for looks that never
come. Its level counts only whom the sequence has not found before (`tactful_bandits.saved_alpha`).
Another part is for outcomes as rare as errors, where exact intervals take the place of asymptotic
ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tactful_bandits.comparison import (
    Estimate,
    Interval,
    confidence_sequence,
    fixed_horizon_p_value,
    level,
    welch_freedom,
)
from tactful_bandits.errors import DefinitionError, StatisticsError
from tactful_bandits.exact_sequences import proportion_sequence
from tactful_bandits.released_samples import ReleasedProportion
from tactful_bandits.samples import Proportion, Sample
from tactful_bandits.saved_alpha import last_level

Better = Literal["higher", "lower"]
"""Which way a metric should go: clicks higher, latency and errors lower."""

GuardrailVerdict = Literal["too few data", "harm", "undecided", "no harm"]
"""What one look says of a guardrail. "no harm" is shown, not assumed."""


# Of alpha: what the last look, and what exact intervals of rare outcomes may spend.
_KEPT_FOR_THE_LAST_LOOK = 0.1
_KEPT_FOR_RARE_OUTCOMES = 0.1


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A metric that the treatment must not harm.

    Attributes:
        metric: Its name, such as ``click_rate``.
        better: Which way it should go.
        critical: Harm rolls back; of a guardrail that is not critical it only warns.
        margin: Loss that is put up with (non-inferiority), as a share of the control's value, in
            [0, 1).
        minimum_units: Units that each arm needs before anything is said.
        minimum_outcomes: Of a share, how many units of each arm must have said yes, and how many
            no, for the normal law to hold; the treatment's count as if it did no harm. Below it,
            exact counts are judged by exact, wider intervals, and released ones not at all.

    Raises:
        DefinitionError: An attribute is out of range; the message names the metric.
    """

    metric: str
    better: Better = "higher"
    critical: bool = True
    margin: float = 0.0
    minimum_units: int = 400
    minimum_outcomes: int = 50

    def __post_init__(self) -> None:
        """Refuse what cannot guard."""
        where = f"guardrail {self.metric!r}"
        if not self.metric:
            raise DefinitionError("a guardrail needs the name of its metric")
        if self.better not in get_args(Better):
            expected = ", ".join(get_args(Better))
            raise DefinitionError(f"{where}: better must be one of {expected}, not {self.better!r}")
        if not 0 <= self.margin < 1:
            raise DefinitionError(f"{where}: margin must lie in [0, 1), not {self.margin}")
        if self.minimum_units < 2 or self.minimum_outcomes < 0:
            raise DefinitionError(
                f"{where}: minimum_units must be at least 2 and minimum_outcomes at least 0"
            )


@dataclass(frozen=True, slots=True)
class GuardrailLook:
    """One guardrail at one look.

    Attributes:
        guardrail: What is guarded.
        verdict: What this look says of it.
        loss: Interval, right at all looks, of how much worse the treatment is than the margin
            allows: above 0 is harm. None without enough data.
    """

    guardrail: Guardrail
    verdict: GuardrailVerdict
    loss: Interval | None

    @property
    def rolls_back(self) -> bool:
        """Whether the change has to go."""
        return self.verdict == "harm" and self.guardrail.critical


def check_guardrails(
    guardrails: Sequence[Guardrail],
    samples: Mapping[str, tuple[Sample, Sample] | None],
    *,
    alpha: float = 0.05,
    tightest_at: float = 20_000,
    last_look: bool = False,
) -> tuple[GuardrailLook, ...]:
    """Judge every guardrail at one look, as often as wanted.

    Args:
        guardrails: What must not be harmed.
        samples: Control and treatment by metric, all outcomes so far, exact or released; None of a
            metric of which an arm has fewer than two units yet.
        alpha: Probability that a change which harms nothing is ever rolled back, over all looks and
            all critical guardrails (each gets an equal part). The others share as much again.
        tightest_at: Units of both arms at which harm is to be seen soonest; chosen beforehand.
        last_look: Whether this is the look that was planned as the last, of which there is one.

    Returns:
        One judgement for each guardrail, in their order.

    Raises:
        StatisticsError: A metric has no samples, or `alpha` or `tightest_at` is out of range.
    """
    looks = []
    for guardrail in guardrails:
        if guardrail.metric not in samples:
            raise StatisticsError(
                f"guardrail {guardrail.metric!r}: no samples of this metric, there are those of "
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
    kept, rare = _KEPT_FOR_THE_LAST_LOOK * alpha, _KEPT_FOR_RARE_OUTCOMES * alpha
    if _is_normal(guardrail, control, treatment):
        watched = alpha - kept - rare
        estimate = _loss(guardrail, control, treatment)
        loss = _ends(estimate, watched, tightest_at)
        seen_at_last = last_look and (
            fixed_horizon_p_value(estimate, alternative="greater")
            < _last_level(guardrail, control, treatment, watched, kept, tightest_at)
        )
    elif isinstance(control, Proportion) and isinstance(treatment, Proportion):
        loss, seen_at_last = _exact_loss(guardrail, control, treatment, rare), False
    else:
        return GuardrailLook(guardrail, "too few data", None)
    verdict: GuardrailVerdict = "undecided"
    if loss.low > 0 or seen_at_last:
        verdict = "harm"
    elif loss.high < 0:
        verdict = "no harm"
    return GuardrailLook(guardrail, verdict, loss)


def _last_level(
    guardrail: Guardrail,
    control: Sample,
    treatment: Sample,
    watched: float,
    kept: float,
    tightest_at: float,
) -> float:
    """Level of the test at the last look, after which nobody looks any more.

    Units arrive in both arms alike, so the first look came when the smaller one had enough.
    """
    seen = control.units + treatment.units
    first = seen * guardrail.minimum_units / min(control.units, treatment.units)
    return last_level(alpha=watched, kept=kept, tightest_at=tightest_at, first=first, last=seen)


def _ends(estimate: Estimate, alpha: float, tightest_at: float) -> Interval:
    """Both one-sided intervals: each end is right at all looks with ``1 - alpha``."""
    low = confidence_sequence(estimate, alpha=alpha, tightest_at=tightest_at, alternative="greater")
    high = confidence_sequence(estimate, alpha=alpha, tightest_at=tightest_at, alternative="less")
    return Interval(low.low, high.high, 1 - 2 * alpha, low.method)


def _loss(guardrail: Guardrail, control: Sample, treatment: Sample) -> Estimate:
    """How much worse the treatment is than the margin allows, absolute.

    The margin moves with the control's value, and so brings its error: for higher values better,
    the loss is ``(1 - margin) c - t``.
    """
    c, scale = level(control), _scale(guardrail)
    allowed = c.value * scale
    value = allowed - treatment.value if guardrail.better == "higher" else treatment.value - allowed
    var_c = (scale * c.standard_error) ** 2
    var_t = _variance(guardrail, treatment, allowed) / treatment.units
    return Estimate(
        value,
        (var_c + var_t) ** 0.5,
        c.units + treatment.units,
        welch_freedom(var_c, c.degrees_of_freedom, var_t, treatment.degrees_of_freedom),
    )


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
    """Whether there are outcomes enough of each kind for the normal law.

    Of the treatment those count that it would have if it did no harm, if that is more: one that
    breaks everything has no outcomes, and must not be waited for.
    """
    counts = _outcomes(control)
    if counts is None:
        return True
    allowed = min(max(control.value * _scale(guardrail), 0.0), 1.0)
    expected = (treatment.units * allowed, treatment.units * (1 - allowed))
    observed = _outcomes(treatment) or expected
    enough = guardrail.minimum_outcomes
    return min(counts) >= enough and max(min(expected), min(observed)) >= enough


def _outcomes(arm: Sample) -> tuple[float, float] | None:
    """How many units of a share said yes and no; None of what is no share."""
    if isinstance(arm, Proportion):
        return arm.successes, arm.units - arm.successes
    return (arm.successes, arm.failures) if isinstance(arm, ReleasedProportion) else None


def _variance(guardrail: Guardrail, treatment: Sample, allowed: float) -> float:
    """Of one unit of the treatment; of a share with few outcomes, what it would be without harm.

    The observed variance of hardly any outcomes is far too small: of none it is 0.
    """
    observed = _outcomes(treatment)
    if observed is None or min(observed) >= guardrail.minimum_outcomes:
        return treatment.variance
    p, null = (min(max(share, 0.0), 1.0) for share in (treatment.value, allowed))
    return treatment.variance + max(null * (1 - null) - p * (1 - p), 0.0)
