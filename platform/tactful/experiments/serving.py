"""Rollouts as lists see them: who gets which change now.

The server that follows the metadata writes what is to be served to a small file of the data
directory, and every process that makes lists reads it there, as it does the pointer to the
champion. So no list waits for a database, and none is made by half of a change.
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
from tactful_bandits.assignment.assign import Assignment, Experiment, assign

logger = logging.getLogger(__name__)

FILE = "rollouts.json"
"""Name of the file in the data directory."""


class Served(msgspec.Struct, frozen=True):
    """One rollout in the file.

    Attributes:
        definition: what changes.
        share: of the people who get it now.
    """

    definition: RolloutDefinition
    share: float


@dataclass(frozen=True)
class ServedRollout:
    """A rollout that lists take part in.

    Attributes:
        experiment: who gets the change.
        parts: what it replaces in a policy.
        model: version of the model it gives lists by; empty for that of everybody else.
        tuner: what sets the objective; None for nobody.
    """

    experiment: Experiment
    parts: Mapping[str, Any]
    model: str
    tuner: Tuner | None = None


@dataclass(frozen=True)
class Drawn:
    """What rollouts mean for one list.

    Attributes:
        assignments: the arm of each that the person takes part in.
        parts: what is replaced in the policy.
        model: version of the model that ranks instead of the champion; empty for the champion.
        tuned: what a tuner drew by chance, for the log.
    """

    assignments: tuple[Assignment, ...] = ()
    parts: Mapping[str, Any] | None = None
    model: str = ""
    tuned: Mapping[str, Any] = field(default_factory=dict)

    def over(self, policy: Policy) -> Policy:
        """A policy with the changes in it."""
        return replace(policy, **self.parts) if self.parts else policy

    def variant(self) -> dict[str, str]:
        """Arm by rollout."""
        return {each.experiment: each.arm for each in self.assignments if each.arm is not None}

    def to_log_fields(self) -> dict[str, Any]:
        """What is logged with a list; arms that the caller chose are none of the experiment's."""
        drawn = [each for each in self.assignments if not each.forced]
        if not drawn:
            return {}
        return {
            ROLLOUTS: [f"{each.experiment}:{each.arm}" for each in drawn],
            "rollout_shares": [each.propensity for each in drawn],
            **self.tuned,
        }


class ServedRollouts:
    """The rollouts of the file, followed."""

    def __init__(self, path: Path | None, *, generator: np.random.Generator | None = None) -> None:
        """Follow a file; None follows none.

        Args:
            path: where `tactful.experiments.controller.write_served` writes.
            generator: where the chance of tuners comes from; by default from the system.
        """
        self._path = path
        self._generator = generator or np.random.default_rng()
        self._seen: tuple[int, int, int] | None = None
        self.rollouts: tuple[ServedRollout, ...] = ()

    def refresh(self) -> bool:
        """Take in what was written since; whether that changed anything.

        Raises:
            ConfigError: if the file is not one of ours; what was served goes on.
        """
        if self._path is None:
            return False
        try:
            about = self._path.stat()
        except FileNotFoundError:
            return False
        seen = about.st_ino, about.st_mtime_ns, about.st_size
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=list[Served])
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"{self._path}: cannot be read: {error}") from error
        made = []
        for each in found:
            asked = each.definition
            try:
                tuner = Tuner(Path(asked.tuner)) if asked.tuner else None
            except ConfigError as error:
                # Left out for everybody, so that the arms stay comparable.
                logger.error("rollout %s waits: %s", asked.key, error)
                continue
            experiment = experiment_at(asked.key, each.share)
            made.append(ServedRollout(experiment, asked.parts(), asked.model, tuner))
        self.rollouts = tuple(made)
        return True

    def draw(
        self,
        subject: str | None,
        force: Mapping[str, str],
        known: Callable[[str], bool],
        *,
        at: int = 0,
    ) -> Drawn:
        """What one list is made by.

        Args:
            subject: who asks; nobody in particular takes no part.
            force: arms that the caller chose.
            known: whether a version of the model can rank here; a rollout of one that cannot is
                left out for everybody, so that the arms stay comparable.
            at: when, epoch milliseconds.

        Raises:
            AssignmentError: if an arm is forced that does not exist.
        """
        if not self.rollouts:
            return _NOTHING
        made: list[Assignment] = []
        parts: dict[str, Any] = {}
        tuned: dict[str, Any] = {}
        model = ""
        for served in self.rollouts:
            forced = force.get(served.experiment.key)
            if served.model and not known(served.model):
                continue
            if subject is None and forced is None:
                continue
            drawn = assign(served.experiment, subject or "nobody", forced=forced)
            made.append(drawn)
            if drawn.arm == CHANGE:
                parts.update(served.parts)
                weighed = served.tuner and served.tuner.tune(at, self._generator)
                if weighed:
                    parts["objective"] = weighed.objective
                    tuned = weighed.log_fields
                model = served.model or model
        return Drawn(tuple(made), parts, model, tuned)


_NOTHING = Drawn()
