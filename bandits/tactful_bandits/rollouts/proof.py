"""Proof that a change does no large harm, and the units that a stage still waits for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Literal

from tactful_bandits.analysis.noisy_samples import RatioSums, ReleasedProportion, ReleasedRatio
from tactful_bandits.analysis.samples import Mean, Proportion, Quantile, Ratio, Sample
from tactful_bandits.analysis.skewed_means import SkewedMean
from tactful_bandits.rollouts.guardrails import Guardrail, GuardrailLook, check_guardrails
from tactful_bandits.rollouts.plan import RolloutPlan

_MOST_TIMES = 1_024.0  # units beyond so many times the present ones are no forecast

Samples = Mapping[str, tuple[Sample, Sample] | None]
"""Control and change by metric; None while an arm has fewer than two units."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A guardrail that keeps a stage from advancing, and the units that would end it."""

    metric: str  # of the guardrail
    reason: Literal["too few data", "not proven"]
    # Units of both arms that are missing, to two digits, by the outcomes so far; None where these
    # foresee no end.
    units: int | None
    ms: int | None  # time in which they come, at the rate of the stage so far, milliseconds


def prove(plan: RolloutPlan, samples: Samples) -> tuple[GuardrailLook, ...]:
    """Test whether each critical guardrail excludes its `smallest_loss`.

    "no harm" is proof. All must prove it, so each spends the whole `RolloutPlan.proof_alpha`: a
    change that causes such a loss is ever proven harmless with at most this probability.
    """
    strict = [
        replace(guardrail, margin=max(guardrail.margin, guardrail.smallest_loss))
        for guardrail in plan.guardrails
        if guardrail.critical and guardrail.smallest_loss is not None
    ]
    return tuple(_proves(plan, guardrail, samples) for guardrail in strict)


def _proves(plan: RolloutPlan, guardrail: Guardrail, samples: Samples) -> GuardrailLook:
    (look,) = check_guardrails(
        [guardrail], samples, alpha=plan.proof_alpha, tightest_at=plan.tightest_at
    )
    return look


def waits(
    plan: RolloutPlan,
    looks: Sequence[GuardrailLook],
    proofs: Sequence[GuardrailLook],
    samples: Samples,
    *,
    share: float,
    elapsed: int,
) -> tuple[Wait, ...]:
    """List the critical guardrails that keep a stage from advancing, except by harm.

    `looks` and `proofs` are the results of one look, `share` is that of the change, and `elapsed`
    the milliseconds since the stage began.
    """
    found: dict[str, Wait] = {}
    for look in looks:
        if look.guardrail.critical and look.verdict == "too few data":
            missing = _until_enough(look.guardrail, samples[look.guardrail.metric], share)
            found[look.guardrail.metric] = _wait(look, "too few data", missing, samples, elapsed)
    for look in proofs:
        metric = look.guardrail.metric
        if look.verdict != "no harm" and metric not in found:
            missing = _until_proven(plan, look, samples[metric])
            found[metric] = _wait(look, "not proven", missing, samples, elapsed)
    return tuple(found.values())


def _wait(
    look: GuardrailLook,
    reason: Literal["too few data", "not proven"],
    missing: float | None,
    samples: Samples,
    elapsed: int,
) -> Wait:
    metric = look.guardrail.metric
    present = _units(samples[metric])
    if missing is None:
        return Wait(metric, reason, None, None)
    ms = round(missing * elapsed / present) if present else None
    return Wait(metric, reason, _two_digits(missing), ms)


def _until_enough(
    guardrail: Guardrail, pair: tuple[Sample, Sample] | None, share: float
) -> float | None:
    """Return the missing units of both arms; None where the outcomes are too few, not the units."""
    missing = guardrail.minimum_units / min(share, 1 - share) - _units(pair)
    return missing if missing > 0 else None


def _until_proven(
    plan: RolloutPlan, look: GuardrailLook, pair: tuple[Sample, Sample] | None
) -> float | None:
    """Return the missing units if further ones have the same outcomes; None if none would do."""
    if pair is None:
        return None
    if isinstance(pair[0], SkewedMean):
        return _until_narrow(look, _units(pair))

    def proven(factor: float) -> bool:
        grown = _grown(pair[0], factor), _grown(pair[1], factor)
        return _proves(plan, look.guardrail, {look.guardrail.metric: grown}).verdict == "no harm"

    low, high = 1.0, 2.0
    while not proven(high):
        low, high = high, 2 * high
        if high > _MOST_TIMES:
            return None
    while high > 1.02 * low:
        middle = (low + high) / 2
        low, high = (low, middle) if proven(middle) else (middle, high)
    return _units(pair) * (high - 1)


def _until_narrow(look: GuardrailLook, units: int) -> float | None:
    """Return the missing units if the width falls with their root; None if its middle is harm."""
    loss = look.loss
    if loss is None or not (math.isfinite(loss.low) and math.isfinite(loss.high)):
        return None
    middle, half = (loss.high + loss.low) / 2, (loss.high - loss.low) / 2
    return units * ((half / middle) ** 2 - 1) if middle < 0 else None


def _grown(sample: Sample, factor: float) -> Sample:
    """Return a sample of so many times the units with the same outcomes."""
    if isinstance(sample, Proportion):
        units = math.ceil(sample.units * factor)
        return Proportion(units, min(round(sample.successes * factor), units))
    assert isinstance(sample, Mean | Ratio | ReleasedProportion | ReleasedRatio | Quantile)
    if isinstance(sample, ReleasedRatio):
        sums, noise = (
            RatioSums(*(part * factor for part in astuple(it)))
            for it in (sample.sums, sample.noise)
        )
        return ReleasedRatio(sample.released_units * factor, sums, noise)
    if isinstance(sample, Quantile):
        error = sample.standard_error / factor**0.5
        return replace(sample, units=math.ceil(sample.units * factor), standard_error=error)
    grown = {field.name: getattr(sample, field.name) * factor for field in fields(sample)}
    if "units" in grown:
        grown["units"] = math.ceil(grown["units"])
    return replace(sample, **grown)


def _units(pair: tuple[Sample, Sample] | None) -> int:
    return sum(arm.units for arm in pair) if pair else 0


def _two_digits(units: float) -> int:
    """Round up to two digits, so that no count of units can be computed from it."""
    step: int = 10 ** max(math.floor(math.log10(max(units, 1.0))) - 1, 0)
    return math.ceil(max(units, 1.0) / step) * step
