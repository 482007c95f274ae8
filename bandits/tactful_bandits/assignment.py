"""Experiments and the assignment of units to their arms.

Assignment is a pure function of an experiment and a unit: no storage, no network, the same answer
in every process and language. Who takes part in which arm follows from the unit's bucket alone;
that is what makes a difference between arms a causal effect.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import msgspec

from tactful_bandits.errors import AssignmentError, DefinitionError
from tactful_bandits.hashing import BUCKETS, bucket, bucket_number, fnv1a_32
from tactful_bandits.ranges import bucket_ranges, buckets_within

Status = Literal["draft", "running", "stopped"]
"""Only a running experiment draws units; in every state an arm can be forced."""

_WEIGHT_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the alternatives that an experiment compares.

    Attributes:
        name: Unique within its experiment.
        weight: Share of the units that take part, in [0, 1].
        parameters: What this arm does differently; whoever runs the experiment gives them meaning.

    Raises:
        DefinitionError: The name is empty or the weight is not a share.
    """

    name: str
    weight: float
    parameters: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse what no experiment could use."""
        _require_name("arm name", self.name)
        _require_share(f"arm {self.name!r}: weight", self.weight)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A slice of all units, for experiments that must not overlap.

    Experiments with disjoint slices of one namespace never share a unit.

    Attributes:
        name: Of the namespace; its seed is ``"__" + name``.
        start: First place of the slice, in [0, 1].
        end: Place after the slice, in (start, 1].
        version: Of the hash. 1 only to agree with published vectors: it is biased.

    Raises:
        DefinitionError: The name is empty, the slice is, or the version is unknown.
    """

    name: str
    start: float
    end: float
    version: int = 2

    def __post_init__(self) -> None:
        """Refuse slices that hold nobody or more than everybody."""
        _require_name("namespace name", self.name)
        _require_share(f"namespace {self.name!r}: start", self.start)
        _require_share(f"namespace {self.name!r}: end", self.end)
        if self.start >= self.end:
            raise DefinitionError(
                f"namespace {self.name!r}: start {self.start} must be below end {self.end}"
            )
        if self.version not in (1, 2):
            raise DefinitionError(
                f"namespace {self.name!r}: hash version must be 1 or 2, not {self.version!r}"
            )

    @property
    def seed(self) -> str:
        """What separates this namespace's buckets from every experiment's."""
        return "__" + self.name

    def holds(self, unit: str) -> bool:
        """Say whether a unit falls into the slice."""
        return self.start <= bucket(self.seed, unit, version=self.version) < self.end

    def overlaps(self, other: "Namespace") -> bool:
        """Say whether some unit may fall into both slices."""
        if (self.name, self.version) != (other.name, other.version):
            return True
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True, slots=True)
class Experiment:
    """A comparison of arms on randomly drawn units. The first arm is the control.

    To ramp, replace `coverage` and nothing else: every unit that has an arm keeps it.

    Attributes:
        key: Unique among experiments; it goes into logs, never the seed.
        arms: At least two; their weights sum to 1 within 1e-9.
        coverage: Share of the units (of the namespace's slice, if there is one) that takes part,
            in [0, 1].
        seed: Of the hash; None stands for the key. Give the old key here when renaming an
            experiment, or a new text to draw afresh.
        namespace: Slice of the units that may take part; None for all.
        status: Only a running experiment draws units.

    Raises:
        DefinitionError: The parts contradict each other; the message names the key.
    """

    key: str
    arms: tuple[Arm, ...]
    coverage: float = 1.0
    seed: str | None = None
    namespace: Namespace | None = None
    status: Status = "running"
    # Derived once, for the hot path: the hash of the seed, and per arm its first bucket, the bucket
    # after its last, its name, and its probability among the units that take part.
    _prefix: int = field(init=False, repr=False, compare=False)
    _slots: tuple[tuple[int, int, str, float], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the parts against each other and lay out the buckets."""
        _require_name("experiment key", self.key)
        where = f"experiment {self.key!r}"
        object.__setattr__(self, "arms", tuple(self.arms))
        _require_arms(where, self.arms)
        _require_share(f"{where}: coverage", self.coverage)
        if self.status not in get_args(Status):
            expected = ", ".join(get_args(Status))
            raise DefinitionError(f"{where}: status must be one of {expected}, not {self.status!r}")
        seed = self.key if self.seed is None else self.seed
        _require_name(f"{where}: seed", seed)
        if self.namespace is not None and self.namespace.seed == seed:
            raise DefinitionError(
                f"{where}: seed {seed!r} is that of its namespace, so the slice would decide the "
                "arm; choose another"
            )
        object.__setattr__(self, "_prefix", fnv1a_32(seed))
        object.__setattr__(self, "_slots", _lay_out(where, self.arms, self.coverage))

    @property
    def control(self) -> Arm:
        """The arm that the others are compared with."""
        return self.arms[0]

    @property
    def shares(self) -> Mapping[str, float]:
        """Exact probability of each arm among the units that take part, summing to 1.

        These are counts of buckets: a weight of 1/3 is 3,333 or 3,334 of 10,000. All are 0 at
        coverage 0.
        """
        return {name: share for _, _, name, share in self._slots}


class Assignment(msgspec.Struct, frozen=True, gc=False):
    """What one unit gets from one experiment.

    Attributes:
        experiment: Key of the experiment.
        arm: Name of the arm, or None: the unit does not take part.
        bucket: Place of the unit, in [0, 1).
        propensity: Probability of this arm among the units that take part, over the draw of the
            bucket; None where no draw decided (no arm, or a forced one).
        forced: The arm was chosen by hand, for quality assurance.
    """

    experiment: str
    arm: str | None
    bucket: float
    propensity: float | None
    forced: bool

    @property
    def randomised(self) -> bool:
        """Whether the unit may enter an analysis: it has an arm, and the draw gave it."""
        return self.arm is not None and not self.forced


def assign(experiment: Experiment, unit: str, *, forced: str | None = None) -> Assignment:
    """Assign a unit to an arm of an experiment.

    Args:
        experiment: What to draw from.
        unit: What is randomised, commonly a user id; not empty.
        forced: Name of an arm to give regardless of the draw, the coverage, the namespace and the
            status. The result is marked, and must not enter an analysis (`Assignment.randomised`).

    Returns:
        The assignment, the same on every call.

    Raises:
        AssignmentError: The unit is empty, or there is no such arm to force.
    """
    if not unit:
        raise AssignmentError(
            f"experiment {experiment.key!r}: unit must not be empty, or all anonymous units would "
            "share one arm"
        )
    number = bucket_number(experiment._prefix, unit)
    place = number / BUCKETS
    if forced is not None:
        _require_arm(experiment, forced)
        return Assignment(experiment.key, forced, place, None, True)
    if experiment.status == "running" and (
        experiment.namespace is None or experiment.namespace.holds(unit)
    ):
        for first, after, name, share in experiment._slots:
            if first <= number < after:
                return Assignment(experiment.key, name, place, share, False)
    return Assignment(experiment.key, None, place, None, False)


def _lay_out(
    where: str, arms: tuple[Arm, ...], coverage: float
) -> tuple[tuple[int, int, str, float], ...]:
    ranges = bucket_ranges(len(arms), coverage, [arm.weight for arm in arms])
    owned = [buckets_within(range_) for range_ in ranges]
    total = sum(map(len, owned))
    for arm, buckets in zip(arms, owned, strict=True):
        if coverage > 0 and arm.weight > 0 and not buckets:
            raise DefinitionError(
                f"{where}: arm {arm.name!r} gets none of the {BUCKETS} buckets at coverage "
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


def _require_arm(experiment: Experiment, name: str) -> None:
    names = [arm.name for arm in experiment.arms]
    if name not in names:
        raise AssignmentError(
            f"experiment {experiment.key!r}: cannot force {name!r}, its arms are {names}"
        )


def _require_name(what: str, name: object) -> None:
    if not isinstance(name, str):
        raise DefinitionError(f"{what} must be text, not {name!r}; quote it")
    if not name or name != name.strip() or not name.isprintable():
        raise DefinitionError(
            f"{what} must be printable text without spaces at its ends, not {name!r}"
        )


def _require_share(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DefinitionError(f"{what} must be a number from 0 to 1, not {value!r}")
