"""Reads the file of mappings; every mistake names its line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from tactful.errors import ConfigError
from tactful.sources.mapping import (
    AS_NAMED,
    IDS,
    KINDS,
    OTHER,
    SOURCES,
    ConsentMapping,
    Fields,
    Mappings,
    Rule,
    SourceMapping,
    SourceName,
)
from tactful.sources.places import Constant, Place, Value, is_blank, parse_place, plain_name
from tactful_privacy.people.consent import Purpose
from tactful_streaming.definitions.yaml_nodes import Keys, NodeReader, read_text
from tactful_streaming.errors import StreamingError

_FIELDS = (*IDS[1:], "properties", "context")
_OF_SOURCE = ("name", "event_id", "timestamp", *_FIELDS, "consent", "rules")
_MATCHING = ("name", "kind", "event", "with_all", "with_any")
_OF_RULE = (*_MATCHING, "each", "send", "event_id", *_FIELDS, "user")
_MOST_NAMES = 64
_LONGEST_NAME = 64


class _Mistake(StreamingError):
    """A mistake in a file of mappings."""


def read_mappings(source: Path | str, *, name: str = "mapping") -> Mappings:
    """Read the mappings of a file or text.

    Raises:
        ConfigError: if it cannot be read or is wrong; the message begins ``file:line:``.
    """
    try:
        name, text = read_text(source, name, _Mistake)
        reader = NodeReader(name, _Mistake)
        root = reader.compose(text)
        if root is None:
            raise _Mistake(f"{name}:1: the file is empty: it maps {', '.join(SOURCES)}")
        keys = reader.mapping(root, "a file of mappings", SOURCES)
        return {
            key: _SourceReader(reader, key).read(node)
            for key in SOURCES
            if key in keys
            for _, node in [keys[key]]
        }
    except _Mistake as mistake:
        raise ConfigError(str(mistake)) from mistake


class _SourceReader:
    """Reads the mapping of one source."""

    def __init__(self, reader: NodeReader, source: SourceName) -> None:
        self._reader = reader
        self._source: SourceName = source

    def read(self, node: yaml.Node) -> SourceMapping:
        reader = self._reader
        keys = reader.mapping(node, f"the mapping of {self._source}", _OF_SOURCE)
        if "timestamp" in keys and self._source != "plain":
            raise reader.mistake(
                keys["timestamp"][0],
                f"the times of {self._source} are read as it documents them: remove timestamp",
            )
        shared = self._fields(keys, Fields(), in_element=False)
        rules = reader.required(keys, node, "rules", partial(self._rules, shared=shared))
        whole = partial(self._value, in_element=False)
        return SourceMapping(
            source=self._source,
            rules=rules,
            name=reader.optional(keys, "name", whole, ()),
            event_id=reader.optional(keys, "event_id", whole, ()),
            timestamp=reader.optional(keys, "timestamp", whole, ()),
            consent=reader.optional(keys, "consent", self._consent, None),
        )

    def _rules(self, node: yaml.Node, *, shared: Fields) -> tuple[Rule, ...]:
        if not isinstance(node, yaml.SequenceNode):
            raise self._reader.mistake(node, "rules are a list")
        rules: dict[str, Rule] = {}
        for element in node.value:
            rule = self._rule(element, shared)
            if rule.name in rules:
                raise self._reader.mistake(element, f"two rules have the name {rule.name!r}")
            rules[rule.name] = rule
        return tuple(rules.values())

    def _rule(self, node: yaml.Node, shared: Fields) -> Rule:
        reader = self._reader
        keys = reader.mapping(node, "a rule", _OF_RULE)
        kinds = (*KINDS[self._source], OTHER)
        in_element = "each" in keys
        place = partial(self._place, in_element=False)
        fields = self._fields(keys, shared, in_element=in_element)
        rule = Rule(
            name=reader.required(keys, node, "name", reader.name),
            kinds=frozenset(
                reader.optional(keys, "kind", reader.many(reader.choice(kinds)), tuple[str, ...]())
            ),
            names=frozenset(
                reader.optional(keys, "event", reader.many(self._name), tuple[str, ...]())
            ),
            with_all=reader.optional(keys, "with_all", reader.many(place), ()),
            with_any=reader.optional(keys, "with_any", reader.many(place), ()),
            each=reader.optional(keys, "each", place, None),
            send=reader.optional(keys, "send", self._send, None),
            event_id=reader.optional(keys, "event_id", partial(self._value, in_element=False), ()),
            fields=fields,
            item_needed="item_id" in keys,
            user=reader.optional(keys, "user", partial(self._named, in_element=False), {}),
        )
        self._check(rule, node, keys)
        return rule

    def _check(self, rule: Rule, node: yaml.Node, keys: Keys) -> None:
        mistake = self._reader.mistake
        if rule.send is None and not rule.user:
            raise mistake(node, f"rule {rule.name} makes nothing: give send, user or both")
        of_events = [key for key in keys if key not in (*_MATCHING, "send", "user_id", "user")]
        if rule.send is None and of_events:
            key = of_events[0]
            raise mistake(keys[key][0], f"{key} is a field of events: give send, too")
        if rule.send is not None and not {"user_id", "device_id"} & rule.fields.ids.keys():
            raise mistake(node, f"rule {rule.name} sends events of nobody: map user_id, device_id")
        if rule.user and "user_id" not in rule.fields.ids:
            raise mistake(keys["user"][0], "user describes a user: map user_id, too")

    def _fields(self, keys: Keys, shared: Fields, *, in_element: bool) -> Fields:
        """Read the fields of events; those of `shared` hold where there are no others."""
        reader = self._reader
        value = partial(self._value, in_element=in_element)
        named = partial(self._named, in_element=in_element)
        ids = {
            key: reader.required(keys, keys[key][1], key, value) for key in IDS[1:] if key in keys
        }
        return Fields(
            ids={**shared.ids, **ids},
            properties={**shared.properties, **reader.optional(keys, "properties", named, {})},
            context={**shared.context, **reader.optional(keys, "context", named, {})},
        )

    def _named(self, node: yaml.Node, *, in_element: bool) -> dict[str, Value]:
        """Read where the values of names come from, as ``{price: properties.price}``."""
        reader = self._reader
        keys = reader.mapping(node, "a set of fields")
        if len(keys) > _MOST_NAMES:
            raise reader.mistake(node, f"more than {_MOST_NAMES} fields")
        for name, (place, _) in keys.items():
            if not 1 <= len(name) <= _LONGEST_NAME:
                raise reader.mistake(place, f"a name has 1 to {_LONGEST_NAME} characters")
        value = partial(self._value, in_element=in_element)
        return {name: reader.within(name, value, node) for name, (_, node) in keys.items()}

    def _value(self, node: yaml.Node, *, in_element: bool) -> Value:
        """Read a place, several of which the first that holds a value counts, or a constant."""
        reader = self._reader
        if isinstance(node, yaml.MappingNode):
            keys = reader.mapping(node, "a constant", ("value",))
            constant = reader.required(keys, node, "value", reader.scalar)
            if constant is None or is_blank(constant):
                raise reader.mistake(node, "a constant is text, a number, true or false")
            return (Constant(constant),)
        return reader.many(partial(self._place, in_element=in_element))(node)

    def _place(self, node: yaml.Node, *, in_element: bool) -> Place:
        try:
            place = parse_place(self._reader.text(node), plain=self._source == "plain")
        except ValueError as error:
            raise self._reader.mistake(node, str(error)) from None
        if place.in_element and not in_element:
            raise self._reader.mistake(
                node, f"{place.text!r} is in the element of a list, which needs each in this rule"
            )
        return place

    def _name(self, node: yaml.Node) -> str:
        name = plain_name(self._reader.text(node))
        if not name:
            raise self._reader.mistake(node, "the name of an event has letters or digits")
        return name

    def _send(self, node: yaml.Node) -> str:
        return AS_NAMED if self._reader.text(node) == AS_NAMED else self._reader.event(node)

    def _consent(self, node: yaml.Node) -> ConsentMapping:
        reader = self._reader
        keys = reader.mapping(node, "consent", ("from", "purposes"))
        purposes = reader.required(keys, node, "purposes", self._purposes)
        place = reader.required(keys, node, "from", partial(self._value, in_element=False))
        return ConsentMapping(place, purposes)

    def _purposes(self, node: yaml.Node) -> dict[str, tuple[str, ...]]:
        reader = self._reader
        read: Callable[[yaml.Node], tuple[str, ...]] = reader.many(
            reader.choice([purpose.value for purpose in Purpose])
        )
        keys = reader.mapping(node, "purposes")
        return {
            plain_name(key): reader.within(key, read, value) for key, (_, value) in keys.items()
        }
