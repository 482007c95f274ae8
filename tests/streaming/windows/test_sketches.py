"""Sketches: how far off, and that they say the same in every order of work."""

import bisect
import gc
import random
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.alone import alone

from tactful_streaming.definitions.model import Feature, Window
from tactful_streaming.windows.accumulators import ACCUMULATORS, Accumulator
from tactful_streaming.windows.quantile_sketch import CAPACITY, Quantiles

WINDOW = Window(60_000, 60_000)
FEATURE = Feature("f", "item", ("view",), "distinct", of="user_id", window=WINDOW)


def distinct(values: Sequence[str]) -> Accumulator:
    sketch = ACCUMULATORS["hll"](FEATURE)
    for value in values:
        sketch.add(value, 0)
    return sketch


def estimate(*parts: Accumulator) -> float:
    return float(ACCUMULATORS["hll"].result(parts, FEATURE))


def test_19_of_20_distinct_counts_are_within_two_percent() -> None:
    errors = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        count = int(10 ** rng.uniform(2, 5))
        ids = rng.integers(0, 2**60, count)
        true = len(np.unique(ids))
        errors.append(abs(estimate(distinct([f"u{i}" for i in ids.tolist()])) - true) / true)
    assert np.quantile(errors, 0.95) <= 0.02
    assert max(errors) <= 0.04


def test_distinct_counts_of_few_are_as_good_as_exact() -> None:
    for count in (1, 2, 10, 100, 1000):
        found = estimate(distinct([str(n % count) for n in range(2 * count)]))
        assert found == pytest.approx(count, rel=1e-4)


@given(st.integers(0, 2**32), st.sampled_from([10, 1500, 3000, 20_000]), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_a_distinct_count_is_independent_of_order_and_packing(
    seed: int, count: int, pieces: int
) -> None:
    rng = random.Random(seed)
    values = [str(rng.randrange(2 * count)) for _ in range(count)]
    expected = estimate(distinct(values))
    rng.shuffle(values)
    borders = sorted([0, count, *(rng.randrange(count + 1) for _ in range(pieces))])
    parts = [distinct(values[a:b]) for a, b in pairwise(borders)]
    packed = [msgspec.msgpack.decode(msgspec.msgpack.encode(part.pack())) for part in parts]
    parts = [ACCUMULATORS["hll"].unpack(state, FEATURE) for state in packed]
    assert estimate(*parts) == expected
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(part)
    assert estimate(merged) == expected


SHAPES: list[Callable[[random.Random, int], float]] = [
    lambda rng, n: rng.lognormvariate(0, 2),
    lambda rng, n: float(n),
    lambda rng, n: -float(n),
    lambda rng, n: float(rng.randrange(5)),
    lambda rng, n: n * (-1.0) ** n,
]


def worst_rank_error(sketch: Quantiles, values: Sequence[float]) -> float:
    """Greatest distance of a quantile's ranks from where it should be."""
    ranked, worst = sorted(values), 0.0
    for percent in range(101):
        q = percent / 100
        found = sketch.quantile(q)
        low = bisect.bisect_left(ranked, found) / len(ranked)
        high = bisect.bisect_right(ranked, found) / len(ranked)
        worst = max(worst, low - q, q - high)
    return worst


@pytest.mark.parametrize("shape", SHAPES)
def test_quantiles_are_off_by_less_than_two_percent_of_ranks(
    shape: Callable[[random.Random, int], float],
) -> None:
    for seed in range(6):
        rng = random.Random(seed)
        values = [shape(rng, n) for n in range(rng.choice([500, 5000, 20_000]))]
        sketch = Quantiles(FEATURE)
        for value in values:
            sketch.add(value, 0)
        assert worst_rank_error(sketch, values) <= 0.02
        assert sketch.held < 3.5 * CAPACITY


def test_quantiles_of_merged_sketches_are_as_good() -> None:
    rng = random.Random(3)
    values, merged = [], Quantiles(FEATURE)
    for part in range(60):
        sketch = Quantiles(FEATURE)
        for _ in range(rng.randrange(1000)):
            values.append(rng.gauss(part % 7, 1))
            sketch.add(values[-1], 0)
        packed = msgspec.json.decode(msgspec.json.encode(sketch.pack()))
        merged.merge(Quantiles.unpack(packed, FEATURE))
    assert worst_rank_error(merged, values) <= 0.025
    assert merged.held < 3.5 * CAPACITY


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=CAPACITY - 1), st.floats(0, 1))
def test_quantiles_of_few_are_exact(values: list[float], q: float) -> None:
    sketch = Quantiles(FEATURE)
    for value in values:
        sketch.add(value, 0)
    found, ranked = sketch.quantile(q), sorted(values)
    at_most = bisect.bisect_right(ranked, found)
    less = bisect.bisect_left(ranked, found)
    assert found in values
    assert at_most >= q * len(values)
    assert less == 0 or less < q * len(values)


def test_no_value_gets_lost_and_weights_add_up() -> None:
    sketch = Quantiles(FEATURE)
    for number in range(12_345):
        sketch.add(float(number), 0)
    _, least, greatest, *levels = sketch.pack()
    assert (least, greatest) == (0, 12_344)
    assert sum(len(level) * 2**height for height, level in enumerate(levels)) == 12_345


def test_a_replay_gives_the_same_sketch() -> None:
    values = [random.Random(5).random() for _ in range(5000)]
    straight, stopped = Quantiles(FEATURE), Quantiles(FEATURE)
    for number, value in enumerate(values):
        straight.add(value, 0)
        stopped.add(value, 0)
        if number % 777 == 0:
            stopped = Quantiles.unpack(stopped.pack(), FEATURE)
    assert straight.pack() == stopped.pack()


def sizes_of_quantiles() -> tuple[int, int]:
    """Bytes of twenty sketches by their own estimate, and as allocated."""
    tracemalloc.start()
    parts = [Quantiles(FEATURE) for _ in range(20)]
    for part in parts:
        for number in range(5_000):
            part.add(number + 0.5, 0)
    gc.collect()
    return sum(part.nbytes for part in parts), tracemalloc.get_traced_memory()[0]


def test_memory_of_quantiles_is_near_the_estimate() -> None:
    estimate, taken = alone(sizes_of_quantiles)
    assert 0.5 < estimate / taken < 2
