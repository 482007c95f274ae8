"""Eligibility before the draw: namespaces, holdouts and prerequisites."""

from dataclasses import dataclass

from tactful_bandits.assignment.hashing import bucket
from tactful_bandits.errors import DefinitionError


@dataclass(frozen=True, slots=True)
class Namespace:
    """A slice of all units, for experiments that must not overlap.

    Experiments with disjoint slices of one namespace never share a unit.
    """

    name: str  # name of the namespace; its seed is ``"__" + name``
    start: float  # first place of the slice, in [0, 1]
    end: float  # place after the slice, in (start, 1]
    version: int = 2  # Hash version. Use 1 only to agree with published vectors: it is biased.

    def __post_init__(self) -> None:
        """Validate the name, the slice and the version."""
        require_name("namespace name", self.name)
        require_share(f"namespace {self.name!r}: start", self.start)
        require_share(f"namespace {self.name!r}: end", self.end)
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
        """Seed that separates this namespace's buckets from those of experiments."""
        return "__" + self.name

    def holds(self, unit: str) -> bool:
        """Return whether a unit falls into the slice."""
        return self.start <= bucket(self.seed, unit, version=self.version) < self.end

    def overlaps(self, other: "Namespace") -> bool:
        """Return whether a unit may fall into both slices."""
        if (self.name, self.version) != (other.name, other.version):
            return True
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True, slots=True)
class Holdout:
    """Units excluded from all experiments, to measure the experiments' joint effect.

    Experiments that name the same holdout exclude the same units, for as long as its name and share
    stay. A larger share excludes the same units and more.

    Attributes:
        name: Name of the holdout; its seed is ``"__holdout:" + name``.
        share: Share of all units, in (0, 1).

    Raises:
        DefinitionError: The name is empty or the share is not between 0 and 1.
    """

    name: str
    share: float

    def __post_init__(self) -> None:
        """Validate the name and the share."""
        require_name("holdout name", self.name)
        require_share(f"holdout {self.name!r}: share", self.share)
        if not 0 < self.share < 1:
            raise DefinitionError(
                f"holdout {self.name!r}: share must lie between 0 and 1, not {self.share}"
            )

    def holds(self, unit: str) -> bool:
        """Return whether a unit is held out."""
        return bucket("__holdout:" + self.name, unit) < self.share


@dataclass(frozen=True, slots=True)
class Prerequisite:
    """A condition on another experiment: the unit must have one of the named arms."""

    experiment: str  # key of the other experiment
    arms: tuple[str, ...]  # names of the arms that admit the unit; at least one

    def __post_init__(self) -> None:
        """Validate the names."""
        require_name("prerequisite's experiment", self.experiment)
        object.__setattr__(self, "arms", tuple(self.arms))
        if not self.arms:
            raise DefinitionError(f"prerequisite {self.experiment!r}: name at least one arm")
        for arm in self.arms:
            require_name(f"prerequisite {self.experiment!r}: arm", arm)


def require_name(label: str, name: object) -> None:
    """Check that a name is printable text without spaces at its ends."""
    if not isinstance(name, str):
        raise DefinitionError(f"{label} must be text, not {name!r}; quote it")
    if not name or name != name.strip() or not name.isprintable():
        raise DefinitionError(
            f"{label} must be printable text without spaces at its ends, not {name!r}"
        )


def require_share(label: str, value: object) -> None:
    """Check that a share is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DefinitionError(f"{label} must be a number from 0 to 1, not {value!r}")
