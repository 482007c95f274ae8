"""Tuners of objective weights: bounds, weights over time, verdict, regret."""

from __future__ import annotations

import msgspec

from tactful.schemas.experiments.readouts import Bounds


class WeightRange(msgspec.Struct, kw_only=True, frozen=True):
    """One weight of a tuner.

    Attributes:
        objective: its name.
        champion: weight in service without the tuner.
        low: least weight that the tuner can give.
        high: largest weight that the tuner can give.
        now: present weight; None while the champion's weights hold.
    """

    objective: str
    champion: float
    low: float
    high: float
    now: float | None


class WeightPoint(msgspec.Struct, kw_only=True, frozen=True):
    """Mean weights of the recommendations in a span of time.

    Attributes:
        at: begin of the span, epoch milliseconds.
        weights: mean by objective; objectives that are left out have 0.
    """

    at: int
    weights: dict[str, float]


class Verdict(msgspec.Struct, kw_only=True, frozen=True):
    """Off-policy evaluation before the tuner serves, see `tactful tuner evaluate`.

    Attributes:
        verdict: `better`, `worse` or `inconclusive`.
        gain: in the share of recommendations from which something is taken.
        interval: of the gain.
        reasons: of `inconclusive`.
        current: whether the evaluated network is the present one.
    """

    verdict: str
    gain: float
    interval: Bounds
    reasons: list[str]
    current: bool


class FixedArm(msgspec.Struct, kw_only=True, frozen=True):
    """Fixed weights, evaluated by the tuner's recommendations.

    Attributes:
        name: `champion`, `mean`, or an objective that is raised or lowered.
        weights: by objective.
        value: estimated share of recommendations from which something is taken.
        effective: effective sample size, in recommendations.
        reliable: whether the sample is large enough to take part in the regret.
    """

    name: str
    weights: dict[str, float]
    value: float
    effective: float
    reliable: bool


class Regret(msgspec.Struct, kw_only=True, frozen=True):
    """Loss of the tuner against the best fixed weights near its own.

    Attributes:
        value: share of recommendations from which something was taken.
        recommendations: number of recommendations with a logged draw.
        best: best of the reliable fixed arms.
        regret: value of the best arm minus that of the tuner; below 0 the tuner is better.
        interval: of the regret, valid for the best of all arms (Bonferroni).
        arms: all fixed arms.
    """

    value: float
    recommendations: int
    best: str
    regret: float
    interval: Bounds
    arms: list[FixedArm]


class TunerInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A tuner of a rollout.

    Attributes:
        key: of the rollout.
        state: of the rollout.
        share: of the users who get its weights.
        trained_in: place of the training; `simulator` is no evidence about users.
        noise: standard deviation of the noise in its actions; 0 for none.
        weights: bounds and present weights.
        series: mean weights over time, at most 60 times; empty without the scope `admin`.
        figures: measurements of the training.
        verdict: evaluation before it served; None without, or without the scope `admin`.
        regret: None where it cannot be estimated, or without the scope `admin`.
        reason: why there is no regret, or the tuner cannot be read; empty otherwise.
    """

    key: str
    state: str
    share: float
    trained_in: str = ""
    noise: float = 0.0
    weights: list[WeightRange] = []
    series: list[WeightPoint] = []
    figures: dict[str, float] = {}
    verdict: Verdict | None = None
    regret: Regret | None = None
    reason: str = ""


class TunerIndex(msgspec.Struct, kw_only=True, frozen=True):
    """The tuners of rollouts that are not archived, by key.

    Attributes:
        tuners: each tuner.
        next_cursor: send it as `cursor` for the next page; None at the end.
    """

    tuners: list[TunerInfo]
    next_cursor: str | None = None
