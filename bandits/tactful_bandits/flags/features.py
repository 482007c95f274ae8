"""Features of the published format, compiled once for many evaluations.

`Features.from_payload` reads the JSON that GrowthBook publishes and that `compile_features` makes.
Three additions, which other SDKs ignore: a feature may be `remote` (only the server has its rules)
or `off`, and the payload names the attributes that it compares by hash.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tactful_bandits.assignment.conditions import Condition, Groups
from tactful_bandits.assignment.hashing import Range
from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags.draws import DEFAULT_ATTRIBUTE, Draw, Filter
from tactful_bandits.flags.experiments import CompiledExperiment, Parent, as_condition
from tactful_bandits.flags.hashed_attributes import HashedAttributes


@dataclass(frozen=True, slots=True)
class Rollout:
    """Share of the units that a rule reaches: a range of places, or all up to a coverage."""

    draw: Draw
    range: Range | None
    coverage: float

    def includes(self, place: float) -> bool:
        """Return whether a place is reached; the published format includes the coverage's end."""
        if self.range is not None:
            return self.range[0] <= place < self.range[1]
        return self.coverage > 0 and place <= self.coverage


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """Rule of a feature: a value that it forces, or an experiment."""

    id: str | None
    parents: tuple[Parent, ...]
    filters: tuple[Filter, ...]
    condition: Condition
    forces: bool
    value: Any
    rollout: Rollout | None
    experiment: CompiledExperiment | None

    @classmethod
    def from_payload(cls, data: Mapping[str, Any], key: str) -> "CompiledRule":
        """Compile a rule of the feature `key`."""
        forces = "force" in data
        draws = "variations" in data or "contextualVariations" in data
        experiment = None
        if draws and not forces:
            # The rule's own filters, condition and prerequisites belong to the experiment, whose
            # sticky arms come before them.
            own = {name: part for name, part in data.items() if name != "parentConditions"}
            experiment = CompiledExperiment.from_payload(own, key)
        return cls(
            data.get("id") or None,
            tuple(map(Parent.from_payload, data.get("parentConditions") or ())),
            tuple(map(Filter.from_payload, data.get("filters") or ())),
            as_condition(data.get("condition")),
            forces,
            data.get("force"),
            _rollout(data, key) if forces else None,
            experiment,
        )


@dataclass(frozen=True, slots=True)
class Feature:
    """Compiled feature."""

    key: str
    default: Any
    rules: tuple[CompiledRule, ...] = ()
    remote: bool = False
    off: bool = False


@dataclass(frozen=True, slots=True)
class Features:
    """All features of a payload, compiled."""

    by_key: Mapping[str, Feature]
    groups: Groups = field(default_factory=dict)
    hashed: HashedAttributes | None = None
    version: int = 0

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> "Features":
        """Compile a payload, ``{"features": {...}, "savedGroups": {...}}``.

        Raises:
            DefinitionError: It is no payload: a part has the wrong type; the message names it.
        """
        contents = payload.get("features") or {} if isinstance(payload, Mapping) else None
        if not isinstance(contents, Mapping):
            raise DefinitionError(
                "not a payload of flags: features is no mapping; compile it again"
            )
        features = {}
        for key, data in contents.items():
            with _reported(f"features.{key}"):
                features[key] = _feature(key, data)
        with _reported("savedGroups"):
            groups = {
                name: tuple(part) for name, part in (payload.get("savedGroups") or {}).items()
            }
        with _reported("hashed"):
            hashed = payload.get("hashed")
            names = HashedAttributes.from_payload(hashed) if hashed else None
        with _reported("version"):
            version = int(payload.get("version") or 0)
        return cls(features, groups, names, version)

    def with_hashes(self, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return attributes with those that the payload compares by hash."""
        return attributes if self.hashed is None else self.hashed.derive(attributes)


@contextmanager
def _reported(place: str) -> Iterator[None]:
    """Convert an error of reading into one that names the place."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        problem = f"not in the published format ({error}); compile it again"
        raise DefinitionError(f"{place}: {problem}") from error


def _feature(key: str, data: Mapping[str, Any]) -> Feature:
    return Feature(
        key,
        data.get("defaultValue"),
        tuple(CompiledRule.from_payload(rule, key) for rule in data.get("rules") or ()),
        bool(data.get("remote")),
        bool(data.get("off")),
    )


def _rollout(data: Mapping[str, Any], key: str) -> Rollout | None:
    limits, coverage = data.get("range"), data.get("coverage")
    if limits is None and coverage is None:
        return None
    draw = Draw(
        str(data.get("seed") or key),
        data.get("hashAttribute") or DEFAULT_ATTRIBUTE,
        version=data.get("hashVersion") or 1,
    )
    range_ = None if limits is None else (float(limits[0]), float(limits[1]))
    return Rollout(draw, range_, 1.0 if coverage is None else float(coverage))
