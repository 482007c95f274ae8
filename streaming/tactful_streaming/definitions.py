"""Feature definitions are data: ``features.yaml`` read with errors that name the line.

A feature is a windowed aggregate of one entity's events::

    - {name: views_5m, entity: user, event: view, aggregate: count, group_by: category,
       window: {size: 5m, slide: 1m, decay: 0.8}}

Windows are half-open on event time and aligned to the epoch. A window of `size` that moves by
`slide` is a row of ``size / slide`` panes; `slide` defaults to `size`, a tumbling window. With
``decay: a`` a pane that is k slides old counts a^k. ``last_n`` keeps the newest n values, those
newer than ``window: {size}`` if given; ``last_time`` keeps the newest timestamp and has no window.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

from tactful_streaming.errors import DefinitionError
from tactful_streaming.events import EVENT_TYPES

ENTITIES: Final = ("user", "item", "category", "session")
"""What a feature can describe."""

AGGREGATES: Final = ("count", "sum", "last_n", "last_time")
"""What a feature can compute."""

_SOURCES = ("item_id", "category", "session_id", "user_id")
_KEYS = ("name", "entity", "event", "aggregate", "of", "group_by", "n", "max_groups", "window")
_LATER = ("sequence", "join", "sketch", "within", "emit", "with")
_LATER_WINDOW = ("tail",)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PROPERTY = re.compile(r"properties\.[^\s.]{1,64}")
_CUSTOM_TYPE = re.compile(r"x\.[a-z0-9_.-]{1,62}")
_DURATION = re.compile(r"([1-9][0-9]{0,12})(ms|s|m|h|d)")
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LONGEST = 36_525 * _UNITS["d"]
_INTEGER = re.compile(r"[0-9]{1,9}")
_DECIMAL = re.compile(r"[0-9]*\.?[0-9]+")

MAX_PANES: Final = 1440
"""Most panes in one window."""

_MAX_N = 1000
_MAX_GROUPS = 100_000
_DEFAULT_GROUPS = 2000


@dataclass(frozen=True)
class Window:
    """A sliding window: ``size / slide`` panes of `slide` each.

    Attributes:
        size_ms: length, milliseconds.
        slide_ms: how far it moves at a time, milliseconds; divides `size_ms`.
        decay: weight of a pane relative to the next newer one, in (0, 1].
    """

    size_ms: int
    slide_ms: int
    decay: float = 1.0

    @property
    def panes(self) -> int:
        """Number of panes."""
        return self.size_ms // self.slide_ms


@dataclass(frozen=True)
class Feature:
    """One feature of one kind of entity.

    Attributes:
        name: snake_case, unique.
        entity: what it describes, one of :data:`ENTITIES`.
        events: event types that count.
        aggregate: one of :data:`AGGREGATES`.
        of: what is summed or kept: ``item_id``, ``properties.price``…
        group_by: a value for each of these instead of one.
        n: how many values ``last_n`` keeps.
        max_groups: how many groups an entity may have.
        window: which events count, by their age.
    """

    name: str
    entity: str
    events: tuple[str, ...]
    aggregate: str
    of: str | None = None
    group_by: str | None = None
    n: int | None = None
    max_groups: int = _DEFAULT_GROUPS
    window: Window | None = None

    def as_data(self) -> dict[str, Any]:
        """The feature as plain data, as ``features.yaml`` writes it."""
        data: dict[str, Any] = {
            "name": self.name,
            "entity": self.entity,
            "event": list(self.events),
            "aggregate": self.aggregate,
        }
        for key, value in (("of", self.of), ("group_by", self.group_by), ("n", self.n)):
            if value is not None:
                data[key] = value
        if self.group_by is not None:
            data["max_groups"] = self.max_groups
        if self.window is not None:
            window: dict[str, Any] = {"size": format_duration(self.window.size_ms)}
            if self.aggregate != "last_n":
                window["slide"] = format_duration(self.window.slide_ms)
                window["decay"] = self.window.decay
            data["window"] = window
        return data


@dataclass(frozen=True)
class Definitions:
    """A set of features.

    Attributes:
        features: in the order written.
        fingerprint: hash of the canonical form; equal for equal definitions, however written.
    """

    features: tuple[Feature, ...]
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        """Take the fingerprint."""
        canonical = msgspec.json.encode([feature.as_data() for feature in self.features])
        object.__setattr__(self, "fingerprint", hashlib.sha256(canonical).hexdigest())

    def of_entity(self, entity: str) -> tuple[Feature, ...]:
        """Features that describe `entity`."""
        return tuple(feature for feature in self.features if feature.entity == entity)


def load_definitions(source: Path | str) -> Definitions:
    """Read feature definitions from a file or a YAML text.

    Args:
        source: a path, or the text itself.

    Raises:
        DefinitionError: names file, line and key of the first thing that is wrong.
    """
    if isinstance(source, Path):
        name = str(source)
        try:
            text = source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DefinitionError(f"{name}: cannot be read: {error}") from error
    else:
        name, text = "features", source
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise DefinitionError(f"{name}:{line}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise DefinitionError(f"{name}:1: not YAML: {error}") from error
    return Definitions(tuple(_Reader(name).features(root)))


def dump_definitions(definitions: Definitions) -> str:
    """Write definitions as YAML, one feature a line; reading it gives equal definitions."""
    lines = (
        yaml.safe_dump(
            feature.as_data(), default_flow_style=True, sort_keys=False, width=float("inf")
        ).strip()
        for feature in definitions.features
    )
    return "".join(f"- {line}\n" for line in lines)


def format_duration(milliseconds: int) -> str:
    """Write a duration in its largest whole unit: 300000 is ``5m``."""
    unit = next(unit for unit in reversed(_UNITS) if milliseconds % _UNITS[unit] == 0)
    return f"{milliseconds // _UNITS[unit]}{unit}"


_T = TypeVar("_T")
_Mapping = dict[str, tuple[yaml.Node, yaml.Node]]


class _Reader:
    """Reads YAML nodes of one file, so that every complaint can name its line."""

    def __init__(self, file: str) -> None:
        self._file = file

    def features(self, root: yaml.Node | None) -> Iterator[Feature]:
        if root is None:
            return
        if not isinstance(root, yaml.SequenceNode):
            raise self._error(root, "a list of features is needed: lines that begin with '- '")
        first_lines: dict[str, int] = {}
        for node in root.value:
            feature, name_node = self._feature(node)
            line = name_node.start_mark.line + 1
            if feature.name in first_lines:
                raise self._error(
                    name_node,
                    f"name: {feature.name!r} is taken by the feature of line "
                    f"{first_lines[feature.name]}",
                )
            first_lines[feature.name] = line
            yield feature

    def _feature(self, node: yaml.Node) -> tuple[Feature, yaml.Node]:
        keys = self._mapping(node, "a feature", _KEYS, _LATER)
        name = self._required(keys, node, "name", self._name)
        entity = self._required(keys, node, "entity", self._choice(ENTITIES))
        events = self._required(keys, node, "event", self._events)
        aggregate = self._required(keys, node, "aggregate", self._choice(AGGREGATES))
        of = self._optional(keys, "of", self._source)
        group_by = self._optional(keys, "group_by", self._source)
        n = self._optional(keys, "n", self._integer(1, _MAX_N))
        max_groups = self._optional(keys, "max_groups", self._integer(1, _MAX_GROUPS))
        window = self._optional(keys, "window", self._window)

        self._fits(keys, node, aggregate, "of", needs=("sum", "last_n"), allows=())
        self._fits(keys, node, aggregate, "n", needs=("last_n",), allows=())
        self._fits(keys, node, aggregate, "window", needs=("count", "sum"), allows=("last_n",))
        self._fits(
            keys, node, aggregate, "group_by", needs=(), allows=("count", "sum", "last_time")
        )
        if aggregate == "sum" and of is not None and not of.startswith("properties."):
            raise self._error(keys["of"][1], "of: a sum is of a number: properties.<name>")
        if max_groups is not None and group_by is None:
            raise self._error(keys["max_groups"][0], "max_groups: only beside group_by")
        if aggregate == "last_n" and window is not None:
            allowed = self._mapping(keys["window"][1], "the window of last_n", ("size",), ())
            window = Window(window.size_ms, window.size_ms) if allowed else None
        feature = Feature(
            name=name,
            entity=entity,
            events=events,
            aggregate=aggregate,
            of=of,
            group_by=group_by,
            n=n,
            max_groups=max_groups if max_groups is not None else _DEFAULT_GROUPS,
            window=window,
        )
        return feature, keys["name"][1]

    def _fits(
        self,
        keys: _Mapping,
        node: yaml.Node,
        aggregate: str,
        key: str,
        *,
        needs: Sequence[str],
        allows: Sequence[str],
    ) -> None:
        if key in keys and aggregate not in (*needs, *allows):
            raise self._error(
                keys[key][0],
                f"{key}: {aggregate} takes none; it belongs to {', '.join((*needs, *allows))}",
            )
        if key not in keys and aggregate in needs:
            raise self._error(node, f"{key} is missing: {aggregate} needs it")

    def _name(self, node: yaml.Node) -> str:
        text = self._text(node)
        if not _NAME.fullmatch(text):
            raise self._error(node, f"name: {text!r} is not snake_case of at most 64 characters")
        return text

    def _events(self, node: yaml.Node) -> tuple[str, ...]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not nodes:
            raise self._error(node, "event: the list is empty")
        events: list[str] = []
        for element in nodes:
            text = self._text(element)
            if text not in EVENT_TYPES and not _CUSTOM_TYPE.fullmatch(text):
                raise self._error(
                    element,
                    f"event: {text!r} is not one of {', '.join(sorted(EVENT_TYPES))} or x.<custom>",
                )
            if text in events:
                raise self._error(element, f"event: {text!r} is listed twice")
            events.append(text)
        return tuple(events)

    def _source(self, node: yaml.Node) -> str:
        text = self._text(node)
        if text not in _SOURCES and not _PROPERTY.fullmatch(text):
            raise self._error(
                node, f"{text!r} is not one of {', '.join(_SOURCES)} or properties.<name>"
            )
        return text

    def _window(self, node: yaml.Node) -> Window:
        keys = self._mapping(node, "a window", ("size", "slide", "decay"), _LATER_WINDOW)
        size = self._required(keys, node, "size", self._duration)
        slide = self._optional(keys, "slide", self._duration) or size
        if size % slide:
            raise self._error(
                keys["slide"][1],
                f"slide: the size {format_duration(size)} is no whole multiple of the slide "
                f"{format_duration(slide)}",
            )
        if size // slide > MAX_PANES:
            raise self._error(
                keys["slide"][1],
                f"slide: {size // slide} panes in a window; at most {MAX_PANES} are allowed: "
                "choose a longer slide",
            )
        decay = self._optional(keys, "decay", self._decay)
        return Window(size, slide, 1.0 if decay is None else decay)

    def _duration(self, node: yaml.Node) -> int:
        text = self._text(node)
        match = _DURATION.fullmatch(text)
        if not match:
            raise self._error(
                node, f"{text!r} is no duration above zero: a whole number and ms, s, m, h or d"
            )
        duration = int(match[1]) * _UNITS[match[2]]
        if duration > _LONGEST:
            raise self._error(node, f"{text!r} is longer than {format_duration(_LONGEST)}")
        return duration

    def _decay(self, node: yaml.Node) -> float:
        text = self._text(node)
        decay = float(text) if _DECIMAL.fullmatch(text) else math.nan
        if not 0 < decay <= 1:
            raise self._error(node, f"decay: {text!r} is not a number in (0, 1]")
        return decay

    def _integer(self, low: int, high: int) -> Callable[[yaml.Node], int]:
        def read(node: yaml.Node) -> int:
            text = self._text(node)
            if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
                raise self._error(node, f"{text!r} is not a whole number from {low} to {high}")
            return int(text)

        return read

    def _choice(self, allowed: Sequence[str]) -> Callable[[yaml.Node], str]:
        def read(node: yaml.Node) -> str:
            text = self._text(node)
            if text not in allowed:
                raise self._error(node, f"{text!r} is not one of {', '.join(allowed)}")
            return text

        return read

    def _text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, "a single value is needed here")
        return str(node.value)

    def _mapping(
        self, node: yaml.Node, what: str, allowed: Sequence[str], later: Sequence[str]
    ) -> _Mapping:
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, f"{what} is written as keys and values: {', '.join(allowed)}")
        found: _Mapping = {}
        for key_node, value_node in node.value:
            key = self._text(key_node)
            if key in later:
                raise self._error(
                    key_node, f"{key}: not supported by the embedded engine in this version"
                )
            if key not in allowed:
                raise self._error(
                    key_node, f"{key!r} is no key of {what}; it has {', '.join(allowed)}"
                )
            if key in found:
                raise self._error(key_node, f"{key} comes twice")
            found[key] = (key_node, value_node)
        return found

    def _required(
        self, keys: _Mapping, node: yaml.Node, key: str, read: Callable[[yaml.Node], _T]
    ) -> _T:
        if key not in keys:
            raise self._error(node, f"{key} is missing")
        value = self._optional(keys, key, read)
        assert value is not None
        return value

    def _optional(self, keys: _Mapping, key: str, read: Callable[[yaml.Node], _T]) -> _T | None:
        if key not in keys:
            return None
        try:
            return read(keys[key][1])
        except DefinitionError as error:
            raise self._name_key(key, error) from None

    def _name_key(self, key: str, error: DefinitionError) -> DefinitionError:
        place, _, message = str(error).partition(": ")
        if message.startswith(f"{key}:"):
            return error
        return DefinitionError(f"{place}: {key}: {message}")

    def _error(self, node: yaml.Node, message: str) -> DefinitionError:
        return DefinitionError(f"{self._file}:{node.start_mark.line + 1}: {message}")
