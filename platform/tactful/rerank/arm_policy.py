"""Read the ranking policy of each arm from its parameters, when the server starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from tactful.errors import ConfigError
from tactful.recall.candidates import Quotas
from tactful.rerank.diversity import Diversity
from tactful.rerank.exploration import Exploration
from tactful.rerank.objective import PLAIN, Objective
from tactful_bandits.assignment.assign import Experiment
from tactful_bandits.assignment.definitions import load_experiments
from tactful_bandits.errors import DefinitionError

RANKING_EXPERIMENT = "ranking"

_PARTS: Mapping[str, type[msgspec.Struct]] = {
    "quotas": Quotas,
    "objective": Objective,
    "diversity": Diversity,
    "exploration": Exploration,
}


@dataclass(frozen=True)
class Policy:
    """Ranking policy for the users of an arm."""

    quotas: Quotas = field(default_factory=Quotas)
    objective: Objective = field(default_factory=Objective)
    diversity: Diversity = field(default_factory=Diversity)
    # share of the order that is drawn
    exploration: Exploration = field(default_factory=Exploration)

    def to_log_fields(self) -> dict[str, Any]:
        """Return the differences from an order by score alone, for the log."""
        fields: dict[str, Any] = {}
        if self.objective != PLAIN:
            fields["objective"] = [
                f"{name}={it:g}" for name, it in self.objective.nonzero_weights().items()
            ]
        if self.diversity.strength:
            fields["diversity"] = self.diversity.strength
        if self.exploration.temperature:
            fields["temperature"] = self.exploration.temperature
            fields["pool"] = self.exploration.pool
        return fields


def ranking_experiment(path: Path) -> Experiment:
    """Read the experiment on the ranking policy.

    Raises:
        ConfigError: if it cannot be read, is wrong, holds no such experiment, or has conditions
            that no request can answer.
    """
    try:
        experiments = {experiment.key: experiment for experiment in load_experiments(path)}
    except (OSError, DefinitionError) as error:
        raise ConfigError(str(error)) from error
    if RANKING_EXPERIMENT not in experiments:
        raise ConfigError(f"{path}: there is no experiment {RANKING_EXPERIMENT!r}")
    ranking = experiments[RANKING_EXPERIMENT]
    if ranking.condition or ranking.prerequisites:
        raise ConfigError(
            f"{path}: experiment {RANKING_EXPERIMENT!r} has a condition or prerequisites, but a "
            "server has neither attributes of users nor their other arms: leave them out, or "
            "restrict it by coverage, namespace or holdout"
        )
    return ranking


def policies(experiment: Experiment, *, default: Policy) -> dict[str, Policy]:
    """Return the policy of each arm, by name; `default` for parameters that an arm leaves out.

    Raises:
        ConfigError: if a parameter is unknown or out of range; the message names the arm.
    """
    return {
        arm.name: replace(
            default,
            **policy_parts(
                arm.parameters, where=f"experiment {experiment.key!r}, arm {arm.name!r}"
            ),
        )
        for arm in experiment.arms
    }


def policy_parts(parameters: Mapping[str, object], *, where: str) -> dict[str, Any]:
    """Parse the parameters of an arm, by name of a policy's attribute.

    Raises:
        ConfigError: if a parameter is unknown or out of range.
    """
    parts: dict[str, Any] = {}
    for name, value in parameters.items():
        kind = _PARTS.get(name)
        if kind is None:
            raise ConfigError(
                f"{where}: there is no parameter {name!r}; there are {', '.join(_PARTS)}"
            )
        try:
            parts[name] = msgspec.convert(value, kind)
        except (msgspec.ValidationError, UnicodeError) as error:
            known = ", ".join(kind.__struct_fields__)
            raise ConfigError(f"{where}: {name}: {error}; its fields are {known}") from error
    if not parts.get("objective", PLAIN).nonzero_weights():
        raise ConfigError(f"{where}: objective: all weights are 0: lists would have no order")
    return parts
