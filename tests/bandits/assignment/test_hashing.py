import random
import uuid
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from tactful_bandits.assignment.hashing import (
    BUCKETS,
    bucket,
    bucket_ranges,
    buckets_within,
    choose_range,
    equal_weights,
    fnv1a_32,
)
from tactful_bandits.errors import DefinitionError

# The corpora of two public SDKs; the file names carry no version, their content does.
CORPORA = ("cases-sdkjs.json", "cases-python-2.2.1.json")

# The ids below are fixed, so each test gives one fixed answer; this is the probability with which
# it would have been wrong about a perfect hash.
FALSE_ALARM = 1e-4


def js_code_units(text: str) -> list[int]:
    """What `charCodeAt` yields, by the arithmetic of the Unicode standard instead of a codec."""
    units: list[int] = []
    for point in map(ord, text):
        if point < 0x10000:
            units.append(point)
        else:
            units += [0xD800 + ((point - 0x10000) >> 10), 0xDC00 + ((point - 0x10000) & 0x3FF)]
    return units


def plain_fnv1a(text: str) -> int:
    state = 2166136261
    for unit in js_code_units(text):
        state = ((state ^ unit) * 16777619) % 2**32
    return state


@pytest.mark.parametrize(
    ("text", "expected"),
    # From the table of test vectors of the FNV authors.
    [("", 0x811C9DC5), ("a", 0xE40C292C), ("b", 0xE70C2DE5), ("foobar", 0xBF9CF968)],
)
def test_authors_vectors(text: str, expected: int) -> None:
    assert fnv1a_32(text) == expected


@pytest.mark.parametrize(
    ("seed", "unit", "version", "place"),
    [
        ("", "a", 1, 0.22),
        ("asdf", "8952klfjas09ujk", 1, 0.549),
        ("seed", "a", 2, 0.0505),
        ("seed", "b", 2, 0.2696),
        ("foo", "def", 2, 0.2019),
        ("90850943850283058242805", "123", 2, 0.7516),
        ("()**(%$##$%#$#", '___)((*":&', 2, 0.0128),
    ],
)
def test_some_published_vectors_by_value(seed: str, unit: str, version: int, place: float) -> None:
    assert bucket(seed, unit, version=version) == place


@pytest.mark.parametrize("corpus", CORPORA)
def test_all_published_vectors(published: Callable[[str], Any], corpus: str) -> None:
    cases = published(corpus)["hash"]
    assert len(cases) >= 15
    for seed, unit, version, place in cases:
        if place is None:
            with pytest.raises(DefinitionError, match="version"):
                bucket(seed, unit, version=version)
        else:
            assert bucket(seed, unit, version=version) == place, (seed, unit, version)


@given(st.text(st.characters()), st.text(st.characters()))
def test_every_text_is_hashed_by_utf16_code_units(seed: str, unit: str) -> None:
    # st.characters() includes lone surrogates and everything outside the basic plane.
    assert bucket(seed, unit) == plain_fnv1a(str(plain_fnv1a(seed + unit))) % 10_000 / 10_000
    assert bucket(seed, unit, version=1) == plain_fnv1a(unit + seed) % 1000 / 1000


@pytest.mark.parametrize(
    ("unit", "place"),
    # Computed in JavaScript, with charCodeAt and Math.imul.
    [("é", 0.8663), ("用户-1", 0.0755), ("😀", 0.4346), ("a😀b", 0.7396), ("\ud83d", 0.9009)],
)
def test_non_ascii_vectors_of_our_own(unit: str, place: float) -> None:
    assert bucket("seed", unit) == place
    # The mistake to be caught: bytes of UTF-8.
    state = 2166136261
    for byte in f"seed{unit}".encode(errors="surrogatepass"):
        state = ((state ^ byte) * 16777619) % 2**32
    assert plain_fnv1a(str(state)) % 10_000 / 10_000 != place


@given(st.text(), st.text())
def test_a_prefix_can_be_hashed_once(prefix: str, rest: str) -> None:
    # Joined text may fuse two lone halves into one character; st.text() draws none by default.
    assert fnv1a_32(rest, fnv1a_32(prefix)) == fnv1a_32(prefix + rest)


_source = random.Random(20)
SHAPES = {
    "sequential": [f"user-{i}" for i in range(100_000)],
    "numbers": [str(i) for i in range(100_000)],
    "uuids": [str(uuid.UUID(int=_source.getrandbits(128))) for _ in range(50_000)],
}


@cache
def places(name: str, ids: str, version: int = 2) -> NDArray[np.float64]:
    return np.array([bucket(name, unit, version=version) for unit in SHAPES[ids]])


@pytest.mark.slow
@pytest.mark.parametrize("ids", SHAPES)
def test_places_are_uniform(ids: str) -> None:
    tens = np.rint(places("exp-a", ids) * BUCKETS).astype(int) // 10
    counts = np.bincount(tens, minlength=BUCKETS // 10)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def independence_p_value(
    one: str, other: str, ids: str, *, version: int = 2, cells: int = 20
) -> float:
    a, b = places(one, ids, version), places(other, ids, version)
    table = np.histogram2d(a, b, bins=cells, range=[[0, 1], [0, 1]])[0]
    return float(stats.chi2_contingency(table)[1])


@pytest.mark.slow
@pytest.mark.parametrize("ids", SHAPES)
@pytest.mark.parametrize("other", ["exp-b", "exp-a1", "__exp-a", "another name altogether"])
def test_experiments_split_independently(ids: str, other: str) -> None:
    assert independence_p_value("exp-a", other, ids) > FALSE_ALARM


def test_the_bias_of_version_1_would_be_caught() -> None:
    assert independence_p_value("exp-a", "exp-b", "sequential", version=1) < FALSE_ALARM


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
def test_published_ranges_choices_and_weights(published: Callable[[str], Any], corpus: str) -> None:
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
