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

Step = Literal["start", "advance", "rollback", "decide", "archive"]
STEPS: tuple[Step, ...] = get_args(Step)


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
    """

    number: int
    at: int
    stage: int
    sample_ratio: str
    guardrails: dict[str, str]
    state: str
    released: dict[str, tuple[int, int]] | None = None


class RolloutDetails(msgspec.Struct, kw_only=True, frozen=True):
    """A rollout with its audit log and its latest looks.

    Attributes:
        rollout: its state.
        history: its audit log, oldest first.
        looks: the latest looks, newest first.
    """

    rollout: RolloutInfo
    history: list[RolloutChange]
    looks: list[LookRecord]


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


def details(store: RolloutStore, stored: StoredRollout) -> RolloutDetails:
    """Return a rollout with its audit log and latest looks."""
    history, looks = store.changes(stored.key), store.looks(stored.key)
    return RolloutDetails(rollout=rollout_info(stored), history=history, looks=looks)


def move(
    store: RolloutStore, key: str, step: str, *, by: str, reason: str, decision: str | None = None
) -> StoredRollout:
    """Take a step of a rollout by hand; author and reason are for the audit log.

    `advance` starts the canary, or resumes a held rollout; the controller moves a rollout from
    stage to stage when it finds no harm. `decide` needs a decision.

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
        if step == "start":
            return lifecycle.start_shadow(rollout, at=at, by=by, reason=reason)
        if rollout.state == "held":
            return lifecycle.resume_rollout(rollout, at=at, by=by, reason=reason)
        return lifecycle.start_canary(rollout, at=at, by=by, reason=reason)

    return store.move(key, begin, by=by)
