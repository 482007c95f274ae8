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
from typing import TypeVar

import yaml

from tactful_bandits.assignment.assign import Arm, Experiment, prerequisite_graph
from tactful_bandits.assignment.eligibility import Holdout, Namespace, Prerequisite
from tactful_bandits.assignment.hashing import equal_weights
from tactful_bandits.errors import DefinitionError

_Place = tuple[str | int, ...]
_Made = TypeVar("_Made")
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
        name: Name of the source in messages; by default the path, or ``experiments``.

    Raises:
        DefinitionError: A definition is wrong; the message begins ``name:line:`` (``name:`` for
            plain objects) and the place within the list.
        OSError: The file cannot be read.
    """
    if isinstance(source, Path):
        name = name or str(source)
        try:
            reader = _read_yaml(source.read_text(encoding="utf-8"), name)
        except UnicodeDecodeError as error:
            raise DefinitionError(f"{name}: cannot be read as UTF-8: {error}") from error
    elif isinstance(source, str):
        reader = _read_yaml(source, name or "experiments")
    else:
        reader = _Reader(name or "experiments", source, {})
    return reader.experiments()


class _Reader:
    """Converts plain data into experiments; errors name the line of the field.

    `lines` maps a path to its line: ``{(0, "arms", 1): 4}`` is the second arm of the first entry.
    """

    def __init__(self, name: str, data: object, lines: Mapping[_Place, int]) -> None:
        self._name = name
        self._data = data
        self._lines = lines

    def experiments(self) -> tuple[Experiment, ...]:
        entries = self._list((), self._data, "a list of experiments")
        experiments = tuple(self._experiment((i,), entry) for i, entry in enumerate(entries))
        for (i, first), (j, second) in combinations(enumerate(experiments), 2):
            conflict = _conflict(first, second)
            if conflict:
                raise self._error((j,), f"{conflict} (the other is entry {i})")
        for i, experiment in enumerate(experiments):
            problem = _missing_prerequisite(experiment, experiments)
            if problem:
                raise self._error((i, "prerequisites"), problem)
        try:
            prerequisite_graph(experiments).prepare()
        except CycleError as error:
            i, key = min((i, it.key) for i, it in enumerate(experiments) if it.key in error.args[1])
            problem = f"experiment {key!r} needs itself through its prerequisites"
            raise self._error((i, "prerequisites"), problem) from error
        return experiments

    def _experiment(self, place: _Place, data: object) -> Experiment:
        fields = self._mapping(
            place,
            data,
            ("key", "arms"),
            ("coverage", "seed", "namespace", "status", "condition", "holdout", "prerequisites"),
        )
        fields["arms"] = self._arms((*place, "arms"), fields["arms"])
        for name, make, required, optional in _PARTS:
            if fields.get(name) is not None:
                parts = self._mapping((*place, name), fields[name], required, optional)
                fields[name] = self._build((*place, name), make, parts)
        if "prerequisites" in fields:
            fields["prerequisites"] = self._prerequisites(
                (*place, "prerequisites"), fields["prerequisites"]
            )
        return self._build(place, Experiment, fields)

    def _prerequisites(self, place: _Place, data: object) -> tuple[Prerequisite, ...]:
        prerequisites = []
        for i, entry in enumerate(self._list(place, data, "a list of prerequisites")):
            fields = self._mapping((*place, i), entry, ("experiment", "arms"), ())
            fields["arms"] = self._list((*place, i, "arms"), fields["arms"], "a list of arm names")
            prerequisites.append(self._build((*place, i), Prerequisite, fields))
        return tuple(prerequisites)

    def _arms(self, place: _Place, data: object) -> tuple[Arm, ...]:
        entries = [
            self._mapping((*place, i), entry, ("name",), ("weight", "parameters"))
            for i, entry in enumerate(self._list(place, data, "a list of arms"))
        ]
        for i, entry in enumerate(entries):
            parameters = entry.get("parameters", {})
            if not isinstance(parameters, Mapping):
                where = (*place, i, "parameters")
                raise self._error(where, f"expected a mapping, not {_kind(parameters)}")
        weighted = sum("weight" in entry for entry in entries)
        if weighted not in (0, len(entries)):
            raise self._error(place, "give every arm a weight, or none for equal weights")
        if not weighted:
            for entry, weight in zip(entries, equal_weights(len(entries)), strict=True):
                entry["weight"] = weight
        return tuple(self._build((*place, i), Arm, entry) for i, entry in enumerate(entries))

    def _build(
        self, place: _Place, make: Callable[..., _Made], fields: Mapping[str, object]
    ) -> _Made:
        try:
            return make(**fields)
        except DefinitionError as error:
            raise self._error(place, str(error)) from error

    def _list(self, place: _Place, data: object, expected: str) -> Sequence[object]:
        if not isinstance(data, list | tuple):
            raise self._error(place, f"expected {expected}, not {_kind(data)}")
        return data

    def _mapping(
        self, place: _Place, data: object, required: tuple[str, ...], optional: tuple[str, ...]
    ) -> dict[str, object]:
        if not isinstance(data, Mapping):
            raise self._error(place, f"expected a mapping, not {_kind(data)}")
        known = required + optional
        for key in data:
            if key not in known:
                expected = ", ".join(known)
                raise self._error((*place, key), f"unknown field; expected one of {expected}")
        for key in required:
            if key not in data:
                raise self._error(place, f"field {key!r} is missing")
        return dict(data)

    def _error(self, place: _Place, message: str) -> DefinitionError:
        enclosing = (place[:depth] for depth in range(len(place), -1, -1))
        line = next((f":{self._lines[part]}" for part in enclosing if part in self._lines), "")
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
        return DefinitionError(": ".join(filter(None, (self._name + line, path, message))))


def _conflict(first: Experiment, second: Experiment) -> str | None:
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


def read_with_lines(text: str, name: str) -> tuple[object, Mapping[tuple[str | int, ...], int]]:
    """Read YAML without aliases, with the line of each place, such as ``(0, "arms", 1)``.

    Raises:
        DefinitionError: if it is not valid; the message names the line.
    """
    reader = _read_yaml(text, name)
    return reader._data, reader._lines


def _read_yaml(text: str, name: str) -> _Reader:
    lines: dict[_Place, int] = {}
    try:
        _refuse_aliases(text, name)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        data = None if node is None else _plain(loader, node, (), lines, name)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DefinitionError(f"{name}{line}: not valid YAML: {problem}") from error
    except RecursionError as error:
        raise DefinitionError(f"{name}: nested too deep") from error
    return _Reader(name, data, lines)


def _refuse_aliases(text: str, name: str) -> None:
    # An alias may contain itself, or multiply a small text into a huge structure.
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = f":{event.start_mark.line + 1}" if event.start_mark else ""
            raise DefinitionError(f"{name}{line}: aliases are not supported; write the value out")


def _plain(
    loader: yaml.SafeLoader, node: yaml.Node, place: _Place, lines: dict[_Place, int], name: str
) -> object:
    """Convert a YAML node into plain objects and record the line of every node."""
    line = node.start_mark.line + 1
    lines.setdefault(place, line)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, part, (*place, i), lines, name) for i, part in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            key_line = key_node.start_mark.line + 1
            if key is None:
                raise DefinitionError(f"{name}:{key_line}: a field name must be plain text")
            if key in mapping:
                raise DefinitionError(f"{name}:{key_line}: field {key!r} is written twice")
            lines[(*place, key)] = key_line
            mapping[key] = _plain(loader, value_node, (*place, key), lines, name)
        return mapping
    try:
        value: object = loader.construct_object(node)
    except (AttributeError, LookupError, ValueError) as error:
        # PyYAML passes the conversion's own error on, for example for the 99th month or `!!bool x`.
        raise DefinitionError(f"{name}:{line}: cannot read {node.value!r}: {error}") from error
    return value


def _kind(data: object) -> str:
    return "nothing" if data is None else type(data).__name__
