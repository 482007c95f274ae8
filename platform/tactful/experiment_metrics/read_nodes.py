"""Reads the nodes of one file of metrics; every error names line, key and cure."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, cast, get_args

import yaml

from tactful.experiments.baseline import DAY_MS
from tactful.experiments.metrics import METRICS
from tactful.schemas.experiments.metrics import (
    METRIC_KINDS,
    MINIMUM_OUTCOMES,
    Correction,
    MetricDefinition,
    MetricGuardrail,
    MetricKind,
    MetricPlan,
    SegmentDefinition,
)
from tactful_bandits.assignment.conditions import attribute_names, require_condition
from tactful_bandits.errors import DefinitionError
from tactful_streaming.definitions.yaml_nodes import Keys, NodeReader, suggestion

_COMMON = ("name", "kind", "words", "direction", "minimum_outcomes")
_OF_EVENTS = ("event", "filter", "window", "delay")
# Keys of each kind beside those of all kinds; a key of another kind has a reason of its own.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "binary": _OF_EVENTS,
    "count": (*_OF_EVENTS, "cap"),
    "sum": (*_OF_EVENTS, "value", "times", "minus", "cap"),
    "ratio": ("numerator", "denominator"),
    "quantile": (*_OF_EVENTS, "value", "times", "level"),
    "retention": _OF_EVENTS,
}
_WHY_NOT: Mapping[str, str] = {
    "cap": "a cap bounds a sum or a count: leave it out, or put it on the parts of a ratio",
    "value": "only a sum and a quantile read a value: leave it out, or choose kind: sum",
    "times": "only a sum and a quantile read a value: leave it out, or choose kind: sum",
    "minus": "only a sum subtracts events: leave it out, or choose kind: sum",
    "level": "only a quantile has a level: leave it out, or choose kind: quantile",
    "numerator": "only a ratio divides metrics: leave it out, or choose kind: ratio",
    "denominator": "only a ratio divides metrics: leave it out, or choose kind: ratio",
    "event": "a ratio has the events of its parts: leave it out",
    "filter": "a ratio has the filters of its parts: leave it out",
    "window": "a ratio has the window of its parts: leave it out",
    "delay": "a ratio has the delay of its parts: leave it out",
}
_PLAN_KEYS = (
    *("experiment", "goals", "guardrails", "secondary", "cuped", "correction", "alpha"),
    *("segments", "start", "arms", "epsilon"),
)
_EVENT_ATTRIBUTES = ("properties", "context", "item_id", "type")
_SEGMENT_ATTRIBUTES = ("properties", "context", "user")
_PATH = re.compile(r"(properties|context)\..{1,100}", re.DOTALL)
_LONGEST_NAME = 100
_MOST_SEGMENTS = 50
_MOST_METRICS = 100


class MetricReader(NodeReader):
    """Reads metrics and analyses of one file."""

    def metric(self, node: yaml.Node, others: Mapping[str, MetricDefinition]) -> MetricDefinition:
        """Read one metric; `others` come before it in the file."""
        every = tuple(dict.fromkeys((*_COMMON, *(key for keys in _KEYS.values() for key in keys))))
        keys = self.mapping(node, "a metric", every)
        name = self.required(keys, node, "name", self.name)
        if name in METRICS:
            raise self.mistake(keys["name"][1], f"name: {name!r} is a built-in metric: rename it")
        if name in others:
            raise self.mistake(
                keys["name"][1],
                f"name: {name!r} is taken by the metric of line {others[name].line}: rename one",
            )
        kind = self.required(keys, node, "kind", self._kind)
        for key, (key_node, _) in keys.items():
            if key not in (*_COMMON, *_KEYS[kind]):
                raise self.mistake(key_node, f"{key} is no key of kind {kind}: {_WHY_NOT[key]}")
        fields: dict[str, Any] = {
            "name": name,
            "kind": kind,
            "words": self.optional(keys, "words", self._words, ""),
            "direction": self.optional(
                keys, "direction", self.choice(("higher", "lower")), "higher"
            ),
            "minimum_outcomes": self.optional(
                keys, "minimum_outcomes", self.integer(2, 10_000_000), MINIMUM_OUTCOMES
            ),
            "line": node.start_mark.line + 1,
        }
        if kind == "ratio":
            parts: dict[str, Any] = {
                part: self.required(keys, node, part, self.name)
                for part in ("numerator", "denominator")
            }
            return MetricDefinition(**fields, **parts)
        return MetricDefinition(**fields, **self._of_events(kind, keys, node))

    def check_ratio(self, node: yaml.Node, metrics: Mapping[str, MetricDefinition]) -> None:
        """Raise the error of a ratio whose parts do not exist or do not fit."""
        keys = self.mapping(node, "a metric")
        if self.text(keys["kind"][1]) != "ratio":
            return
        parts = []
        for key in ("numerator", "denominator"):
            name = self.text(keys[key][1])
            if name not in metrics:
                raise self.mistake(
                    keys[key][1],
                    f"{key}: there is no metric {name!r}: define it in this file"
                    f"{suggestion(name, tuple(metrics))}",
                )
            part = metrics[name]
            if part.kind not in ("binary", "count", "sum"):
                raise self.mistake(
                    keys[key][1],
                    f"{key}: {name!r} is of kind {part.kind}: a ratio divides a binary, count or "
                    "sum metric",
                )
            parts.append(part)
        above, below = parts
        if (above.delay_ms, above.window_ms) != (below.delay_ms, below.window_ms):
            raise self.mistake(
                node,
                f"{above.name!r} and {below.name!r} have different windows: a ratio needs parts "
                "with one delay and window",
            )
        if below.minus:
            raise self.mistake(
                keys["denominator"][1],
                f"denominator: {below.name!r} subtracts events and may be negative: divide by a "
                "metric without minus",
            )

    def plan(self, node: yaml.Node, metrics: Mapping[str, MetricDefinition]) -> MetricPlan:
        """Read the analysis of one experiment with some of `metrics`."""
        keys = self.mapping(node, "an experiment", _PLAN_KEYS)
        named = self._metric_names(metrics)
        plan = MetricPlan(
            experiment=self.required(keys, node, "experiment", self._label),
            goals=self.optional(keys, "goals", named, ()),
            guardrails=self.optional(
                keys, "guardrails", self._all(self._guardrail(metrics), "metric"), ()
            ),
            secondary=self.optional(keys, "secondary", named, ()),
            cuped_ms=self.optional(keys, "cuped", self.duration, 0),
            correction=self.optional(keys, "correction", self._correction, "holm"),
            alpha=self.optional(keys, "alpha", self._between(0.0, 0.5), 0.05),
            segments=self.optional(keys, "segments", self._all(self._segment, "name"), ()),
            start=self.optional(keys, "start", self._moment, None),
            arms=self.optional(keys, "arms", self._arms, {}),
            epsilon=self.optional(keys, "epsilon", self._epsilon, None),
            line=node.start_mark.line + 1,
        )
        if plan.epsilon is not None and (plan.start is None or plan.start % DAY_MS):
            raise self.mistake(
                keys["epsilon"][1],
                "epsilon releases whole days from the start on: give a start at midnight UTC, such "
                "as 2026-11-01",
            )
        uses = [*plan.goals, *(guard.metric for guard in plan.guardrails), *plan.secondary]
        if not uses:
            raise self.mistake(node, "goals is missing: name the metrics that decide")
        if repeated := sorted({name for name in uses if uses.count(name) > 1}):
            raise self.mistake(
                node, f"{', '.join(repeated)} is used twice: give each metric one role"
            )
        if len(plan.segments) > _MOST_SEGMENTS or len(uses) > _MOST_METRICS:
            raise self.mistake(
                node,
                f"an experiment has at most {_MOST_METRICS} metrics and {_MOST_SEGMENTS} segments",
            )
        return plan

    def _kind(self, node: yaml.Node) -> MetricKind:
        text = self.text(node)
        for kind in METRIC_KINDS:
            if kind == text:
                return kind
        raise self.mistake(
            node,
            f"{text!r} is not one of {', '.join(METRIC_KINDS)}{suggestion(text, METRIC_KINDS)}",
        )

    def _correction(self, node: yaml.Node) -> Correction:
        text = self.text(node)
        for correction in get_args(Correction):
            if correction == text:
                return cast("Correction", text)
        raise self.mistake(node, f"{text!r} is not one of {', '.join(get_args(Correction))}")

    def _of_events(self, kind: str, keys: Keys, node: yaml.Node) -> dict[str, Any]:
        """Read the fields of a metric that counts events."""
        if "window" not in keys:
            raise self.mistake(
                node,
                "window is missing: the time after the first exposure in which events count, such "
                "as 7d",
            )
        fields: dict[str, Any] = {
            "events": self.required(keys, node, "event", self.many(self.event)),
            "filter": self.optional(keys, "filter", self._condition(_EVENT_ATTRIBUTES), {}),
            "window_ms": self.required(keys, node, "window", self.duration),
            "delay_ms": self.optional(keys, "delay", self._delay, 0),
        }
        if kind == "retention" and not fields["delay_ms"]:
            raise self.mistake(
                node,
                "delay is missing: retention counts units that come back after a time, such as "
                "delay: 7d; a metric without delay is binary",
            )
        if kind in ("sum", "quantile"):
            if "value" not in keys:
                raise self.mistake(
                    node,
                    f"value is missing: a {kind} reads a number of its events, such as "
                    "value: properties.price",
                )
            fields["value"] = self.required(keys, node, "value", self._path)
            fields["times"] = self.optional(keys, "times", self._path, "")
        if kind == "quantile":
            fields["level"] = self.required(keys, node, "level", self._between(0.0, 1.0))
        fields["minus"] = self.optional(keys, "minus", self.many(self.event), ())
        if both := sorted({*fields["minus"]} & {*fields["events"]}):
            raise self.mistake(
                keys["minus"][1], f"minus: {both[0]} is added, too: list it in one of both"
            )
        fields["cap"] = self.optional(keys, "cap", self._above_zero, None)
        return fields

    def _delay(self, node: yaml.Node) -> int:
        delay = self.duration(node, signed=True)
        if delay < 0:
            raise self.mistake(
                node, "is negative: events before the exposure are no outcome; use cuped for them"
            )
        return delay

    def _words(self, node: yaml.Node) -> str:
        text = self.text(node).strip()
        if not 0 < len(text) <= 200:
            raise self.mistake(node, "a description of 1 to 200 characters is needed")
        return text

    def _label(self, node: yaml.Node) -> str:
        """Read a name that is not ours: of an experiment, an arm or a segment."""
        text = self.text(node)
        if not 0 < len(text) <= _LONGEST_NAME or not text.isprintable() or text != text.strip():
            raise self.mistake(
                node, f"a name has 1 to {_LONGEST_NAME} printable characters, not {text[:40]!r}"
            )
        return text

    def _path(self, node: yaml.Node) -> str:
        text = self.text(node)
        if not _PATH.fullmatch(text):
            raise self.mistake(node, f"{text!r} is no field of an event: write properties.{text}")
        return text

    def _above_zero(self, node: yaml.Node) -> float:
        value = float(self.number(node))
        if not (0 < value <= 1e9):
            raise self.mistake(node, f"{value:g} is not above 0 and at most 1e9")
        return value

    def _epsilon(self, node: yaml.Node) -> float:
        value = float(self.number(node))
        if not 0.01 <= value <= 10:
            raise self.mistake(node, f"{value:g} is not between 0.01 and 10")
        return value

    def _between(self, low: float, high: float) -> Callable[[yaml.Node], float]:
        def read(node: yaml.Node) -> float:
            value = float(self.number(node))
            if not low < value < high:
                raise self.mistake(node, f"{value:g} is not between {low:g} and {high:g}")
            return value

        return read

    def _moment(self, node: yaml.Node) -> int:
        """Read a date or a time of day, UTC unless it says otherwise."""
        text = self.text(node)
        try:
            moment = dt.datetime.fromisoformat(text)
        except ValueError:
            raise self.mistake(
                node, f"{text!r} is no time: write 2026-11-01 or 2026-11-01T08:00:00+01:00"
            ) from None
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
        return int(zoned.timestamp() * 1000)

    def _metric_names(
        self, metrics: Mapping[str, MetricDefinition]
    ) -> Callable[[yaml.Node], tuple[str, ...]]:
        def read(node: yaml.Node) -> str:
            name = self.text(node)
            if name not in metrics:
                raise self.mistake(
                    node,
                    f"there is no metric {name!r}: define it under metrics"
                    f"{suggestion(name, tuple(metrics))}",
                )
            return name

        return self.many(read)

    def _guardrail(
        self, metrics: Mapping[str, MetricDefinition]
    ) -> Callable[[yaml.Node], MetricGuardrail]:
        def read(node: yaml.Node) -> MetricGuardrail:
            if isinstance(node, yaml.ScalarNode):
                (name,) = self._metric_names(metrics)(node)
                return MetricGuardrail(metric=name)
            keys = self.mapping(node, "a guardrail", ("metric", "margin"))
            (name,) = self.required(keys, node, "metric", self._metric_names(metrics))
            return MetricGuardrail(
                metric=name, margin=self.optional(keys, "margin", self._margin, 0.0)
            )

        return read

    def _margin(self, node: yaml.Node) -> float:
        value = float(self.number(node))
        if not 0 <= value < 1:
            raise self.mistake(node, f"{value:g} is no share: 0.02 tolerates a loss of 2 %")
        return value

    def _segment(self, node: yaml.Node) -> SegmentDefinition:
        keys = self.mapping(node, "a segment", ("name", "condition"))
        return SegmentDefinition(
            name=self.required(keys, node, "name", self._label),
            condition=self.required(keys, node, "condition", self._condition(_SEGMENT_ATTRIBUTES)),
        )

    def _arms(self, node: yaml.Node) -> dict[str, float]:
        keys = self.mapping(node, "arms")
        shares = {}
        for name, (key_node, value) in keys.items():
            self._label(key_node)
            shares[name] = self.within(name, self._between(0.0, 1.0), value)
        if len(shares) < 2:
            raise self.mistake(node, "an experiment has at least two arms, the control first")
        if abs(math.fsum(shares.values()) - 1) > 1e-6:
            raise self.mistake(
                node, f"shares must sum to 1, they sum to {math.fsum(shares.values()):g}"
            )
        return shares

    def _condition(self, allowed: tuple[str, ...]) -> Callable[[yaml.Node], dict[str, Any]]:
        def read(node: yaml.Node) -> dict[str, Any]:
            condition = self._plain(node, set(), 0)
            try:
                require_condition("condition", condition)
            except DefinitionError as error:
                _, _, message = str(error).partition("condition")
                raise self.mistake(node, message.lstrip(".: ") or str(error)) from None
            assert isinstance(condition, dict)
            for name in sorted(attribute_names(condition) - {*allowed}):
                raise self.mistake(
                    node,
                    f"{name!r} is no field here: write properties.{name}, or one of "
                    f"{', '.join(allowed)}",
                )
            return condition

        return read

    def _plain(self, node: yaml.Node, seen: set[int], depth: int) -> object:
        """Convert a node into plain data; an alias could contain itself."""
        if id(node) in seen:
            raise self.mistake(node, "aliases are not supported here; write the value out")
        if depth > 40:
            raise self.mistake(node, "nested too deep")
        if isinstance(node, yaml.SequenceNode):
            seen.add(id(node))
            return [self._plain(part, seen, depth + 1) for part in node.value]
        if isinstance(node, yaml.MappingNode):
            seen.add(id(node))
            keys = self.mapping(node, "a condition")
            return {key: self._plain(value, seen, depth + 1) for key, (_, value) in keys.items()}
        if isinstance(node, yaml.ScalarNode) and node.style is None and node.value in ("", "null"):
            return None
        return self.scalar(node)

    def _all(self, read: Callable[[yaml.Node], Any], key: str) -> Callable[[yaml.Node], Any]:
        """Return a reader of a list whose entries differ in an attribute."""

        def read_all(node: yaml.Node) -> tuple[Any, ...]:
            nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
            entries: list[Any] = []
            for each in nodes:
                entry = read(each)
                name = getattr(entry, key)
                if name in [getattr(other, key) for other in entries]:
                    raise self.mistake(each, f"{name!r} is listed twice")
                entries.append(entry)
            return tuple(entries)

        return read_all
