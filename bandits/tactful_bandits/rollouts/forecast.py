"""Forecast of a plan: the probability that it finds a harmful change, and the days it takes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tactful_bandits.analysis.samples import Sample
from tactful_bandits.errors import StatisticsError
from tactful_bandits.rollouts.guardrails import Guardrail
from tactful_bandits.rollouts.plan import RolloutPlan
from tactful_bandits.rollouts.power import guardrail_power

ENOUGH_POWER = 0.8
"""Power of a plan that deserves its name."""

_DAY_MS = 86_400_000
_LOSS = 0.2  # where a guardrail names no loss above 0
_LONGEST_DAYS = 3_650.0

BaselineOf = Callable[[Guardrail, int], Sample | None]
"""Outcomes without the change in a time as long as a stage, by guardrail and units of the change in
the stage, on which the noise of released counts depends; None where there are none."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Forecast of a plan, at one number of new units a day.

    Attributes:
        power: By critical guardrail, the probability that its `smallest_loss` is found by the end
            of the last stage with a control; None without a baseline.
        days: Days until then, longer than planned where stages wait for `minimum_units`.
        enough_days: Days until then if stages are long enough for a power of 0.8; None if ten years
            are too short, or a power is None.
        enough_stage_days: Length of these stages.
        proof_days: Days until a change that does no harm has the proof to reach everybody, with a
            probability of 0.8; None if the plan requires none, or this cannot be forecast.
    """

    power: Mapping[str, float | None]
    days: float
    enough_days: float | None
    enough_stage_days: float | None
    proof_days: float | None = None

    @property
    def enough(self) -> bool:
        """Whether every power reaches 0.8; guardrails without a baseline do not."""
        return all(value is not None and value >= ENOUGH_POWER for value in self.power.values())


def forecast(plan: RolloutPlan, baseline_of: BaselineOf, *, units_per_day: float) -> Forecast:
    """Forecast the power of a plan by the end of its last stage with a control.

    Stages are judged separately, so the probabilities to miss a loss are multiplied. Stages wait
    until each arm has the `minimum_units` of the critical guardrails. Guardrails without a
    `smallest_loss` are left out.

    Raises:
        StatisticsError: `units_per_day` is not above 0.
    """
    if not 0 < units_per_day < math.inf:
        raise StatisticsError(f"units_per_day must be above 0, not {units_per_day}")
    power, days = _power(plan, baseline_of, units_per_day)
    proven = _proof_days(plan, baseline_of, units_per_day, days)
    planned = Forecast(power, days, None, None, proven)
    known = [value for value in power.values() if value is not None]
    if len(known) < len(power):
        return planned

    def at(stage_days: float) -> Forecast:
        longer = replace(plan, stage_ms=round(stage_days * _DAY_MS))
        power, days = _power(longer, baseline_of, units_per_day)
        return Forecast(power, days, days, stage_days)

    low = max(plan.stage_ms / _DAY_MS, 1 / 24)
    if planned.enough:
        return replace(planned, enough_days=days, enough_stage_days=plan.stage_ms / _DAY_MS)
    high = 2 * low
    while high < _LONGEST_DAYS and not at(high).enough:
        low, high = high, 2 * high
    if not at(high).enough:
        return planned
    while high > 1.02 * low:
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle).enough else (middle, high)
    best = at(high)
    return replace(planned, enough_days=best.days, enough_stage_days=high)


def _power(
    plan: RolloutPlan, baseline_of: BaselineOf, units_per_day: float
) -> tuple[dict[str, float | None], float]:
    """Return the power by critical guardrail, and the days of the stages with a control."""
    judged = _judged(plan)
    missed: dict[str, float | None] = {guardrail.metric: 1.0 for guardrail in judged}
    days = 0.0
    for share in (share for share in plan.stages if share < 1):
        units = _stage_units(plan, share, units_per_day)
        days += units / units_per_day
        arms = _arms(units, share)
        for guardrail in judged:
            before, baseline = missed[guardrail.metric], baseline_of(guardrail, arms[1])
            if before is None or baseline is None:
                missed[guardrail.metric] = None
                continue
            found = guardrail_power(
                guardrail,
                baseline,
                arms,
                loss=guardrail.smallest_loss or _LOSS,
                alpha=plan.alpha_of(guardrail),
                tightest_at=plan.tightest_at,
            )
            missed[guardrail.metric] = before * (1 - found)
    return {metric: None if it is None else 1 - it for metric, it in missed.items()}, days


def _proof_days(
    plan: RolloutPlan, baseline_of: BaselineOf, units_per_day: float, days: float
) -> float | None:
    """Return the days until proof, given those of the plan; the last stage waits for it."""
    stage, judged = plan.last_controlled, _judged(plan)
    if stage is None or not plan.requires_proof(stage) or not judged:
        return None
    share = plan.stages[stage]
    planned = _stage_units(plan, share, units_per_day)

    def proven(units: float) -> bool:
        """Return whether all guardrails have proof with a probability of 0.8."""
        arms, chance = _arms(units, share), 1.0
        for guardrail in judged:
            baseline = baseline_of(guardrail, arms[1])
            if baseline is None:
                return False
            strict = replace(guardrail, margin=max(guardrail.margin, guardrail.smallest_loss or 0))
            options = {"alpha": plan.proof_alpha, "tightest_at": plan.tightest_at}
            chance *= guardrail_power(strict, baseline, arms, loss=0, verdict="no harm", **options)
        return chance >= ENOUGH_POWER

    low, high = planned, planned
    while not proven(high):
        low, high = high, 2 * high
        if high > _LONGEST_DAYS * units_per_day:
            return None
    while high > 1.02 * low:
        middle = (low + high) / 2
        low, high = (low, middle) if proven(middle) else (middle, high)
    return days + (high - planned) / units_per_day


def _judged(plan: RolloutPlan) -> list[Guardrail]:
    """Return the critical guardrails that have a loss to find."""
    return [it for it in plan.guardrails if it.critical and it.smallest_loss is not None]


def _stage_units(plan: RolloutPlan, share: float, units_per_day: float) -> float:
    """Return the units of a stage, which waits for the minimum of each arm."""
    minimum = max(guardrail.minimum_units for guardrail in plan.guardrails if guardrail.critical)
    return max(units_per_day * plan.stage_ms / _DAY_MS, minimum / min(share, 1 - share), 4.0)


def _arms(units: float, share: float) -> tuple[int, int]:
    """Return the units of the control and of the change."""
    control, change = (max(2, math.ceil(units * part - 1e-6)) for part in (1 - share, share))
    return control, change
