from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_bandits.assignment.hashing import BUCKETS
from tactful_bandits.assignment.ranges import (
    bucket_ranges,
    buckets_within,
    choose_range,
    equal_weights,
)

CORPORA = ("cases-sdkjs.json", "cases-python-2.2.1.json")


@pytest.mark.parametrize(
    ("arms", "coverage", "weights", "expected"),
    [
        (2, 1, None, [(0, 0.5), (0.5, 1)]),
        (2, 0.5, None, [(0, 0.25), (0.5, 0.75)]),
        (3, 0.2, [0.2, 0.3, 0.5], [(0, 0.04), (0.2, 0.26), (0.5, 0.6)]),
        (2, -0.2, None, [(0, 0), (0.5, 0.5)]),
        (2, 1, [0.7, 0.6], [(0, 0.5), (0.5, 1)]),
    ],
)
def test_some_published_ranges_by_value(
    arms: int, coverage: float, weights: list[float] | None, expected: list[tuple[float, float]]
) -> None:
    ranges = bucket_ranges(arms, coverage, weights)
    assert [pytest.approx(pair, abs=1e-12) for pair in expected] == list(ranges)


@pytest.mark.parametrize("corpus", CORPORA)
def test_all_published_ranges_choices_and_weights(
    published: Callable[[str], Any], corpus: str
) -> None:
    cases = published(corpus)
    assert min(len(cases["getBucketRange"]), len(cases["chooseVariation"])) >= 13
    for name, asked, expected in cases["getBucketRange"]:
        ranges = bucket_ranges(*asked)
        assert [pytest.approx(pair, abs=1e-8) for pair in expected] == list(ranges), name
    for name, place, ranges, expected in cases["chooseVariation"]:
        chosen = choose_range(place, ranges)
        assert (-1 if chosen is None else chosen) == expected, name
    assert len(cases["getEqualWeights"]) >= 6
    for arms, expected in cases["getEqualWeights"]:
        assert list(equal_weights(arms)) == pytest.approx(expected, abs=1e-8)


shares = st.floats(0, 1)


edges = shares | st.integers(0, BUCKETS).map(lambda bucket: bucket / BUCKETS)


@given(edges, edges)
def test_buckets_within_agrees_with_comparing_each_bucket(start: float, end: float) -> None:
    listed = buckets_within((start, end))
    compared = [n for n in range(BUCKETS) if start <= n / BUCKETS < end]
    assert list(listed) == compared


@given(st.lists(st.integers(1, 100), min_size=2, max_size=8), shares, shares)
def test_ranges_grow_in_place_and_never_touch(parts: list[int], one: float, other: float) -> None:
    weights = [part / sum(parts) for part in parts]
    small, large = sorted((one, other))
    before, after = (bucket_ranges(len(parts), coverage, weights) for coverage in (small, large))
    for (start, end), (later_start, later_end) in zip(before, after, strict=True):
        assert start == later_start and end <= later_end
    for (_, end), (start, _) in pairwise(after):
        assert end <= start
