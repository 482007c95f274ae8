"""Experiments and the assignment of units to their arms.

Assignment is a pure function of an experiment and a unit: no storage, no network, the same result
in every process and language. The arm follows from the unit's bucket alone, so a difference between
arms is a causal effect.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Literal, get_args

import msgspec

from tactful_bandits.assignment import eligibility, hashing
from tactful_bandits.assignment.conditions import Condition, Groups, matches, require_condition
from tactful_bandits.errors import AssignmentError, DefinitionError

Status = Literal["draft", "running", "stopped"]
"""Only a running experiment draws units; an arm can be forced in every state."""

_WEIGHT_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the alternatives that an experiment compares.

    Attributes:
        name: Unique within its experiment.
        weight: Share of the units that take part, in [0, 1].
        parameters: Settings of this arm; the application that runs the experiment interprets them.

    Raises:
        DefinitionError: The name is empty or the weight is not a share.
    """

    name: str
    weight: float
    parameters: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Validate the name and the weight."""
        eligibility.require_name("arm name", self.name)
        eligibility.require_share(f"arm {self.name!r}: weight", self.weight)


@dataclass(frozen=True, slots=True)
class Experiment:
    """A comparison of arms on randomly drawn units. The first arm is the control.

    To ramp, replace `coverage` and nothing else: every unit that has an arm keeps it.

    Attributes:
        key: Unique among experiments; logs contain it, never the seed.
        arms: At least two; their weights sum to 1 within 1e-9.
        coverage: Share of the units (of the namespace's slice, if there is one) that takes part,
            in [0, 1].
        seed: Seed of the hash; None stands for the key. Give the old key here when renaming an
            experiment, or a new text to draw again.
        namespace: Slice of the units that may take part; None for all.
        status: Only a running experiment draws units.
        condition: Condition on the unit's attributes (`tactful_bandits.matches`).
        holdout: Units that are excluded; None for none.
        prerequisites: Conditions on other experiments' arms; all must hold.

    Raises:
        DefinitionError: The parts contradict each other; the message names the key.
    """

    key: str
    arms: tuple[Arm, ...]
    coverage: float = 1.0
    seed: str | None = None
    namespace: eligibility.Namespace | None = None
    status: Status = "running"
    condition: Condition = field(default_factory=dict, hash=False)
    holdout: eligibility.Holdout | None = None
    prerequisites: tuple[eligibility.Prerequisite, ...] = ()
    # Derived once because `assign` runs for every request: the hash of the seed, and per arm
    # (first bucket, bucket after the last, name, probability among the units that take part).
    _prefix: int = field(init=False, repr=False, compare=False)
    _slots: tuple[tuple[int, int, str, float], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the parts against each other and lay out the buckets."""
        eligibility.require_name("experiment key", self.key)
        where = f"experiment {self.key!r}"
        object.__setattr__(self, "arms", tuple(self.arms))
        _require_arms(where, self.arms)
        eligibility.require_share(f"{where}: coverage", self.coverage)
        if self.status not in get_args(Status):
            expected = ", ".join(get_args(Status))
            raise DefinitionError(f"{where}: status must be one of {expected}, not {self.status!r}")
        seed = self.key if self.seed is None else self.seed
        eligibility.require_name(f"{where}: seed", seed)
        if self.namespace is not None and self.namespace.seed == seed:
            raise DefinitionError(
                f"{where}: seed {seed!r} is that of its namespace, so the slice would decide the "
                "arm; choose another"
            )
        require_condition(f"{where}: condition", self.condition)
        object.__setattr__(self, "prerequisites", tuple(self.prerequisites))
        if any(needed.experiment == self.key for needed in self.prerequisites):
            raise DefinitionError(f"{where}: it cannot be its own prerequisite")
        object.__setattr__(self, "_prefix", hashing.fnv1a_32(seed))
        object.__setattr__(self, "_slots", _lay_out(where, self.arms, self.coverage))

    @property
    def control(self) -> Arm:
        """The arm that the other arms are compared with."""
        return self.arms[0]

    @property
    def shares(self) -> Mapping[str, float]:
        """Exact probability of each arm among the units that take part, summing to 1.

        These are counts of buckets: a weight of 1/3 is 3,333 or 3,334 of 10,000. All are 0 at
        coverage 0.
        """
        return {name: share for _, _, name, share in self._slots}


class Assignment(msgspec.Struct, frozen=True, gc=False):
    """The result of one experiment for one unit.

    Attributes:
        experiment: Key of the experiment.
        arm: Name of the arm, or None: the unit does not take part.
        bucket: Place of the unit, in [0, 1).
        propensity: Probability of this arm among the units that take part, over the draw of the
            bucket; None where the current draw did not decide (no arm, a forced one, or one kept
            from a draw with other shares).
        forced: Whether the arm was chosen by hand, for quality assurance.
        kept: Whether the unit had this arm before and keeps it.
    """

    experiment: str
    arm: str | None
    bucket: float
    propensity: float | None
    forced: bool
    kept: bool = False

    @property
    def randomised(self) -> bool:
        """Whether the unit may enter an analysis: a draw gave it an arm."""
        return self.arm is not None and not self.forced


def assign(
    experiment: Experiment,
    unit: str,
    *,
    forced: str | None = None,
    attributes: Mapping[str, object] | None = None,
    groups: Groups | None = None,
    given: Mapping[str, str | None] | None = None,
    sticky: str | None = None,
) -> Assignment:
    """Assign a unit to an arm of an experiment.

    Args:
        experiment: The experiment to draw from.
        unit: Id of the randomised unit, commonly a user id; not empty.
        forced: Name of an arm to give regardless of the draw, the coverage, the namespace and the
            status. The result is marked, and must not enter an analysis (`Assignment.randomised`).
        attributes: Attributes of the unit for the experiment's condition; an attribute that is not
            given is missing.
        groups: Named lists for the condition.
        given: Arms that the unit has from other experiments, by key, for the prerequisites.
        sticky: Name of the arm from an earlier draw. The unit keeps it while the experiment runs,
            whatever the present coverage, weights, condition and prerequisites; it is drawn again
            if the experiment no longer has this arm. Holdouts come first.

    Raises:
        AssignmentError: The unit is empty, or there is no such arm to force.
    """
    if not unit:
        raise AssignmentError(
            f"experiment {experiment.key!r}: unit must not be empty, or all anonymous units would "
            "share one arm"
        )
    number = hashing.bucket_number(experiment._prefix, unit)
    place = number / hashing.BUCKETS
    if forced is not None:
        if forced not in (names := [arm.name for arm in experiment.arms]):
            raise AssignmentError(
                f"experiment {experiment.key!r}: cannot force {forced!r}, its arms are {names}"
            )
        return Assignment(experiment.key, forced, place, None, True)
    no_arm = Assignment(experiment.key, None, place, None, False)
    if experiment.status != "running":
        return no_arm
    if experiment.holdout is not None and experiment.holdout.holds(unit):
        return no_arm
    drawn, share = _draw(experiment, number)
    if sticky is not None and any(name == sticky for _, _, name, _ in experiment._slots):
        # An arm kept from a draw with other shares has no probability under the present shares.
        propensity = share if drawn == sticky else None
        return Assignment(experiment.key, sticky, place, propensity, False, True)
    if experiment.namespace is not None and not experiment.namespace.holds(unit):
        return no_arm
    if experiment.condition and not matches(experiment.condition, attributes or {}, groups):
        return no_arm
    if experiment.prerequisites and not _fulfilled(experiment.prerequisites, given or {}):
        return no_arm
    return Assignment(experiment.key, drawn, place, share, False)


def assign_all(
    experiments: Sequence[Experiment],
    unit: str,
    *,
    attributes: Mapping[str, object] | None = None,
    groups: Groups | None = None,
    sticky: Mapping[str, str] | None = None,
) -> dict[str, Assignment]:
    """Assign a unit in all experiments, in the order of their prerequisites.

    Experiments have distinct keys; a missing prerequisite admits no unit. `sticky` holds the arms
    that the unit had before, by experiment. The result has one assignment for each, in the given
    order.

    Raises:
        AssignmentError: The unit is empty, or prerequisites form a circle.
    """
    by_key = {experiment.key: experiment for experiment in experiments}
    given: dict[str, str | None] = {}
    assignments: dict[str, Assignment] = {}
    try:
        order = [*prerequisite_graph(experiments).static_order()]
    except CycleError as error:
        keys = sorted(set(error.args[1]))
        raise AssignmentError(f"prerequisites form a circle among {keys}; break it") from error
    for key in filter(by_key.__contains__, order):
        kept = (sticky or {}).get(key)
        assignments[key] = assign(
            by_key[key], unit, attributes=attributes, groups=groups, given=given, sticky=kept
        )
        given[key] = assignments[key].arm
    return {key: assignments[key] for key in by_key}


def prerequisite_graph(experiments: Sequence[Experiment]) -> TopologicalSorter[str]:
    """Return the keys of experiments with those of the experiments that they need."""
    return TopologicalSorter(
        {it.key: [needed.experiment for needed in it.prerequisites] for it in experiments}
    )


def _draw(experiment: Experiment, number: int) -> tuple[str, float] | tuple[None, None]:
    """Return the arm that owns a bucket and its share."""
    for first, after, name, share in experiment._slots:
        if first <= number < after:
            return name, share
    return None, None


def _fulfilled(
    prerequisites: Sequence[eligibility.Prerequisite], given: Mapping[str, str | None]
) -> bool:
    return all(given.get(needed.experiment) in needed.arms for needed in prerequisites)


def _lay_out(
    where: str, arms: tuple[Arm, ...], coverage: float
) -> tuple[tuple[int, int, str, float], ...]:
    ranges = hashing.bucket_ranges(len(arms), coverage, [arm.weight for arm in arms])
    owned = [hashing.buckets_within(range_) for range_ in ranges]
    total = sum(map(len, owned))
    for arm, buckets in zip(arms, owned, strict=True):
        if coverage > 0 and arm.weight > 0 and not buckets:
            raise DefinitionError(
                f"{where}: arm {arm.name!r} gets none of the {hashing.BUCKETS} buckets at coverage "
                f"{coverage}; raise its weight or the coverage"
            )
    return tuple(
        (buckets.start, buckets.stop, arm.name, len(buckets) / total if total else 0.0)
        for arm, buckets in zip(arms, owned, strict=True)
    )


def _require_arms(where: str, arms: tuple[Arm, ...]) -> None:
    if len(arms) < 2:
        raise DefinitionError(
            f"{where}: needs at least two arms, the control first; it has {len(arms)}"
        )
    names = [arm.name for arm in arms]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DefinitionError(f"{where}: arm names must differ, these repeat: {repeated}")
    total = math.fsum(arm.weight for arm in arms)
    if abs(total - 1) > _WEIGHT_TOLERANCE:
        raise DefinitionError(f"{where}: arm weights must sum to 1, they sum to {total:.12g}")
