"""Lists of items against plain computations, and attacks on what single people did."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from tests.platform.shop import DAY, definitions, write_log

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.ids import ItemIds
from tactful.ranking.features import columns_fingerprint
from tactful.ranking.model import untrained_recall
from tactful.recall.candidates import CatalogueView
from tactful.recall.common_pairs import CommonPairs, PairTable
from tactful.recall.index import build_index, empty_index
from tactful.recall.popularity import CommonItems, Popularity
from tactful.recall.takers import NAME, Takers
from tactful.recall.trending import Rise, Trending
from tactful.recommend.item_lists import ItemLists
from tactful.recommend.recommender import RANKING_EXPERIMENT, Recommender, RecommenderOptions
from tactful.schemas.items import ItemList, ListQuery
from tactful.schemas.problems import ProblemError
from tactful.training.history import History
from tactful.vectors.ivf_index import Snapshot
from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_streaming.contract.log_entries import Entry, Event, Item, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.state.store import MemoryState

NOW = 1_700_000_000_000
LEAST = 3
EXPERIMENT = Experiment(RANKING_EXPERIMENT, (Arm("heuristic", 0.1), Arm("learned", 0.9)))
CATEGORIES = ("tea", "mugs", None)
QUERY = st.builds(
    ListQuery, count=st.integers(1, 8), category=st.sampled_from([UNSET, "tea", "mugs", "none"])
)


@dataclass
class Shop:
    """A view of some items with all that lists are made from, each drawn by chance."""

    view: CatalogueView
    people: np.ndarray[Any, np.dtype[np.int32]]
    together: dict[tuple[int, int], int]

    def lists(self) -> ItemLists:
        return ItemLists(self.view, LEAST)

    @property
    def catalogue(self) -> Catalogue:
        return self.view.catalogue

    def passes(self, row: int, query: ListQuery) -> bool:
        catalogue = self.catalogue
        number = int(catalogue.category[row])
        name = catalogue.categories[number] if number >= 0 else None
        return bool(catalogue.available[row]) and query.category in (UNSET, name)

    def common(self, row: int) -> bool:
        return self.view.common is None or row in self.view.common.rows


def make_shop(seed: int, *, has_minimum: bool = True) -> Shop:
    """Draw a shop of twenty items, of which the index knows fifteen."""
    generator = np.random.default_rng(seed)
    known, count = 15, 20
    items = {}
    for number in range(count):
        released = (None, NOW - 5 * DAY, NOW + DAY)[generator.integers(0, 3)]
        items[f"item-{number:02d}"] = Item(
            item_id=f"item-{number:02d}",
            timestamp=NOW - int(generator.integers(0, 4)) * DAY,
            category=CATEGORIES[generator.integers(0, 3)],
            available=bool(generator.random() < 0.8),
            properties={} if released is None else {"released": released},
        )
    ids = ItemIds.of([*items][:known])
    people = generator.integers(3, 40, known).astype(np.int32)
    together = {
        (one, other): int(generator.integers(2, 12))
        for one in range(known)
        for other in generator.permutation(known)[:5].tolist()
        if one != other
    }
    table = table_of(together, known)
    index = replace(empty_index(), item_ids=ids, pairs=CommonPairs(people, table, table, 2))
    catalogue = Catalogue(ids, items)
    order = generator.permutation(np.flatnonzero(catalogue.available))
    popular = Popularity.of(order, count, np.sort(order[6:]))
    common = None
    if has_minimum:
        rows = np.sort(generator.permutation(count)[:12])
        first = [row for row in order.tolist() if row in rows]
        rest = np.array([row for row in order.tolist() if row not in rows], np.int64)
        both = np.concatenate([np.array(first, np.int64), rest])
        common = CommonItems(Popularity.of(both, count, rest), rows, np.zeros((2, 2)))
    rises = (Rise("category", "tea", 1.8), Rise("item_id", "item-03", 1.5))
    view = CatalogueView(
        index,
        Snapshot.of(ids, index.nearest),
        catalogue,
        popular,
        Trending.of(rises, catalogue),
        common,
    )
    return Shop(view, people, together)


def table_of(pairs: dict[tuple[int, int], int], count: int) -> PairTable:
    ordered = sorted(pairs.items())
    return PairTable(
        np.searchsorted([one for (one, _), _ in ordered], np.arange(count + 1)),
        np.array([other for (_, other), _ in ordered], np.int32),
        np.array([people for _, people in ordered], np.int32),
    )


def ids_of(answer: ItemList) -> list[str]:
    return [item.item_id for item in answer.items]


def check(answer: ItemList, expected: Sequence[tuple[str, float]], query: ListQuery) -> None:
    """Compare with the best of all expected items: scores in order, and ids where these differ."""
    best = sorted(expected, key=lambda entry: -entry[1])
    most = best[0][1] if best else 1.0
    shares = {item_id: share / most for item_id, share in expected}
    assert len(answer.items) == min(query.count, len(best))
    for item, (_, score) in zip(answer.items, best, strict=False):
        assert item.score == pytest.approx(score / most, abs=0.0051)
        assert shares[item.item_id] == pytest.approx(score / most, rel=1e-5)
    assert (answer.fallback is None) == (len(answer.items) == query.count)


@settings(max_examples=150)
@given(seed=st.integers(0, 10_000), query=QUERY, has_minimum=st.booleans())
def test_paired_items_are_those_of_a_plain_search(
    seed: int, query: ListQuery, has_minimum: bool
) -> None:
    """Together and next: of common items, by the cosine of people, with at least the minimum."""
    shop = make_shop(seed, has_minimum=has_minimum)
    for row, item_id in enumerate(shop.catalogue.item_ids):
        expected = [
            (
                shop.catalogue.item_ids[other],
                people / math.sqrt(int(shop.people[row]) * int(shop.people[other])),
            )
            for (one, other), people in shop.together.items()
            if one == row
            and people >= LEAST
            and shop.passes(other, query)
            and shop.common(row)
            and shop.common(other)
        ]
        for answer in (
            shop.lists().together(item_id, query),
            shop.lists().following(item_id, query),
        ):
            check(answer, expected, query)
            assert item_id not in ids_of(answer)


@settings(max_examples=100)
@given(
    seed=st.integers(0, 10_000),
    query=QUERY,
    described=st.dictionaries(st.integers(0, 24), st.floats(0.125, 1.0), max_size=8),
)
def test_similar_items_add_descriptions_and_common_company(
    seed: int, query: ListQuery, described: dict[int, float]
) -> None:
    """An item that the catalogue does not know (20 to 24) is left out."""
    shop = make_shop(seed)
    count = len(shop.people)
    cosines = np.zeros((count, count))
    for (one, other), people in shop.together.items():
        if people >= LEAST:
            cosines[one, other] = people / math.sqrt(
                float(shop.people[one]) * float(shop.people[other])
            )
    given_ids = [(f"item-{number:02d}", cosine) for number, cosine in described.items()]
    for row, item_id in enumerate(shop.catalogue.item_ids):
        sums: dict[int, float] = defaultdict(float)
        for number, cosine in described.items():
            sums[number] += cosine
        if row < count and shop.common(row) and (whole := (cosines[row] ** 2).sum()):
            for other, share in enumerate(cosines[row] @ cosines):
                sums[other] += min(share / whole, 1.0) if shop.common(other) else 0.0
        expected = [
            (f"item-{other:02d}", value)
            for other, value in sums.items()
            if value > 0 and other < 20 and other != row and shop.passes(other, query)
        ]
        check(shop.lists().similar(item_id, given_ids, query), expected, query)
    new = shop.lists().similar("item-99", given_ids, query)
    assert {*ids_of(new)} <= {item_id for item_id, _ in given_ids}


@settings(max_examples=100)
@given(seed=st.integers(0, 10_000), query=QUERY, has_minimum=st.booleans())
def test_popular_trending_and_latest_items_are_those_of_a_plain_search(
    seed: int, query: ListQuery, has_minimum: bool
) -> None:
    shop = make_shop(seed, has_minimum=has_minimum)
    catalogue, lists = shop.catalogue, shop.lists()
    popular = shop.view.anonymous().popular
    known = [row for row in popular.rows.tolist() if row not in popular.unknown]
    assert (
        ids_of(lists.popular(query))
        == [f"item-{row:02d}" for row in known if shop.passes(row, query) and shop.common(row)][
            : query.count
        ]
    )
    dated = [
        (-catalogue.dated[row], -row)
        for row in range(len(catalogue))
        if shop.passes(row, query) and catalogue.dated[row] <= NOW
    ]
    assert (
        ids_of(lists.latest(query, now=NOW))
        == [f"item-{-row:02d}" for _, row in sorted(dated)][: query.count]
    )
    rising = lists.trending(query)
    trending = [row for row in shop.view.trending.rows.tolist() if shop.passes(row, query)]
    assert ids_of(rising) == [f"item-{row:02d}" for row in trending][: query.count]
    for item in rising.items:
        row = int(item.item_id[-2:])
        factors = (
            {1.8} if catalogue.category[row] == catalogue.category_numbers.get("tea") else set()
        )
        assert item.score in factors | ({1.5} if row == 3 else set())
    for answer in (lists.popular(query), lists.latest(query, now=NOW)):
        assert all(item.score is UNSET for item in answer.items)
        assert (answer.fallback is None) == (len(answer.items) == query.count)


def test_an_unknown_item_and_an_empty_shop_say_so() -> None:
    lists = make_shop(1).lists()
    for make in (lists.together, lists.following):
        with pytest.raises(ProblemError, match="no item has this id"):
            make("item-99", ListQuery())
    index = empty_index()
    nothing = Popularity.of(np.zeros(0, np.int64), 0)
    view = CatalogueView(
        index, Snapshot.of(index.item_ids, index.nearest), Catalogue((), {}), nothing
    )
    empty = ItemLists(view, LEAST)
    for answer in (
        empty.popular(ListQuery()),
        empty.trending(ListQuery()),
        empty.latest(ListQuery(), now=NOW),
    ):
        assert answer.items == []
        assert "the catalogue is empty" in (answer.fallback or "")


# Attacks: a shop in which one person, the victim, did what nobody else did.

ITEMS = [
    Item(item_id=f"item-{number}", timestamp=NOW - 90 * DAY, category="tea", title=f"tea {number}")
    for number in range(8)
]
SECRET = "item-7"  # an item that few take


def visit(person: str, *items: str, number: int = 0, device: bool = False) -> list[Event]:
    """Return the events of one visit."""
    who: dict[str, Any] = {"device_id": person} if device else {"user_id": person}
    return [
        Event(
            event_id=f"{person}-{number}-{place}",
            type="add_to_cart",
            timestamp=NOW - DAY + 1_000 * place,
            session_id=f"{person}-{number}",
            item_id=item,
            properties={"category": "tea"},
            **who,
        )
        for place, item in enumerate(items)
    ]


def crowd() -> list[Event]:
    """Return visits of many: pairs 0-1, 1-2 and 3-4 are common; so are all but the last item."""
    return [
        event
        for person in range(6)
        for event in (
            *visit(f"p{person}", "item-0", "item-1", "item-2"),
            *visit(f"q{person}", "item-3", "item-4"),
            *visit(f"r{person}", "item-5"),
            *visit(f"s{person}", "item-6"),
        )
    ]


def all_lists(path: Path, events: Iterable[Event]) -> dict[str, list[Any]]:
    """Return every list of a server that learned from a log of these events, by its name."""
    what: list[Entry] = [
        *ITEMS,
        *events,
        Event(event_id="end", type="view", timestamp=NOW, user_id="z"),
    ]
    log = write_log(path / "log", what)
    history = History.read(log)
    log.close()
    index = build_index(
        history.item_ids,
        history.interactions(),
        items=history.descriptions(),
        dimensions=4,
    )
    replace(index, pairs=history.common_pairs(LEAST)).save(untrained_recall(path / "models"))
    takers = Takers(LEAST)
    engine = Engine(
        definitions(), MemoryState(), EngineOptions(consumers={NAME: takers}, identity=Identity())
    )
    engine.apply([*enumerate(encode_entry(entry) for entry in what)])
    recommender = Recommender(
        engine,
        RecommenderOptions(
            models=path / "models",
            definitions=columns_fingerprint(definitions()),
            experiment=EXPERIMENT,
            takers=takers,
            minimum_people=LEAST,
        ),
    )
    query, answers = ListQuery(count=20), {}
    with recommender.lists() as lists:
        for item in ITEMS:
            makers: dict[str, Callable[..., ItemList]] = {
                "together": lists.together,
                "next": lists.following,
                "similar": lambda item_id, query: lists.similar(item_id, [], query),
            }
            for name, make in makers.items():
                answers[f"{name} {item.item_id}"] = make(item.item_id, query).items
        answers["popular"] = lists.popular(query).items
        answers["latest"] = lists.latest(query, now=NOW).items
        answers["trending"] = lists.trending(query).items
    recommender.close()
    return answers


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The lists without the victim."""
    return all_lists(tmp_path_factory.mktemp("before"), crowd())


