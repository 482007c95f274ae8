"""YAML or plain data whose errors name the file, the line and the key."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import yaml

from tactful_bandits.errors import DefinitionError

Place = tuple[str | int, ...]
"""Path to a node: ``(0, "arms", 1)`` is the second arm of the first entry."""

_Made = TypeVar("_Made")
_DEEPEST = 500
_LONGEST = 2_000  # characters of a message


@dataclass(frozen=True, slots=True)
class YamlSource:
    """Plain data with the line of every node.

    Attributes:
        name: Name of the source in messages.
        data: Mappings, lists and scalars.
        lines: Line of each place, from 1; empty for plain objects.
    """

    name: str
    data: object
    lines: Mapping[Place, int] = field(default_factory=dict)

    @classmethod
    def read(cls, source: object, name: str) -> "YamlSource":
        """Read a YAML file, YAML text or plain data.

        Args:
            source: A path, a text, or plain data, which are taken as they are; a source that was
                read is returned.
            name: Name in messages; a path is its own name.

        Raises:
            DefinitionError: It is no YAML, repeats a key, or holds an alias.
            OSError: The file cannot be read.
        """
        if isinstance(source, Path):
            try:
                return _read_yaml(source.read_text(encoding="utf-8"), str(source))
            except UnicodeDecodeError as error:
                raise DefinitionError(f"{source}: cannot be read as UTF-8: {error}") from error
        if isinstance(source, str):
            return _read_yaml(source, name)
        if isinstance(source, YamlSource):
            return source
        return cls(name, source)

    def build(
        self, place: Place, make: Callable[..., _Made], fields: Mapping[str, object]
    ) -> _Made:
        """Call a constructor; its error gets the place."""
        try:
            return make(**fields)
        except DefinitionError as error:
            raise self.error(place, str(error)) from error

    def check(self, place: Place, check: Callable[..., _Made], *arguments: object) -> _Made:
        """Call a function with positional arguments; its error gets the place."""
        try:
            return check(*arguments)
        except DefinitionError as error:
            raise self.error(place, str(error)) from error

    def list(self, place: Place, data: object, expected: str) -> Sequence[object]:
        """Return data that must be a list."""
        if not isinstance(data, list | tuple):
            raise self.error(place, f"expected {expected}, not {kind_of(data)}")
        return data

    def mapping(
        self,
        place: Place,
        data: object,
        required: tuple[str, ...] = (),
        optional: tuple[str, ...] | None = None,
    ) -> dict[str, object]:
        """Return data that must be a mapping with these keys; None for `optional` admits all."""
        if not isinstance(data, Mapping):
            raise self.error(place, f"expected a mapping, not {kind_of(data)}")
        for key in data if optional is not None else ():
            if key not in required + (optional or ()):
                expected = ", ".join(dict.fromkeys(required + (optional or ())))
                raise self.error((*place, key), f"unknown field; expected one of {expected}")
        for key in required:
            if key not in data:
                raise self.error(place, f"field {key!r} is missing")
        return dict(data)

    def error(self, place: Place, message: str) -> DefinitionError:
        """Return an error that begins with name, line and key of a place."""
        enclosing = (place[:depth] for depth in range(len(place), -1, -1))
        line = next((f":{self.lines[part]}" for part in enclosing if part in self.lines), "")
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
        text = ": ".join(filter(None, (self.name + line, path, message)))
        if len(text) > _LONGEST:  # a wrong key or value may be as long as the file
            text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
        return DefinitionError(text)


def kind_of(data: object) -> str:
    """Return the name of a value's type, for messages."""
    return "nothing" if data is None else type(data).__name__


def _read_yaml(text: str, name: str) -> YamlSource:
    lines: dict[Place, int] = {}
    _refuse_deep_nesting(text, name)
    try:
        loader = _Loader(text)
        loader.name = name
        node = loader.get_single_node()
        data = None if node is None else _plain(loader, node, (), lines, name)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DefinitionError(f"{name}{line}: not valid YAML: {problem}") from error
    except RecursionError as error:
        raise DefinitionError(f"{name}: nested too deep") from error
    return YamlSource(name, data, lines)


def _refuse_deep_nesting(text: str, name: str) -> None:
    # The scanner takes time quadratic in the depth: ten minutes for 100,000 brackets.
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = depth + 1 if bracket in "[{" else max(depth - 1, 0)
        if depth > _DEEPEST:
            raise DefinitionError(f"{name}: nested too deep")


class _Loader(yaml.SafeLoader):
    """Refuses aliases: one may contain itself, or multiply a small text into a huge structure."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            problem = "aliases are not supported; write the value out"
            raise DefinitionError(f"{self.name}:{line}: {problem}")
        return super().compose_node(parent, index)


def _plain(
    loader: yaml.SafeLoader, node: yaml.Node, place: Place, lines: dict[Place, int], name: str
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
        return loader.construct_object(node)
    except (AttributeError, LookupError, ValueError) as error:
        # PyYAML passes the conversion's own error on, for example for the 99th month or `!!bool x`.
        value = node.value if len(node.value) <= 80 else f"{node.value[:79]}…"
        raise DefinitionError(f"{name}:{line}: cannot read {value!r}: {error}") from error
