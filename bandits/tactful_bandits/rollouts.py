"""What a rollout is: its plan, where it stands, and the log of how it came there.

Plain values. How they change is in `tactful_bandits.lifecycle`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from tactful_bandits.errors import DefinitionError, LifecycleError
from tactful_bandits.guardrails import Guardrail, GuardrailLook
from tactful_bandits.sample_ratio import SampleRatio
from tactful_bandits.samples import Sample

RolloutState = Literal["draft", "shadow", "canary", "held", "rolled back", "decided"]
"""Where a rollout is; "rolled back" and "decided" are for good."""

Decision = Literal["ship", "keep", "inconclusive"]
"""What came out: the change replaces what was, it does not, or the data cannot tell."""

SYSTEM = "system"
"""Who caused a transition that nobody asked for."""


@dataclass(frozen=True)
class RolloutPlan:
    """How a change is to be rolled out, written before it starts.

    Attributes:
        experiment: Key of the experiment of two arms, the control first.
        guardrails: What must not be harmed.
        stages: Share of the units that get the change, stage by stage, rising, in (0, 1].
        stage_ms: How long a stage lasts at least, in milliseconds; a day or more, since mornings
            differ from evenings.
        alpha: Probability that a change which harms nothing is ever rolled back.
        sample_ratio_alpha: Probability that a sound rollout is ever held.
        tightest_at: Units of both arms at which harm is to be seen soonest.
        proof: Advance only once every critical guardrail shows that there is no harm beyond its
            margin, instead of showing none.

    Raises:
        DefinitionError: The stages do not rise, or a value is out of range.
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
        """Refuse what cannot be carried out."""
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
    """One line of the audit log.

    Attributes:
        at: When, in epoch milliseconds.
        before: State that was left.
        after: State that was entered.
        share: Share of the units that get the change from now on.
        by: Who caused it; `SYSTEM` where a rule did.
        reason: Why: names of metrics and rules, never numbers about people.
    """

    at: int
    before: RolloutState
    after: RolloutState
    share: float
    by: str
    reason: str


@dataclass(frozen=True)
class Rollout:
    """A change on its way.

    Attributes:
        plan: What was planned.
        state: Where it is.
        stage: Number of the current or last stage.
        since: When the stage began or was resumed, in epoch milliseconds. Samples of a stage begin
            here.
        decision: What came out; None until it is decided.
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
        """Whether it is compared with a champion, which must not be replaced meanwhile."""
        return self.state in ("shadow", "canary", "held")

    @property
    def share(self) -> float:
        """Share of the units that get the change now; 1 once it is shipped."""
        return share_of(self.plan, self.state, self.stage, self.decision)


@dataclass(frozen=True)
class StageObservations:
    """What a look is taken at, all of it since the stage began.

    Attributes:
        units: Units that the draw gave the control, and the change.
        samples: Control and change by metric, None while an arm has fewer than two units; empty in
            the last stage, which has no control.
    """

    units: tuple[int, int]
    samples: Mapping[str, tuple[Sample, Sample] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class RolloutLook:
    """The outcome of one look.

    Attributes:
        rollout: The rollout after it.
        guardrails: What each guardrail said; empty without a control.
        sample_ratio: Whether the arms got their units; None without a control or units.
    """

    rollout: Rollout
    guardrails: tuple[GuardrailLook, ...]
    sample_ratio: SampleRatio | None


def dump_rollout(rollout: Rollout) -> dict[str, object]:
    """Write a rollout as plain data for JSON or YAML."""
    plain: dict[str, object] = msgspec.to_builtins(rollout)
    return plain


def load_rollout(plain: object) -> Rollout:
    """Read a rollout from plain data.

    Raises:
        LifecycleError: The data are none of a rollout; the message names the place.
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
    """Share of the units that get the change in a state of a plan."""
    if state in ("canary", "held"):
        return plan.stages[stage]
    return 1.0 if decision == "ship" else 0.0
