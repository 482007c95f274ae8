"""Metrics of experiments as data, and the analysis that an experiment plans with them."""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

MetricKind = Literal["binary", "count", "sum", "ratio", "quantile", "retention"]
"""Kind of a metric; see `MetricDefinition.kind`."""

METRIC_KINDS: tuple[MetricKind, ...] = get_args(MetricKind)

Direction = Literal["higher", "lower"]
"""Desired direction of a metric."""

Correction = Literal["holm", "bh", "none"]
"""Correction for several goals: Holm, Benjamini and Hochberg, or none."""

Role = Literal["goal", "guardrail", "secondary"]
"""Use of a metric in an experiment."""

MINIMUM_OUTCOMES = 50
"""Least number of units with an outcome in each arm before a verdict, by default."""


class MetricDefinition(msgspec.Struct, kw_only=True, frozen=True):
    """A metric: which events of a unit after its first exposure count, and by what number.

    Attributes:
        name: its name, in snake_case.
        kind: `binary` (share of units with an event), `count` (events of a unit), `sum` (of values
            of a unit's events), `ratio` (of two other metrics' totals), `quantile` (of the values
            of all events), `retention` (share of units with an event in a later span).
        words: description in plain words.
        events: types of events that count; empty for a ratio.
        minus: types of events whose values are subtracted, such as refunds; of a sum.
        value: path of the number in the event, such as `properties.price`; of a sum or quantile.
        times: path of a second number that multiplies it, such as `properties.quantity`; 1 where
            an event has none.
        filter: condition on the event (`tactful_bandits.matches`).
        delay_ms: time after the first exposure before events count, milliseconds.
        window_ms: time after the delay in which events count, milliseconds.
        cap: largest outcome of a unit; a larger one counts as the cap, and one below its negative
            as that. None for no cap.
        direction: desired direction.
        minimum_outcomes: units with an outcome that each arm needs before a verdict.
        level: share of the values below a quantile, in (0, 1).
        numerator: metric above the line of a ratio.
        denominator: metric below the line of a ratio.
        line: line in the file.
    """

    name: str
    kind: MetricKind
    words: str = ""
    events: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    value: str = ""
    times: str = ""
    filter: dict[str, Any] = {}
    delay_ms: int = 0
    window_ms: int = 0
    cap: float | None = None
    direction: Direction = "higher"
    minimum_outcomes: int = MINIMUM_OUTCOMES
    level: float | None = None
    numerator: str = ""
    denominator: str = ""
    line: int = 0

    @property
    def lasts(self) -> int:
        """Time after the first exposure at which a unit's outcome is complete, milliseconds."""
        return self.delay_ms + self.window_ms

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the metrics that a ratio divides; none for other kinds."""
        return (self.numerator, self.denominator) if self.kind == "ratio" else ()


class SegmentDefinition(msgspec.Struct, kw_only=True, frozen=True):
    """Units that are also compared by themselves.

    Attributes:
        name: its name.
        condition: on the first exposure: `context.*` and `properties.*` of its event, and `user.*`,
            the properties of its user as described before.
    """

    name: str
    condition: dict[str, Any]


class MetricGuardrail(msgspec.Struct, kw_only=True, frozen=True):
    """A metric that an experiment must not harm.

    Attributes:
        metric: its name.
        margin: tolerated loss, as a share of the control's value.
    """

    metric: str
    margin: float = 0.0


class MetricPlan(msgspec.Struct, kw_only=True, frozen=True):
    """The analysis of one experiment.

    Attributes:
        experiment: key of an experiment, a rollout or an experiment of a flag.
        goals: metrics that decide.
        guardrails: metrics that must not be harmed.
        secondary: metrics that explain.
        cuped_ms: time before the first exposure whose outcomes reduce the variance; 0 for none.
        correction: for the number of goals, and of secondary metrics.
        alpha: probability of a false claim.
        segments: segments that are compared, too.
        start: first time of exposures, epoch milliseconds; None: those of the last days.
        arms: share of the units by arm, the control first, where nothing else defines them.
        epsilon: privacy loss of a person in all released metrics; None: nothing is released.
        line: line in the file.
    """

    experiment: str
    goals: tuple[str, ...] = ()
    guardrails: tuple[MetricGuardrail, ...] = ()
    secondary: tuple[str, ...] = ()
    cuped_ms: int = 0
    correction: Correction = "holm"
    alpha: float = 0.05
    segments: tuple[SegmentDefinition, ...] = ()
    start: int | None = None
    arms: dict[str, float] = {}
    epsilon: float | None = None
    line: int = 0

    @property
    def roles(self) -> dict[str, Role]:
        """Role of each metric by its name, goals first."""
        roles: dict[str, Role] = dict.fromkeys(self.goals, "goal")
        roles |= dict.fromkeys((guard.metric for guard in self.guardrails), "guardrail")
        return roles | dict.fromkeys(self.secondary, "secondary")


class MetricUse(msgspec.Struct, kw_only=True, frozen=True):
    """Use of a metric in an experiment.

    Attributes:
        experiment: its key.
        role: `goal`, `guardrail` or `secondary`.
    """

    experiment: str
    role: Role


class MetricInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A metric and its uses.

    Attributes:
        definition: the metric.
        used: experiments that use it.
    """

    definition: MetricDefinition
    used: list[MetricUse]


class PlanInfo(msgspec.Struct, kw_only=True, frozen=True):
    """The analysis of an experiment, and since when it has been fixed.

    Attributes:
        plan: the analysis.
        registered_at: when its present form was recorded, epoch milliseconds; None: not yet.
        registered_by: who recorded it.
    """

    plan: MetricPlan
    registered_at: int | None = None
    registered_by: str = ""


class MetricIndex(msgspec.Struct, kw_only=True, frozen=True):
    """All metrics and analyses of an installation.

    Attributes:
        metrics: metrics in the order of the file.
        experiments: analyses in the order of the file.
    """

    metrics: list[MetricInfo]
    experiments: list[PlanInfo]
