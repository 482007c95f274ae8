"""Plan of a rollout: guardrails, stages and probabilities, fixed before it starts."""

from dataclasses import dataclass

from tactful_bandits.errors import DefinitionError
from tactful_bandits.rollouts.guardrails import Guardrail


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
        proof: Before everybody gets the change, wait until every critical guardrail excludes its
            `smallest_loss`; the earlier stages only need no verdict "harm".

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
    proof: bool = True

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

    @property
    def last_controlled(self) -> int | None:
        """Number of the last stage that has a control; None if there is none."""
        numbers = [number for number, share in enumerate(self.stages) if share < 1]
        return numbers[-1] if numbers else None

    def requires_proof(self, stage: int) -> bool:
        """Return whether everybody gets the change after a stage, and only with proof."""
        return self.proof and stage == self.last_controlled and self.stages[-1] == 1

    @property
    def proof_alpha(self) -> float:
        """Alpha of each guardrail's proof: half of `alpha`.

        The other half is for the error of the normal approximation at rare outcomes.
        """
        return self.alpha / 2

    def alpha_of(self, guardrail: Guardrail) -> float:
        """Return the part of `stage_alpha` of a guardrail."""
        alike = sum(other.critical == guardrail.critical for other in self.guardrails)
        return self.stage_alpha / alike
