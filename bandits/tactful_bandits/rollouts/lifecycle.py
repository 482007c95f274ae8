"""Rollouts: plan, state and audit log, and the steps from shadow to decision.

Its functions are pure: they map a rollout and observations to the next rollout. They read no
clock and store nothing; the caller supplies the times, stores the result (`dump_rollout`) and
sets the experiment's arms to `Rollout.share`.

```
draft → shadow → canary (1 → 5 → 10 → 25 → 50 → 100 %) → decided
                    │  └→ held (sample ratio, or by hand)  → canary, by hand
                    └→ rolled back (harm, or by hand)
```

- **Harm rolls back** at the look that shows it, from any stage, held or not.
- **A sample ratio mismatch holds**: the arms did not get their expected units, so no number is
  reliable. The rollout does not advance until a person resumes it.
- **Everybody gets it only with proof**, unless the plan says otherwise: each critical guardrail
  must exclude its `smallest_loss` (`tactful_bandits.rollouts.proof`).
- **Stages are judged separately**, each with an equal part of alpha. Only `poolable_stages`
  combines data of several stages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import msgspec

from tactful_bandits.analysis.sample_ratio import SampleRatio, check_sample_ratio
from tactful_bandits.analysis.samples import Sample
from tactful_bandits.errors import DefinitionError, LifecycleError
from tactful_bandits.rollouts.guardrails import GuardrailLook, check_guardrails
from tactful_bandits.rollouts.plan import RolloutPlan
from tactful_bandits.rollouts.proof import Wait, prove, waits

RolloutState = Literal["draft", "shadow", "canary", "held", "rolled back", "decided"]
"""State of a rollout; "rolled back" and "decided" are final."""

Decision = Literal["ship", "keep", "inconclusive"]
"""Outcome: the change is shipped, the control is kept, or the data are inconclusive."""

SYSTEM = "system"
"""Author of transitions that a rule caused."""

_POOLED_UP_TO = 0.5


@dataclass(frozen=True)
class Transition:
    """One entry of the audit log."""

    at: int  # time in epoch milliseconds
    before: RolloutState  # previous state
    after: RolloutState  # new state
    share: float  # share of the units that get the change from now on
    by: str  # author of the transition; `SYSTEM` for rules
    reason: str  # names of metrics and rules, never numbers about people


@dataclass(frozen=True)
class Rollout:
    """A rollout in its present state.

    Attributes:
        state: Present state.
        stage: Number of the current or last stage.
        since: Time at which the stage began or was resumed, in epoch milliseconds. Samples of a
            stage begin here.
        decision: Outcome; None until it is decided.
        history: All transitions, oldest first.
    """

    plan: RolloutPlan
    state: RolloutState = "draft"
    stage: int = 0
    since: int = 0
    decision: Decision | None = None
    history: tuple[Transition, ...] = ()

    @property
    def active(self) -> bool:
        """Whether the change is being compared; its champion must then not be replaced."""
        return self.state in ("shadow", "canary", "held")

    @property
    def share(self) -> float:
        """Share of the units that get the change now; 1 once it is shipped."""
        return share_of(self.plan, self.state, self.stage, self.decision)


@dataclass(frozen=True)
class StageObservations:
    """Data of one look, collected since the stage began.

    Attributes:
        units: Units that the draw gave the control, and the change.
        samples: Control and change by metric, None while an arm has fewer than two units; empty in
            the last stage, which has no control.
    """

    units: tuple[int, int]
    samples: Mapping[str, tuple[Sample, Sample] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class RolloutLook:
    """Result of one look.

    Attributes:
        rollout: The rollout after the look.
        guardrails: Result of each guardrail; empty without a control.
        sample_ratio: Check of the arms' units; None without a control or units.
        waits: Guardrails that keep the stage from advancing, unless it ended or is held.
    """

    rollout: Rollout
    guardrails: tuple[GuardrailLook, ...]
    sample_ratio: SampleRatio | None
    waits: tuple[Wait, ...] = ()


def dump_rollout(rollout: Rollout) -> dict[str, object]:
    """Convert a rollout to plain data for JSON or YAML."""
    plain: dict[str, object] = msgspec.to_builtins(rollout)
    return plain


def load_rollout(plain: object) -> Rollout:
    """Convert plain data to a rollout.

    Raises:
        LifecycleError: The data are no valid rollout; the message names the place.
    """
    try:
        rollout = msgspec.convert(plain, Rollout)
    except (msgspec.ValidationError, DefinitionError) as error:
        raise LifecycleError(f"these data are no rollout: {error}") from error
    stages = len(rollout.plan.stages)
    if not 0 <= rollout.stage < stages:
        raise LifecycleError(
            f"these data are no rollout: there is no stage {rollout.stage}, the plan has {stages},"
            " counted from 0"
        )
    return rollout


def share_of(
    plan: RolloutPlan, state: RolloutState, stage: int, decision: Decision | None
) -> float:
    """Compute the share of the units that get the change in a state of a plan."""
    if state in ("canary", "held"):
        return plan.stages[stage]
    return 1.0 if decision == "ship" else 0.0


def start_shadow(rollout: Rollout, *, at: int, by: str, reason: str = "started") -> Rollout:
    """Start the shadow phase: compute the change without serving it.

    Raises:
        LifecycleError: The rollout is no draft, or the time is before the last transition.
    """
    _require_state(rollout, "start its shadow", "draft")
    return _move(rollout, "shadow", at=at, by=by, reason=reason)


def start_canary(rollout: Rollout, *, at: int, by: str, reason: str = "started") -> Rollout:
    """Start the canary: serve the change to the units of the first stage.

    Raises:
        LifecycleError: The rollout is not in shadow, or the time is before the last transition.
    """
    _require_state(rollout, "start its canary", "shadow")
    return _move(rollout, "canary", at=at, by=by, reason=reason, stage=0)


def start_rollout(rollout: Rollout, *, at: int, by: str, reason: str = "started") -> Rollout:
    """Serve the change to the units of the first stage, after a shadow phase of no length.

    Raises:
        LifecycleError: The rollout has begun its canary or ended, or the time is before the last
            transition.
    """
    if rollout.state == "draft":
        rollout = start_shadow(rollout, at=at, by=by, reason=reason)
    return start_canary(rollout, at=at, by=by, reason=reason)


def judge_rollout(rollout: Rollout, seen: StageObservations, *, at: int) -> RolloutLook:
    """Judge the current stage: roll back, hold, advance, or leave it.

    A stage advances at the first look after its planned duration with sufficient data and, before
    everybody gets the change, the proof that the plan requires. This is its last look and spends
    the part of alpha kept for it (`tactful_bandits.check_guardrails`). The observations are those
    since the stage began; `at` is the present time in epoch milliseconds.

    Raises:
        LifecycleError: The state is another, or the time is before the last transition.
        StatisticsError: A guardrail's samples are missing.
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
    proofs = prove(plan, seen.samples) if plan.requires_proof(rollout.stage) else ()
    undisturbed = rollout.state == "canary" and not any(look.rolls_back for look in looks)
    if undisturbed and ratio.mismatch:
        after = _move(rollout, "held", at=at, by=SYSTEM, reason="sample ratio mismatch")
    elif undisturbed and over and _ready(looks, proofs):
        looks = check(last_look=True)
        after = _harmed(rollout, looks, at) or _advanced(rollout, at)
    else:
        after = _harmed(rollout, looks, at) or rollout
    waiting: tuple[Wait, ...] = ()
    if after == rollout and after.state == "canary":
        elapsed = at - rollout.since
        waiting = waits(plan, looks, proofs, seen.samples, share=share, elapsed=elapsed)
    return RolloutLook(after, looks, ratio, waiting)


