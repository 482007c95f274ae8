"""Reads ``features.yaml``; every complaint names file, line and key."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import yaml

from tactful_streaming import definitions as d
from tactful_streaming.definitions import Definition, Definitions, Feature, Join, Step
from tactful_streaming.errors import DefinitionError
from tactful_streaming.events import EVENT_TYPES

_FEATURE_KEYS = (
    "name",
    "entity",
    "event",
    "aggregate",
    "of",
    "group_by",
    "n",
    "q",
    "sketch",
    "max_groups",
    "window",
)
_SEQUENCE_KEYS = ("name", "entity", "sequence", "within", "contiguity", "skip", "same", "emit")
_JOIN_KEYS = ("name", "entity", "join", "emit")

_TEXT_SOURCES = ("item_id", "category", "session_id", "user_id")
_NUMERIC = ("sum", "mean", "min", "max", "last", "quantile")
_GROUPED = ("count", "sum", "mean", "min", "max", "last_time")
_WINDOWS = {
    "window": ("size", "slide", "decay", "tail"),
    "cumulative window": ("size", "step"),
    "session window": ("gap",),
    "decay": ("half_life",),
}
_DECAYING = ("count", "sum", "mean")
_FORWARD = ("count", "sum")

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PROPERTY = re.compile(r"properties\.[^\s.]{1,64}")
_ITEM = re.compile(r"item\.[^\s.]{1,64}")
_CUSTOM_TYPE = re.compile(r"x\.[a-z0-9_.-]{1,62}")
_EMITTED = re.compile(r"[a-z0-9_.-]{1,62}")
_DURATION = re.compile(r"([1-9][0-9]{0,12})(ms|s|m|h|d)")
_INTEGER = re.compile(r"[0-9]{1,9}")
_DECIMAL = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_UNBOUNDED = ("null", "~", "")

_LONGEST = 36_525 * d.DURATION_UNITS["d"]
_JOIN_WITHIN = 10_000
_MAX_N = 1000
_MAX_GROUPS = 100_000
_MAX_STEPS: Final = 32
_MAX_TIMES: Final = 100

_T = TypeVar("_T")
_Mapping = dict[str, tuple[yaml.Node, yaml.Node]]


def load_definitions(source: Path | str) -> Definitions:
    """Read definitions from a file or a YAML text.

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
    return _Reader(name).definitions(root)


