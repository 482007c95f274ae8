"""Placement rules: read with the line of every mistake, and applied to real candidates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tactful.catalogue.catalogue import Catalogue
from tactful.config.settings import Settings
from tactful.errors import ConfigError
from tactful.rerank.frequency_caps import DAY_MS, ShownToday, exhausted
from tactful.rerank.placement_rules import load_placement, on_page
from tactful_streaming.contract.log_entries import Event, Item

GOOD = """
- {name: welcome, pin: item-7, position: 1, page: home}
- {name: some_tea, category: tea, at_least: 2, within: 10}
- {name: not_only_tea, category: tea, at_most: 5, within: 10}
- {name: no_campaign_on_top, campaign: any, from_position: 3}
- {name: new_items, new: true, at_least: 1, within: 20}
- {name: item_cap, item: any, per_day: 4}
- {name: spring_cap, campaign: spring, per_day: 10}
"""


def test_rules_are_read_and_hold_on_their_page(tmp_path: Path) -> None:
    rules = load_placement(GOOD)
    targets = " ".join(f"{name}={value}" for name, value in (rule.target for rule in rules))
    assert targets == (
        "pin=item-7 category=tea category=tea campaign=any new=True item=any campaign=spring"
    )
    assert [rule.name for rule in on_page(rules, "home")] == [rule.name for rule in rules]
    assert "welcome" not in {rule.name for rule in on_page(rules, None)}
    assert load_placement("") == ()
    assert load_placement(Settings().placement), "what ships can be read"
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_placement(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("rule", "line", "said"),
    [
        ("{name: a, category: tea, at_lest: 2, within: 10}", 3, "unknown field 'at_lest'"),
        ("{name: a, category: tea, at_least: two, within: 10}", 3, "int"),
        ("{name: a, category: tea, at_least: 0, within: 10}", 3, ">= 1"),
        ("{name: a, category: tea, at_least: 1, within: 101}", 3, "<= 100"),
        ("{category: tea, at_least: 1, within: 10}", 3, "missing required field 'name'"),
        ("{name: a, at_least: 1, within: 10}", 3, "needs one of pin, category"),
        ("{name: a, pin: x, category: tea, position: 1}", 3, "pin and category"),
        ("{name: a, pin: x, at_least: 1, within: 2}", 3, "pin goes with position"),
        ("{name: a, category: tea}", 3, "not none"),
        ("{name: a, category: tea, at_least: 1, at_most: 2, within: 3}", 3, "at_least and at_most"),
        ("{name: a, category: tea, at_least: 1}", 3, "within goes with"),
        ("{name: a, campaign: any, from_position: 2, within: 3}", 3, "within goes with"),
        ("{name: a, category: tea, at_least: 4, within: 3}", 3, "do not fit"),
        ("{name: a, category: tea, at_most: 3, within: 3}", 3, "forbids nothing"),
        ("{name: a, category: tea, per_day: 3}", 3, "not per_day"),
        ("{name: a, item: i-1, per_day: 3}", 3, "item is 'any'"),
        ("{name: ok, category: mugs, at_most: 1, within: 3}", 3, "another rule has this name"),
        ("{name: a, pin: y, position: 1}", 3, "pins another item to position 1"),
        ("{name: a, pin: x, position: 2}", 3, "pins the same item"),
        (
            "{name: a, campaign: c, at_least: 3, within: 4}\n"
            "- {name: b, campaign: c, from_position: 3}",
            *(4, "cannot both hold"),
        ),
        (
            "{name: a, category: c, at_most: 1, within: 9}\n"
            "- {name: b, category: c, at_least: 2, within: 3}",
            *(4, "cannot both hold"),
        ),
        (
            "{name: a, category: c, at_least: 3, within: 4}\n"
            "- {name: b, category: d, at_least: 2, within: 4}",
            *(4, "demand 5 of the first 4"),
        ),
        ("[1, 2", 4, "not YAML"),
        ("3", 3, "object"),
    ],
)
def test_a_mistake_is_named_with_its_line(rule: str, line: int, said: str) -> None:
    text = f"# rules\n- {{name: ok, pin: x, position: 1}}\n- {rule}\n"
    with pytest.raises(ConfigError, match=said) as caught:
        load_placement(text, name="placement.yaml")
    assert str(caught.value).startswith(f"placement.yaml:{line}: ")


def test_rules_of_different_pages_do_not_contradict_each_other() -> None:
    text = (
        "- {name: a, pin: x, position: 1, page: home}\n- {name: b, pin: y, position: 1, page: cart}"
    )
    assert len(load_placement(text)) == 2
    with pytest.raises(ConfigError, match=r"placement:3: rule 'c'"):
        load_placement(f"{text}\n- {{name: c, pin: z, position: 1}}")


# Caps


def shown(items: list[str], at: int, user: str = "u", **changes: Any) -> Event:
    fields: dict[str, Any] = {
        "event_id": f"impression:r-{at}",
        "type": "impression",
        "timestamp": at,
        "user_id": user,
        "recommendation_id": f"r-{at}",
        "properties": {"items": items},
        **changes,
    }
    return Event(**fields)


def test_what_was_shown_is_counted_by_person_and_day() -> None:
    counts = ShownToday()
    noon = 20_000 * DAY_MS + DAY_MS // 2
    for event in (
        shown(["a", "b"], noon - 1),
        shown(["a"], noon),
        shown(["c"], noon, user="v"),
        shown(["d"], noon, event_id="mine"),
        shown(["e"], noon, type="view"),
        shown(["f"], noon, properties={"items": "f"}),
        shown(["g"], noon - DAY_MS),
        shown(["h"], noon, user_id=None, device_id="phone"),
    ):
        counts.apply(event, None)
    assert counts.of("u", noon) == {"a": 2, "b": 1}
    assert counts.of("v", noon) == {"c": 1}
    assert counts.of("device:phone", noon) == {"h": 1}
    assert counts.of("u", noon + DAY_MS) == {}
    assert counts.of(None, noon) == {}
    counts.apply(shown(["a"], noon + DAY_MS), None)
    assert counts.of("u", noon + DAY_MS) == {"a": 1}
    assert counts.of("u", noon) == {}


def test_counts_come_back_but_for_a_twentieth() -> None:
    counts, written = ShownToday(), b""
    at = 20_000 * DAY_MS
    for number in range(200):
        counts.apply(shown([f"i{number}", "always"], at + number, user=f"u{number % 40}"), None)
        counts.before_commit()
        assert counts.snapshot() == counts.snapshot(), "it is pure"
        written = counts.snapshot() or written
    again = ShownToday()
    again.restore(written)

    def total(of: ShownToday) -> int:
        return sum(sum(of.of(f"u{number}", at).values()) for number in range(40))

    assert total(counts) == 400
    assert 380 <= total(again) <= 400
    assert counts.snapshot() is None or total(again) == 400
    assert ShownToday().snapshot() is None


def test_memory_is_bounded_by_forgetting_who_was_away_longest() -> None:
    counts = ShownToday(most=10)
    at = 20_000 * DAY_MS
    for number in range(5):
        counts.apply(shown(["a", "b", "c"], at + number, user=f"u{number}"), None)
    assert [len(counts.of(f"u{number}", at)) for number in range(5)] == [0, 0, 3, 3, 3]


def test_items_and_campaigns_are_exhausted_each_by_their_cap() -> None:
    campaigns = {"a": None, "b": "spring", "c": "spring", "d": "fall"}
    items = {
        it: Item(item_id=it, timestamp=0, properties={"campaign": campaign})
        for it, campaign in campaigns.items()
    }
    catalogue = Catalogue([*items], items)

    def gone(text: str, times: Mapping[str, int]) -> list[str]:
        found = exhausted(load_placement(text), times, catalogue)
        return [catalogue.item_ids[row] for row in found.tolist()]

    item = "- {name: i, item: any, per_day: 2}"
    spring = "- {name: s, campaign: spring, per_day: 3}"
    every = "- {name: e, campaign: any, per_day: 4}"
    other = "- {name: o, category: tea, at_most: 1, within: 2}"
    assert gone(item, {"a": 2, "b": 1, "gone": 9}) == ["a"]
    assert gone(spring, {"b": 2}) == []
    assert gone(spring, {"b": 2, "c": 1, "d": 5}) == ["b", "c"]
    assert gone(every, {"b": 2, "d": 2}) == ["b", "c", "d"]
    assert gone(f"{item}\n{spring}", {"d": 2, "b": 3}) == ["b", "c", "d"]
    assert gone(other, {"a": 99}) == []
    assert gone("- {name: n, campaign: none_such, per_day: 1}", {"a": 99}) == []
    assert isinstance(exhausted(load_placement(item), {}, catalogue), np.ndarray)
