"""Recall against brute force: every weight is recounted the slow way."""

import itertools
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from tactful.errors import ModelError
from tactful.recall.index import RecallIndex, build_index, empty_index
from tactful.recall.tables import Interactions
from tactful_streaming.contract.log_entries import Item

DAY = 86_400_000


def interactions(visits: list[list[int]], *, tied: bool = False) -> Interactions:
    rows = [
        (number, item, number * DAY + (0 if tied else place))
        for number, visit in enumerate(visits)
        for place, item in enumerate(visit)
    ]
    session, item, timestamp = np.array(rows, np.int64).reshape(-1, 3).T
    return Interactions(session, item, timestamp)


def random_visits(seed: int, items: int = 12, visits: int = 60) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [
        generator.integers(0, items, size=generator.integers(1, 7)).tolist() for _ in range(visits)
    ]


def following_by_hand(visits: list[list[int]], *, tied: bool) -> dict[tuple[int, int], float]:
    weights: dict[tuple[int, int], float] = defaultdict(float)
    for visit in visits:
        for (i, first), (j, second) in itertools.combinations(enumerate(visit), 2):
            if first != second and j - i <= 3:
                weights[first, second] += 1 / (j - i)
                if tied:
                    weights[second, first] += 1 / (j - i)
    return weights


def together_by_hand(visits: list[list[int]]) -> dict[tuple[int, int], float]:
    weights: dict[tuple[int, int], float] = defaultdict(float)
    for visit in visits:
        distinct = set(visit)
        for first, second in itertools.permutations(distinct, 2):
            weights[first, second] += 1 / (len(distinct) - 1)
    totals: dict[int, float] = defaultdict(float)
    for (first, _), weight in weights.items():
        totals[first] += weight
    return {
        (a, b): w / math.sqrt(max(totals[a], 1.0) * max(totals[b], 1.0))
        for (a, b), w in weights.items()
    }


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_neighbours_equal_a_recount(seed: int, tied: bool) -> None:
    visits = random_visits(seed)
    index = build_index([str(i) for i in range(12)], interactions(visits, tied=tied), neighbours=5)
    for found, wanted in (
        (index.following, following_by_hand(visits, tied=tied)),
        (index.together, together_by_hand(visits)),
    ):
        for row in range(12):
            mine = {b: w for (a, b), w in wanted.items() if a == row}
            strongest = sorted(mine.values(), reverse=True)[:5]
            kept = found.weights[row][found.items[row] >= 0]
            assert len(kept) == min(len(mine), 5)
            top = strongest[0] if strongest else 1.0
            assert kept == pytest.approx([w / top for w in strongest], rel=1e-5)
            for item, weight in zip(found.items[row].tolist(), found.weights[row], strict=True):
                if item >= 0:
                    assert weight == pytest.approx(mine[item] / top, rel=1e-5)


def test_the_same_history_gives_the_same_index() -> None:
    visits = random_visits(3)
    first, second = (build_index([str(i) for i in range(12)], interactions(visits)) for _ in "ab")
    for one, other in (
        (first.following.items, second.following.items),
        (first.together.weights, second.together.weights),
        (first.vectors, second.vectors),
        (first.popular, second.popular),
    ):
        assert np.array_equal(one, other)


def test_popular_prefers_what_is_recent() -> None:
    old = [[0]] * 10
    index = build_index(["old", "new"], interactions([*old, *([[]] * 200), [1], [1]]))
    assert index.popular.tolist() == [1, 0]


def test_no_history_gives_an_index_that_knows_nothing() -> None:
    index = build_index(["a", "b", "c"], interactions([]))
    assert (index.following.items < 0).all()
    assert len(index.popular) == 0
    assert not index.vectors.any()
    assert empty_index().item_ids == ()


def described(count: int) -> list[Item]:
    return [Item(item_id=str(i), timestamp=0, title=f"kind {i % 3}") for i in range(count)]


def test_an_index_survives_the_disk(tmp_path: Path) -> None:
    visits = random_visits(1)
    index = build_index([str(i) for i in range(12)], interactions(visits), items=described(12))
    index.save(tmp_path / "index")
    again = RecallIndex.load(tmp_path / "index")
    assert again.item_ids == index.item_ids
    assert again.built_until == index.built_until
    assert isinstance(again.vectors.base, np.memmap)
    for name, array in index._arrays().items():
        assert np.array_equal(again._arrays()[name], array), name
    assert np.array_equal(again.vectors, index.vectors)
    scores, same = (one.sessions.scores([1, 2]) for one in (index, again))
    assert len(scores.rows)
    assert np.array_equal(scores.values, same.values)


def test_a_lost_file_and_a_flipped_byte_anywhere_are_found(tmp_path: Path) -> None:
    index = build_index([str(i) for i in range(12)], interactions(random_visits(1)))
    index.save(tmp_path / "index")
    files = sorted(path for path in (tmp_path / "index").rglob("*") if path.is_file())
    assert {"index.json", "popular.npy", "vectors.npy", "seal.json"} <= {it.name for it in files}
    for path in files:
        whole = path.read_bytes()
        place = len(whole) // 2
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ModelError):
            RecallIndex.load(tmp_path / "index")
        path.unlink()
        with pytest.raises(ModelError, match=path.name):
            RecallIndex.load(tmp_path / "index")
        path.write_bytes(whole)
    RecallIndex.load(tmp_path / "index")


def test_an_item_without_events_is_near_to_like_descriptions() -> None:
    generator = np.random.default_rng(0)
    visits = [
        (generator.choice(5, 3, replace=False) + 5 * (number % 2)).tolist() for number in range(300)
    ]
    items: list[Item | None] = [
        Item(item_id=str(i), timestamp=0, title="green tea" if i < 5 else "coffee mug")
        for i in range(10)
    ]
    items += [Item(item_id="10", timestamp=0, title="Tea, green"), None]
    of_two = build_index([str(i) for i in range(10)], interactions(visits), dimensions=2).vectors
    near = of_two @ of_two.T
    within = near[:5, :5][~np.eye(5, dtype=bool)].mean()
    assert within > near[:5, 5:].mean() + 0.5, "items that meet lie near each other"
    index = build_index([str(i) for i in range(12)], interactions(visits), items=items)
    near = index.vectors @ index.vectors[10]
    assert near[:5].min() > near[5:10].max()
    assert not index.vectors[11].any()
    assert index.nearest.nearest(index.vectors[0], 6)[0].tolist().count(10) == 1
    later = index.content.vectors([Item(item_id="x", timestamp=0, title="mug for coffee")])
    assert (index.vectors[5:10] @ later[0]).min() > (index.vectors[:5] @ later[0]).max()


def test_what_visits_ask_tunes_the_vectors() -> None:
    from tactful.recall.index import _visit_queries
    from tactful.recall.neighbours import direction

    index = build_index([str(i) for i in range(12)], interactions(random_visits(1)))
    queries = _visit_queries(interactions(random_visits(1)), index.vectors, 0)
    assert queries is not None
    assert queries.source == "visits"
    asked = {
        direction(index.vectors[visit[: end + 1][::-1]], visit[: end + 1][::-1]).tobytes()
        for visit in random_visits(1)
        for end in range(len(visit))
    }
    assert {query.tobytes() for query in queries.vectors} <= asked
    assert _visit_queries(interactions(random_visits(1)[:9]), index.vectors, 0) is None
