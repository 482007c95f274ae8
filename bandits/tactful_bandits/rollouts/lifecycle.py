"""State machine of a rollout: shadow, canary by stages, hold, rollback, decision.

Its functions are pure: they map a rollout and observations to the next rollout. They read no
clock and store nothing; the caller supplies the times, stores the result (`dump_rollout`) and
sets the experiment's arms to `Rollout.share`.

```
draft → shadow → canary (1 → 5 → 10 → 25 → 50 → 100 %) → decided
                    │  └→ held (sample ratio)  → canary, by hand
                    └→ rolled back (harm, or by hand)
```

- **Harm rolls back** at the look that shows it, from any stage, held or not.
- **A sample ratio mismatch holds**: the arms did not get their expected units, so no number is
  reliable. The rollout does not advance until a person resumes it.
- **A transition from another state, or before the last one, raises LifecycleError.**
- **Stages are judged separately**, each with an equal part of alpha. Only `poolable_stages`
  combines data of several stages.
"""

from dataclasses import replace
from functools import partial

from tactful_bandits.analysis.sample_ratio import check_sample_ratio
from tactful_bandits.errors import LifecycleError
from tactful_bandits.rollouts.guardrails import GuardrailLook, check_guardrails
from tactful_bandits.rollouts.model import (
    SYSTEM,
    Decision,
    Rollout,
    RolloutLook,
    RolloutPlan,
    RolloutState,
    StageObservations,
    Transition,
    share_of,
)

_POOLED_UP_TO = 0.5


def start_shadow(rollout: Rollout, *, at: int, by: str, reason: str = "started") -> Rollout:
    """Start the shadow phase of a draft: compute the change without serving it."""
    _require_state(rollout, "start its shadow", "draft")
    return _move(rollout, "shadow", at=at, by=by, reason=reason)


def start_canary(rollout: Rollout, *, at: int, by: str, reason: str = "started") -> Rollout:
    """Start the canary after the shadow: serve the change to the first stage's units."""
    _require_state(rollout, "start its canary", "shadow")
    return _move(rollout, "canary", at=at, by=by, reason=reason, stage=0)


def judge_rollout(rollout: Rollout, seen: StageObservations, *, at: int) -> RolloutLook:
    """Judge the current stage: roll back, hold, advance, or leave it.

    A stage advances at the first look after its planned duration with sufficient data and, if the
    plan requires it, proof. This is its last look and spends the part of alpha kept for it
    (`tactful_bandits.check_guardrails`). The observations are those since the stage began; `at` is
    the present time in epoch milliseconds. A guardrail without samples raises StatisticsError.
    """
    _require_state(rollout, "be looked at", "canary", "held")
    _require_time(rollout, at)
    plan, share = rollout.plan, rollout.share
    over = at - rollout.since >= plan.stage_ms
    if share == 1:
        if over:
            reason = "the last stage is over"
            rollout = _move(rollout, "decided", at=at, by=SYSTEM, reason=reason, decision="ship")
        return RolloutLook(rollout, (), None)
    ratio = check_sample_ratio(
        seen.units, (1 - share, share), alpha=plan.sample_ratio_alpha / len(plan.stages)
    )
    check = partial(
        check_guardrails,
        plan.guardrails,
        seen.samples,
        alpha=plan.stage_alpha,
        tightest_at=plan.tightest_at,
    )
    looks = check()
    undisturbed = rollout.state == "canary" and not any(look.rolls_back for look in looks)
    if undisturbed and ratio.mismatch:
        after = _move(rollout, "held", at=at, by=SYSTEM, reason="sample ratio mismatch")
    elif undisturbed and over and _ready(plan, looks):
        looks = check(last_look=True)
        after = _harmed(rollout, looks, at) or _advanced(rollout, at)
    else:
        after = _harmed(rollout, looks, at) or rollout
    return RolloutLook(after, looks, ratio)


def resume_rollout(rollout: Rollout, *, at: int, by: str, reason: str) -> Rollout:
    """Resume a held rollout; the stage restarts without its earlier data."""
    _require_state(rollout, "be resumed", "held")
    return _move(rollout, "canary", at=at, by=by, reason=reason)


