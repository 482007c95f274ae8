"""How an arm makes its lists: what its parameters say, checked when the server starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tactful.errors import ConfigError
from tactful.recall.candidates import Quotas
from tactful.rerank.diversity import Diversity
from tactful.rerank.exploration import Exploration
from tactful.rerank.objective import Objective
from tactful_bandits.assignment.assign import Experiment
from tactful_bandits.assignment.definitions import load_experiments
from tactful_bandits.errors import DefinitionError

RANKING_EXPERIMENT = "ranking"


@dataclass(frozen=True)
class Policy:
    """What is done for the people of an arm.

    Attributes:
        quotas: how many candidates each recall channel may bring.
        objective: what lists are ordered by.
        diversity: how much alike items lose.
        exploration: how much is left to chance.
    """

    quotas: Quotas = field(default_factory=Quotas)
    objective: Objective = field(default_factory=Objective)
    diversity: Diversity = field(default_factory=Diversity)
    exploration: Exploration = field(default_factory=Exploration)

    def to_log_fields(self) -> dict[str, Any]:
        """What differs from a list by score alone, for the log."""
        fields: dict[str, Any] = {}
        if not self.objective.plain:
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
    """The experiment on how lists are ranked.

    Args:
        path: file of the experiments.

    Raises:
        ConfigError: if it cannot be read, is wrong, holds no such experiment, or asks for what no
            request tells.
    """
    try:
        experiments = {each.key: each for each in load_experiments(path)}
    except (OSError, DefinitionError) as error:
        raise ConfigError(str(error)) from error
    if RANKING_EXPERIMENT not in experiments:
        raise ConfigError(f"{path}: there is no experiment {RANKING_EXPERIMENT!r}")
    found = experiments[RANKING_EXPERIMENT]
    if found.condition or found.prerequisites:
        raise ConfigError(
            f"{path}: experiment {RANKING_EXPERIMENT!r} has a condition or prerequisites, and a "
            "server knows neither attributes of people nor their other arms: leave them out, or "
            "restrict it by coverage, namespace or holdout"
        )
    return found


def policies(experiment: Experiment, *, default: Policy) -> dict[str, Policy]:
    """The policy of each arm, by name.

    Args:
        experiment: its arms may have parameters by the names of a policy's attributes.
        default: what holds where an arm says nothing.

    Raises:
        ConfigError: if a parameter is unknown or out of range; the message names the arm.
    """
    made = {}
    for arm in experiment.arms:
        where = f"experiment {experiment.key!r}, arm {arm.name!r}"
        made[arm.name] = replace(default, **policy_parts(arm.parameters, where=where))
    return made


def policy_parts(parameters: Mapping[str, object], *, where: str) -> dict[str, Any]:
    """What the parameters of an arm say, by name of a policy's attribute.

    Args:
        parameters: as read from a file.
        where: what to call their place in a message.

    Raises:
        ConfigError: if a parameter is unknown or out of range.
    """
    readers: dict[str, Callable[..., Any]] = {
        "quotas": Quotas.of,
        "objective": Objective.of,
        "diversity": Diversity.of,
        "exploration": Exploration.of,
    }
    parts: dict[str, Any] = {}
    for name, value in parameters.items():
        if name not in readers:
            raise ConfigError(
                f"{where}: there is no parameter {name!r}; there are {', '.join(readers)}"
            )
        parts[name] = readers[name](value, where=f"{where}: {name}")
    return parts
