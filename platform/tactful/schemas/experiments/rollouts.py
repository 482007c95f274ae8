"""Structs of rollouts: ``/v1/experiments``.

They hold words and shares, and no counts of users but released ones.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

Step = Literal["shadow", "start", "advance", "hold", "rollback", "decide", "archive"]
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
        stages: share of the users who get the change, stage by stage.
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
    stages: list[float] = []


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
