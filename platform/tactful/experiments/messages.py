"""Messages of the API and the command line about rollouts, and the steps that both can take.

They hold words and shares, and no counts of users but released ones, because their readers may not
read the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from tactful.errors import ConfigError

if TYPE_CHECKING:
    from tactful.experiments.store import RolloutStore, StoredRollout
    from tactful_bandits.rollouts.lifecycle import Rollout

Step = Literal["shadow", "start", "advance", "rollback", "decide", "archive"]
STEPS: tuple[Step, ...] = get_args(Step)

NOT_JUDGED = "cannot be judged"
"""Action in the audit log of a rollout whose look failed."""


class RolloutInfo(msgspec.Struct, kw_only=True, frozen=True):
    """State of a rollout.

    Attributes:
        key: its name.
        state: `draft`, `shadow`, `canary`, `held`, `rolled back` or `decided`.
        stage: number of the current or last stage, from 0.
        share: of the users who get the change.
        decision: `ship`, `keep` or `inconclusive`; None until it is decided.
        change: parameters that change.
        looks: number of looks taken.
        looked_at: time of the last look, epoch milliseconds; 0 for never.
        archived: whether it is archived.
        run_id: MLflow run that records its end; empty until then.
    """

    key: str
    state: str
    stage: int
    share: float
    decision: str | None
    change: dict[str, Any]
    looks: int
    looked_at: int
    archived: bool
    run_id: str


class RolloutIndex(msgspec.Struct, kw_only=True, frozen=True):
    """One page of the rollouts, by key.

    Attributes:
        experiments: state of each.
        next_cursor: send it as `cursor` for the next page; None at the end.
    """

    experiments: list[RolloutInfo]
    next_cursor: str | None = None


class RolloutChange(msgspec.Struct, kw_only=True, frozen=True):
    """One entry of the audit log of a rollout.

    Attributes:
        at: epoch milliseconds.
        action: `applied`, `archived`, or the states before and after.
        share: of the users who get the change from then on.
        changed_by: author of the change.
        reason: reason of the author.
    """

    at: int
    action: str
    share: float
    changed_by: str
    reason: str


class Waiting(msgspec.Struct, kw_only=True, frozen=True):
    """A guardrail that keeps a stage from advancing.

    Attributes:
        metric: of the guardrail.
        reason: `too few data` or `not proven`.
        people: users of both arms that are missing, about, by the outcomes so far; None where
            these foresee no end.
        days: in which they come, at the rate of the stage so far.
    """

    metric: str
    reason: str
    people: int | None = None
    days: int | None = None


class LookRecord(msgspec.Struct, kw_only=True, frozen=True):
    """Result of one look.

    Attributes:
        number: of the look, from 1.
        at: epoch milliseconds.
        stage: number of the stage it was taken in.
        sample_ratio: `ok`, `mismatch` or `too few data`.
        guardrails: verdict by metric: `too few data`, `harm`, `undecided` or `no harm`.
        state: of the rollout after it.
        released: for a private look, by arm, noisy counts of the users who took something from
            their first recommendation and of the others, since the look before; else None.
        waits: guardrails that keep the stage from advancing.
    """

    number: int
    at: int
    stage: int
    sample_ratio: str
    guardrails: dict[str, str]
    state: str
    released: dict[str, tuple[int, int]] | None = None
    waits: tuple[Waiting, ...] = ()


class GuardrailForecast(msgspec.Struct, kw_only=True, frozen=True):
    """Probability that one critical guardrail finds a harmful change.

    Attributes:
        metric: of the guardrail.
        loss: relative loss that is to be found.
        power: probability to find it by the end of the stage before 100 %, to two digits; None
            without outcomes to compute it from.
    """

    metric: str
    loss: float
    power: float | None


class RolloutForecast(msgspec.Struct, kw_only=True, frozen=True):
    """Power and length of the plan of a rollout.

    Attributes:
        key: of the rollout.
        basis: source of the users and outcomes.
        guardrails: forecast of each critical guardrail.
        enough: whether every power is at least 0.8.
        days: until the end of the stage before 100 %; None without users a day.
        days_needed: the same if stages are long enough for a power of 0.8; None if unknown.
        stage_hours_needed: `stage_hours` of these stages.
        proof_days: until a change that does no harm has the proof to reach all users, with a
            probability of 0.8; None without `proof`, or if unknown.
        accepted: reason to accept a low power; None without.
    """

    key: str
    basis: str
    guardrails: list[GuardrailForecast]
    enough: bool
    days: int | None = None
    days_needed: int | None = None
    stage_hours_needed: int | None = None
    proof_days: int | None = None
    accepted: str | None = None


class RolloutDetails(msgspec.Struct, kw_only=True, frozen=True):
    """A rollout with its audit log and its latest looks.

    Attributes:
        rollout: its state.
        history: its audit log, oldest first.
        looks: the latest looks, newest first.
        reason: cause for which it does not go on now; empty for none.
        forecast: of its plan, where this response defined it.
    """

    rollout: RolloutInfo
    history: list[RolloutChange]
    looks: list[LookRecord]
    reason: str = ""
    forecast: RolloutForecast | None = None


class RolloutStep(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Reason of a step.

    Attributes:
        reason: for the audit log.
        decision: for `decide`: `ship`, `keep` or `inconclusive`.
    """

    reason: str
    decision: Literal["ship", "keep", "inconclusive"] | None = None


