"""Experiments as YAML: read, validate, and report errors with their line.

```yaml
- key: ranking-model
  arms:
    - {name: champion, weight: 0.9}
    - {name: challenger, weight: 0.1, parameters: {quotas: {vectors: 300}}}
- key: result-layout
  arms: [{name: list}, {name: grid}]        # no weights: equal ones
  coverage: 0.2
  namespace: {name: page, start: 0.0, end: 0.5}
  status: draft
  condition: {country: {$in: [CH, AT]}}
  holdout: {name: everything, share: 0.02}
  prerequisites: [{experiment: ranking-model, arms: [challenger]}]
```

JSON is YAML and is read too, as is the same structure of plain Python objects.
"""

from collections.abc import Callable, Mapping, Sequence
from graphlib import CycleError
from itertools import combinations
from pathlib import Path

from tactful_bandits.assignment.assign import Arm, Experiment, prerequisite_graph
from tactful_bandits.assignment.eligibility import Holdout, Namespace, Prerequisite
from tactful_bandits.assignment.hashing import equal_weights
from tactful_bandits.assignment.yaml_source import Place, YamlSource, kind_of

# Fields that hold one object: its type, its required and its optional fields.
_PARTS: tuple[tuple[str, Callable[..., object], tuple[str, ...], tuple[str, ...]], ...] = (
    ("namespace", Namespace, ("name", "start", "end"), ("version",)),
    ("holdout", Holdout, ("name", "share"), ()),
)


def load_experiments(
    source: Path | str | Sequence[object], *, name: str | None = None
) -> tuple[Experiment, ...]:
    """Read experiments and check each alone and all against each other.

    Args:
        source: A YAML file, YAML text, or a list of plain mappings.
        name: Name in messages, by default ``experiments``; a file is named by its path.

    Raises:
        DefinitionError: A definition is wrong; the message begins ``name:line:`` (``name:`` for
            plain objects) and the place within the list.
        OSError: The file cannot be read.
    """
    return _Reader(YamlSource.read(source, name or "experiments")).experiments()


class _Reader:
    """Converts plain data into experiments; errors name the line of the field."""

    def __init__(self, source: YamlSource) -> None:
        self._source = source

    def experiments(self) -> tuple[Experiment, ...]:
        entries = self._source.list((), self._source.data, "a list of experiments")
        experiments = tuple(self._experiment((i,), entry) for i, entry in enumerate(entries))
        for (i, first), (j, second) in combinations(enumerate(experiments), 2):
            conflict = conflict_of(first, second)
            if conflict:
                raise self._source.error((j,), f"{conflict} (the other is entry {i})")
        for i, experiment in enumerate(experiments):
            problem = _missing_prerequisite(experiment, experiments)
            if problem:
                raise self._source.error((i, "prerequisites"), problem)
        try:
            prerequisite_graph(experiments).prepare()
        except CycleError as error:
            i, key = min((i, it.key) for i, it in enumerate(experiments) if it.key in error.args[1])
            problem = f"experiment {key!r} needs itself through its prerequisites"
            raise self._source.error((i, "prerequisites"), problem) from error
        return experiments

    def _experiment(self, place: Place, data: object) -> Experiment:
        fields = self._source.mapping(
            place,
            data,
            ("key", "arms"),
            ("coverage", "seed", "namespace", "status", "condition", "holdout", "prerequisites"),
        )
        fields["arms"] = self._arms((*place, "arms"), fields["arms"])
        for name, make, required, optional in _PARTS:
            if fields.get(name) is not None:
                parts = self._source.mapping((*place, name), fields[name], required, optional)
                fields[name] = self._source.build((*place, name), make, parts)
        if "prerequisites" in fields:
            fields["prerequisites"] = self._prerequisites(
                (*place, "prerequisites"), fields["prerequisites"]
            )
        return self._source.build(place, Experiment, fields)

    def _prerequisites(self, place: Place, data: object) -> tuple[Prerequisite, ...]:
        prerequisites = []
        for i, entry in enumerate(self._source.list(place, data, "a list of prerequisites")):
            fields = self._source.mapping((*place, i), entry, ("experiment", "arms"), ())
            fields["arms"] = self._source.list(
                (*place, i, "arms"), fields["arms"], "a list of arm names"
            )
            prerequisites.append(self._source.build((*place, i), Prerequisite, fields))
        return tuple(prerequisites)

    def _arms(self, place: Place, data: object) -> tuple[Arm, ...]:
        entries = [
            self._source.mapping((*place, i), entry, ("name",), ("weight", "parameters"))
            for i, entry in enumerate(self._source.list(place, data, "a list of arms"))
        ]
        for i, entry in enumerate(entries):
            parameters = entry.get("parameters", {})
            if not isinstance(parameters, Mapping):
                where = (*place, i, "parameters")
                raise self._source.error(where, f"expected a mapping, not {kind_of(parameters)}")
        weighted = sum("weight" in entry for entry in entries)
        if weighted not in (0, len(entries)):
            raise self._source.error(place, "give every arm a weight, or none for equal weights")
        if not weighted:
            for entry, weight in zip(entries, equal_weights(len(entries)), strict=True):
                entry["weight"] = weight
        return tuple(self._source.build((*place, i), Arm, entry) for i, entry in enumerate(entries))


def conflict_of(first: Experiment, second: Experiment) -> str | None:
    """Describe the conflict of two experiments in one list, or return None."""
    if first.key == second.key:
        return f"key {second.key!r} is taken"
    if first.status != "running" or second.status != "running":
        return None
    a, b = first.namespace, second.namespace
    if a and b and (a.name, a.version) == (b.name, b.version) and a.overlaps(b):
        return (
            f"experiments {first.key!r} and {second.key!r} run in overlapping slices of namespace "
            f"{a.name!r}; separate the slices or stop one"
        )
    disjoint = a is not None and b is not None and not a.overlaps(b)
    if (first.seed or first.key) == (second.seed or second.key) and not disjoint:
        return (
            f"experiments {first.key!r} and {second.key!r} run with the same seed, so they split "
            "the same units alike; give one of them another seed"
        )
    return None


def _missing_prerequisite(experiment: Experiment, experiments: Sequence[Experiment]) -> str | None:
    """Describe an unknown prerequisite, or return None."""
    by_key = {other.key: other for other in experiments}
    for needed in experiment.prerequisites:
        other = by_key.get(needed.experiment)
        if other is None:
            return f"there is no experiment {needed.experiment!r}, there are {sorted(by_key)}"
        names = [arm.name for arm in other.arms]
        unknown = sorted(set(needed.arms) - set(names))
        if unknown:
            return f"experiment {other.key!r} has no arms {unknown}, its arms are {names}"
    return None
