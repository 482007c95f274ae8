"""The life of a change: tried in shadow, rolled out in stages, rolled back by itself, decided.

A pure state machine: a rollout and what happened go in, the next rollout comes out. It reads no
clock and stores nothing; whoever runs it gives the times, keeps the result (`dump_rollout`) and
sets the experiment's arms to `Rollout.share`.

```
draft → shadow → canary (1 → 5 → 10 → 25 → 50 → 100 %) → decided
                    │  └→ held (sample ratio)  → canary, by hand
                    └→ rolled back (harm, or by hand)
```

- **Harm rolls back** in the very look that shows it, from whatever stage, held or not.
- **A sample ratio mismatch holds**: the arms did not get the units they should have, so no number
  can be trusted. Nothing advances until a person resumes.
- **Every stage is judged by itself**, with an equal part of alpha. Data of several stages are put
  together only by `poolable_stages`.
"""

from dataclasses import replace

from tactful_bandits.errors import LifecycleError
from tactful_bandits.guardrails import GuardrailLook, check_guardrails
from tactful_bandits.rollouts import (
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
from tactful_bandits.sample_ratio import check_sample_ratio

_POOLED_UP_TO = 0.5


def start_shadow(rollout: Rollout, *, at: int, by: str, reason: str = "started") -> Rollout:
    """Compute the change beside what is served, and serve it to nobody.

    Raises:
        LifecycleError: It is no draft, or the time lies before the last transition.
    """
    _require_state(rollout, "start its shadow", "draft")
    return _move(rollout, "shadow", at=at, by=by, reason=reason)


def start_canary(rollout: Rollout, *, at: int, by: str, reason: str = "started") -> Rollout:
    """Give the change to the units of the first stage.

    Raises:
        LifecycleError: It is not in shadow, or the time lies before the last transition.
    """
    _require_state(rollout, "start its canary", "shadow")
    return _move(rollout, "canary", at=at, by=by, reason=reason, stage=0)


def judge_rollout(rollout: Rollout, seen: StageObservations, *, at: int) -> RolloutLook:
    """Judge the current stage: roll back, hold, advance, or leave it.

    A stage advances at the first look at which it has lasted as planned and data suffice; where
    the plan asks for proof, that has to be there as well. This look is its last: what was kept of
    alpha for it is spent (`tactful_bandits.check_guardrails`).

    Args:
        rollout: In canary or held.
        seen: Since the stage began.
        at: Now, in epoch milliseconds.

    Returns:
        The rollout, the same if nothing changed, and what was judged.

    Raises:
        LifecycleError: It is in another state, or the time lies before the last transition.
        StatisticsError: A guardrail's samples are missing.
    """
    _require_state(rollout, "be looked at", "canary", "held")
    _require_time(rollout, at)
    plan, share = rollout.plan, rollout.share
    over = at - rollout.since >= plan.stage_ms
    if share == 1:
        return RolloutLook(_shipped(rollout, at) if over else rollout, (), None)
    ratio = check_sample_ratio(
        seen.units, (1 - share, share), alpha=plan.sample_ratio_alpha / len(plan.stages)
    )
    looks = _guarded(plan, seen)
    undisturbed = rollout.state == "canary" and not any(each.rolls_back for each in looks)
    if undisturbed and ratio.mismatch:
        after = _move(rollout, "held", at=at, by=SYSTEM, reason="sample ratio mismatch")
    elif undisturbed and over and _ready(plan, looks):
        looks = _guarded(plan, seen, last_look=True)
        after = _harmed(rollout, looks, at) or _advanced(rollout, at)
    else:
        after = _harmed(rollout, looks, at) or rollout
    return RolloutLook(after, looks, ratio)


def resume_rollout(rollout: Rollout, *, at: int, by: str, reason: str) -> Rollout:
    """Go on after a hold whose cause was found; the stage begins anew, without its old data.

    Raises:
        LifecycleError: It is not held, or the time lies before the last transition.
    """
    _require_state(rollout, "be resumed", "held")
    return _move(rollout, "canary", at=at, by=by, reason=reason)


def roll_back(rollout: Rollout, *, at: int, by: str, reason: str) -> Rollout:
    """Give everybody what was served before, at once and for good.

    Raises:
        LifecycleError: Nobody has it any more, or the time lies before the last transition.
    """
    _require_state(rollout, "be rolled back", "draft", "shadow", "canary", "held")
    return _move(rollout, "rolled back", at=at, by=by, reason=reason, decision="keep")


def decide_rollout(
    rollout: Rollout, decision: Decision, *, at: int, by: str, reason: str
) -> Rollout:
    """End it by hand before its last stage is over, such as for good where it shows a gain.

    Raises:
        LifecycleError: It is not in canary (a held one has no numbers to decide by), or the time
            lies before the last transition.
    """
    _require_state(rollout, "be decided", "canary")
    return _move(rollout, "decided", at=at, by=by, reason=reason, decision=decision)


def poolable_stages(rollout: Rollout) -> tuple[int, ...]:
    """Which stages may be put together with the latest one that has a control.

    Only stages up to 50 %, each entered by advancing from the one before: where a stage was held
    and resumed, what lies before stays out, and while one is held all do. To put them together,
    give the units of each stage that were first exposed in it to
    `tactful_bandits.stratified_difference`, stage by stage; summed up across stages, a change of
    the shares would pass for an effect of whatever else changed with the days.

    Returns:
        Numbers of the stages, rising; empty before the first.
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


def _guarded(
    plan: RolloutPlan, seen: StageObservations, *, last_look: bool = False
) -> tuple[GuardrailLook, ...]:
    return check_guardrails(
        plan.guardrails,
        seen.samples,
        alpha=plan.stage_alpha,
        tightest_at=plan.tightest_at,
        last_look=last_look,
    )


def _ready(plan: RolloutPlan, looks: tuple[GuardrailLook, ...]) -> bool:
    enough = {"no harm"} if plan.proof else {"no harm", "undecided"}
    return all(each.verdict in enough for each in looks if each.guardrail.critical)


def _harmed(rollout: Rollout, looks: tuple[GuardrailLook, ...], at: int) -> Rollout | None:
    harmed = [each.guardrail.metric for each in looks if each.rolls_back]
    if not harmed:
        return None
    return roll_back(rollout, at=at, by=SYSTEM, reason=f"harm: {', '.join(harmed)}")


def _advanced(rollout: Rollout, at: int) -> Rollout:
    if rollout.stage + 1 < len(rollout.plan.stages):
        stage = rollout.stage + 1
        return _move(rollout, "canary", at=at, by=SYSTEM, reason="no harm seen", stage=stage)
    reason = "the last stage is over, and was not meant for everybody"
    return _move(rollout, "decided", at=at, by=SYSTEM, reason=reason, decision="inconclusive")


def _shipped(rollout: Rollout, at: int) -> Rollout:
    reason = "the last stage is over"
    return _move(rollout, "decided", at=at, by=SYSTEM, reason=reason, decision="ship")


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
        raise LifecycleError(f"{_name(rollout)}: say who asks for it and why")
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


def _require_state(rollout: Rollout, wish: str, *states: RolloutState) -> None:
    if rollout.state not in states:
        expected = " or ".join(states)
        raise LifecycleError(
            f"{_name(rollout)} cannot {wish}: it is {rollout.state}, not {expected}"
        )


def _require_time(rollout: Rollout, at: int) -> None:
    if rollout.history and at < rollout.history[-1].at:
        raise LifecycleError(
            f"{_name(rollout)}: the time {at} lies before its last transition, "
            f"{rollout.history[-1].at}; set the clock"
        )


def _name(rollout: Rollout) -> str:
    return f"the rollout of {rollout.plan.experiment!r}"