def rollout_info(stored: StoredRollout) -> RolloutInfo:
    """Return the state of a rollout as a message."""
    rollout = stored.rollout
    return RolloutInfo(
        key=stored.key,
        state=rollout.state,
        stage=rollout.stage,
        share=0.0 if stored.archived else rollout.share,
        decision=rollout.decision,
        change=stored.definition.change,
        looks=stored.looks,
        looked_at=stored.looked_at,
        archived=stored.archived,
        run_id=stored.run_id,
    )


def details(
    store: RolloutStore, stored: StoredRollout, *, forecast: RolloutForecast | None = None
) -> RolloutDetails:
    """Return a rollout with its audit log and latest looks."""
    history, looks = store.changes(stored.key), store.looks(stored.key)
    return RolloutDetails(
        rollout=rollout_info(stored),
        history=history,
        looks=looks,
        reason=_reason(stored, history, looks),
        forecast=forecast,
    )


def _reason(stored: StoredRollout, history: list[RolloutChange], looks: list[LookRecord]) -> str:
    """Return why a rollout in canary or held does not go on; empty for no reason."""
    rollout = stored.rollout
    if stored.archived or rollout.state not in ("canary", "held") or not history:
        return ""
    last = history[-1]
    if last.action == NOT_JUDGED and last.at >= stored.looked_at:
        return f"{NOT_JUDGED}: {last.reason}"
    if rollout.state == "held":
        cause = rollout.history[-1].reason
        return f"held: {cause}; the step `advance` continues"
    if not looks or looks[0].at < rollout.since:
        return "no look was taken in this stage yet"
    return "; ".join(wait_words(wait) for wait in looks[0].waits)


def wait_words(wait: Waiting) -> str:
    """Describe what a stage waits for."""
    cause = {"too few data": "too few data", "not proven": "a large loss is not excluded yet"}
    words = f"{wait.metric}: {cause.get(wait.reason, wait.reason)}"
    if wait.people is None:
        return f"{words}; the outcomes so far foresee no end"
    if wait.days is None:
        return (
            f"{words}: about {wait.people:,} more people are needed, and none was counted in this "
            "stage; check the model, the traffic and consent to measurement"
        )
    days = "1 day" if wait.days == 1 else f"{wait.days} days"
    return f"{words}: about {wait.people:,} more people are needed, in about {days}"


def move(
    store: RolloutStore, key: str, step: str, *, by: str, reason: str, decision: str | None = None
) -> StoredRollout:
    """Take a step of a rollout by hand; author and reason are for the audit log.

    `shadow` starts the shadow alone, `start` the first stage of the canary, as `start: true` does.
    `advance` starts the canary after a shadow, or resumes a held rollout; the controller moves a
    rollout from stage to stage when it finds no harm. `decide` needs a decision.

    Raises:
        ConfigError: if there is none, it cannot take the step now, or no reason is given.
        StorageError: if the database cannot be used; nothing was changed then.
    """
    # Imported late: processes that only forward requests use these messages without scipy.
    from tactful_bandits.rollouts import lifecycle

    if not reason.strip():
        raise ConfigError("reason is empty: give one for the audit log")
    if step == "archive":
        return store.archive(key, by=by, reason=reason)
    if step == "rollback":
        return store.move(key, lifecycle.roll_back, by=by, reason=reason)
    if step == "decide":
        if decision is None:
            raise ConfigError("decision is missing: give ship, keep or inconclusive")
        return store.move(key, lifecycle.decide_rollout, by=by, decision=decision, reason=reason)

    def begin(rollout: Rollout, *, at: int, by: str) -> Rollout:
        if step == "shadow":
            return lifecycle.start_shadow(rollout, at=at, by=by, reason=reason)
        if step == "start":
            return lifecycle.start_rollout(rollout, at=at, by=by, reason=reason)
        if rollout.state == "held":
            return lifecycle.resume_rollout(rollout, at=at, by=by, reason=reason)
        return lifecycle.start_canary(rollout, at=at, by=by, reason=reason)

    return store.move(key, begin, by=by)
