"""Rollouts as data: a change of recommendations, its stages and its guardrails.

```yaml
- key: cheaper-first
  change: {objective: {relevance: 1, price: 0.3}}
  guardrails: [{metric: takers, margin: 0.02}, {metric: revenue, critical: false}]
  stages: [0.01, 0.05, 0.1, 0.25, 0.5, 1]
  stage_hours: 24
  start: true
```

`change` holds parameters as those of an arm in `experiments.yaml`. With `model: "7"` another
version of the model ranks, on the index of the champion; with `tuner: DIRECTORY` a trained network
sets the objective (`tactful.rerank.tuned_objective`); with `bandit: KEY` a bandit chooses
(`tactful.bandits.definitions`), and the others get its default arm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from tactful.errors import ConfigError
from tactful.experiments.metrics import METRICS, Metric
from tactful.rerank.arm_policy import RANKING_EXPERIMENT, policy_parts
from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_bandits.errors import DefinitionError
from tactful_privacy.decoding import DECODE_ERRORS

if TYPE_CHECKING:  # rollouts come with scipy, which no process that makes lists needs
    from tactful_bandits.rollouts.guardrails import Guardrail
    from tactful_bandits.rollouts.plan import RolloutPlan

OWN = "own."
"""Prefix of the metrics of `metrics.yaml` among guardrails."""

CONTROL = "control"
CHANGE = "change"

_KEY = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
HOLDOUT = "permanent-holdout"
"""Key of the assignment of users who get no personal recommendations."""

_RESERVED = (RANKING_EXPERIMENT, "plan", "metrics", HOLDOUT)  # two are paths of the API
_HOUR = 3_600_000
_MOST = 1_000_000_000  # hours and users beyond any rollout; milliseconds fit into 64 bits


class GuardrailDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric that the change must not harm; see `tactful_bandits.Guardrail`.

    Attributes:
        metric: `takers`, `taken_lists`, `revenue` or `latency`, or `own.NAME` of a metric of
            `metrics.yaml`.
        margin: tolerated loss, as a share of the control's value.
        critical: whether harm rolls back; else it only warns.
        minimum_units: users that each arm needs before a verdict.
        smallest_loss: relative loss that `proof` excludes, and for which `plan` computes the power;
            None: 0.2, and none for `errors`, `anomalies` and own metrics.
        better: direction of an own metric, as in `metrics.yaml`; None: `higher`.
    """

    metric: str
    margin: float = 0.0
    critical: bool = True
    minimum_units: Annotated[int, Meta(le=_MOST)] = 400
    smallest_loss: Annotated[float, Meta(ge=0, lt=1)] | None = None
    better: Literal["higher", "lower"] | None = None

    @property
    def own(self) -> bool:
        """Whether it is a metric of `metrics.yaml`."""
        return self.metric.startswith(OWN)

    def guardrail(self) -> Guardrail:
        """Return the guardrail; raise DefinitionError if it is wrong."""
        from tactful_bandits.rollouts.guardrails import Guardrail

        metric, loss = METRICS.get(self.metric), self.smallest_loss
        if metric is None:
            metric = Metric("", self.better or "higher", None)
        return Guardrail(
            self.metric,
            better=metric.better,
            critical=self.critical,
            margin=self.margin,
            minimum_units=self.minimum_units,
            smallest_loss=metric.smallest_loss if loss is None else loss,
        )


class RolloutDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change, and the plan of its rollout.

    Attributes:
        key: its name, and the seed of its assignment: small letters, digits, `-` and `_`.
        change: policy parameters that replace the present ones; `model` is a version of the model,
            `tuner` the directory of a tuner, `bandit` the key of a bandit.
        guardrails: metrics that must not be harmed.
        stages: share of the users who get it, stage by stage, rising, in (0, 1].
        stage_hours: least length of a stage.
        outcomes: types of events by which an item of a recommendation counts as taken.
        outcome_hours: time after a recommendation in which outcomes count. No look includes a
            recommendation sooner, so it is short.
        alpha: probability that a harmless change is ever rolled back.
        tightest_at: number of users at which harm is detected soonest.
        proof: give it to every user only once each critical guardrail excludes its
            `smallest_loss`.
        epsilon: judge by counts released with noise, at this privacy loss of a user in a stage;
            None judges by exact outcomes (`tactful.experiments.controller`).
        evaluated: for a tuner: begin the canary only if `tactful tuner evaluate` found it better.
        start: whether it starts when it is applied, as by the step `start`.
        accept_low_power: reason to apply it although its plan finds the `smallest_loss` with a
            probability below 0.8; None refuses it then.
    """

    key: str
    change: dict[str, Any]
    guardrails: tuple[GuardrailDefinition, ...] = (GuardrailDefinition(metric="takers"),)
    stages: tuple[float, ...] = (0.01, 0.05, 0.10, 0.25, 0.50, 1.00)
    stage_hours: Annotated[float, Meta(gt=0, le=_MOST)] = 24.0
    outcomes: tuple[str, ...] = ("click", "add_to_cart", "purchase")
    outcome_hours: Annotated[float, Meta(gt=0, le=_MOST)] = 1.0
    alpha: float = 0.05
    tightest_at: Annotated[float, Meta(ge=2, le=_MOST)] = 20_000
    proof: bool = True
    epsilon: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    evaluated: bool = False
    start: bool = False
    accept_low_power: Annotated[str, Meta(max_length=1_000)] | None = None

    @property
    def model(self) -> str:
        """Version of the model that the change names; empty for none."""
        return str(self.change.get("model", ""))

    @property
    def lasts(self) -> int:
        """Time after a recommendation in which outcomes count, milliseconds."""
        return int(self.outcome_hours * _HOUR)

    @property
    def tuner(self) -> str:
        """Directory of the tuner that sets the objective; empty for none."""
        return str(self.change.get("tuner", ""))

    @property
    def bandit(self) -> str:
        """Key of the bandit that serves; empty for none."""
        return str(self.change.get("bandit", ""))

    @property
    def touches(self) -> frozenset[str]:
        """Attributes of a policy that change."""
        if self.bandit:
            return frozenset({f"bandit {self.bandit}"})
        return frozenset("objective" if name == "tuner" else name for name in self.change)

    def parts(self) -> dict[str, Any]:
        """Return the replaced attributes of a policy; raise ConfigError for a wrong one."""
        others = ("model", "tuner", "bandit")
        parameters = {k: v for k, v in self.change.items() if k not in others}
        return policy_parts(parameters, where=f"rollout {self.key!r}: change")

    def plan(self) -> RolloutPlan:
        """Return the plan of the definition; raise ConfigError if that is wrong."""
        from tactful_bandits.rollouts.plan import RolloutPlan

        self._check()
        try:
            plan = RolloutPlan(
                self.key,
                tuple(guard.guardrail() for guard in self.guardrails),
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

    def _check(self) -> None:
        where = f"rollout {self.key!r}"
        if not _KEY.fullmatch(self.key) or self.key in _RESERVED:
            raise ConfigError(
                f"{where}: a key has small letters, digits, '-' and '_', at most 63, and is not "
                f"{' or '.join(map(repr, _RESERVED))}"
            )
        if not self.change:
            raise ConfigError(f"{where}: change is empty: give the parameters that change")
        model = self.change.get("model", "-")
        if not isinstance(model, str) or not 1 <= len(model) <= 64:
            raise ConfigError(f"{where}: change.model must be a version, written as text")
        if not isinstance(self.change.get("tuner", ""), str):
            raise ConfigError(f"{where}: change.tuner must be a directory")
        if "bandit" in self.change and (not self.bandit or len(self.change) > 1):
            raise ConfigError(f"{where}: change.bandit must be a key, and the only change")
        if not isinstance(self.change.get("bandit", ""), str):
            raise ConfigError(f"{where}: change.bandit must be the key of a bandit")
        if {"tuner", "objective"} <= self.change.keys():
            raise ConfigError(f"{where}: change.tuner sets the objective: leave objective out")
        if self.accept_low_power is not None and not self.accept_low_power.strip():
            raise ConfigError(
                f"{where}: accept_low_power is empty: give the reason, or leave it out"
            )
        if self.evaluated and not self.tuner:
            raise ConfigError(f"{where}: evaluated needs change.tuner: leave evaluated out")
        self.parts()
        if self.outcome_hours > self.stage_hours:
            raise ConfigError(
                f"{where}: a stage of {self.stage_hours:g} hours is over before any outcome of "
                f"{self.outcome_hours:g} hours: make outcome_hours shorter"
            )
        for guard in self.guardrails:
            if guard.metric not in METRICS and not guard.own:
                raise ConfigError(
                    f"{where}: there is no metric {guard.metric!r}: use {', '.join(METRICS)}, "
                    f"or {OWN}NAME of metrics.yaml"
                )
            if guard.better is not None and not guard.own:
                raise ConfigError(
                    f"{where}: {guard.metric} has its direction already: leave better out"
                )
            if self.epsilon is not None and guard.metric != "takers":
                raise ConfigError(
                    f"{where}: with epsilon, counts of takers are released and nothing else: leave "
                    f"the guardrail {guard.metric!r} out"
                )


def experiment_at(key: str, share: float) -> Experiment:
    """Return the assignment of a rollout at a share.

    The change owns the last buckets: as the share grows, users who have the change keep it.
    """
    return Experiment(key, (Arm(CONTROL, 1.0 - share), Arm(CHANGE, share)))


def read_rollout(plain: object, *, where: str) -> RolloutDefinition:
    """Read and check one definition; raise ConfigError that begins with `where`."""
    try:
        definition = msgspec.convert(plain, RolloutDefinition)
        definition.plan()
    except (msgspec.ValidationError, UnicodeError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from error
    return definition


def load_rollouts(path: Path) -> list[RolloutDefinition]:
    """Read the definitions of a YAML file; raise ConfigError that names the wrong one."""
    definitions = [
        read_rollout(entry, where=f"{path}: rollout number {number}")
        for number, entry in enumerate(read_entries(path, "rollouts", empty=True), 1)
    ]
    require_distinct(path, [definition.key for definition in definitions])
    return definitions


def read_entries(path: Path, kind: str, *, empty: bool = False) -> Sequence[object]:
    """Read a YAML file that is a list or `empty`; raise ConfigError for another."""
    try:
        plain = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError, *DECODE_ERRORS) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if plain is None and empty:
        return []
    if not isinstance(plain, Sequence) or isinstance(plain, str):
        raise ConfigError(f"{path}: must be a list of {kind}")
    return plain


def require_distinct(path: Path, names: Sequence[str]) -> None:
    """Raise ConfigError if a name of a file's entries is written twice."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: written twice: {', '.join(repeated)}")
