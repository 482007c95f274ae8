"""Candidates: every channel brings its best within its quota, and only what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.platform.shop import definitions, learned

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import RequestContext
from tactful.errors import ConfigError
from tactful.kernels.sparse_scores import Scores
from tactful.recall import candidates as candidates_of
from tactful.recall.candidates import SOLD, Candidates, Popularity, Quotas, gather, popular_rows
from tactful.recall.index import (
    CHANNELS,
    Neighbours,
    empty_index,
)
from tactful_streaming.contract.log_entries import Event, Item, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState
from tactful_streaming.windows.entity_table import NonZero

DAY = 86_400_000
COUNT = 60
QUOTAS = Quotas(
    following=4, together=5, sessions=6, vectors=6, repeat=3, popular=7, intent=8, campaign=2
)


INDEX = learned(COUNT)
SEARCH = INDEX.nearest
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
    return gather(
        INDEX,
        SEARCH,
        CATALOGUE,
        context,
        popular=Popularity.of(np.array(popular, np.int64), len(CATALOGUE)),
        quotas=quotas,
        allowed=allowed,
        intent=intent,
        least=least,
    )


def best(scores: Mapping[int, float], allowed: set[int], quota: int) -> list[int]:
    ranked = sorted((-score, row) for row, score in scores.items() if row in allowed)
    return [row for _, row in ranked][:quota]


def added(table: Neighbours, sources: list[tuple[int, float]]) -> dict[int, float]:
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
    three = added(following, [(row, 1 / (place + 1)) for place, row in enumerate(last)])
    lists = [
        ("next", best(three, permitted, 4)),
        ("next", best(added(following, fading), permitted, 4) if len(session) > 3 else []),
        ("together", best(added(together, fading), permitted, 5)),
        (
            "together",
            best(
                added(together, [(row, 0.9**place) for place, row in enumerate(history)]),
                permitted,
                5,
            ),
        ),
    ]
    taken = context.grouped("taken_364d")
    ranked_own = sorted(taken.keys() - {"gone"}, key=lambda it: (-taken[it], it))
    own = [CATALOGUE.rows[it] for it in ranked_own]
    lists += [
        ("repeat", [row for row in own if row in permitted][:3]),
        ("popular", [row for row in popular if row in permitted][:7]),
        ("sessions", best(by_row(candidates.similar_sessions), permitted, 6)),
    ]
    intent = {name: weight for name, weight in intent.items() if name != "none" and weight > 0}
    for name, weight in intent.items():
        number = CATALOGUE.category_numbers[name]
        of_category = [
            row for row in popular if row in permitted and CATALOGUE.category[row] == number
        ]
        lists.append(("intent", of_category[: round(8 * weight / sum(intent.values()))]))
    lists.append(("campaign", [r for r in popular if r in permitted and r in (10, 20, 30)][:2]))
    places: dict[int, tuple[int, int]] = {}
    for channel, ranked in lists:
        for place, row in enumerate(ranked):
            held = places.get(row)
            if held is None or place < held[0]:
                places[row] = (place, CHANNELS.index(channel))

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
    every = range(COUNT)
    following, together = INDEX.following, INDEX.together
    for scores, table, sources in (
        (candidates.next_last, following, [(7, 1.0)]),
        (candidates.next_three, following, [(7, 1.0), (3, 1 / 2), (9, 1 / 3)]),
        (candidates.next_session, following, [(7, 1.0), (3, 0.9), (9, 0.81), (1, 0.729)]),
        (candidates.together_session, together, [(7, 1.0), (3, 0.9), (9, 0.81), (1, 0.729)]),
        (candidates.together_history, together, [(20, 1.0), (30, 0.9)]),
    ):
        wanted = added(table, sources)
        assert scores.of(np.array(every)) == pytest.approx(
            [wanted.get(row, 0.0) for row in every], rel=1e-5
        )
    assert candidates.session_vector == pytest.approx(direction([7, 3, 9, 1]), abs=1e-6)
    assert candidates.history_vector == pytest.approx(direction([20, 30]), abs=1e-6)


def test_each_channel_keeps_to_its_quota_however_much_is_asked() -> None:
    taken = {it: float(number) for number, it in enumerate(CATALOGUE.item_ids)}
    candidates = found(
        asked(list(range(20)), list(range(20, 50)), taken),
        np.ones(COUNT + 2, bool),
        list(range(COUNT)),
    )

    by_channel = np.bincount(candidates.channel, minlength=len(CHANNELS)).tolist()

    # What followed and what was together are asked twice: for two spans of the past.
    most = [2 * 4, 2 * 5, 6, 3, 7, 6, 0, 2, 0, 0, 0]
    assert all(a <= b for a, b in zip(by_channel, most, strict=True))


def test_nothing_is_found_when_nothing_is_allowed_or_known() -> None:
    full = asked([1, 2], [3], {"i01": 1.0})
    nothing = found(full, np.zeros(COUNT + 2, bool), [1, 2])
    assert nothing.rows.shape == nothing.channel.shape == (0,)
    silent = found(asked([], []), np.ones(COUNT + 2, bool), [])
    assert silent.rows.shape == (0,)


def test_items_the_index_does_not_know_are_recalled_by_what_people_do_with_them() -> None:
    candidates = found(
        asked([COUNT + 1], [COUNT], {"new-a": 1.0}), np.ones(COUNT + 2, bool), [COUNT + 1]
    )

    assert candidates.rows.tolist() == [COUNT, COUNT + 1]
    assert [CHANNELS[number] for number in candidates.channel] == ["repeat", "popular"]


def sold(*items: str) -> Engine:
    engine = Engine(definitions(), MemoryState())
    events = [
        Event(
            event_id=str(number),
            type="purchase",
            timestamp=100 * DAY + number,
            user_id="u",
            item_id=item,
        )
        for number, item in enumerate(items)
    ]
    engine.apply([(number, encode_entry(event)) for number, event in enumerate(events)])
    return engine


def test_popular_is_what_is_sold_now_then_what_was_then_the_rest() -> None:
    engine = sold("new-b", "i05", "i05", "i02", "unknown", "i40")

    rows_of = popular_rows(engine, CATALOGUE, INDEX).rows.tolist()

    now = [CATALOGUE.item_ids[row] for row in rows_of[:4]]
    assert now == ["i05", "i02", "i40", "new-b"], "most first, ties by row"
    before = [row for row in INDEX.popular.tolist() if row not in rows_of[:4]]
    assert rows_of[4:-1] == before
    assert [CATALOGUE.item_ids[row] for row in rows_of[-1:]] == ["new-a"], "nobody took it yet"


class Counted(Engine):
    """An engine that says of items what a table says."""

    def __init__(self, sold: Sequence[float]) -> None:
        super().__init__(definitions(), MemoryState())
        self._sold = np.array([[0.0, each, 0.0] for each in sold]).reshape(-1, len(SOLD))

    def read_placed(
        self, entity: str, placing: Any, places: NDArray[np.int64], names: Any, at: int
    ) -> NDArray[np.float64]:
        assert (entity, names) == ("item", SOLD)
        return self._sold[places]


class Told:
    """A source that keeps nothing by place and says in parts which items were taken."""

    watermark = 0

    def __init__(self, sold: Sequence[float], part: int) -> None:
        """What `sold` says of each item, and of one that nobody knows; some come twice."""
        said = [(f"{row:02}", each) for row, each in enumerate(sold) if each]
        early = [(item_id, each + 1.0) for item_id, each in said[::3]]
        self._said = [*early, ("unknown", 3.0), *reversed(said)]
        self._part = part

    def read_nonzero(self, entity: str, name: str, at: int, start: int) -> NonZero:
        assert (entity, name, at) == ("item", "sold_28d", 0)
        some, end = self._said[start : start + self._part], start + self._part
        numbers = np.array([number for _, number in some], np.float64)
        following = end if end < len(self._said) else None
        return NonZero([item_id for item_id, _ in some], numbers, following)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, -0.0, 1.0, 2.0, 0.5, -1.0, -2.0]), st.booleans()),
        max_size=30,
    ),
    st.randoms(use_true_random=False),
    st.integers(1, 9),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_popular_is_ordered_by_amount_place_before_and_row(
    items: list[tuple[float, bool]], chance: Random, part: int, told: bool
) -> None:
    sold, rows = [amount for amount, _ in items], [*range(len(items))]
    described = [
        Item(item_id=f"{row:02}", timestamp=0, available=available)
        for row, (_, available) in enumerate(items)
    ]
    catalogue = Catalogue([it.item_id for it in described], {it.item_id: it for it in described})
    before = chance.sample(rows, chance.randint(0, len(rows)))
    index = replace(empty_index(), popular=np.array(before, np.int32))
    place = {row: number for number, row in enumerate(before)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates_of, "_PART", part)
        source: Any = Told(sold, part) if told else Counted(sold)
        found = popular_rows(source, catalogue, index)

    wanted = sorted(rows, key=lambda row: (-sold[row], place.get(row, len(rows)), row))
    wanted = [row for row in wanted if items[row][1]]
    assert found.rows.tolist() == wanted
    assert found.places_of(np.array(rows, np.int64)).tolist() == [
        wanted.index(row) if row in wanted else len(wanted) for row in rows
    ]


def test_popular_is_of_what_can_be_had() -> None:
    nothing_sold = Engine(definitions(), MemoryState())
    items = {it: Item(item_id=it, timestamp=0, available=it != "b") for it in "cba"}
    catalogue = Catalogue((), items)
    found = popular_rows(nothing_sold, catalogue, empty_index())
    assert [catalogue.item_ids[row] for row in found.rows] == ["a", "c"]
    assert popular_rows(nothing_sold, Catalogue((), {}), empty_index()).rows.shape == (0,)


@given(
    st.lists(st.booleans(), max_size=8),
    st.lists(st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=5), max_size=5),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_what_grows_equals_what_is_made_anew_and_leaves_the_others_as_they_were(
    at_first: list[bool], batches: list[list[tuple[int, bool]]], told: bool
) -> None:
    """`told`: it is said which rows may have changed."""
    available = np.array(at_first, np.bool_)
    wanted = np.flatnonzero(available)[::-1].tolist()
    popular = Popularity.of(np.array(wanted, np.int64), len(available))
    older: list[tuple[Popularity, list[int], int]] = []
    for batch in batches:
        older.append((popular, list(wanted), len(available)))
        changed = {row if row < len(available) else len(available) + n: here
                   for n, (row, here) in enumerate(batch)}  # fmt: skip
        grown = np.zeros(max([len(available) - 1, *changed]) + 1, np.bool_)
        grown[: len(available)] = available
        available = grown
        for row, here in changed.items():
            available[row] = here
        wanted += [row for row in sorted(changed) if available[row] and row not in wanted]
        rows = np.array(sorted(changed), np.int64) if told else None

        popular = popular.grown(available, rows)

        for each, said, count in [*older, (popular, wanted, len(available))]:
            assert each.rows.tolist() == said
            places = {row: place for place, row in enumerate(said)}
            assert each.places_of(np.arange(count)).tolist() == [
                places.get(row, len(said)) for row in range(count)
            ]
            every = np.ones(count, np.bool_)
            assert each.first(every, 3).tolist() == said[:3]
            assert each.best(np.arange(count), 3).tolist() == said[:3]


def test_a_narrow_filter_finds_the_popular_of_what_is_left() -> None:
    for left in ([], [3], [COUNT, 2], list(range(0, COUNT, 9))):
        allowed = np.isin(np.arange(COUNT + 2), left)
        popular = np.random.default_rng(0).permutation(COUNT + 2)

        candidates = found(asked([], []), allowed, popular.tolist())

        wanted = [row for row in popular.tolist() if row in left][:7]
        assert candidates.rows.tolist() == sorted(wanted)


def test_no_more_than_the_total_stay_and_those_placed_highest() -> None:
    asked_for = asked([7, 3, 9, 1], [20, 30], {"i40": 2.0})
    everything = np.ones(COUNT + 2, bool)
    wide = found(asked_for, everything, list(range(COUNT)))
    narrow = found(
        asked_for, everything, list(range(COUNT)), quotas=Quotas.of({"total": 9}, where="")
    )
    few = Quotas(total=9, **{n: getattr(QUOTAS, n) for n in vars(QUOTAS) if n != "total"})
    cut = found(asked_for, everything, list(range(COUNT)), quotas=few)
    assert len(wide.rows) > 9 == len(narrow.rows) == len(cut.rows)
    assert set(cut.rows.tolist()) <= set(wide.rows.tolist())
    # Every channel's first is placed highest of all.
    firsts = {int(wide.next_three.best()[0]), int(wide.similar_sessions.best()[0]), 0, 40}
    assert firsts <= set(cut.rows.tolist())


def test_a_long_list_is_filled_from_the_popular_whatever_the_quotas() -> None:
    everything = np.ones(COUNT + 2, bool)
    popular = np.random.default_rng(1).permutation(COUNT + 2).tolist()
    short = found(asked([], []), everything, popular)
    assert len(short.rows) < 20
    filled = found(asked([], []), everything, popular, least=20)
    assert {*popular[:20], *short.rows.tolist()} == set(filled.rows.tolist())
    assert len(filled.rows) >= 20
    assert len(found(asked([], []), everything, popular, least=900).rows) == COUNT + 2


def test_a_quota_of_nothing_silences_a_channel() -> None:
    silent = Quotas.of(
        {name: 0 for name in vars(QUOTAS) if name not in ("total", "repeat")}, where="test"
    )
    everything = np.ones(COUNT + 2, bool)
    only = found(
        asked([7], [3], {"i40": 1.0}), everything, [1, 2], quotas=silent, intent={"c1": 1.0}
    )
    assert only.rows.tolist() == [40]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vector": 3}, "there is no quota 'vector'; there are following"),
        ({"vectors": 1_001}, r"arm\.vectors: must be a whole number from 0 to 1000"),
        ({"vectors": True}, "must be a whole number"),
        ({"vectors": 2.0}, "must be a whole number"),
        ([], "must be quotas by name"),
    ],
)
def test_wrong_quotas_of_an_arm_are_named(changes: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Quotas.of(changes, where="arm")


@given(st.integers(1, 300), st.floats(0, 1), st.integers(0, 60), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_the_first_of_the_popular_are_those_a_scan_finds(
    count: int, share: float, wanted: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    order = generator.permutation(count)[: int(0.9 * count)]
    allowed = generator.random(count) < share
    popular = Popularity.of(order, count)
    scan = [row for row in order.tolist() if allowed[row]][:wanted]
    assert popular.first(allowed, wanted).tolist() == scan
    grown = popular.grown(np.concatenate([np.ones(count, bool), [True, False]]))
    assert grown.rows[: len(order)].tolist() == order.tolist()
    assert sorted(grown.rows.tolist()) == list(range(count + 1))


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

    union = candidates_of._Union()
    union.extend(
        [CHANNELS[channel] for channel in channels.tolist()],
        [len(theirs) for theirs in brought],
        np.concatenate([np.zeros(0, np.int64), *brought]),
    )
    merged, of = union.merged(total)

    assert merged.tolist() == kept
    assert of.tolist() == [best[row][1] for row in kept]
