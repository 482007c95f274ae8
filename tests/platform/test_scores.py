"""Scores of a few rows: the same as a dictionary."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.scores import Scores, kernels

pairs = st.lists(
    st.tuples(st.integers(0, 12), st.floats(-1.0, 3.0, width=32).filter(lambda it: it == it)),
    max_size=40,
)


@given(pairs, st.lists(st.integers(0, 14), max_size=10))
@settings(deadline=None)
def test_sums_are_those_of_a_dictionary(values: list[tuple[int, float]], asked: list[int]) -> None:
    sums: dict[int, float] = defaultdict(float)
    for row, value in values:
        sums[row] += value
    expected = {row: np.float32(total) for row, total in sums.items() if total > 0}

    made = Scores.summed(
        np.array([row for row, _ in values], np.int32),
        np.array([value for _, value in values], np.float64),
    )

    assert dict(zip(made.rows.tolist(), made.values, strict=True)) == expected
    assert made.rows.tolist() == sorted(expected)
    assert made.of(np.array(asked, np.int64)).tolist() == [expected.get(row, 0) for row in asked]
    best = sorted(expected, key=lambda row: (-expected[row], row))
    assert made.best().tolist() == best
    assert made.rows.dtype == np.int64
    assert made.values.dtype == np.float32


@given(pairs, st.integers(1, 4), st.integers(0, 3))
@settings(deadline=None)
def test_neighbours_sum_as_numpy_does(
    values: list[tuple[int, float]], width: int, sources: int
) -> None:
    generator = np.random.default_rng(len(values) + 10 * width + 100 * sources)
    items = generator.integers(-1, 60, (8, width)).astype(np.int32)
    weights = generator.standard_normal((8, width)).astype(np.float32)
    chosen = generator.integers(0, 10, sources * 20)
    shares = generator.standard_normal(len(chosen)).astype(np.float32)
    known = chosen < len(items)
    added = (weights[chosen[known]] * shares[known, None]).ravel().astype(np.float64)
    found = items[chosen[known]].ravel()
    totals = np.bincount(found[found >= 0], added[found >= 0], minlength=60)

    rows, sums = kernels().neighbour_sums(items, weights, chosen, shares)

    assert rows.tolist() == np.flatnonzero(totals > 0).tolist()
    assert sums.tobytes() == totals[totals > 0].astype(np.float32).tobytes()


@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38]), max_size=60),
    st.integers(0, 2**32),
)
@settings(deadline=None)
def test_the_best_come_first_and_ties_stay_in_order(odd: list[float], seed: int) -> None:
    generator = np.random.default_rng(seed)
    more = generator.standard_normal(generator.integers(0, 60)).astype(np.float32)
    values = generator.permutation(np.concatenate([np.array(odd, np.float32), more]))

    assert kernels().best(values).tolist() == np.argsort(-values, kind="stable").tolist()


@given(st.integers(0, 2**32), st.integers(0, 80), st.sampled_from([40, 5_000, 2**40]))
@settings(deadline=None)
def test_channels_merge_by_place(seed: int, total: int, rows: int) -> None:
    generator = np.random.default_rng(seed)
    brought = [
        generator.permutation(min(rows, 40))[: generator.integers(0, 30)] * (rows // 40)
        for _ in range(generator.integers(0, 6))
    ]
    channels = generator.permutation(10)[: len(brought)].astype(np.int8)
    best: dict[int, tuple[int, int]] = {}
    for channel, theirs in zip(channels.tolist(), brought, strict=True):
        for place, row in enumerate(theirs.tolist()):
            if row not in best or place < best[row][0]:
                best[row] = (place, channel)
    kept = sorted(sorted(best, key=lambda row: (best[row][0], row))[:total])

    merged, of = kernels().merge(
        np.concatenate([np.zeros(0, np.int64), *brought]),
        np.array([len(theirs) for theirs in brought], np.int64),
        channels,
        total,
    )

    assert merged.tolist() == kept
    assert of.tolist() == [best[row][1] for row in kept]


@given(st.lists(pairs, min_size=1, max_size=4), st.sets(st.integers(0, 14)))
@settings(deadline=None)
def test_columns_are_looked_up(lists: list[list[tuple[int, float]]], asked: set[int]) -> None:
    scored = [{row: np.float32(value) for row, value in values} for values in lists]
    rows = [np.array(sorted(each), np.int64) for each in scored]
    values = [np.array([each[row] for row in sorted(each)], np.float32) for each in scored]
    wanted = np.array(sorted(asked), np.int64)
    absent = np.arange(7, 7 + len(lists), dtype=np.float32)
    columns = np.arange(len(lists))[::-1] * 2
    found = np.full((2 * len(lists), len(wanted)), -1, np.float32)

    kernels().look_up(
        wanted,
        np.concatenate(rows),
        np.concatenate(values),
        np.cumsum([len(each) for each in rows]),
        absent,
        columns.copy(),
        found,
    )

    for column, each, none in zip(columns.tolist(), scored, absent, strict=True):
        assert found[column].tolist() == [each.get(row, none) for row in wanted.tolist()]
    assert (found[1::2] == -1).all(), "other columns stay as they are"


@given(st.integers(0, 2**32), st.lists(st.integers(0, 60), min_size=1, max_size=4))
@settings(deadline=None)
def test_short_and_long_lists_are_looked_up_alike(seed: int, sizes: list[int]) -> None:
    generator = np.random.default_rng(seed)
    wanted = np.sort(generator.permutation(400)[:200])
    rows = [np.sort(generator.permutation(400)[:size]) for size in sizes]
    values = [generator.random(size, np.float32) for size in sizes]
    found = np.empty((len(sizes), len(wanted)), np.float32)

    kernels().look_up(
        wanted,
        np.concatenate(rows),
        np.concatenate(values),
        np.cumsum(sizes),
        np.zeros(len(sizes), np.float32),
        np.arange(len(sizes)),
        found,
    )

    for column, mine, of in zip(found, rows, values, strict=True):
        everything = np.zeros(400, np.float32)
        everything[mine] = of
        assert np.array_equal(column, everything[wanted])


@given(pairs, st.sets(st.integers(0, 14)))
@settings(deadline=None)
def test_places_are_looked_up(values: list[tuple[int, float]], asked: set[int]) -> None:
    scored = {row: np.float32(value) for row, value in values}
    rows = np.array(sorted(scored), np.int64)
    of = np.array([scored[row] for row in sorted(scored)], np.float32)
    wanted = np.array(sorted(asked), np.int64)
    ranked = sorted((row for row in scored if scored[row] > 0), key=lambda it: (-scored[it], it))
    places = np.empty(len(wanted), np.float32)

    kernels().look_up_places(wanted, rows, of, places)

    expected = [ranked.index(row) if row in ranked else np.nan for row in wanted.tolist()]
    assert np.array_equal(places, np.array(expected, np.float32), equal_nan=True)


@given(st.integers(0, 2**32), st.integers(-2, 3))
@settings(deadline=None)
def test_columns_of_the_catalogue_are_those_of_numpy(seed: int, last: int) -> None:
    generator = np.random.default_rng(seed)
    prices = generator.normal(size=30).astype(np.float32)
    prices[generator.random(30) < 0.2] = np.nan
    categories = generator.integers(-1, 4, 30).astype(np.int32)
    tables = generator.normal(size=(3, 5)).astype(np.float32)
    rows = np.sort(generator.permutation(30)[:12])
    usual = generator.choice(np.array([0.5, np.nan], np.float32))
    columns = generator.permutation(7)[:6]
    found = np.full((7, 12), -9, np.float32)

    category = kernels().of_items(rows, prices, categories, tables, last, usual, columns, found)

    assert np.array_equal(category, categories[rows])
    same = ((category == last) & (category >= 0)).astype(np.float32)
    expected = np.full((7, 12), -9, np.float32)
    expected[columns] = np.stack(
        [
            prices[rows],
            prices[rows] / usual,
            same if last > -2 else np.full(12, np.nan, np.float32),
            *tables[:, category],
        ]
    )
    assert np.array_equal(found, expected, equal_nan=True)


@given(st.integers(0, 2**32), st.integers(1, 400), st.sampled_from([1, 3, 1_000_000]))
@settings(deadline=None)
def test_the_largest_come_first_and_ties_by_row(seed: int, size: int, different: int) -> None:
    generator = np.random.default_rng(seed)
    values = (generator.integers(0, different, size) - different // 2).astype(np.float32)
    values *= np.float32(generator.choice([1e-6, 1.0, 1e30]))
    rows = generator.permutation(10 * size)[:size]
    count = int(generator.integers(1, size + 1))

    found, theirs = kernels().largest(rows, values, count)

    order = np.lexsort((rows, -values))[:count]
    assert found.tolist() == rows[order].tolist()
    assert theirs.tobytes() == values[order].tobytes()
