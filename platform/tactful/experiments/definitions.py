"""Changes of how lists are made, as data: what changes, in which stages, guarded by what.

```yaml
- key: cheaper-first
  change: {objective: {relevance: 1, price: 0.3}}
  guardrails: [{metric: takers, margin: 0.02}, {metric: revenue, critical: false}]
  stages: [0.01, 0.05, 0.1, 0.25, 0.5, 1]
  stage_hours: 24
  start: true
```

`change` holds parameters as those of an arm in ``experiments.yaml``. With ``model: "7"`` it gives
lists by another version of the model, on the index of the champion; with ``tuner: DIRECTORY`` a
trained network sets the objective (`tactful.rerank.tuned_objective`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import yaml
from msgspec import Meta

from tactful.errors import ConfigError
from tactful.experiments.metrics import METRICS
from tactful.rerank.arm_policy import RANKING_EXPERIMENT, policy_parts
from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_bandits.errors import DefinitionError

if TYPE_CHECKING:  # rollouts come with scipy, which no process that makes lists needs
    from tactful_bandits.rollouts.model import RolloutPlan

CONTROL = "control"
CHANGE = "change"

_KEY = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_HOUR = 3_600_000


class GuardrailDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric that the change must not harm; see `tactful_bandits.Guardrail`.

    Attributes:
        metric: ``takers``, ``taken_lists``, ``revenue`` or ``latency``.
        margin: loss that is put up with, as a share of the control's value.
        critical: whether harm rolls back; else it only warns.
        minimum_units: people that each arm needs before anything is said.
    """

    metric: str
    margin: float = 0.0
    critical: bool = True
    minimum_units: int = 400


class RolloutDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change and how it is to be rolled out.

    Attributes:
        key: its name, and the seed of who gets it: small letters, digits, ``-`` and ``_``.
        change: parameters of a policy that replace those of whoever gets it; ``model`` is a
            version of the model, ``tuner`` the directory of a tuner.
        guardrails: what must not be harmed.
        stages: share of the people who get it, stage by stage, rising, in (0, 1].
        stage_hours: how long a stage lasts at least.
        outcomes: types of events that say an item of a list was taken.
        outcome_hours: how long after a list what follows from it counts. No look sees a list
            sooner, so it is short.
        alpha: probability that a change which harms nothing is ever rolled back.
        tightest_at: people at whom harm is to be seen soonest.
        proof: advance only once critical guardrails show that there is no harm.
        epsilon: judge by counts that were released with noise, at this privacy loss of a person in
            a stage; None judges by exact outcomes (`tactful.experiments.private_looks`).
        evaluated: of a tuner: begin the canary only once ``tactful tuner evaluate`` has found it
            better.
        start: whether it starts by itself when it is applied.
    """

    key: str
    change: dict[str, Any]
    guardrails: tuple[GuardrailDefinition, ...] = (GuardrailDefinition(metric="takers"),)
    stages: tuple[float, ...] = (0.01, 0.05, 0.10, 0.25, 0.50, 1.00)
    stage_hours: Annotated[float, Meta(gt=0)] = 24.0
    outcomes: tuple[str, ...] = ("click", "add_to_cart", "purchase")
    outcome_hours: Annotated[float, Meta(gt=0)] = 1.0
    alpha: float = 0.05
    tightest_at: Annotated[float, Meta(ge=2)] = 20_000
    proof: bool = False
    epsilon: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    evaluated: bool = False
    start: bool = False

    @property
    def model(self) -> str:
        """Version of the model that the change is about; empty where it is about none."""
        return str(self.change.get("model", ""))

    @property
    def lasts(self) -> int:
        """How long after a list what follows counts, milliseconds."""
        return int(self.outcome_hours * _HOUR)

    @property
    def tuner(self) -> str:
        """Directory of the tuner that sets the objective; empty for none."""
        return str(self.change.get("tuner", ""))

    @property
    def touches(self) -> frozenset[str]:
        """What of a policy changes."""
        return frozenset("objective" if name == "tuner" else name for name in self.change)

    def parts(self) -> dict[str, Any]:
        """What the change replaces in a policy.

        Raises:
            ConfigError: if a parameter is unknown or out of range.
        """
        said = {name: it for name, it in self.change.items() if name not in ("model", "tuner")}
        return policy_parts(said, where=f"rollout {self.key!r}: change")

    def plan(self) -> RolloutPlan:
        """How it is rolled out.

        Raises:
            ConfigError: if that cannot be carried out.
        """
        from tactful_bandits.rollouts.guardrails import Guardrail
        from tactful_bandits.rollouts.model import RolloutPlan

        where = f"rollout {self.key!r}"
        if not _KEY.fullmatch(self.key) or self.key == RANKING_EXPERIMENT:
            raise ConfigError(
                f"{where}: a key has small letters, digits, '-' and '_', at most 63, and is not "
                f"{RANKING_EXPERIMENT!r}"
            )
        if not self.change:
            raise ConfigError(f"{where}: change is empty: say what changes")
        model = self.change.get("model", "-")
        if not isinstance(model, str) or not 1 <= len(model) <= 64:
            raise ConfigError(f"{where}: change.model must be a version, written as text")
        if (
            not isinstance(self.change.get("tuner", ""), str)
            or {
                "tuner",
                "objective",
            }
            <= self.change.keys()
        ):
            raise ConfigError(f"{where}: change.tuner must be a directory, and sets the objective")
        if self.evaluated and not self.tuner:
            raise ConfigError(f"{where}: only a tuner is evaluated before: leave evaluated out")
        self.parts()
        if self.outcome_hours > self.stage_hours:
            raise ConfigError(
                f"{where}: a stage of {self.stage_hours:g} hours is over before any outcome of "
                f"{self.outcome_hours:g} hours: make outcome_hours shorter"
            )
        for guard in self.guardrails:
            if guard.metric not in METRICS:
                raise ConfigError(
                    f"{where}: there is no metric {guard.metric!r}; there are {', '.join(METRICS)}"
                )
            if self.epsilon is not None and guard.metric != "takers":
                raise ConfigError(
                    f"{where}: with epsilon, counts of takers are released and nothing else: leave "
                    f"the guardrail {guard.metric!r} out"
                )
        try:
            plan = RolloutPlan(
                self.key,
                tuple(
                    Guardrail(
                        guard.metric,
                        better=METRICS[guard.metric].better,
                        critical=guard.critical,
                        margin=guard.margin,
                        minimum_units=guard.minimum_units,
                    )
                    for guard in self.guardrails
                ),
                stages=self.stages,
                stage_ms=int(self.stage_hours * _HOUR),
                alpha=self.alpha,
                tightest_at=self.tightest_at,
                proof=self.proof,
            )
            for share in plan.stages:
                experiment_at(self.key, share)
        except DefinitionError as error:
            raise ConfigError(str(error)) from error
        return plan


def experiment_at(key: str, share: float) -> Experiment:
    """Who gets a change while a share of the people does.

    The change owns the last buckets: as the share grows, whoever has it keeps it.

    Args:
        key: of the rollout.
        share: of the people, in [0, 1].
    """
    return Experiment(key, (Arm(CONTROL, 1.0 - share), Arm(CHANGE, share)))


def read_rollout(plain: object, *, where: str) -> RolloutDefinition:
    """Read one definition from plain data, and check it.

    Raises:
        ConfigError: if it is wrong; the message begins with `where`.
    """
    try:
        found = msgspec.convert(plain, RolloutDefinition)
        found.plan()
    except (msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from error
    return found


def load_rollouts(path: Path) -> list[RolloutDefinition]:
    """Read the definitions of a YAML file.

    Raises:
        ConfigError: if it cannot be read, or one of them is wrong; the message says which.
    """
    try:
        plain = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if plain is None:
        return []
    if not isinstance(plain, Sequence) or isinstance(plain, str):
        raise ConfigError(f"{path}: must be a list of rollouts")
    found = [
        read_rollout(each, where=f"{path}: rollout number {number}")
        for number, each in enumerate(plain, 1)
    ]
    keys = [each.key for each in found]
    if repeated := sorted({key for key in keys if keys.count(key) > 1}):
        raise ConfigError(f"{path}: written twice: {', '.join(repeated)}")
    return found
