"""Flags as YAML: read, validate, and report errors with file, line and key.

```yaml
public_attributes: [country, platform]       # browsers may read what rules compare these with
groups:
  staff: [u-1, u-2]
holdouts:
  everything: {share: 0.05}
flags:
  new-cart:
    description: Cart on one page
    owner: checkout team
    expires: 2027-06-30
    default: off                              # variants of a boolean flag: on, off
    holdout: everything
    rules:
      - when: {id: {$inGroup: staff}}
        serve: on
      - when: {country: {$in: [CH, AT]}}
        experiment:
          key: new-cart-2027
          coverage: 0.5
          arms: [off, on]                     # equal weights; the first arm is the control
  banner:
    kind: text
    variants: {none: "", spring: Spring sale}
    default: none
    prerequisites: [{flag: new-cart, variants: [on]}]
    rules:
      - {serve: spring, share: 0.2}
```

JSON is YAML and is read too, as is the same structure of plain Python objects.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from tactful_bandits.assignment.definitions import conflict_of
from tactful_bandits.assignment.eligibility import Holdout
from tactful_bandits.assignment.yaml_source import Place, YamlSource
from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags.compiling import compile_features
from tactful_bandits.flags.definitions import (
    ON_OFF,
    Flag,
    FlagExperiment,
    FlagHoldout,
    FlagSet,
    require_attribute,
    require_json,
)
from tactful_bandits.flags.features import Features
from tactful_bandits.flags.flag_reading import FlagReader

_MOST_NEEDED = 32  # flags in a chain of prerequisites; evaluation is recursive


def load_flags(
    source: Path | str | Mapping[str, object] | YamlSource, *, name: str = "flags"
) -> FlagSet:
    """Read flags and check each alone and all against each other.

    Args:
        source: A YAML file, YAML text, the same as plain mappings, or a source that was read.
        name: Name of a text in messages; a file is named by its path.

    Raises:
        DefinitionError: Definitions are wrong. The message has a line for each wrong flag, which
            begins ``name:line: place:`` (``name: place:`` for plain objects).
        OSError: The file cannot be read.
    """
    return _Reader(YamlSource.read(source, name)).flag_set()


class _Reader:
    """Converts plain data into a flag set."""

    def __init__(self, source: YamlSource) -> None:
        self._source = source

    def flag_set(self) -> FlagSet:
        top = self._source.mapping(
            (), self._source.data, ("flags",), ("public_attributes", "groups", "holdouts")
        )
        public = self._public_attributes(top.get("public_attributes") or ())
        groups = self._groups(top.get("groups") or {})
        holdouts = self._holdouts(top.get("holdouts") or {})
        entries = self._source.mapping(("flags",), top["flags"])
        variants = self._each(entries, self._variants)
        reader = FlagReader(self._source, groups, holdouts, variants)
        flags = self._each(entries, lambda key, entry: reader.flag(("flags", key), key, entry))
        flag_set = FlagSet(flags, groups, holdouts, public)
        self._check_prerequisites(flag_set)
        self._check_experiments(flags)
        features = Features.from_payload(compile_features(flag_set))
        return dataclasses.replace(flag_set, features=features)

    def _each(
        self, entries: Mapping[str, object], read: Callable[[str, object], Any]
    ) -> dict[str, Any]:
        """Read all flags before an error is raised, so that one run reports every wrong flag."""
        results, problems = {}, []
        for key, entry in entries.items():
            try:
                results[key] = read(key, entry)
            except DefinitionError as error:
                problems.append(str(error))
        if problems:
            raise DefinitionError("\n".join(problems))
        return results

    def _public_attributes(self, data: object) -> frozenset[str]:
        place = ("public_attributes",)
        names = self._source.list(place, data, "a list of attributes")
        for i, name in enumerate(names):
            self._source.check((*place, i), require_attribute, "attribute", name)
            if "." in str(name):
                whole = str(name).split(".")[0]
                problem = f"{name!r} is a part of an attribute: list {whole!r}, with all its parts"
                raise self._source.error((*place, i), problem)
        return frozenset(map(str, names))

    def _groups(self, data: object) -> dict[str, tuple[Any, ...]]:
        groups = {}
        for name, values in self._source.mapping(("groups",), data).items():
            place = ("groups", name)
            self._source.check(place, require_attribute, "group name", name)
            members = self._source.list(place, values, "a list of values")
            for i, value in enumerate(members):
                if value is None or isinstance(value, list | tuple | Mapping):
                    raise self._source.error((*place, i), "a group holds texts or numbers")
                self._source.check((*place, i), require_json, "value", value)
            groups[name] = tuple(members)
        return groups

    def _holdouts(self, data: object) -> dict[str, FlagHoldout]:
        holdouts = {}
        for name, entry in self._source.mapping(("holdouts",), data).items():
            place = ("holdouts", name)
            fields = self._source.mapping(place, entry, ("share",), ("unit",))
            share = fields.pop("share")
            holdout = self._source.build(place, Holdout, {"name": name, "share": share})
            holdouts[name] = self._source.build(place, FlagHoldout, {"holdout": holdout, **fields})
        return holdouts

    def _variants(self, key: str, data: object) -> Mapping[str, Any]:
        place: Place = ("flags", key)
        fields = self._source.mapping(place, data)
        kind = fields.get("kind", "boolean")
        if fields.get("variants") is None:
            if kind != "boolean":
                raise self._source.error(place, f"a flag of kind {kind} needs variants")
            return ON_OFF
        variants = self._source.mapping((*place, "variants"), fields["variants"])
        if not variants:
            raise self._source.error((*place, "variants"), "name at least one variant")
        return variants

    def _check_prerequisites(self, flags: FlagSet) -> None:
        needs, lengths = flags.needs, dict[str, int]()
        try:
            order = [*TopologicalSorter(needs).static_order()]
        except CycleError as error:
            key = next(key for key in flags.flags if key in error.args[1])
            circle = " -> ".join(reversed(error.args[1]))
            problem = f"flag {key!r} needs itself ({circle}); remove one prerequisite"
            raise self._source.error(("flags", key, "prerequisites"), problem) from error
        for key in order:
            lengths[key] = 1 + max((lengths[need] for need in needs[key]), default=0)
            if lengths[key] > _MOST_NEEDED:
                problem = f"a chain of prerequisites has at most {_MOST_NEEDED} flags; remove one"
                raise self._source.error(("flags", key, "prerequisites"), problem)

    def _check_experiments(self, flags: Mapping[str, Flag]) -> None:
        seen: dict[str, tuple[Place, FlagExperiment]] = {}
        for key, flag in flags.items():
            for i, rule in enumerate(flag.rules):
                if rule.experiment is None:
                    continue
                place: Place = ("flags", key, "rules", i, "experiment")
                name = rule.experiment.design.key
                if name in seen and not _same_design(seen[name][1], rule.experiment):
                    raise self._source.error(
                        place,
                        f"experiment key {name!r} is used before ({_path(seen[name][0])}) with "
                        "another definition; choose another key, or repeat arms, weights, "
                        "coverage, seed, namespace, condition, unit and sticky arms",
                    )
                if name in seen and seen[name][0][1] == key:
                    raise self._source.error(
                        place, f"experiment {name!r} stands twice in one flag; remove one rule"
                    )
                seen.setdefault(name, (place, rule.experiment))
        self._check_conflicts(seen.values())

    def _check_conflicts(self, experiments: Iterable[tuple[Place, FlagExperiment]]) -> None:
        """Compare experiments that share a unit and a namespace or a seed: others cannot meet."""
        rivals: dict[tuple[str, ...], list[FlagExperiment]] = defaultdict(list)
        for place, experiment in experiments:
            design = experiment.design
            shared = [("seed", experiment.unit, design.seed or design.key)]
            if design.namespace is not None:
                shared.append(("namespace", experiment.unit, design.namespace.name))
            for names in shared:
                for other in rivals[names]:
                    problem = conflict_of(other.design, design)
                    if problem is not None:
                        raise self._source.error(place, problem)
                rivals[names].append(experiment)


def _same_design(first: FlagExperiment, second: FlagExperiment) -> bool:
    """Return whether two rules run the same experiment; their variants may differ."""

    def parts(experiment: FlagExperiment) -> tuple[object, ...]:
        return (
            experiment.design,
            experiment.unit,
            experiment.fallback_unit,
            experiment.sticky,
            experiment.version,
            experiment.oldest_version,
        )

    return parts(first) == parts(second)


def _path(place: Place) -> str:
    return ".".join(map(str, place))