def roll_back(rollout: Rollout, *, at: int, by: str, reason: str) -> Rollout:
    """Serve the control to everybody, at once and finally."""
    _require_state(rollout, "be rolled back", "draft", "shadow", "canary", "held")
    return _move(rollout, "rolled back", at=at, by=by, reason=reason, decision="keep")


def decide_rollout(
    rollout: Rollout, decision: Decision, *, at: int, by: str, reason: str
) -> Rollout:
    """End a canary by hand before its last stage is over.

    A held rollout has no numbers to decide by.
    """
    _require_state(rollout, "be decided", "canary")
    return _move(rollout, "decided", at=at, by=by, reason=reason, decision=decision)


def poolable_stages(rollout: Rollout) -> tuple[int, ...]:
    """List the stages whose data may be pooled with the latest controlled stage.

    These are stages up to 50 % that were each entered by advancing, rising. After a hold and
    resumption the earlier stages are excluded, and while a stage is held all are. To pool, pass the
    units of each stage that were first exposed in it to `stratified_difference`, stage by stage; in
    a plain sum over stages, the change of the shares would turn any other change over the days into
    an effect.
    """
    if rollout.state == "held":
        return ()
    numbers: list[int] = []
    stages = rollout.plan.stages
    stage = -1
    for transition in rollout.history:
        if transition.after != "canary":
            continue
        resumed = transition.before == "held"
        stage = stage if resumed else stage + 1
        if resumed:
            numbers.clear()
        if stages[stage] <= _POOLED_UP_TO:
            numbers.append(stage)
    return tuple(numbers)


def _ready(plan: RolloutPlan, looks: tuple[GuardrailLook, ...]) -> bool:
    enough = {"no harm"} if plan.proof else {"no harm", "undecided"}
    return all(look.verdict in enough for look in looks if look.guardrail.critical)


def _harmed(rollout: Rollout, looks: tuple[GuardrailLook, ...], at: int) -> Rollout | None:
    harmed = [look.guardrail.metric for look in looks if look.rolls_back]
    if not harmed:
        return None
    return roll_back(rollout, at=at, by=SYSTEM, reason=f"harm: {', '.join(harmed)}")


def _advanced(rollout: Rollout, at: int) -> Rollout:
    if rollout.stage + 1 < len(rollout.plan.stages):
        stage = rollout.stage + 1
        return _move(rollout, "canary", at=at, by=SYSTEM, reason="no harm seen", stage=stage)
    reason = "the last stage is over, and was not meant for everybody"
    return _move(rollout, "decided", at=at, by=SYSTEM, reason=reason, decision="inconclusive")


def _move(
    rollout: Rollout,
    after: RolloutState,
    *,
    at: int,
    by: str,
    reason: str,
    stage: int | None = None,
    decision: Decision | None = None,
) -> Rollout:
    _require_time(rollout, at)
    if not by or not reason:
        raise LifecycleError(f"{_name(rollout)}: give the author and the reason of the change")
    stage = rollout.stage if stage is None else stage
    share = share_of(rollout.plan, after, stage, decision)
    line = Transition(at, rollout.state, after, share, by, reason)
    return replace(
        rollout,
        state=after,
        stage=stage,
        since=at if after == "canary" else rollout.since,
        decision=decision,
        history=(*rollout.history, line),
    )


def _require_state(rollout: Rollout, action: str, *states: RolloutState) -> None:
    if rollout.state not in states:
        expected = " or ".join(states)
        raise LifecycleError(
            f"{_name(rollout)} cannot {action}: it is {rollout.state}, not {expected}"
        )


def _require_time(rollout: Rollout, at: int) -> None:
    if rollout.history and at < rollout.history[-1].at:
        raise LifecycleError(
            f"{_name(rollout)}: the time {at} lies before its last transition, "
            f"{rollout.history[-1].at}; set the clock"
        )


def _name(rollout: Rollout) -> str:
    return f"the rollout of {rollout.plan.experiment!r}"
