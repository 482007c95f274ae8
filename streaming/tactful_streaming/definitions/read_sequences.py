"""Reads sequences and joins of ``features.yaml``, and values shared with features."""

from __future__ import annotations

import re
from typing import Final

import yaml

from tactful_streaming.definitions import model as d
from tactful_streaming.definitions.model import Join, Step
from tactful_streaming.definitions.yaml_nodes import Keys, NodeReader

_TEXT_SOURCES = ("item_id", "category", "session_id", "user_id")
PROPERTY = re.compile(r"properties\.[^\s.]{1,64}")
ITEM = re.compile(r"item\.[^\s.]{1,64}")
_EMITTED = re.compile(r"[a-z0-9_.-]{1,62}")
_UNBOUNDED = ("null", "~", "")
_JOIN_WITHIN = 10_000
_MAX_STEPS: Final = 32
_MAX_TIMES: Final = 100


class PatternReader(NodeReader):
    """Reads the nodes of sequences and joins."""

    def sequence(self, keys: Keys, node: yaml.Node) -> d.Sequence:
        """Read a sequence from its keys."""
        contiguity = self.optional(keys, "contiguity", self.choice(("strict", "relaxed")), None)
        skip = self.optional(keys, "skip", self.choice(("past_last", "to_next")), None)
        return d.Sequence(
            name=self.required(keys, node, "name", self.name),
            entity=self.required(keys, node, "entity", self.choice(d.ENTITIES)),
            steps=self.required(keys, node, "sequence", self._steps),
            within_ms=self._bound(keys, node),
            contiguity="strict" if contiguity == "strict" else "relaxed",
            skip="to_next" if skip == "to_next" else "past_last",
            same=self.optional(keys, "same", self.source, None),
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
        return Step(
            events,
            optional=self.optional(keys, "optional", self.choice(("true", "false")), None)
            == "true",
            least=least,
            most=most,
        )

    def _step_events(self, node: yaml.Node) -> tuple[str, ...]:
        if isinstance(node, yaml.ScalarNode) and node.value == "any":
            return ()
        return self.events(node)

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

    def join(self, keys: Keys, node: yaml.Node) -> Join:
        """Read a join from its keys."""
        name = self.required(keys, node, "name", self.name)
        entity = self.required(keys, node, "entity", self.choice(d.ENTITIES))
        events, within = self.required(keys, node, "join", self._joined)
        return Join(name, entity, events, within, self.optional(keys, "emit", self._emitted, None))

    def _joined(self, node: yaml.Node) -> tuple[tuple[str, ...], int]:
        keys = self.mapping(node, "a join", ("event", "with", "within"))
        self.required(keys, node, "with", self.choice(("item_updates",)))
        within = self.optional(keys, "within", self.duration, _JOIN_WITHIN)
        return self.required(keys, node, "event", self.events), within

    def _emitted(self, node: yaml.Node) -> str:
        text = self.text(node)
        if not _EMITTED.fullmatch(text):
            raise self.mistake(
                node, f"{text!r} is not of lower-case letters, digits and _.-, at most 62"
            )
        return text

    def events(self, node: yaml.Node) -> tuple[str, ...]:
        """Read one or several event types."""
        return self.many(self.event)(node)

    def source(self, node: yaml.Node) -> str:
        """Read the source of a text: a field or property of the event or its item."""
        text = self.text(node)
        known = text in _TEXT_SOURCES or PROPERTY.fullmatch(text) or ITEM.fullmatch(text)
        if not known or text == "item.price":
            raise self.mistake(
                node,
                f"{text!r} is not one of {', '.join(_TEXT_SOURCES)}, properties.<name> or "
                "item.<field or property>",
            )
        return text
