"""Search of items against a plain search through all of them, while they change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tactful.catalogue import item_search
from tactful.catalogue.facets import Filters, price_ranges
from tactful.catalogue.item_search import ItemSearch
from tactful.catalogue.words import words
from tactful_streaming.contract.log_entries import Item

TEXT = st.text("aAbé 茶壶套-%", max_size=8)
ITEM = st.builds(
    Item,
    item_id=st.text("ab1-茶%/", min_size=1, max_size=3),
    timestamp=st.just(0),
    title=st.none() | TEXT,
    category=st.none() | st.sampled_from(["tea", "a", ""]),
    price=st.none() | st.sampled_from([1.0, 2.0]),
    available=st.booleans(),
)
SEARCH = st.none() | TEXT
FILTER = st.fixed_dictionaries(
    {
        "search": SEARCH,
        "category": st.none() | st.sampled_from(["tea", "a", "", "other"]),
        "available": st.none() | st.booleans(),
    }
)


class Source:
    """The items of an engine, and the order in which they changed."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self._ids: list[str] = []

    @property
    def items_version(self) -> int:
        return len(self._ids)

    def items_since(self, version: int) -> list[Item]:
        return [self.items[item_id] for item_id in dict.fromkeys(self._ids[max(version, 0) :])]

    def put(self, items: Sequence[Item]) -> None:
        for item in items:
            self.items[item.item_id] = item
            self._ids.append(item.item_id)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few items count as many: their index is not built anew after each change."""
    monkeypatch.setattr(item_search, "_SMALL", -1)


def search_of(source: Any) -> ItemSearch:
    return ItemSearch(source, nullcontext())


def found_by_hand(item: Item, search: str | None, category: Any, available: Any) -> bool:
    """Whether an item has all words, the last as a beginning, and passes the filters."""
    if category not in (None, item.category) or available not in (None, item.available):
        return False
    if not search:
        return True
    held = {word for text in (item.title or "", item.item_id) for word in words(text)}
    # Of "茶壶a": the pair, the last character as a beginning, and "a".
    wanted = words(search)
    if not wanted:
        return False
    parts = search.lower().replace("é", "e").replace("-", " ").replace("%", " ").split()
    whole, begun = set[str](), set[str]()
    for place, part in enumerate(parts):
        run = ""
        pieces: list[str] = []
        for letter in part:
            if run and (letter in "茶壶套") != (run[-1] in "茶壶套"):
                pieces.append(run)
                run = ""
            run += letter
        pieces.append(run)
        for number, piece in enumerate(pieces):
            is_last = place == len(parts) - 1 and number == len(pieces) - 1
            if piece[0] in "茶壶套":
                whole |= {piece[at : at + 2] for at in range(len(piece) - 1)}
                begun |= {piece} if len(piece) == 1 else set()
            else:
                (begun if is_last else whole).add(piece)
    return whole <= held and all(any(word.startswith(part) for word in held) for part in begun)


def asked(wanted: dict[str, Any]) -> Filters:
    return Filters(**{**wanted, "search": wanted["search"] or ""})


def pages(search: ItemSearch, filters: Filters, limit: int) -> list[Item]:
    """Return all items of a search, page by page."""
    items: list[Item] = []
    while True:
        page = search.page(filters, after=items[-1].item_id if items else "", limit=limit)
        items += page.items
        if not page.more:
            return items
        assert len(page.items) == limit


@settings(max_examples=300)
@given(
    batches=st.lists(st.lists(ITEM, max_size=12), min_size=1, max_size=4),
    wanted=FILTER,
    limit=st.integers(1, 5),
    most=st.sampled_from([0, 3, 1_000]),
    small=st.sampled_from([-1, 5]),
)
def test_pages_hold_what_a_plain_search_finds(
    batches: list[list[Item]], wanted: dict[str, Any], limit: int, most: int, small: int
) -> None:
    """Each item once, in the order of ids, before and after every batch of changes."""
    source = Source()
    search = search_of(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_search, "_SMALL", small)
        patch.setattr(item_search, "_FEWEST_CHANGES", most)
        for batch in batches:
            source.put(batch)
            expected = [
                item for _, item in sorted(source.items.items()) if found_by_hand(item, **wanted)
            ]
            assert pages(search, asked(wanted), limit) == expected


PRICE = st.none() | st.sampled_from([0.5, 1.0, 2.0])


@settings(max_examples=80)
@given(
    batches=st.lists(st.lists(ITEM, max_size=12), min_size=1, max_size=3),
    wanted=FILTER,
    lowest=PRICE,
    highest=PRICE,
    most=st.sampled_from([0, 1_000]),
)
def test_facets_count_what_a_plain_search_finds(
    batches: list[list[Item]], wanted: dict[str, Any], lowest: Any, highest: Any, most: int
) -> None:
    """Each field without its own filter, before and after every batch of changes."""
    source = Source()
    search = search_of(source)

    def count(**changes: Any) -> list[Item]:
        limits = {"lowest": lowest, "highest": highest, **wanted, **changes}
        low, high = limits.pop("lowest"), limits.pop("highest")
        return [
            item
            for item in source.items.values()
            if found_by_hand(item, **limits)
            and (low is None or (item.price is not None and item.price >= low))
            and (high is None or (item.price is not None and item.price <= high))
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_search, "_SMALL", -1)
        patch.setattr(item_search, "_FEWEST_CHANGES", most)
        for batch in batches:
            source.put(batch)
            filters = asked(wanted)._replace(lowest=lowest, highest=highest)
            facets = search.facets(filters)
            assert facets.total == len(count()) == len(pages(search, filters, 3))
            by_category = Counter(item.category or "" for item in count(category=None))
            assert dict(facets.categories) == by_category
            for state, number in facets.available.items():
                assert number == len(count(available=state))
            prices = [item.price for item in count(lowest=None, highest=None) if item.price]
            assert sum(number for _, _, number in facets.prices) == len(prices)


@given(st.lists(st.floats(0, 1e6, width=32), max_size=60))
def test_price_ranges_hold_every_known_price_once(prices: list[float]) -> None:
    """As a reader counts them: a range holds its lower end, the last one both."""
    ranges = price_ranges(np.array([*prices, math.nan], np.float32))
    assert len(ranges) <= 6
    for place, (low, high, number) in enumerate(ranges):
        last = place == len(ranges) - 1
        assert number == sum(low <= it < high or (last and it == high) for it in prices)
    assert sum(number for *_, number in ranges) == len(prices)


@pytest.mark.usefixtures("large")
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.lists(ITEM, max_size=12),
    changes=st.lists(st.lists(ITEM, max_size=4), max_size=6),
    wanted=FILTER,
)
def test_items_that_stay_come_once_while_others_change(
    before: list[Item], changes: list[list[Item]], wanted: dict[str, Any]
) -> None:
    source = Source()
    source.put(before)
    search, seen, after, more = search_of(source), Counter[str](), "", True
    touched = {item.item_id for batch in changes for item in batch}
    waiting = [*changes]
    while more:
        page = search.page(asked(wanted), after=after, limit=2)
        seen.update(item.item_id for item in page.items)
        after, more = page.items[-1].item_id if page.items else after, page.more
        if waiting:
            source.put(waiting.pop(0))
    assert max(seen.values(), default=1) == 1
    for item in {item.item_id: item for item in before}.values():
        if item.item_id not in touched:
            assert seen[item.item_id] == found_by_hand(item, **wanted)


@pytest.mark.usefixtures("large")
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    items=st.lists(ITEM, min_size=1, max_size=14),
    later=st.lists(ITEM, max_size=4),
    category=st.none() | st.just("tea"),
)
def test_alike_items_are_those_of_a_plain_comparison(
    items: list[Item], later: list[Item], category: str | None
) -> None:
    """Cosines of title and category, with rarities as they were when the index was built."""
    source = Source()
    source.put(items)
    search = search_of(source)
    search.page(Filters(), after="", limit=1)

    def terms(item: Item, *, whole: bool) -> set[str]:
        held = {*words(item.title or ""), *(words(item.item_id) if whole else ())}
        return held | ({f"category {item.category}"} if item.category is not None else set())

    described = [terms(item, whole=True) for item in source.items.values()]
    counts = Counter(term for held in described for term in held)
    marks = Counter(item.available for item in source.items.values())

    def weight(count: int) -> float:
        return math.log1p(len(described) / count) ** 2 if count > 1 else 0.0

    def length(item: Item) -> float:
        return sum(weight(counts[term]) for term in terms(item, whole=True)) + weight(
            marks[item.available]
        )

    source.put(later)
    item = items[0]
    own = {term for term in terms(item, whole=False) if counts[term] > 1}
    expected = {}
    for other in source.items.values():
        if other.item_id == item.item_id or not other.available:
            continue
        shared = sum(weight(counts[term]) for term in own & terms(other, whole=True))
        if shared and category in (None, other.category):
            norm = sum(weight(counts[term]) for term in own)
            expected[other.item_id] = shared / math.sqrt(norm * length(other))
    alike = search.alike(item, category, 20)
    assert dict(alike) == pytest.approx(expected, rel=1e-4)
    cosines = [cosine for _, cosine in alike]
    assert cosines == sorted(cosines, reverse=True)
    assert search.alike(item, category, 2) == alike[:2] or len({*cosines}) < len(cosines)


@pytest.mark.parametrize("first", [0, 1, 3])
def test_a_search_of_an_empty_shop_does_not_hide_what_later_items_have_in_common(
    first: int,
) -> None:
    source = Source()
    mugs = [Item(item_id=str(n), timestamp=n, title=f"blue mug {n}") for n in range(1_200)]
    source.put(mugs[:first])
    search = search_of(source)
    search.page(Filters(), after="", limit=9)
    for end in (first + 2, 40, 900, 1_200):
        source.put(mugs[first:end])
        begun = search_of(source)
        assert search.alike(mugs[end - 1], None, 9) == begun.alike(mugs[end - 1], None, 9) != []


def test_of_items_described_alike_the_one_of_the_nearest_price_comes_first() -> None:
    source = Source()
    prices = {"a": 10.0, "b": 90.0, "c": 12.0, "d": None, "e": 9.5}
    source.put(
        [
            Item(item_id=key, timestamp=0, title="blue mug", price=price)
            for key, price in prices.items()
        ]
    )
    search = search_of(source)
    assert [key for key, _ in search.alike(source.items["a"], None, 4)] == ["e", "c", "b", "d"]
    source.put([Item(item_id="b", timestamp=1, title="blue mug", price=10.0)])
    assert search.alike(source.items["a"], None, 1)[0][0] == "b", "a price that changed later"


@pytest.mark.filterwarnings("error")
def test_prices_of_any_size_are_compared() -> None:
    source = Source()
    prices = {"a": 1e300, "b": None, "c": 0.0, "d": 1e30}
    source.put(
        [Item(item_id=key, timestamp=0, title="mug", price=price) for key, price in prices.items()]
    )
    search = search_of(source)
    assert {key for key, _ in search.alike(source.items["a"], None, 4)} == {"b", "c", "d"}
    assert search.alike(source.items["c"], None, 1)[0][0] == "d", "the others have no known price"


def test_a_change_of_the_price_alone_needs_no_new_terms() -> None:
    source = Source()
    source.put([Item(item_id=str(n), timestamp=0, title="mug", price=1.0) for n in range(5)])
    search = search_of(source)
    search.page(Filters("mug"), after="", limit=9)
    index = search._index
    source.put([Item(item_id=str(n), timestamp=1, title="mug", price=2.0) for n in range(5)])
    found = search.page(Filters("mug"), after="", limit=9).items
    assert [item.price for item in found] == [2.0] * 5
    assert search._index is index
    assert not search._changed


@pytest.mark.parametrize(
    "search",
    [
        "x" * 256,
        "茶" * 256,
        "\x00\x01\x02",
        "a b " * 64,
        "%" * 256,
        "\x00kitchen",
        "\x01",
        "\U0010ffff",
        "(.*)+",
    ],
)
def test_hostile_texts_are_answered(search: str) -> None:
    source = Source()
    source.put(
        [Item(item_id=f"{n:04d}", timestamp=0, title="tea", category="kitchen") for n in range(50)]
    )
    assert search_of(source).page(Filters(search or ""), after="", limit=10).items == []
