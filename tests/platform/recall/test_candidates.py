"""Candidates: every channel brings its best within its quota, and only what is allowed."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.platform.shop import learned

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import RequestContext
from tactful.kernels.sparse_scores import Scores
from tactful.recall import candidates as candidates_of
from tactful.recall.candidates import (
    Candidates,
    CatalogueView,
    Quotas,
    gather,
    with_intended,
)
from tactful.recall.index import CHANNELS
from tactful.recall.limits import allowed_rows
from tactful.recall.neighbours import NeighbourTable, score_neighbours
from tactful.recall.popularity import Popularity
from tactful.schemas.recommendations import RecommendRequest
from tactful.vectors.ivf_index import Snapshot
from tactful_streaming.contract.log_entries import Item

DAY = 86_400_000
COUNT = 60
QUOTAS = Quotas(
    following=4, together=5, sessions=6, vectors=6, repeat=3, popular=7, intent=8, campaign=2
)


INDEX = learned(COUNT)
SEARCH = Snapshot.of(INDEX.item_ids, INDEX.nearest)
# Two items came after the index was learned.
CATALOGUE = Catalogue(
    INDEX.item_ids,
    {
        it: Item(
            item_id=it,
            timestamp=0,
            category=f"c{int(it[1:]) % 4}" if it[1:].isdecimal() else None,
            properties={"campaign": "spring"} if it in ("i10", "i20", "i30") else {},
        )
        for it in (*INDEX.item_ids, "new-a", "new-b")
    },
)


def asked(
    session: list[int], history: list[int], taken: Mapping[str, float] | None = None
) -> RequestContext:
    return RequestContext(at=0, user={"taken_364d": taken or {}}, session=session, history=history)


def found(
    context: RequestContext,
    allowed: NDArray[np.bool_],
    popular: list[int],
    *,
    quotas: Quotas = QUOTAS,
    intent: Mapping[str, float] | None = None,
    least: int = 0,
) -> Candidates:
    popularity = Popularity.of(np.array(popular, np.int64), len(CATALOGUE))
    view = CatalogueView(INDEX, SEARCH, CATALOGUE, popularity)
    gathered = gather(view, context, quotas=quotas, allowed=allowed, intent=intent, least=least)
    return with_intended(gathered, view, allowed, quotas.intent)


def best(scores: Mapping[int, float], allowed: set[int], quota: int) -> list[int]:
    ranked = sorted((-score, row) for row, score in scores.items() if row in allowed)
    return [row for _, row in ranked][:quota]


def added(table: NeighbourTable, sources: list[tuple[int, float]]) -> dict[int, float]:
    """Summed the slow way, in single precision as the index is."""
    total: dict[int, float] = {}
    for source, weight in sources:
        if source < COUNT:
            for row, strength in zip(table.items[source], table.weights[source], strict=True):
                if row >= 0:
                    part = float(np.float32(strength) * np.float32(weight))
                    total[int(row)] = total.get(int(row), 0.0) + part
    return {row: float(np.float32(value)) for row, value in total.items()}


def by_row(scores: Scores) -> dict[int, float]:
    return dict(zip(scores.rows.tolist(), scores.values.tolist(), strict=True))


def direction(rows: list[int]) -> NDArray[np.float64]:
    total = np.zeros(INDEX.vectors.shape[1])
    for place, row in enumerate(rows):
        if row < COUNT:
            total += 0.9**place * INDEX.vectors[row]
    norm = np.linalg.norm(total)
    return total / norm if norm else total


EVERY = {*range(COUNT + 2)}
SHUFFLED = np.random.default_rng(0).permutation(COUNT + 2).tolist()
rows = st.integers(0, COUNT + 1)
situations = st.builds(
    asked,
    st.lists(rows, max_size=6),
    st.lists(rows, max_size=6, unique=True),
    st.dictionaries(
        st.sampled_from([*CATALOGUE.item_ids, "gone"]), st.sampled_from([0.5, 1.0, 2.0, 3.0])
    ),
)


@given(
    situations,
    st.sets(rows, max_size=40),
    st.lists(rows, unique=True, max_size=20),
    st.dictionaries(st.sampled_from(["c0", "c1", "c2", "none"]), st.floats(0, 1), max_size=3),
)
@example(
    asked([*range(20)], [*range(20, 50)], {it: n + 1.0 for n, it in enumerate(CATALOGUE.item_ids)}),
    set(),
    [*range(COUNT)],
    {},
)
@example(asked([1, 2], [3], {"i01": 1.0}), EVERY, [1, 2], {})
@example(asked([], []), set(), [], {})
@example(asked([COUNT + 1], [COUNT], {"new-a": 1.0}), set(), [COUNT + 1], {})
@example(asked([], []), EVERY - {3}, SHUFFLED, {})
@example(asked([], []), EVERY - {COUNT, 2}, SHUFFLED, {})
@example(asked([], []), EVERY - {*range(0, COUNT, 9)}, SHUFFLED, {})
@settings(max_examples=150, deadline=None)
def test_the_union_is_what_the_channels_say_by_hand(
    context: RequestContext, banned: set[int], popular: list[int], intent: dict[str, float]
) -> None:
    permitted = set(range(COUNT + 2)) - banned
    allowed = np.array([row in permitted for row in range(COUNT + 2)])
    candidates = found(context, allowed, popular, intent=intent)
    following, together = INDEX.following, INDEX.together
    session, history = context.session, context.history
    last = (session or history)[:3]
    fading = [(row, 0.9**place) for place, row in enumerate(session)]
    of_history = [(row, 0.9**place) for place, row in enumerate(history)]
    three = added(following, [(row, 1 / (place + 1)) for place, row in enumerate(last)])
    lists = [
        ("next", best(three, permitted, 4)),
        ("next", best(added(following, fading), permitted, 4) if len(session) > 3 else []),
        ("together", best(added(together, fading), permitted, 5)),
        ("together", best(added(together, of_history), permitted, 5)),
    ]
    taken = context.grouped("taken_364d")
    ranked_own = sorted(taken.keys() - {"gone"}, key=lambda it: (-taken[it], it))
    own = CATALOGUE.rows.of_many(ranked_own)
    lists += [
        ("repeat", [row for row in own if row in permitted][:3]),
        ("popular", [row for row in popular if row in permitted][:7]),
        ("sessions", best(by_row(candidates.similar_sessions), permitted, 6)),
    ]
    if not session and not history:
        leading = [row for row in INDEX.leading.tolist() if row in permitted]
        lists.append(("popular", leading[:7]))
    lists.append(("campaign", [r for r in popular if r in permitted and r in (10, 20, 30)][:2]))
    places: dict[int, tuple[int, int]] = {}
    for channel, ranked in lists:
        for place, row in enumerate(ranked):
            held = places.get(row)
            if held is None or place < held[0]:
                places[row] = (place, CHANNELS.index(channel))
    intent = {name: weight for name, weight in intent.items() if name != "none" and weight > 0}
    for name, weight in intent.items():
        number = CATALOGUE.category_numbers[name]
        of_category = [r for r in popular if r in permitted and CATALOGUE.category[r] == number]
        for row in of_category[: round(8 * weight / sum(intent.values()))]:
            places.setdefault(row, (0, CHANNELS.index("intent")))
    got = candidates.rows.tolist()
    near = {row for row, channel in zip(got, candidates.channel, strict=True) if channel == 2}
    assert got == sorted(set(got))
    assert set(got) <= permitted
    # Nearness is checked by its scores, for ties may fall either way.
    assert set(got) - near <= set(places) <= set(got)
    anchor = direction(session) if direction(session).any() else direction(history)
    if anchor.any():
        known = [row for row in sorted(permitted) if row < COUNT and INDEX.vectors[row].any()]
        scores = np.sort(INDEX.vectors[known] @ anchor)[::-1]
        least = scores[: min(6, len(known))].min(initial=np.inf)
        assert all(INDEX.vectors[row] @ anchor >= least - 1e-5 for row in near)
        assert len(near) <= 6
    else:
        assert not near
    for row, channel in zip(got, candidates.channel.tolist(), strict=True):
        if row not in near:
            assert CHANNELS[channel] == CHANNELS[places[row][1]]


def test_scores_belong_to_their_sources() -> None:
    context = asked([7, 3, 9, 1], [20, 30])
    candidates = found(context, np.ones(COUNT + 2, bool), [])
    tables, recent = (INDEX.following, INDEX.together, INDEX.sessions), [7, 3, 9, 1, 20, 30]
    wanted = score_neighbours(*tables, np.array(recent), 4, COUNT + 2)
    for scores, expected in zip(candidates.neighbours, wanted, strict=True):
        assert by_row(scores) == by_row(expected)
    assert candidates.session_vector == pytest.approx(direction([7, 3, 9, 1]), abs=1e-6)
    assert candidates.history_vector == pytest.approx(direction([20, 30]), abs=1e-6)


def test_no_more_than_the_total_stay_and_those_placed_highest() -> None:
    asked_for = asked([7, 3, 9, 1], [20, 30], {"i40": 2.0})
    everything = np.ones(COUNT + 2, bool)
    wide = found(asked_for, everything, list(range(COUNT)))
    narrow = found(asked_for, everything, list(range(COUNT)), quotas=Quotas(total=9))
    few = msgspec.structs.replace(QUOTAS, total=9)
    cut = found(asked_for, everything, list(range(COUNT)), quotas=few)
    assert len(wide.rows) > 9 == len(narrow.rows) == len(cut.rows)
    assert set(cut.rows.tolist()) <= set(wide.rows.tolist())
    # Every channel's first is placed highest of all.
    scores = wide.neighbours.next_three, wide.similar_sessions
    firsts = {0, 40, *(int(each.ranked[0]) for each in scores)}
    assert firsts <= set(cut.rows.tolist())


def test_the_popular_fill_a_long_list_whatever_the_quotas() -> None:
    everything = np.ones(COUNT + 2, bool)
    popular = np.random.default_rng(1).permutation(COUNT + 2).tolist()
    short = found(asked([], []), everything, popular)
    assert len(short.rows) < 20
    filled = found(asked([], []), everything, popular, least=20)
    assert {*popular[:20], *short.rows.tolist()} == set(filled.rows.tolist())
    assert len(filled.rows) >= 20
    assert len(found(asked([], []), everything, popular, least=900).rows) == COUNT + 2


@given(
    st.dictionaries(st.sampled_from(["c0", "c1", "c2", "none"]), st.floats(0, 1), max_size=4),
    st.floats(0, 1),
    st.integers(0, 9),
)
@settings(deadline=None)
def test_a_larger_weight_only_adds_items_of_its_category(
    intent: dict[str, float], weight: float, total: int
) -> None:
    everything, quotas = np.ones(COUNT + 2, bool), msgspec.structs.replace(QUOTAS, total=total)
    less, more = (
        found(asked([1], [2]), everything, [*SHUFFLED], quotas=quotas, intent=intent | {"c1": it})
        for it in sorted((intent.get("c1", 0.0), weight))
    )
    number = CATALOGUE.category_numbers["c1"]
    before, after = set(less.rows.tolist()), set(more.rows.tolist())
    assert {row for row in before if CATALOGUE.category[row] == number} <= after
    assert all(CATALOGUE.category[row] == number for row in after - before)
    chosen = less.channel != CHANNELS.index("intent")
    assert set(less.rows[chosen].tolist()) <= after  # no other candidate is crowded out


def test_a_quota_of_nothing_silences_a_channel() -> None:
    silent = Quotas(**{name: 0 for name in Quotas.__struct_fields__[:-1] if name != "repeat"})
    everything = np.ones(COUNT + 2, bool)
    context = asked([7], [3], {"i40": 1.0})
    only = found(context, everything, [1, 2], quotas=silent, intent={"c1": 1.0})
    assert only.rows.tolist() == [40]


@given(st.integers(0, 2**32), st.integers(0, 80), st.sampled_from([40, 5_000, 2**40]))
@settings(deadline=None)
def test_channels_merge_by_place(seed: int, total: int, rows: int) -> None:
    generator = np.random.default_rng(seed)
    brought = [
        generator.permutation(min(rows, 40))[: generator.integers(0, 30)] * (rows // 40)
        for _ in range(generator.integers(1, 6))
    ]
    channels = generator.permutation(len(CHANNELS))[: len(brought)].astype(np.int8)
    best: dict[int, tuple[int, int]] = {}
    for channel, theirs in zip(channels.tolist(), brought, strict=True):
        for place, row in enumerate(theirs.tolist()):
            if row not in best or place < best[row][0]:
                best[row] = (place, channel)
    kept = sorted(sorted(best, key=lambda row: (best[row][0], row))[:total])
    names = [CHANNELS[channel] for channel in channels]
    merged, of = candidates_of._merged([*zip(names, brought, strict=True)], total)
    assert merged.tolist() == kept
    assert of.tolist() == [best[row][1] for row in kept]


# Filters against the same question asked item by item

IDS = [f"i{number}" for number in range(24)]
item_names = st.sampled_from([*IDS, "gone"])
prices = st.none() | st.sampled_from([0.0, 1.0, 2.5, 9.99, 10.0])

catalogues = st.lists(
    st.builds(
        lambda item_id, category, price, available: Item(
            item_id=item_id, timestamp=0, category=category, price=price, available=available
        ),
        st.sampled_from(IDS),
        st.sampled_from([None, "tea", "mugs", "books"]),
        prices,
        st.booleans(),
    ),
    unique_by=lambda item: item.item_id,
    max_size=24,
).map(lambda items: (items, Catalogue(IDS[:10], {item.item_id: item for item in items})))

filters = st.builds(
    RecommendRequest,
    category=st.sampled_from([None, "tea", "mugs", "none"]),
    min_price=prices,
    max_price=prices,
    exclude=st.lists(item_names, max_size=4).map(tuple),
    exclude_seen=st.booleans(),
    exclude_taken=st.booleans(),
)


@given(catalogues, filters, st.data())
@settings(max_examples=120, deadline=None)
def test_any_filter(
    shop: tuple[list[Item], Catalogue], which: RecommendRequest, data: st.DataObject
) -> None:
    items, catalogue = shop
    any_row = st.integers(0, len(catalogue) - 1)
    taken: Mapping[str, Mapping[str, float]] = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                name: st.dictionaries(item_names, st.just(1.0), max_size=3)
                for name in ("taken_last", "taken_364d")
            },
        )
    )
    context = RequestContext(
        at=0,
        user=taken,
        session=data.draw(st.lists(any_row, max_size=3)),
        history=data.draw(st.lists(any_row, max_size=3)),
    )
    passing = allowed_rows(which, catalogue, context)
    described = {item.item_id: item for item in items}
    took = {item for group in taken.values() for item in group}
    for row, item_id in enumerate(catalogue.item_ids):
        item = described.get(item_id)
        wanted = (
            item is not None
            and item.available
            and which.category in (None, item.category)
            and (
                which.min_price is None
                or (item.price is not None and item.price >= which.min_price)
            )
            and (
                which.max_price is None
                or (item.price is not None and item.price <= which.max_price)
            )
            and item_id not in which.exclude
            and not (which.exclude_seen and (row in context.session or row in context.history))
            and not ((which.exclude_seen or which.exclude_taken) and item_id in took)
        )
        # Prices are kept in single precision.
        if item is None or item.price != 9.99:
            assert bool(passing[row]) == wanted, item_id
    assert not passing.flags.writeable


def test_without_a_filter_nothing_is_copied() -> None:
    catalogue = Catalogue(["a"], {"a": Item(item_id="a", timestamp=0)})
    nobody = RequestContext(at=0, user={}, session=[0], history=[])
    assert allowed_rows(RecommendRequest(), catalogue, nobody) is catalogue.available
    seen = allowed_rows(RecommendRequest(exclude_seen=True), catalogue, nobody)
    assert np.array_equal(seen, [False])
