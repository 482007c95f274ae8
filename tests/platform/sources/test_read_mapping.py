"""Files of mappings: what they may say, and where a mistake is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.platform.sources.mapped import become, kept

from tactful.config.settings import PACKAGED_MAPPING
from tactful.errors import ConfigError
from tactful.sources.read_mapping import read_mappings
from tactful.sources.segment import read_calls

SMALL = """
segment:
  name: event
  user_id: userId
  rules:
    - {name: viewed, kind: track, event: Product Viewed, send: view, item_id: properties.id}
"""


def rule(text: str) -> str:
    """A source with one rule, in line 4."""
    return f"segment:\n  user_id: userId\n  rules:\n  - {{name: a, {text}}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m:1: the file is empty"),
        ("{", "m:1: not YAML"),
        ("- a", "m:1: a file of mappings is written as keys and values: segment"),
        ("segmnt: {}", "m:1: 'segmnt' is no key of a file of mappings"),
        ("segment: {}", "m:1: rules is missing"),
        ("segment: {rules: {}}", "m:1: rules: rules are a list"),
        ("segment: {rules: [a]}", "m:1: rules: a rule is written as keys and values"),
        ("segment:\n  rules:\n    - {name: a}", "m:3: rules: rule a makes nothing"),
        ("segment: {timestamp: ts, rules: []}", "m:1: the times of segment are read as it doc"),
        ("segment: {rules: [{name: a, send: view}]}", "rule a sends events of nobody"),
        ("segment: {rules: [{name: a, user: {age: b}}]}", "user describes a user: map user_id"),
        ("segment: {user_id: a..b, rules: []}", "m:1: user_id: 'a..b' is no place"),
        ("segment: {user_id: .b, rules: []}", "'.b' is in the element of a list, which needs each"),
        ("segment: {user_id: {value: }, rules: []}", "m:1: user_id: a constant is text, a number"),
        (f"segment: {{context: {{{'x' * 65}: a}}, rules: []}}", "a name has 1 to 64 characters"),
        ("segment: {consent: {from: c, purposes: {a: sale}}, rules: []}", "a: 'sale' is not one"),
        (rule("send: vew"), "m:4: rules: send: 'vew' is not one of"),
        (rule("user: {age: b}, item_id: c"), "m:4: rules: item_id is a field of events"),
        (rule("kind: trak, send: view"), "kind: 'trak' is not one of track"),
        (rule("event: '!', send: view"), "event: the name of an event has letters"),
        (rule("send: view") + "  - {name: a, send: click}", "m:5: rules: two rules have the name"),
        (rule("send: view, itm_id: b"), "'itm_id' is no key of a rule; it has"),
        (rule("send: view, item_id: .b"), "item_id: '.b' is in the element of a list"),
    ],
)
def test_mistakes_name_their_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_mappings(text, name="m")
    assert message in str(raised.value)
    assert str(raised.value).startswith("m:")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing, binary = tmp_path / "missing.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"segment:\n\xff")
    with pytest.raises(ConfigError, match=r"missing\.yaml: cannot be read"):
        read_mappings(missing)
    with pytest.raises(ConfigError, match=r"binary\.yaml:2: cannot be read as UTF-8"):
        read_mappings(binary)


def test_what_a_rule_leaves_out_comes_from_its_source() -> None:
    text = """
segment:
  name: event
  event_id: messageId
  user_id: [userId, context.user]
  context: {page: context.page.path, channel: {value: shop}}
  properties: {price: properties.price}
  rules:
    - name: gift
      event: Gift
      with_all: [properties.id, properties.to]
      send: x.gift
      user_id: properties.to
      context: {page: properties.page}
    - name: any_click
      event: [Click, Tap]
      with_any: [properties.id, properties.sku]
      send: click
      item_id: [properties.id, properties.sku]
"""
    mappings = read_mappings(text)
    batch = b"""{"batch": [
        {"type": "track", "event": "gift", "userId": "ada",
         "properties": {"id": 1, "to": "bob", "price": "3"}},
        {"type": "track", "event": "gift", "userId": "ada", "properties": {"id": 1}},
        {"type": "page", "event": "TAP", "context": {"user": "eve", "page": {"path": "/"}},
         "properties": {"sku": 2}},
        {"type": "page", "event": "TAP", "userId": "eve", "properties": {"sku": " "}}]}"""
    made = become("segment", read_calls(batch, "batch", received=0), mappings)
    assert [it.rule for it in made] == ["gift", None, "any_click", None]
    assert kept(made[0]) == [("x.gift", None, {"price": 3})]
    assert (made[0].events[0].user_id, made[0].events[0].context) == ("bob", {"channel": "shop"})
    click = made[2].events[0]
    assert (click.user_id, click.item_id) == ("eve", "2")
    assert click.context == {"channel": "shop", "page": "/"}


def test_a_changed_copy_of_the_packaged_file() -> None:
    """A shop adds an event of its own and a trait."""
    text = PACKAGED_MAPPING.read_text("utf-8")
    own = "    - {name: gift, event: Gift Wrapped, send: x.gift, item_id: properties.sku}\n"
    text = text.replace("  rules:\n", "  rules:\n" + own, 1)
    text = text.replace(
        "        plan: [traits.plan, context.traits.plan]\n",
        "        plan: traits.plan\n        vip: traits.vip\n",
        1,
    )
    mappings = read_mappings(text)
    batch = b"""{"batch": [
        {"type": "track", "event": "Gift Wrapped", "userId": "u", "properties": {"sku": "tea"}},
        {"type": "identify", "userId": "u", "traits": {"vip": true}}]}"""
    for source in ("segment", "rudderstack"):
        gift, described = become(source, read_calls(batch, "batch", received=0), mappings)
        assert kept(gift) == [("x.gift", "tea", {})]
        assert described.user is not None
        assert described.user.properties == {"vip": True}


def test_a_small_file_leaves_the_other_sources_without_rules() -> None:
    assert {*read_mappings(SMALL)} == {"segment"}
