"""Experiments of the published format, compiled once and run for each unit.

The order of the steps is GrowthBook's: overrides, unit, sticky arm, filters or namespace,
condition, prerequisites, draw, forced arm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tactful_bandits.assignment.conditions import Condition, Groups, matches
from tactful_bandits.assignment.hashing import Range, bucket_ranges, choose_range
from tactful_bandits.flags.draws import DEFAULT_ATTRIBUTE, Draw, Filter, as_ranges, in_namespace
from tactful_bandits.flags.sticky import StickyArms, sticky_assignments, sticky_key


@dataclass(frozen=True, slots=True)
class Overrides:
    """Settings of one caller that replace the draw, for previews and quality assurance.

    Attributes:
        enabled: Whether experiments run at all.
        forced: Index of the arm to give, by experiment key.
        url: Address of the page; ``?KEY=INDEX`` in it forces an arm. Empty for none.
        only_forced: Whether only forced arms are given (GrowthBook's `qaMode`).
    """

    enabled: bool = True
    forced: Mapping[str, int] = field(default_factory=dict)
    url: str = ""
    only_forced: bool = False


NO_OVERRIDES = Overrides()


@dataclass(frozen=True, slots=True)
class Situation:
    """Facts about one evaluation that all rules read."""

    attributes: Mapping[str, Any]
    groups: Groups
    sticky: StickyArms | None
    overrides: Overrides


@dataclass(frozen=True, slots=True)
class Parent:
    """Prerequisite: a condition on the value of another feature."""

    feature: str
    condition: Condition
    gate: bool  # whether a failure ends the evaluation, rather than skipping the rule

    @classmethod
    def from_payload(cls, data: Mapping[str, Any]) -> "Parent":
        """Read an entry of `parentConditions`."""
        condition = as_condition(data.get("condition"))
        return cls(str(data.get("id", "")), condition, bool(data.get("gate")))


@dataclass(frozen=True, slots=True)
class Arm:
    """Arm of a compiled experiment."""

    key: str
    value: Any
    passthrough: bool  # whether the unit goes on to the next rule


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of running one experiment for one unit.

    `arm` is None for a unit outside the experiment; `hash_used` is false for a forced arm. `save`
    is the sticky arm to store: key of the document, key of the assignment, arm.
    """

    index: int | None = None
    arm: Arm | None = None
    hash_used: bool = False
    attribute: str | None = None
    unit: str | None = None
    place: float | None = None
    sticky_used: bool = False
    save: tuple[str, str, str] | None = None


_OUTSIDE = Outcome()


@dataclass(frozen=True, slots=True)
class CompiledExperiment:
    """Experiment of the published format, ready to run."""

    key: str
    arms: tuple[Arm, ...]
    draw: Draw
    ranges: tuple[Range, ...]
    filters: tuple[Filter, ...] = ()
    namespace: Sequence[Any] | None = None
    condition: Condition = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    keeps_arms: bool = True  # whether sticky arms count
    version: int = 0
    oldest_version: int = 0  # units with a sticky arm of an older version are excluded
    active: bool = True
    force: int | None = None

    @classmethod
    def from_payload(cls, data: Mapping[str, Any], key: str) -> "CompiledExperiment":
        """Compile an experiment, or an experiment rule of the feature `key`."""
        variations = data.get("variations", data.get("contextualVariations", ()))
        key = str(data.get("key") or key)
        if "ranges" in data:
            ranges = as_ranges(data["ranges"])
        else:
            coverage = data.get("coverage")
            shares = 1.0 if coverage is None else coverage
            ranges = bucket_ranges(len(variations), shares, data.get("weights"))
        meta = [*data.get("meta", ()), *({} for _ in variations)]
        keeps = not data.get("disableStickyBucketing")
        return cls(
            key,
            tuple(
                Arm(str(more.get("key") or index), value, bool(more.get("passthrough")))
                for index, (value, more) in enumerate(zip(variations, meta, strict=False))
            ),
            Draw(
                str(data.get("seed") or key),
                data.get("hashAttribute") or DEFAULT_ATTRIBUTE,
                data.get("fallbackAttribute"),
                data.get("hashVersion") or 1,
            ),
            ranges,
            tuple(map(Filter.from_payload, data.get("filters") or ())),
            data.get("namespace"),
            as_condition(data.get("condition")),
            tuple(map(Parent.from_payload, data.get("parentConditions") or ())),
            keeps,
            int(data.get("bucketVersion") or 0),
            int(data.get("minBucketVersion") or 0),
            data.get("active") is not False,
            data.get("force"),
        )

    def run(
        self, situation: Situation, parents_hold: Callable[[Sequence[Parent]], bool]
    ) -> Outcome:
        """Give one unit an arm, or none.

        Args:
            situation: The unit's attributes and the caller's settings.
            parents_hold: Evaluates the experiment's own prerequisites.
        """
        overrides = situation.overrides
        if len(self.arms) < 2 or not overrides.enabled:
            return _OUTSIDE
        if overrides is not NO_OVERRIDES:
            index = _forced_index(overrides, self.key, len(self.arms))
            if index is not None:
                return self._forced(index, self.draw.unit(situation.attributes))
        if not self.active:
            return _OUTSIDE
        sticky = situation.sticky if self.keeps_arms else None
        draw = self.draw if sticky is not None or self.draw.fallback is None else self._own_draw()
        identity = draw.unit(situation.attributes)
        if identity is None:
            return _OUTSIDE
        attribute, unit = identity
        kept = None
        if sticky is not None:
            kept, blocked = self._kept(sticky, situation.attributes)
            if blocked:
                return _OUTSIDE
        if kept is None and not self._admits(situation, unit, parents_hold):
            return _OUTSIDE
        place = draw.place(unit)
        if place is None:
            return _OUTSIDE
        index = choose_range(place, self.ranges) if kept is None else kept
        if index is None or index >= len(self.arms):
            return _OUTSIDE
        if self.force is not None:
            return self._forced(self.force, identity)
        if overrides.only_forced:
            return _OUTSIDE
        arm = self.arms[index]
        save = None
        if sticky is not None:
            document, name = f"{attribute}||{unit}", sticky_key(self.key, self.version)
            if sticky.get(document, {}).get(name) != arm.key:
                save = (document, name, arm.key)
        return Outcome(index, arm, True, attribute, unit, place, kept is not None, save)

    def _own_draw(self) -> Draw:
        # The other attribute identifies a unit only where sticky arms are kept.
        return Draw(self.draw.seed, self.draw.attribute, None, self.draw.version)

    def _forced(self, index: int, identity: tuple[str, str] | None) -> Outcome:
        if not 0 <= index < len(self.arms):
            return _OUTSIDE
        attribute, unit = identity or (None, None)
        return Outcome(index, self.arms[index], False, attribute, unit)

    def _admits(
        self, situation: Situation, unit: str, parents_hold: Callable[[Sequence[Parent]], bool]
    ) -> bool:
        if self.filters:
            if not all(part.holds(situation.attributes) for part in self.filters):
                return False
        elif self.namespace is not None and not in_namespace(unit, self.namespace):
            return False
        if self.condition and not matches(self.condition, situation.attributes, situation.groups):
            return False
        return not self.parents or parents_hold(self.parents)

    def _kept(self, sticky: StickyArms, attributes: Mapping[str, Any]) -> tuple[int | None, bool]:
        """Return the index of the sticky arm, and whether an older version excludes the unit."""
        kept = sticky_assignments(sticky, self.draw, attributes)
        if any(sticky_key(self.key, old) in kept for old in range(self.oldest_version)):
            return None, True
        name = kept.get(sticky_key(self.key, self.version))
        keys = [arm.key for arm in self.arms]
        return (keys.index(name) if name in keys else None), False


def as_condition(data: object) -> Condition:
    """Return the condition of a payload; a missing one always holds."""
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise TypeError(f"a condition is a mapping, not {data!r}")
    return data


def _forced_index(overrides: Overrides, key: str, arms: int) -> int | None:
    if overrides.url:
        values = parse_qs(urlsplit(overrides.url).query).get(key, ())
        if values and values[0].isascii() and values[0].isdigit() and int(values[0]) < arms:
            return int(values[0])
    return overrides.forced.get(key)