def test_the_crowd_is_listed(before: dict[str, list[Any]]) -> None:
    """So an empty list is no reason why the attacks below find nothing."""
    names = {name: [item.item_id for item in items] for name, items in before.items()}
    assert {*names["together item-1"]} == {"item-0", "item-2"}
    assert names["next item-0"] == ["item-1"]
    assert names["next item-3"] == ["item-4"]
    assert {*names["similar item-0"]} == {"item-1", "item-2"}, "the same company"
    assert {*names["popular"]} == {f"item-{number}" for number in range(7)}
    assert len(names["latest"]) == 8


@pytest.mark.parametrize("companion", ["item-0", "item-5"])
def test_a_rare_item_that_one_person_took_with_another_is_in_no_list(
    companion: str, before: dict[str, list[Any]], tmp_path: Path
) -> None:
    """The first attack: query the lists of a popular item for what a neighbour bought with it."""
    apart = [*crowd(), *visit("victim", companion)]
    secret = [*crowd(), *visit("victim", companion, SECRET)]
    found = all_lists(tmp_path / "secret", secret)
    assert found == all_lists(tmp_path / "apart", apart)
    assert all(not found[f"{name} {SECRET}"] for name in ("together", "next", "similar"))


def test_a_secret_pair_of_popular_items_is_in_no_list(
    before: dict[str, list[Any]], tmp_path: Path
) -> None:
    """The second attack: both items are common, but only one person took them in one visit."""
    apart = [*crowd(), *visit("victim", "item-5"), *visit("victim", "item-6", number=1)]
    secret = [*crowd(), *visit("victim", "item-5", "item-6", "item-5", "item-6")]
    assert pairs_of(all_lists(tmp_path / "secret", secret)) == pairs_of(
        all_lists(tmp_path / "apart", apart)
    )