def hold_rollout(rollout: Rollout, *, at: int, by: str, reason: str) -> Rollout:
    """Stop judging a canary until a person resumes it; the share stays.

    Raises:
        LifecycleError: The rollout is not in canary, or the time is before the last transition.
    """
    _require_state(rollout, "be held", "canary")
    return _move(rollout, "held", at=at, by=by, reason=reason)


def resume_rollout(rollout: Rollout, *, at: int, by: str, reason: str) -> Rollout:
    """Resume a held rollout; the stage restarts without its earlier data.

    Raises:
        LifecycleError: The rollout is not held, or the time is before the last transition.
    """
    _require_state(rollout, "be resumed", "held")
    return _move(rollout, "canary", at=at, by=by, reason=reason)


def roll_back(rollout: Rollout, *, at: int, by: str, reason: str) -> Rollout:
    """Serve the control to everybody, at once and finally.

    Raises:
        LifecycleError: The rollout has ended, or the time is before the last transition.
    """
    _require_state(rollout, "be rolled back", "draft", "shadow", "canary", "held")
    return _move(rollout, "rolled back", at=at, by=by, reason=reason, decision="keep")


def decide_rollout(
    rollout: Rollout, decision: Decision, *, at: int, by: str, reason: str
) -> Rollout:
    """End a rollout by hand before its last stage is over.

    Raises:
        LifecycleError: The rollout is not in canary (a held one has no numbers to decide by), or
            the time is before the last transition.
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


def _ready(looks: tuple[GuardrailLook, ...], proofs: tuple[GuardrailLook, ...]) -> bool:
    enough = all(look.verdict != "too few data" for look in looks if look.guardrail.critical)
    return enough and all(look.verdict == "no harm" for look in proofs)


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
