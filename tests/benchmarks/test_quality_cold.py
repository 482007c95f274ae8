"""Cold people and cold items of the quality benchmark are really cold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.platform.shop import make_shop

from benchmarks.quality.cold import _BEGIN, _SPAN, _entries, _Films, _precisions
from benchmarks.quality.cold_items import without
from tactful_streaming.contract.log_entries import Event, Item, User


def planted() -> _Films:
    """Half of the people like the first twenty films, the others the next twenty."""
    generator = np.random.default_rng(0)
    people, pairs = [], []
    for number in range(150):
        side = number % 2
        person = User(user_id=f"p{number}", timestamp=_BEGIN - 1, properties={"side": "ab"[side]})
        people.append(person)
        liked = generator.choice(20, 8, replace=False) + 20 * side
        pairs += [(number, int(film)) for film in liked]
    items = [Item(item_id=f"f{number}", timestamp=_BEGIN - 2) for number in range(40)]
    who, what = np.array(pairs, np.int64).T
    at = np.linspace(_BEGIN, _BEGIN + _SPAN, len(pairs)).astype(np.int64)
    return _Films(items, people, who, what, at)


@pytest.mark.slow
def test_cold_people_gain_from_what_they_are(tmp_path: Path) -> None:
    asked = np.arange(0, 150, 5)
    learned, heuristic, popular = _precisions(planted(), asked, tmp_path).T
    # All eight likes lie among the twenty films of one's own side: 0.4 is the most there is.
    for found in (learned, heuristic):
        assert found.max() <= 0.4
        assert found.mean() >= 0.36
    assert 0.1 < popular.mean() < 0.3


def test_the_shop_knows_nothing_of_what_those_asked_liked() -> None:
    films, asked = planted(), np.array([3, 7, 140])
    entries = _entries(films, asked)
    assert {it.user_id for it in entries if isinstance(it, User)} >= {"p3", "p7", "p140"}
    likes = [it for it in entries if isinstance(it, Event)]
    assert len(likes) == 147 * 8
    assert not {it.user_id for it in likes} & {"p3", "p7", "p140"}


def test_the_past_of_cold_items_is_gone_and_all_else_stays() -> None:
    shop = make_shop(5, people=12, items=40, days=40)
    cold = {"item-003", "item-017", "item-030"}
    less = without(shop, cold)
    wire = list(shop.events(0, len(shop)))
    gone = [number for number in range(shop.cut) if shop.item[number] in cold]
    assert gone
    kept = [event for number, event in enumerate(wire) if number not in set(gone)]

    def bare(events: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{key: it for key, it in event.items() if key != "event_id"} for event in events]

    assert bare(list(less.events(0, len(less)))) == bare(kept)
    assert less.cut == shop.cut - len(gone)
    for one, other in zip(less.asks, shop.asks, strict=True):
        assert one.taken == other.taken
        assert bare([*less.events(one.before, one.before + 1)]) == bare([wire[other.before]])
