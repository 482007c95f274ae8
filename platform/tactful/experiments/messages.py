"""What the API and the command line tell of rollouts, and the steps that both can take.

Words and shares, no numbers of people but released ones: who may read this is not who may read the
log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tactful.errors import ConfigError

if TYPE_CHECKING:
    from tactful.experiments.store import RolloutStore, StoredRollout
    from tactful_bandits.rollouts.model import Rollout

Step = Literal["start", "advance", "rollback", "decide", "archive"]


class RolloutInfo(msgspec.Struct, kw_only=True, frozen=True):
    """Where a rollout stands.

    Attributes:
        key: its name.
        state: ``draft``, ``shadow``, ``canary``, ``held``, ``rolled back`` or ``decided``.
        stage: number of the current or last stage, from 0.
        share: of the people who get the change.
        decision: ``ship``, ``keep`` or ``inconclusive``; None until it is decided.
        change: what changes.
        looks: how many looks were taken.
        looked_at: when the last was, epoch milliseconds; 0 for never.
        archived: whether it is done with.
        run_id: run of MLflow that keeps its end; empty until then.
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
        experiments: where each stands.
        next_cursor: give it as ``cursor`` for the next page; None at the end.
    """

    experiments: list[RolloutInfo]
    next_cursor: str | None = None


class RolloutChange(msgspec.Struct, kw_only=True, frozen=True):
    """One line of the audit log of a rollout.

    Attributes:
        at: epoch milliseconds.
        action: ``applied``, ``archived``, or the states it went between.
        share: of the people who get the change from then on.
        changed_by: who did it.
        reason: why.
    """

    at: int
    action: str
    share: float
    changed_by: str
    reason: str


class LookRecord(msgspec.Struct, kw_only=True, frozen=True):
    """What one look said.

    Attributes:
        number: of the look, from 1.
        at: epoch milliseconds.
        stage: number of the stage it was taken in.
        sample_ratio: ``ok``, ``mismatch`` or ``too few data``.
        guardrails: verdict by metric: ``too few data``, ``harm``, ``undecided`` or ``no harm``.
        state: of the rollout after it.
        released: of a private look, by arm, noisy counts of the people who took something from
            their first list and of those who did not, since the look before; else None.
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
        rollout: where it stands.
        history: who moved it, oldest first.
        looks: the latest, newest first.
    """

    rollout: RolloutInfo
    history: list[RolloutChange]
    looks: list[LookRecord]


class RolloutStep(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Why a rollout is moved.

    Attributes:
        reason: for the audit log.
        decision: for ``decide``: ``ship``, ``keep`` or ``inconclusive``.
    """

    reason: str
    decision: Literal["ship", "keep", "inconclusive"] | None = None


def rollout_info(stored: StoredRollout) -> RolloutInfo:
    """Where a rollout stands, in words."""
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
    """A rollout with all that is kept of it.

    Raises:
        StorageError: if the database cannot be used.
    """
    return RolloutDetails(
        rollout=rollout_info(stored),
        history=store.changes(stored.key),
        looks=store.looks(stored.key),
    )


def move(
    store: RolloutStore,
    key: str,
    step: str,
    *,
    by: str,
    reason: str,
    decision: str | None = None,
) -> StoredRollout:
    """Take a step by hand.

    Args:
        store: the rollouts.
        key: of the rollout.
        step: one of `Step`. ``advance`` starts the canary, or resumes what is held: from stage to
            stage a rollout goes by itself, when no harm is seen.
        by: who asks.
        reason: why.
        decision: for ``decide``.

    Raises:
        ConfigError: if there is none, it cannot take the step now, or no reason is given.
        StorageError: if the database cannot be used; nothing was changed then.
    """
    # Here, because processes that only pass requests on know these messages, too.
    from tactful_bandits.rollouts.lifecycle import (
        decide_rollout,
        resume_rollout,
        roll_back,
        start_canary,
        start_shadow,
    )

    if not reason.strip():
        raise ConfigError("say why, with a reason: the audit log keeps it")
    if step == "archive":
        return store.archive(key, by=by, reason=reason)
    if step == "rollback":
        return store.move(key, roll_back, by=by, reason=reason)
    if step == "decide":
        if decision is None:
            raise ConfigError("say which decision: ship, keep or inconclusive")
        return store.move(key, decide_rollout, by=by, decision=decision, reason=reason)

    def begin(rollout: Rollout, *, at: int, by: str) -> Rollout:
        if step == "start":
            return start_shadow(rollout, at=at, by=by, reason=reason)
        if rollout.state == "held":
            return resume_rollout(rollout, at=at, by=by, reason=reason)
        return start_canary(rollout, at=at, by=by, reason=reason)

    return store.move(key, begin, by=by)
