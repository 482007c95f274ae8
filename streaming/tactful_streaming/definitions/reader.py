"""Reads ``features.yaml``; every error names file, line and key."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml

from tactful_streaming.definitions import model as d
from tactful_streaming.definitions.model import DAY, Definition, Definitions, Feature, Join, Step
from tactful_streaming.definitions.yaml_nodes import Keys, NodeReader, read_text
from tactful_streaming.errors import DefinitionError

_FEATURE_KEYS = (
    *("name", "entity", "event", "aggregate", "of", "group_by"),
    *("n", "q", "sketch", "max_groups", "window"),
)
_SEQUENCE_KEYS = ("name", "entity", "sequence", "within", "contiguity", "skip", "same", "emit")
_JOIN_KEYS = ("name", "entity", "join", "emit")

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

_DECIMAL = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")

_MAX_N = 1000
_MAX_GROUPS = 100_000

_TEXT_SOURCES = ("item_id", "category", "session_id", "user_id", DAY)
_PROPERTY = re.compile(r"properties\.[^\s.]{1,64}")
_ITEM = re.compile(r"item\.[^\s.]{1,64}")
_EMITTED = re.compile(r"[a-z0-9_.-]{1,62}")
_UNBOUNDED = ("null", "~", "")
_JOIN_WITHIN = 10_000
_MAX_STEPS: Final = 32
_MAX_TIMES: Final = 100


def load_definitions(source: Path | str) -> Definitions:
    """Read definitions from a file (a path) or a YAML text.

    Raises:
        DefinitionError: names file, line and key of the first mistake.
    """
    name, text = read_text(source, "features", DefinitionError)
    reader = _Reader(name, DefinitionError)
    return reader.definitions(reader.compose(text))


class _Reader(NodeReader):
    """Reads the nodes of one file of definitions."""

    def definitions(self, root: yaml.Node | None) -> Definitions:
        if root is None:
            return Definitions(())
        if not isinstance(root, yaml.SequenceNode):
            raise self.mistake(root, "a list of features is needed: lines that begin with '- '")
        named: dict[str, yaml.Node] = {}
        read: list[Definition] = []
        for node in root.value:
            definition, name_node = self._definition(node)
            if definition.name in named:
                raise self.mistake(
                    name_node,
                    f"name: {definition.name!r} is taken by the definition of line "
                    f"{named[definition.name].start_mark.line + 1}",
                )
            named[definition.name] = name_node
            read.append(definition)
        definitions = Definitions(
            tuple(entry for entry in read if isinstance(entry, Feature)),
            tuple(entry for entry in read if isinstance(entry, d.Sequence)),
            tuple(entry for entry in read if isinstance(entry, Join)),
            {name: node.start_mark.line + 1 for name, node in named.items()},
        )
        if (endless := d.endless_action(definitions)) is not None:
            name, problem = endless
            raise self.mistake(named[name], problem)
        return definitions

    def _definition(self, node: yaml.Node) -> tuple[Definition, yaml.Node]:
        written = set()
        if isinstance(node, yaml.MappingNode):
            written = {key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
        if "sequence" in written:
            keys = self.mapping(node, "a sequence", _SEQUENCE_KEYS)
            return self._sequence(keys, node), keys["name"][1]
        if "join" in written:
            keys = self.mapping(node, "a join", _JOIN_KEYS)
            return self._join(keys, node), keys["name"][1]
        keys = self.mapping(node, "a feature", _FEATURE_KEYS)
        return self._feature(keys, node), keys["name"][1]

    def _feature(self, keys: Keys, node: yaml.Node) -> Feature:
        name = self.required(keys, node, "name", self.name)
        entity = self.required(keys, node, "entity", self.choice(d.ENTITIES))
        events = self.required(keys, node, "event", self.many(self._counted))
        functions = self.choice((*d.AGGREGATES, "distinct_users"))
        function = self.required(keys, node, "aggregate", functions)
        aggregate = "distinct" if function == "distinct_users" else function
        self._fits(keys, node, aggregate, "n", needs=("last_n", "top_k"))
        self._fits(keys, node, aggregate, "q", needs=("quantile",))
        self._fits(keys, node, aggregate, "sketch", allows=("distinct", "quantile"))
        self._fits(keys, node, aggregate, "group_by", allows=_GROUPED)
        if function == "distinct_users":
            if "of" in keys:
                raise self.mistake(keys["of"][0], "of: distinct_users takes none: it is of user_id")
            of: str | None = "user_id"
        else:
            valued = (*_NUMERIC, "last_n", "distinct", "top_k")
            self._fits(keys, node, aggregate, "of", needs=valued)
            numeric = aggregate in _NUMERIC
            of = self.optional(keys, "of", self._number_source if numeric else self._source, None)
        sketches = ("kll",) if aggregate == "quantile" else ("hll", "exact")
        groups = self.integer(1, _MAX_GROUPS)
        feature = Feature(
            name,
            entity,
            events,
            aggregate,
            of,
            group_by=self.optional(keys, "group_by", self._source, None),
            n=self.optional(keys, "n", self.integer(1, _MAX_N), None),
            q=self.optional(keys, "q", self._quantile, None),
            sketch=self.optional(keys, "sketch", self.choice(sketches), None),
            max_groups=self.optional(keys, "max_groups", groups, d.DEFAULT_GROUPS),
            window=self._window_of(keys, node, aggregate),
        )
        if "max_groups" in keys and not feature.bounds_groups:
            raise self.mistake(
                keys["max_groups"][0], "max_groups: only beside group_by, top_k and sketch: exact"
            )
        return feature

    def _fits(
        self,
        keys: Keys,
        node: yaml.Node,
        aggregate: str,
        key: str,
        *,
        needs: Sequence[str] = (),
        allows: Sequence[str] = (),
    ) -> None:
        if key in keys and aggregate not in (*needs, *allows):
            raise self.mistake(
                keys[key][0],
                f"{key}: {aggregate} takes none; it belongs to {', '.join((*needs, *allows))}",
            )
        if key not in keys and aggregate in needs:
            raise self.mistake(node, f"{key} is missing: {aggregate} needs it")

    def _window_of(self, keys: Keys, node: yaml.Node, aggregate: str) -> d.AnyWindow | None:
        windowed = tuple(a for a in d.AGGREGATES if a not in ("last_n", "last_time"))
        self._fits(keys, node, aggregate, "window", needs=windowed, allows=("last_n",))
        if aggregate == "last_n":
            return self.optional(keys, "window", self._age, None)
        window = self.optional(keys, "window", self._window, None)
        decays = isinstance(window, d.Window) and window.decay != 1
        for key, used, allowed in (
            ("decay", decays, _DECAYING),
            ("half_life", isinstance(window, d.ForwardDecay), _FORWARD),
        ):
            if used and aggregate not in allowed:
                problem = f"{aggregate} takes none; it belongs to {', '.join(allowed)}"
                raise self.mistake(keys["window"][1], f"window: {key}: {problem}")
        return window

    def _age(self, node: yaml.Node) -> d.Window:
        keys = self.mapping(node, "the window of last_n", ("size",))
        size = self.required(keys, node, "size", self.duration)
        return d.Window(size, size)

    def _window(self, node: yaml.Node) -> d.AnyWindow:
        every = tuple(dict.fromkeys(key for kind in _WINDOWS.values() for key in kind))
        written = self.mapping(node, "a window", every)
        kind = next((k for k in ("gap", "half_life", "step") if k in written), None)
        if kind == "gap":
            keys = self.mapping(node, "a session window", _WINDOWS["session window"])
            return d.SessionWindow(self.required(keys, node, "gap", self.duration))
        if kind == "half_life":
            keys = self.mapping(node, "a forward decay", _WINDOWS["decay"])
            return d.ForwardDecay(self.required(keys, node, "half_life", self.duration))
        size = self.required(written, node, "size", self.duration)
        if kind == "step":
            keys = self.mapping(node, "a cumulative window", _WINDOWS["cumulative window"])
            step = self.required(keys, node, "step", self.duration)
            self._check_panes(keys["step"][1], "step", size, step)
            return d.CumulativeWindow(size, step)
        keys = self.mapping(node, "a window", _WINDOWS["window"])
        tail = self.optional(keys, "tail", self.choice(("exact", "approximate")), "exact")
        if tail == "approximate":
            return self._approximate(keys, size)
        slide = self.optional(keys, "slide", self.duration, size)
        self._check_panes(keys["slide" if "slide" in keys else "size"][1], "slide", size, slide)
        return d.Window(size, slide, self.optional(keys, "decay", self._decay, 1.0))

    def _approximate(self, keys: Keys, size: int) -> d.Window:
        for key, why in (
            ("slide", "it follows from the size"),
            ("decay", "panes of unequal weight have no approximate edge"),
        ):
            if key in keys:
                raise self.mistake(keys[key][0], f"{key}: not with tail: approximate: {why}")
        slide = d.coarse_slide(size)
        self._check_panes(keys["size"][1], "tail: approximate: slide", size, slide)
        return d.Window(size, slide, tail="approximate")

    def _check_panes(self, node: yaml.Node, key: str, size: int, slide: int) -> None:
        if size % slide:
            raise self.mistake(
                node,
                f"{key}: the size {d.format_duration(size)} is no whole multiple of the "
                f"{key.split(': ')[-1]} {d.format_duration(slide)}",
            )
        if size // slide > d.MAX_PANES:
            raise self.mistake(
                node,
                f"{key}: {size // slide} panes in a window; at most {d.MAX_PANES} are allowed: "
                f"choose a longer {key.split(': ')[-1]}",
            )

    def _number_source(self, node: yaml.Node) -> str:
        text = self.text(node)
        texts = ("item.category", "item.title", "item.available")
        if not (_PROPERTY.fullmatch(text) or _ITEM.fullmatch(text)) or text in texts:
            raise self.mistake(
                node, f"{text!r} is not a number: properties.<name>, item.price or item.<property>"
            )
        return text

    def _decay(self, node: yaml.Node) -> float:
        decay = self._decimal(node)
        if not 0 < decay <= 1:
            raise self.mistake(node, f"{self.text(node)!r} is not a number in (0, 1]")
        return decay

    def _quantile(self, node: yaml.Node) -> float:
        q = self._decimal(node)
        if not 0 <= q <= 1:
            raise self.mistake(node, f"{self.text(node)!r} is not a number in [0, 1]")
        return q

    def _decimal(self, node: yaml.Node) -> float:
        text = self.text(node)
        return float(text) if _DECIMAL.fullmatch(text) else math.nan

    def _sequence(self, keys: Keys, node: yaml.Node) -> d.Sequence:
        contiguity = self.optional(keys, "contiguity", self.choice(("strict", "relaxed")), None)
        skip = self.optional(keys, "skip", self.choice(("past_last", "to_next")), None)
        return d.Sequence(
            name=self.required(keys, node, "name", self.name),
            entity=self.required(keys, node, "entity", self.choice(d.ENTITIES)),
            steps=self.required(keys, node, "sequence", self._steps),
            within_ms=self._bound(keys, node),
            contiguity="strict" if contiguity == "strict" else "relaxed",
            skip="to_next" if skip == "to_next" else "past_last",
            same=self.optional(keys, "same", self._source, None),
            emit=self.optional(keys, "emit", self._emitted, None),
        )

    def _bound(self, keys: Keys, node: yaml.Node) -> int:
        if "within" not in keys:
            raise self.mistake(node, "within is missing: without a bound a sequence never ends")
        return self.required(keys, node, "within", self.duration)

    def _steps(self, node: yaml.Node) -> tuple[Step, ...]:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise self.mistake(node, "a list of steps is needed: [view, add_to_cart, leave]")
        if len(node.value) > _MAX_STEPS:
            raise self.mistake(node, f"{len(node.value)} steps; at most {_MAX_STEPS} are allowed")
        if node in node.value:
            raise self.mistake(node, "a sequence cannot hold itself: write its steps out")
        steps = [self._step(element) for element in node.value]
        last = len(steps) - 1
        if steps[0].negated:
            raise self.mistake(
                node.value[0], "not: a sequence cannot begin with what must not come"
            )
        if all(step.negated or step.optional for step in steps):
            raise self.mistake(node, "every step is optional: at least one has to come")
        for number, (step, element) in enumerate(zip(steps, node.value, strict=True)):
            if step.for_ms is not None and number != last:
                raise self.mistake(element, "for: only the last step can wait for silence")
            if step.negated and steps[number - 1].negated:
                raise self.mistake(element, "not: follows another not: write one, with a list")
            if step.most is None and not any(
                not later.negated and not later.optional for later in steps[number + 1 :]
            ):
                raise self.mistake(
                    element,
                    "times: without an upper bound it never ends: give one, or let a step follow "
                    "that has to come",
                )
        return tuple(steps)

    def _step(self, node: yaml.Node) -> Step:
        if not isinstance(node, yaml.MappingNode):
            return Step(self._step_events(node))
        allowed = ("event", "optional", "times", "not", "for")
        keys = self.mapping(node, "a step", allowed)
        if "not" in keys:
            keys = self.mapping(node, "a step with not", ("not", "for"))
            return Step(
                self.required(keys, node, "not", self._step_events),
                negated=True,
                for_ms=self.optional(keys, "for", self.duration, None),
            )
        if "for" in keys:
            raise self.mistake(keys["for"][0], "for: only beside not")
        events = self.required(keys, node, "event", self._step_events)
        least, most = self.optional(keys, "times", self._times, (1, 1))
        optional = self.optional(keys, "optional", self.choice(("true", "false")), None) == "true"
        return Step(events, optional, least, most)

    def _step_events(self, node: yaml.Node) -> tuple[str, ...]:
        if isinstance(node, yaml.ScalarNode) and node.value == "any":
            return ()
        return self._events(node)

    def _times(self, node: yaml.Node) -> tuple[int, int | None]:
        number = self.integer(1, _MAX_TIMES)
        if not isinstance(node, yaml.SequenceNode):
            times = number(node)
            return times, times
        if len(node.value) != 2:
            raise self.mistake(node, "two numbers are needed here: [least, most]")
        least = number(node.value[0])
        if self.text(node.value[1]) in _UNBOUNDED:
            return least, None
        most = number(node.value[1])
        if most < least:
            raise self.mistake(node, f"at least {least} and at most {most} cannot be")
        return least, most

    def _join(self, keys: Keys, node: yaml.Node) -> Join:
        name = self.required(keys, node, "name", self.name)
        entity = self.required(keys, node, "entity", self.choice(d.ENTITIES))
        events, within = self.required(keys, node, "join", self._joined)
        return Join(name, entity, events, within, self.optional(keys, "emit", self._emitted, None))

    def _joined(self, node: yaml.Node) -> tuple[tuple[str, ...], int]:
        keys = self.mapping(node, "a join", ("event", "with", "within"))
        self.required(keys, node, "with", self.choice(("item_updates",)))
        within = self.optional(keys, "within", self.duration, _JOIN_WITHIN)
        return self.required(keys, node, "event", self._events), within

    def _emitted(self, node: yaml.Node) -> str:
        text = self.text(node)
        if not _EMITTED.fullmatch(text):
            raise self.mistake(
                node, f"{text!r} is not of lower-case letters, digits and _.-, at most 62"
            )
        return text

    def _counted(self, node: yaml.Node) -> str:
        """Read an event type of a feature, or ``x.*``."""
        return d.CUSTOM_EVENTS if self.text(node) == d.CUSTOM_EVENTS else self.event(node)

    def _events(self, node: yaml.Node) -> tuple[str, ...]:
        """Read one or several event types."""
        return self.many(self.event)(node)

    def _source(self, node: yaml.Node) -> str:
        """Read the source of a text: a field or property of the event or its item."""
        text = self.text(node)
        known = text in _TEXT_SOURCES or _PROPERTY.fullmatch(text) or _ITEM.fullmatch(text)
        if not known or text == "item.price":
            raise self.mistake(
                node,
                f"{text!r} is not one of {', '.join(_TEXT_SOURCES)}, properties.<name> or "
                "item.<field or property>",
            )
        return text
