"""Rollout model: the plan, the present state and the audit log.

Plain values; `tactful_bandits.rollouts.lifecycle` holds the transitions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from tactful_bandits.analysis.sample_ratio import SampleRatio
from tactful_bandits.analysis.samples import Sample
from tactful_bandits.errors import DefinitionError, LifecycleError
from tactful_bandits.rollouts.guardrails import Guardrail, GuardrailLook

RolloutState = Literal["draft", "shadow", "canary", "held", "rolled back", "decided"]
"""State of a rollout; "rolled back" and "decided" are final."""

Decision = Literal["ship", "keep", "inconclusive"]
"""Outcome: the change is shipped, the control is kept, or the data are inconclusive."""

SYSTEM = "system"
"""Author of transitions that a rule caused."""


@dataclass(frozen=True)
class RolloutPlan:
    """Plan of a rollout, fixed before it starts.

    Attributes:
        experiment: Key of the experiment of two arms, the control first.
        guardrails: Metrics that must not be harmed.
        stages: Share of the units that get the change, stage by stage, rising, in (0, 1].
        stage_ms: Minimum duration of a stage in milliseconds; a day or more, since mornings differ
            from evenings.
        alpha: Probability that a harmless change is ever rolled back.
        sample_ratio_alpha: Probability that a sound rollout is ever held.
        tightest_at: Units of both arms at which harm is detected soonest.
        proof: Advance only once every critical guardrail has the verdict "no harm", instead of no
            verdict "harm".
    """

    experiment: str
    guardrails: tuple[Guardrail, ...]
    stages: tuple[float, ...] = (0.01, 0.05, 0.10, 0.25, 0.50, 1.00)
    stage_ms: int = 86_400_000
    alpha: float = 0.05
    sample_ratio_alpha: float = 0.001
    tightest_at: float = 20_000
    proof: bool = False

    def __post_init__(self) -> None:
        """Validate stages, guardrails and probabilities."""
        where = f"rollout of {self.experiment!r}"
        rising = all(a < b for a, b in zip((0.0, *self.stages), self.stages, strict=False))
        if not self.stages or not rising or self.stages[-1] > 1:
            raise DefinitionError(
                f"{where}: stages must be shares that rise within (0, 1], not {self.stages}"
            )
        if not any(guardrail.critical for guardrail in self.guardrails):
            raise DefinitionError(
                f"{where}: without a critical guardrail nothing could roll it back; name one"
            )
        names = [guardrail.metric for guardrail in self.guardrails]
        if len({*names}) < len(names):
            raise DefinitionError(f"{where}: two guardrails of one metric, among {names}")
        if self.stage_ms < 0:
            raise DefinitionError(f"{where}: stage_ms must not be negative")
        if not 0 < self.alpha <= 0.5 or not 0 < self.sample_ratio_alpha < 1:
            raise DefinitionError(
                f"{where}: alpha must be above 0 and at most 0.5, sample_ratio_alpha in (0, 1)"
            )

    @property
    def stage_alpha(self) -> float:
        """The part of `alpha` for each stage that has a control to compare with."""
        return self.alpha / max(1, sum(share < 1 for share in self.stages))


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
    """

    rollout: Rollout
    guardrails: tuple[GuardrailLook, ...]
    sample_ratio: SampleRatio | None


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
