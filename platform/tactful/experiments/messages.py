"""Make the messages about rollouts, and take the steps of the API and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tactful.errors import ConfigError
from tactful.schemas.experiments.rollouts import (
    LookRecord,
    RolloutChange,
    RolloutDetails,
    RolloutForecast,
    RolloutInfo,
    Waiting,
)

if TYPE_CHECKING:
    from tactful.experiments.store import RolloutStore, StoredRollout
    from tactful_bandits.rollouts.lifecycle import Rollout

NOT_JUDGED = "cannot be judged"
"""Action in the audit log of a rollout whose look failed."""


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
        stages=list(rollout.plan.stages),
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
    rollout from stage to stage when it finds no harm. `hold` stops that: the share stays, harm
    still rolls back, and `advance` begins the stage again. `decide` needs a decision.

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
    if step == "hold":
        return store.move(key, lifecycle.hold_rollout, by=by, reason=reason)
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