def pairs_of(answers: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Leave out the popular items, which count how often, too."""
    return {name: items for name, items in answers.items() if name != "popular"}


@pytest.mark.parametrize(
    "people",
    [
        ["victim"] * 5,  # one person again and again
        ["victim", "friend"],  # two of three
        ["device:d", "device:d", "victim", "friend"],  # and a device that a login links
        ["device:shared", "victim", "friend"],  # a device of two users, who may be either
    ],
    ids=["often", "two", "linked", "shared"],
)
def test_fewer_people_than_the_minimum_make_no_pair(people: list[str], tmp_path: Path) -> None:
    """The third attack: a pair just below the minimum, by repetitions and further ids."""
    logins = [
        Event(
            event_id=f"login-{n}", type="x.login", timestamp=NOW - 2 * DAY, user_id=u, device_id=d
        )
        for n, (u, d) in enumerate([("victim", "d"), ("victim", "shared"), ("friend", "shared")])
    ]
    visits = [
        event
        for number, person in enumerate(people)
        for event in visit(
            person.removeprefix("device:"),
            "item-5",
            "item-6",
            number=number,
            device=person.startswith("device:"),
        )
    ]
    found = all_lists(tmp_path, [*crowd(), *logins, *visits])
    for name in ("together", "next", "similar"):
        for item_id in ("item-5", "item-6"):
            assert found[f"{name} {item_id}"] == []


def test_the_minimum_of_people_makes_a_pair(tmp_path: Path) -> None:
    """So the attacks fail for their number alone."""
    visits = [event for n in range(LEAST) for event in visit(f"v{n}", "item-5", "item-6")]
    found = all_lists(tmp_path, [*crowd(), *visits])
    assert [item.item_id for item in found["together item-5"]] == ["item-6"]
    assert [item.item_id for item in found["next item-5"]] == ["item-6"]
    assert found["next item-6"] == []


@settings(max_examples=25, deadline=None)
@given(
    visits=st.lists(
        st.tuples(st.integers(0, 5), st.lists(st.integers(0, 7), min_size=1, max_size=4)),
        max_size=8,
    )
)
def test_every_listed_pair_was_taken_by_enough_people(
    tmp_path_factory: pytest.TempPathFactory, visits: list[tuple[int, list[int]]]
) -> None:
    """A pair, in one visit each; and its items are those that as many took at all."""
    events, pairs, takers = [], defaultdict[frozenset[str], set[int]](set), Counter[str]()
    taken = {(person, item) for person, items in visits for item in items}
    for number, (person, items) in enumerate(visits):
        named = [f"item-{item}" for item in items]
        events += visit(f"p{person}", *named, number=number)
        for one in named:
            for other in named:
                pairs[frozenset((one, other))].add(person)
    for _, item in taken:
        takers[f"item-{item}"] += 1
    found = all_lists(tmp_path_factory.mktemp("any"), events)
    for name, shown in found.items():
        kind, _, item_id = name.partition(" ")
        for listed in shown:
            if kind in ("together", "next"):
                assert len(pairs[frozenset((item_id, listed.item_id))]) >= LEAST
            if kind in ("together", "next", "similar", "popular"):
                assert takers[listed.item_id] >= LEAST
