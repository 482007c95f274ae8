"""Apply rollouts to recommendations: the changes that a user gets now.

The server that follows the metadata writes the present rollouts to a small file of the data
directory, and every process that recommends reads them there, like the pointer to the champion. So
no request waits for a database, and none is served by half of a change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tactful.errors import ConfigError
from tactful.experiments.definitions import CHANGE, RolloutDefinition, experiment_at
from tactful.experiments.metrics import ROLLOUTS
from tactful.rerank.arm_policy import Policy
from tactful.rerank.tuned_objective import Tuner
from tactful.util.changed_file import ChangedFile
from tactful_bandits.assignment.assign import Assignment, Experiment, assign
from tactful_privacy.decoding import DECODE_ERRORS

logger = logging.getLogger(__name__)

FILE = "rollouts.json"
"""Name of the file in the data directory."""


class Served(msgspec.Struct, frozen=True):
    """One rollout in the file."""

    definition: RolloutDefinition  # the change
    share: float  # of the users who get it now


@dataclass(frozen=True)
class ServedRollout:
    """A rollout that requests take part in."""

    experiment: Experiment  # assignment of the change
    parts: Mapping[str, Any]  # replaced attributes of a policy
    model: str  # version of the model that ranks; empty for the champion
    tuner: Tuner | None = None  # sets the objective; None for no tuner
    bandit: str = ""  # key of the bandit that serves; empty for none


@dataclass(frozen=True)
class Drawn:
    """Effect of rollouts on one recommendation."""

    assignments: tuple[Assignment, ...] = ()  # the user's arm in each rollout
    parts: Mapping[str, Any] | None = None  # replaced attributes of the policy
    # Version of the model that ranks instead of the champion; empty for the champion
    model: str = ""
    tuned: Mapping[str, Any] = field(default_factory=dict)  # draws of a tuner, for the log
    # Whether each bandit that is rolled out serves this user
    bandits: Mapping[str, bool] = field(default_factory=dict)

    def over(self, policy: Policy) -> Policy:
        """Return a policy with the changes applied."""
        return replace(policy, **self.parts) if self.parts else policy

    def variant(self) -> dict[str, str]:
        """Return the arm by rollout."""
        return {it.experiment: it.arm for it in self.assignments if it.arm is not None}

    def to_log_fields(self) -> dict[str, Any]:
        """Return the properties of the logged recommendation; forced arms are left out."""
        drawn = [assignment for assignment in self.assignments if not assignment.forced]
        if not drawn:
            return {}
        return {
            ROLLOUTS: [f"{it.experiment}:{it.arm}" for it in drawn],
            "rollout_shares": [it.propensity for it in drawn],
            **self.tuned,
        }


class ServedRollouts:
    """Present rollouts, reloaded when their file changes."""

    def __init__(self, path: Path | None, *, generator: np.random.Generator | None = None) -> None:
        """Follow a file that `write_served` of the controller writes; None follows none."""
        self._file = None if path is None else ChangedFile(path)
        self._generator = generator or np.random.default_rng()
        self.rollouts: tuple[ServedRollout, ...] = ()

    def refresh(self) -> bool:
        """Reload the file if it changed, and return whether it did.

        If it is invalid the former rollouts stay; raise ConfigError then.
        """
        if self._file is None or not self._file.changed():
            return False
        try:
            served = msgspec.json.decode(self._file.path.read_bytes(), type=list[Served])
        except (OSError, *DECODE_ERRORS) as error:
            raise ConfigError(f"{self._file.path}: cannot be read: {error}") from error
        rollouts = []
        for rollout in served:
            change = rollout.definition
            try:
                tuner = Tuner(Path(change.tuner)) if change.tuner else None
            except ConfigError as error:
                # Left out for all users, so that the arms stay comparable.
                logger.error("rollout %s waits: %s", change.key, error)
                continue
            experiment = experiment_at(change.key, rollout.share)
            parts = change.parts()
            rollouts.append(ServedRollout(experiment, parts, change.model, tuner, change.bandit))
        self.rollouts = tuple(rollouts)
        return True

    def draw(
        self,
        subject: str | None,
        force: Mapping[str, str],
        known: Callable[[str], bool],
        *,
        at: int = 0,
        bandit: str = "",
    ) -> Drawn:
        """Draw the arms of one request at a time; of bandits only of the rollouts of `bandit`.

        A request without a subject takes no part. A rollout of a model's version that is not
        `known` in this process is left out for all users, so that the arms stay comparable.

        Raises:
            AssignmentError: if an arm is forced that does not exist.
        """
        if not self.rollouts:
            return _NOTHING
        assignments: list[Assignment] = []
        parts: dict[str, Any] = {}
        tuned: dict[str, Any] = {}
        bandits: dict[str, bool] = {}
        model = ""
        for served in self.rollouts:
            forced = force.get(served.experiment.key)
            if served.model and not known(served.model):
                continue
            if served.bandit not in ("", bandit):
                continue
            if subject is None and forced is None:
                continue
            drawn = assign(served.experiment, subject or "nobody", forced=forced)
            assignments.append(drawn)
            if served.bandit:
                bandits[served.bandit] = drawn.arm == CHANGE
            if drawn.arm == CHANGE:
                parts.update(served.parts)
                weighed = served.tuner and served.tuner.tune(at, self._generator)
                if weighed:
                    parts["objective"] = weighed.objective
                    tuned = weighed.log_fields
                model = served.model or model
        return Drawn(tuple(assignments), parts, model, tuned, bandits)


_NOTHING = Drawn()
