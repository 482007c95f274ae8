"""Reads rules from YAML; every error names file, line and key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from tactful_streaming.definitions.yaml_nodes import NodeReader, read_text
from tactful_streaming.errors import RuleError
from tactful_streaming.log.dead_letters import UNREADABLE
from tactful_streaming.rules.contradictions import find_contradiction
from tactful_streaming.rules.describe import describe
from tactful_streaming.rules.model import Condition, Rule
from tactful_streaming.rules.read_changes import ChangeReader
from tactful_streaming.rules.read_conditions import ConditionReader

_RULE_KEYS = ("name", "event", "when", "unless", "action", "normalise", "reason")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def read_rules(source: Path | str) -> tuple[Rule, ...]:
    """Read rules from a file or a YAML text.

    Raises:
        RuleError: names file, line and key of the first thing that is wrong.
    """
    name, text = read_text(source, "rules", RuleError)
    reader = _RuleReader(name)
    return tuple(reader.rules(reader.compose(text)))


class _RuleReader(NodeReader):
    """Reads the nodes of one file of rules."""

    def __init__(self, file: str) -> None:
        super().__init__(file, RuleError)
        self._conditions = ConditionReader(file, RuleError)
        self._changes = ChangeReader(file, RuleError, self._conditions)

    def rules(self, root: yaml.Node | None) -> Iterator[Rule]:
        if root is None:
            return
        if not isinstance(root, yaml.SequenceNode):
            raise self.mistake(root, "a list of rules is needed: lines that begin with '- '")
        before: list[Rule] = []
        for node in root.value:
            rule = self._rule(node)
            for other in before:
                if other.name == rule.name:
                    raise self.mistake(
                        node, f"name: {rule.name!r} is taken by the rule of line {other.line}"
                    )
                if _takes_all(other, rule):
                    raise self.mistake(
                        node,
                        f"no event reaches this rule: {other.name!r} of line {other.line} stops "
                        "all of them; put this rule before it",
                    )
            before.append(rule)
            yield rule

    def _rule(self, node: yaml.Node) -> Rule:
        keys = self.mapping(node, "a rule", _RULE_KEYS)
        name = self.required(keys, node, "name", self._name)
        events = self.optional(keys, "event", self.many(self._conditions.event), ())
        when = self.optional(keys, "when", self._conditions.alternatives, ())
        unless = self.optional(keys, "unless", self._conditions.alternatives, ())
        action = self.optional(keys, "action", self.choice(("drop", "dead_letter")), "normalise")
        changes = self.optional(keys, "normalise", self._changes.changes, ())
        reason = self.optional(keys, "reason", self._reason, "")
        if ("action" in keys) == ("normalise" in keys):
            raise self.mistake(
                node, "a rule has either action: drop, action: dead_letter, or normalise"
            )
        if not (events or when or unless) and action != "normalise":
            raise self.mistake(
                node,
                f"without event, when or unless it would {action} every event: add a condition",
            )
        for key, parts in (("when", when), ("unless", unless)):
            for part in parts:
                self._check_consistent(keys[key][1], key, events, part)
        if unless and any(set(part) <= set(w) for part in unless for w in when or ((),)):
            raise self.mistake(
                keys["unless"][0],
                "unless: this holds whenever the rule would hold: the rule never acts",
            )
        return Rule(
            name=name,
            action=action,  # type: ignore[arg-type]
            events=events,
            when=when,
            unless=unless,
            changes=changes,
            reason=reason or describe(events, when, unless),
            line=node.start_mark.line + 1,
        )

    def _name(self, node: yaml.Node) -> str:
        text = self.text(node)
        if not _NAME.fullmatch(text):
            raise self.mistake(node, f"{text!r} is not snake_case of at most 64 characters")
        if text == UNREADABLE:
            raise self.mistake(node, f"{text!r} is reserved for records that are no event")
        return text

    def _reason(self, node: yaml.Node) -> str:
        text = self.text(node)
        if not 1 <= len(text) <= 200:
            raise self.mistake(node, "a reason has 1 to 200 characters")
        return text

    def _check_consistent(
        self, node: yaml.Node, key: str, events: tuple[str, ...], part: tuple[Condition, ...]
    ) -> None:
        contradiction = find_contradiction(events, part)
        if contradiction is not None:
            field, reason = contradiction
            place = next((k for k in _key_nodes(node) if k.value == field), node)
            raise self.mistake(place, f"{key}: {field}: no event can meet this: {reason}")


def _key_nodes(node: yaml.Node) -> Iterator[yaml.Node]:
    parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for part in parts:
        if isinstance(part, yaml.MappingNode):
            for key_node, _ in part.value:
                yield key_node


def _takes_all(first: Rule, second: Rule) -> bool:
    """Whether `first` drops or sets aside all events that `second` is about."""
    unconditional = not first.when and not first.unless and first.action != "normalise"
    return unconditional and bool(second.events) and set(second.events) <= set(first.events)
