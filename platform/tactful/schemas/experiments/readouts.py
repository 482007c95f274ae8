"""Read-outs of experiments: effects with intervals, by metric, and over time."""

from __future__ import annotations

from typing import Literal

import msgspec

Source = Literal["exact", "released"]
"""Origin of the numbers: the log inside the trusted zone, or released counts with noise."""


class Bounds(msgspec.Struct, kw_only=True, frozen=True):
    """An interval.

    Attributes:
        low: its lower end; None without a bound.
        high: its upper end; None without a bound.
    """

    low: float | None
    high: float | None


class ArmLevel(msgspec.Struct, kw_only=True, frozen=True):
    """The value of a metric in one arm.

    Attributes:
        arm: its name.
        value: a share or a mean of its users; with noise it can be impossible, such as below 0.
        interval: for one planned look, by the spread of the users and the noise.
        people: users who count; noisy where counts were released.
    """

    arm: str
    value: float
    interval: Bounds
    people: int


class Effect(msgspec.Struct, kw_only=True, frozen=True):
    """The difference of one metric between an arm and the control.

    Attributes:
        metric: name of the metric.
        words: its description.
        better: desired direction, `higher` or `lower`.
        control: its value in the control.
        treatment: its value in the other arm.
        difference: treatment minus control.
        relative: difference as a share of the control's value; None of a control of 0.
        fixed: interval for one planned look.
        anytime: interval for any number of looks (confidence sequence).
        chance_to_win: probability that the treatment is better, by a flat prior, for one look; None
            without variation.
        loss_of_treatment: expected loss of choosing the treatment, in units of the metric.
        loss_of_control: expected loss of choosing the control.
        verdict: `higher`, `lower` or `inconclusive`, over all metrics and looks together; `too few
            data` below the least number of outcomes.
        cap: amount that counts for a user who spent more; None for none.
        role: of a metric of `metrics.yaml`: `goal`, `guardrail` or `secondary`; empty otherwise.
        p: of such a metric: p-value for any number of looks, corrected for the metrics of its role.
        outcomes: of such a metric: units with an outcome in the arm that has fewer.
        minimum_outcomes: units with an outcome that each arm needs before a verdict.
        adjusted: whether outcomes before the exposure reduced the variance (CUPED).
        exploratory: whether metric or segment were defined, or changed, after the first exposure.
    """

    metric: str
    words: str
    better: str
    control: ArmLevel
    treatment: ArmLevel
    difference: float
    relative: float | None
    fixed: Bounds
    anytime: Bounds
    chance_to_win: float | None
    loss_of_treatment: float | None
    loss_of_control: float | None
    verdict: str
    cap: float | None = None
    role: str = ""
    p: float | None = None
    outcomes: int | None = None
    minimum_outcomes: int | None = None
    adjusted: bool = False
    exploratory: bool = False


class SegmentEffects(msgspec.Struct, kw_only=True, frozen=True):
    """Effects in a part of the units.

    Attributes:
        segment: its name.
        exploratory: whether it was defined, or changed, after the first exposure.
        people: users by arm.
        effects: by arm and metric; their p-values are corrected for the number of segments.
    """

    segment: str
    exploratory: bool
    people: dict[str, int]
    effects: list[Effect]


class EffectPoint(msgspec.Struct, kw_only=True, frozen=True):
    """The effect on one metric up to a time.

    Attributes:
        at: epoch milliseconds.
        arm: the treatment.
        metric: name of the metric.
        difference: treatment minus control, since the stage began.
        anytime: its interval for any number of looks.
        people: users of both arms.
    """

    at: int
    arm: str
    metric: str
    difference: float
    anytime: Bounds
    people: int


class GuardrailPoint(msgspec.Struct, kw_only=True, frozen=True):
    """A guardrail at one time, as a look judges it.

    Attributes:
        at: epoch milliseconds.
        metric: of the guardrail.
        verdict: `too few data`, `harm`, `undecided` or `no harm`.
        loss: interval of the loss as a share of the control's value, valid at any look. Above the
            margin is harm. None without enough data.
        margin: tolerated loss, as a share of the control's value.
    """

    at: int
    metric: str
    verdict: str
    loss: Bounds | None
    margin: float


class RatioCheck(msgspec.Struct, kw_only=True, frozen=True):
    """Check that the arms got the users they should.

    Attributes:
        verdict: `ok`, `mismatch` or `too few data`; with a mismatch no other number is reliable.
        p: chi-square p-value, for one planned look; None without users.
        expected: share of the users by arm.
        people: users by arm; noisy where counts were released.
        crossed: share of the users left out because they saw several arms; None if unknown.
    """

    verdict: str
    p: float | None
    expected: dict[str, float]
    people: dict[str, int]
    crossed: float | None = None


class ReadOutMessage(msgspec.Struct, kw_only=True, frozen=True):
    """The read-out of a rollout's stage, or of an experiment.

    Attributes:
        key: of the rollout or experiment.
        source: `exact`, or `released`: counts with noise.
        at: time of the read-out, epoch milliseconds.
        since: first time of the recommendations that count.
        until: last time of them; None while they go on.
        sample_ratio: check of the arms' users.
        stage: number of the rollout's stage, from 0; None of an experiment.
        stages: numbers of the stages that have a control and were begun.
        effects: by arm and metric.
        series: effects over time, at most 40 times.
        guardrails: guardrails over time, at most 40 times.
        confidence: of the intervals, each by itself.
        epsilon: privacy loss of a user in a stage; None of exact numbers.
        reason: why there are no effects; empty otherwise.
        segments: effects of metrics of `metrics.yaml` in parts of the users.
        notes: what a reader of the numbers has to know.
    """

    key: str
    source: Source
    at: int
    since: int
    until: int | None
    sample_ratio: RatioCheck
    stage: int | None = None
    stages: list[int] = []
    effects: list[Effect] = []
    series: list[EffectPoint] = []
    guardrails: list[GuardrailPoint] = []
    confidence: float = 0.95
    epsilon: float | None = None
    reason: str = ""
    segments: list[SegmentEffects] = []
    notes: list[str] = []
