"""Bandits: decisions, states, arms, shares over time, off-policy estimates."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tactful.schemas.experiments.readouts import Bounds
from tactful.schemas.fields import Identifier, Scalar


class DecideRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A request for the arm of a user.

    Attributes:
        user_id: user.
        device_id: first-party device id, where the user is not known.
        session_id: visit.
        context: page, device and others, by which the bandit may decide.
    """

    user_id: Identifier | None = None
    device_id: Identifier | None = None
    session_id: Identifier | None = None
    context: Annotated[dict[Identifier, Scalar], Meta(max_length=64)] = {}

    @property
    def subject(self) -> str | None:
        """Key of the user or device; None without both."""
        if self.user_id is not None:
            return self.user_id
        return None if self.device_id is None else f"device:{self.device_id}"


class BanditDecision(msgspec.Struct, kw_only=True, frozen=True):
    """The arm of a user.

    Attributes:
        bandit: key of the bandit.
        arm: name of the arm.
        value: its value.
        decision_id: send it as `decision_id` in `properties` of the event that rewards the
            decision; None: the decision is not logged, and nothing is learnt from it.
        propensity: probability with which the arm was chosen; None if it was not logged.
        serves: whether the bandit chose; False: its default arm, or one by chance in shadow.
        reason: why the decision is not logged; empty otherwise.
    """

    bandit: str
    arm: str
    value: Any
    decision_id: str | None = None
    propensity: float | None = None
    serves: bool = False
    reason: str = ""


class BanditInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A bandit.

    Attributes:
        key: its name.
        state: `shadow`, `live` or `off`.
        policy: `beta-thompson`, `linear-thompson` or `linucb`.
        arms: names of the arms.
        default: arm that serves in shadow and without consent.
        recommends: whether its arms are recommendation policies.
        features: names of its features.
        reward: type of the event that rewards.
        within_hours: time in which it counts.
        min_share: least probability of an arm.
        rollouts: rollouts that give it to a share of the users.
        changed_at: time of the last change, epoch milliseconds.
        changed_by: who changed it last; empty for others than `admin`.
    """

    key: str
    state: str
    policy: str
    arms: list[str]
    default: str
    recommends: bool
    features: list[str]
    reward: str
    within_hours: float
    min_share: float
    rollouts: list[str]
    changed_at: int
    changed_by: str


class BanditArmReport(msgspec.Struct, kw_only=True, frozen=True):
    """Outcomes of an arm.

    Attributes:
        name: its name.
        decisions: number of decisions for it whose reward is known.
        share: of all decisions.
        reward: mean reward of its decisions; None without one.
        value: estimated mean reward if it always served; None without an estimate.
        interval: of `value`.
        effective: effective sample size of the estimate, in decisions.
        reliable: whether the sample is large enough to take part in the regret.
    """

    name: str
    decisions: int
    share: float
    reward: float | None = None
    value: float | None = None
    interval: Bounds | None = None
    effective: float = 0.0
    reliable: bool = False


class BanditPoint(msgspec.Struct, kw_only=True, frozen=True):
    """Decisions in a span of time.

    Attributes:
        at: begin of the span, epoch milliseconds.
        decisions: their number.
        shares: share of each arm.
        reward: mean reward.
    """

    at: int
    decisions: int
    shares: dict[str, float]
    reward: float


class BanditVerdict(msgspec.Struct, kw_only=True, frozen=True):
    """Off-policy evaluation of the bandit by its decisions in shadow.

    Attributes:
        verdict: `better` or `worse` than what served, or `inconclusive`.
        gain: in the mean reward.
        interval: of the gain.
        reasons: of `inconclusive`.
    """

    verdict: str
    gain: float
    interval: Bounds
    reasons: list[str]


class BanditRegret(msgspec.Struct, kw_only=True, frozen=True):
    """Loss of the bandit against its best arm.

    Attributes:
        value: estimated mean reward of the bandit.
        best: best of the reliable arms.
        regret: value of the best arm minus that of the bandit; below 0 the bandit is better.
        interval: of the regret, valid for the best of all arms (Bonferroni).
    """

    value: float
    best: str
    regret: float
    interval: Bounds


class BanditOutcomes(msgspec.Struct, kw_only=True, frozen=True):
    """Outcomes of a bandit, exactly.

    Attributes:
        decisions: number of decisions whose reward is known.
        waiting: number of decisions whose time for a reward is not over.
        reward: mean reward; None without decisions.
        least_propensity: least logged probability of a decision; None without decisions.
        arms: each arm.
        series: shares over time, at most 60 spans.
        verdict: of the decisions in shadow; None without an estimate.
        regret: None without an estimate.
        reasons: why there is no verdict or regret.
    """

    decisions: int
    waiting: int
    reward: float | None
    least_propensity: float | None
    arms: list[BanditArmReport]
    series: list[BanditPoint]
    verdict: BanditVerdict | None
    regret: BanditRegret | None
    reasons: list[str]


class BanditDetails(msgspec.Struct, kw_only=True, frozen=True):
    """A bandit with its outcomes.

    Attributes:
        bandit: its state.
        definition: as it was applied.
        outcomes: exactly, for `admin` alone; None for others.
    """

    bandit: BanditInfo
    definition: dict[str, Any]
    outcomes: BanditOutcomes | None = None


class BanditIndex(msgspec.Struct, kw_only=True, frozen=True):
    """All bandits, by key.

    Attributes:
        bandits: each bandit.
        next_cursor: send it as `cursor` for the next page; None at the end.
    """

    bandits: list[BanditInfo]
    next_cursor: str | None = None


class BanditStop(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The end of a bandit.

    Attributes:
        reason: for the audit log.
    """

    reason: Annotated[str, Meta(max_length=1_000)] = ""