class _Reader:
    """Reads YAML nodes of one file, so that every complaint can name its line."""

    def __init__(self, file: str) -> None:
        self._file = file

    def definitions(self, root: yaml.Node | None) -> Definitions:
        if root is None:
            return Definitions(())
        if not isinstance(root, yaml.SequenceNode):
            raise self._error(root, "a list of features is needed: lines that begin with '- '")
        lines: dict[str, int] = {}
        read: list[Definition] = []
        for node in root.value:
            definition, name_node = self._definition(node)
            if definition.name in lines:
                raise self._error(
                    name_node,
                    f"name: {definition.name!r} is taken by the definition of line "
                    f"{lines[definition.name]}",
                )
            lines[definition.name] = name_node.start_mark.line + 1
            read.append(definition)
        return Definitions(
            tuple(one for one in read if isinstance(one, Feature)),
            tuple(one for one in read if isinstance(one, d.Sequence)),
            tuple(one for one in read if isinstance(one, Join)),
            lines,
        )

    def _definition(self, node: yaml.Node) -> tuple[Definition, yaml.Node]:
        written = set()
        if isinstance(node, yaml.MappingNode):
            written = {key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
        if "sequence" in written:
            keys = self._mapping(node, "a sequence", _SEQUENCE_KEYS)
            return self._sequence(keys, node), keys["name"][1]
        if "join" in written:
            keys = self._mapping(node, "a join", _JOIN_KEYS)
            return self._join(keys, node), keys["name"][1]
        keys = self._mapping(node, "a feature", _FEATURE_KEYS)
        return self._feature(keys, node), keys["name"][1]

    # Features.

    def _feature(self, keys: _Mapping, node: yaml.Node) -> Feature:
        name = self._required(keys, node, "name", self._name)
        entity = self._required(keys, node, "entity", self._choice(d.ENTITIES))
        events = self._required(keys, node, "event", self._events)
        written = self._required(
            keys, node, "aggregate", self._choice((*d.AGGREGATES, "distinct_users"))
        )
        aggregate = "distinct" if written == "distinct_users" else written
        self._fits(keys, node, aggregate, "n", needs=("last_n", "top_k"))
        self._fits(keys, node, aggregate, "q", needs=("quantile",))
        self._fits(keys, node, aggregate, "sketch", allows=("distinct", "quantile"))
        self._fits(keys, node, aggregate, "group_by", allows=_GROUPED)
        if written == "distinct_users":
            if "of" in keys:
                raise self._error(keys["of"][0], "of: distinct_users takes none: it is of user_id")
            of: str | None = "user_id"
        else:
            valued = (*_NUMERIC, "last_n", "distinct", "top_k")
            self._fits(keys, node, aggregate, "of", needs=valued)
            numeric = aggregate in _NUMERIC
            of = self._optional(keys, "of", self._number_source if numeric else self._source)
        sketches = ("kll",) if aggregate == "quantile" else ("hll", "exact")
        group_by = self._optional(keys, "group_by", self._source)
        feature = Feature(
            name=name,
            entity=entity,
            events=events,
            aggregate=aggregate,
            of=of,
            group_by=group_by,
            n=self._optional(keys, "n", self._integer(1, _MAX_N)),
            q=self._optional(keys, "q", self._quantile),
            sketch=self._optional(keys, "sketch", self._choice(sketches)),
            max_groups=self._optional(keys, "max_groups", self._integer(1, _MAX_GROUPS))
            or d.DEFAULT_GROUPS,
            window=self._window_of(keys, node, aggregate),
        )
        if "max_groups" in keys and not feature.bounds_groups:
            raise self._error(
                keys["max_groups"][0], "max_groups: only beside group_by, top_k and sketch: exact"
            )
        return feature

    def _fits(
        self,
        keys: _Mapping,
        node: yaml.Node,
        aggregate: str,
        key: str,
        *,
        needs: Sequence[str] = (),
        allows: Sequence[str] = (),
    ) -> None:
        if key in keys and aggregate not in (*needs, *allows):
            raise self._error(
                keys[key][0],
                f"{key}: {aggregate} takes none; it belongs to {', '.join((*needs, *allows))}",
            )
        if key not in keys and aggregate in needs:
            raise self._error(node, f"{key} is missing: {aggregate} needs it")

    def _window_of(self, keys: _Mapping, node: yaml.Node, aggregate: str) -> d.AnyWindow | None:
        windowed = tuple(a for a in d.AGGREGATES if a not in ("last_n", "last_time"))
        self._fits(keys, node, aggregate, "window", needs=windowed, allows=("last_n",))
        if aggregate == "last_n":
            return self._optional(keys, "window", self._age)
        window = self._optional(keys, "window", self._window)
        if isinstance(window, d.Window) and window.decay != 1 and aggregate not in _DECAYING:
            raise self._error(
                keys["window"][1],
                f"window: decay: {aggregate} takes none; it belongs to {', '.join(_DECAYING)}",
            )
        if isinstance(window, d.ForwardDecay) and aggregate not in _FORWARD:
            raise self._error(
                keys["window"][1],
                f"window: half_life: {aggregate} takes none; it belongs to {', '.join(_FORWARD)}",
            )
        return window

    def _age(self, node: yaml.Node) -> d.Window:
        keys = self._mapping(node, "the window of last_n", ("size",))
        size = self._required(keys, node, "size", self._duration)
        return d.Window(size, size)

    def _window(self, node: yaml.Node) -> d.AnyWindow:
        every = tuple(dict.fromkeys(key for kind in _WINDOWS.values() for key in kind))
        written = self._mapping(node, "a window", every)
        kind = next((k for k in ("gap", "half_life", "step") if k in written), None)
        if kind == "gap":
            keys = self._mapping(node, "a session window", _WINDOWS["session window"])
            return d.SessionWindow(self._required(keys, node, "gap", self._duration))
        if kind == "half_life":
            keys = self._mapping(node, "a forward decay", _WINDOWS["decay"])
            return d.ForwardDecay(self._required(keys, node, "half_life", self._duration))
        size = self._required(written, node, "size", self._duration)
        if kind == "step":
            keys = self._mapping(node, "a cumulative window", _WINDOWS["cumulative window"])
            step = self._required(keys, node, "step", self._duration)
            self._check_panes(keys["step"][1], "step", size, step)
            return d.CumulativeWindow(size, step)
        keys = self._mapping(node, "a window", _WINDOWS["window"])
        if self._optional(keys, "tail", self._choice(("exact", "approximate"))) == "approximate":
            return self._approximate(keys, size)
        slide = self._optional(keys, "slide", self._duration) or size
        self._check_panes(keys["slide" if "slide" in keys else "size"][1], "slide", size, slide)
        decay = self._optional(keys, "decay", self._decay)
        return d.Window(size, slide, 1.0 if decay is None else decay)

    def _approximate(self, keys: _Mapping, size: int) -> d.Window:
        for key, why in (
            ("slide", "it follows from the size"),
            ("decay", "panes of unequal weight have no approximate edge"),
        ):
            if key in keys:
                raise self._error(keys[key][0], f"{key}: not with tail: approximate: {why}")
        slide = d.coarse_slide(size)
        self._check_panes(keys["size"][1], "tail: approximate: slide", size, slide)
        return d.Window(size, slide, tail="approximate")

    def _check_panes(self, node: yaml.Node, key: str, size: int, slide: int) -> None:
        if size % slide:
            raise self._error(
                node,
                f"{key}: the size {d.format_duration(size)} is no whole multiple of the "
                f"{key.split(': ')[-1]} {d.format_duration(slide)}",
            )
        if size // slide > d.MAX_PANES:
            raise self._error(
                node,
                f"{key}: {size // slide} panes in a window; at most {d.MAX_PANES} are allowed: "
                f"choose a longer {key.split(': ')[-1]}",
            )

    # Sequences and joins.

    def _sequence(self, keys: _Mapping, node: yaml.Node) -> d.Sequence:
        return d.Sequence(
            name=self._required(keys, node, "name", self._name),
            entity=self._required(keys, node, "entity", self._choice(d.ENTITIES)),
            steps=self._required(keys, node, "sequence", self._steps),
            within_ms=self._bound(keys, node),
            contiguity="strict"
            if self._optional(keys, "contiguity", self._choice(("strict", "relaxed"))) == "strict"
            else "relaxed",
            skip="to_next"
            if self._optional(keys, "skip", self._choice(("past_last", "to_next"))) == "to_next"
            else "past_last",
            same=self._optional(keys, "same", self._source),
            emit=self._optional(keys, "emit", self._emitted),
        )

    def _bound(self, keys: _Mapping, node: yaml.Node) -> int:
        if "within" not in keys:
            raise self._error(node, "within is missing: without a bound a sequence never ends")
        return self._required(keys, node, "within", self._duration)

    def _steps(self, node: yaml.Node) -> tuple[Step, ...]:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise self._error(node, "a list of steps is needed: [view, add_to_cart, leave]")
        if len(node.value) > _MAX_STEPS:
            raise self._error(node, f"{len(node.value)} steps; at most {_MAX_STEPS} are allowed")
        if node in node.value:
            raise self._error(node, "a sequence cannot hold itself: write its steps out")
        steps = [self._step(element) for element in node.value]
        last = len(steps) - 1
        if steps[0].negated:
            raise self._error(node.value[0], "not: a sequence cannot begin with what must not come")
        if all(step.negated or step.optional for step in steps):
            raise self._error(node, "every step is optional: at least one has to come")
        for number, (step, element) in enumerate(zip(steps, node.value, strict=True)):
            if step.for_ms is not None and number != last:
                raise self._error(element, "for: only the last step can wait for silence")
            if step.negated and steps[number - 1].negated:
                raise self._error(element, "not: follows another not: write one, with a list")
            if step.most is None and not any(
                not later.negated and not later.optional for later in steps[number + 1 :]
            ):
                raise self._error(
                    element,
                    "times: without an upper bound it never ends: give one, or let a step follow "
                    "that has to come",
                )
        return tuple(steps)

    def _step(self, node: yaml.Node) -> Step:
        if not isinstance(node, yaml.MappingNode):
            return Step(self._step_events(node))
        allowed = ("event", "optional", "times", "not", "for")
        keys = self._mapping(node, "a step", allowed)
        if "not" in keys:
            keys = self._mapping(node, "a step with not", ("not", "for"))
            return Step(
                self._required(keys, node, "not", self._step_events),
                negated=True,
                for_ms=self._optional(keys, "for", self._duration),
            )
        if "for" in keys:
            raise self._error(keys["for"][0], "for: only beside not")
        events = self._required(keys, node, "event", self._step_events)
        least, most = self._optional(keys, "times", self._times) or (1, 1)
        return Step(
            events,
            optional=self._optional(keys, "optional", self._choice(("true", "false"))) == "true",
            least=least,
            most=most,
        )

    def _step_events(self, node: yaml.Node) -> tuple[str, ...]:
        if isinstance(node, yaml.ScalarNode) and node.value == "any":
            return ()
        return self._events(node)

    def _times(self, node: yaml.Node) -> tuple[int, int | None]:
        number = self._integer(1, _MAX_TIMES)
        if not isinstance(node, yaml.SequenceNode):
            times = number(node)
            return times, times
        if len(node.value) != 2:
            raise self._error(node, "two numbers are needed here: [least, most]")
        least = number(node.value[0])
        if self._text(node.value[1]) in _UNBOUNDED:
            return least, None
        most = number(node.value[1])
        if most < least:
            raise self._error(node, f"at least {least} and at most {most} cannot be")
        return least, most

    def _join(self, keys: _Mapping, node: yaml.Node) -> Join:
        name = self._required(keys, node, "name", self._name)
        entity = self._required(keys, node, "entity", self._choice(d.ENTITIES))
        events, within = self._required(keys, node, "join", self._joined)
        return Join(name, entity, events, within, self._optional(keys, "emit", self._emitted))

    def _joined(self, node: yaml.Node) -> tuple[tuple[str, ...], int]:
        keys = self._mapping(node, "a join", ("event", "with", "within"))
        self._required(keys, node, "with", self._choice(("item_updates",)))
        within = self._optional(keys, "within", self._duration)
        return self._required(keys, node, "event", self._events), within or _JOIN_WITHIN

    # Single values.

    def _name(self, node: yaml.Node) -> str:
        text = self._text(node)
        if not _NAME.fullmatch(text):
            raise self._error(node, f"name: {text!r} is not snake_case of at most 64 characters")
        return text

    def _emitted(self, node: yaml.Node) -> str:
        text = self._text(node)
        if not _EMITTED.fullmatch(text):
            raise self._error(
                node, f"{text!r} is not of lower-case letters, digits and _.-, at most 62"
            )
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
        known = text in _TEXT_SOURCES or _PROPERTY.fullmatch(text) or _ITEM.fullmatch(text)
        if not known or text == "item.price":
            raise self._error(
                node,
                f"{text!r} is not one of {', '.join(_TEXT_SOURCES)}, properties.<name> or "
                "item.<field or property>",
            )
        return text

    def _number_source(self, node: yaml.Node) -> str:
        text = self._text(node)
        texts = ("item.category", "item.title", "item.available")
        if not (_PROPERTY.fullmatch(text) or _ITEM.fullmatch(text)) or text in texts:
            raise self._error(
                node,
                f"of: {text!r} is not a number: properties.<name>, item.price or item.<property>",
            )
        return text

    def _duration(self, node: yaml.Node) -> int:
        text = self._text(node)
        match = _DURATION.fullmatch(text)
        if not match:
            raise self._error(
                node, f"{text!r} is no duration above zero: a whole number and ms, s, m, h or d"
            )
        duration = int(match[1]) * d.DURATION_UNITS[match[2]]
        if duration > _LONGEST:
            raise self._error(node, f"{text!r} is longer than {d.format_duration(_LONGEST)}")
        return duration

    def _decay(self, node: yaml.Node) -> float:
        decay = self._decimal(node)
        if not 0 < decay <= 1:
            raise self._error(node, f"decay: {self._text(node)!r} is not a number in (0, 1]")
        return decay

    def _quantile(self, node: yaml.Node) -> float:
        q = self._decimal(node)
        if not 0 <= q <= 1:
            raise self._error(node, f"q: {self._text(node)!r} is not a number in [0, 1]")
        return q

    def _decimal(self, node: yaml.Node) -> float:
        text = self._text(node)
        return float(text) if _DECIMAL.fullmatch(text) else math.nan

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

    # Mappings and errors.

    def _mapping(self, node: yaml.Node, what: str, allowed: Sequence[str]) -> _Mapping:
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, f"{what} is written as keys and values: {', '.join(allowed)}")
        found: _Mapping = {}
        for key_node, value_node in node.value:
            key = self._text(key_node)
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
