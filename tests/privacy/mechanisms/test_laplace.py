"""The noise: its exact privacy, its distribution, its freshness, its intervals."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import exp_bounds
from tactful_privacy.mechanisms._table import Entropy
from tactful_privacy.mechanisms.laplace import DiscreteLaplace, WideLaplace

SETTINGS = [(1, "1"), (5, "1"), (5, "1/24"), (1, "1/10"), (20, "1"), (3, "2.5"), (1, "10")]


def seeded(seed: int) -> Entropy:
    return np.random.default_rng(seed).bytes


def weights(noise: DiscreteLaplace) -> dict[int, Fraction]:
    reach = range(-noise._table.highest, noise._table.highest + 1)
    return {k: noise.probability(k) for k in reach}


def excess(first: dict[int, Fraction], second: dict[int, Fraction], factor: Fraction) -> Fraction:
    """The hockey-stick divergence, straight from its definition."""
    gains = (p - factor * second.get(k, Fraction(0)) for k, p in first.items())
    return sum((gain for gain in gains if gain > 0), Fraction(0))


def test_scale_beyond_64_bits_is_refused_with_the_cure() -> None:
    with pytest.raises(ParameterError, match="100000: lower the contribution cap"):
        DiscreteLaplace(100_001, 1)


@given(st.fractions(min_value=0, max_value=40, max_denominator=10**6))
def test_exponential_bounds_enclose_a_finer_computation(x: Fraction) -> None:
    lower, upper = exp_bounds(x, 128)
    finer_lower, finer_upper = exp_bounds(x, 400)
    assert lower << 272 <= finer_lower <= finer_upper <= upper << 272
    assert upper - lower <= 2
    assert math.isclose(lower / 2**128, math.exp(x), rel_tol=1e-13)


@pytest.mark.parametrize(("sensitivity", "epsilon"), SETTINGS)
def test_delta_at_the_claimed_epsilon_is_below_1e_15(sensitivity: int, epsilon: str) -> None:
    """And a scale that is one percent low is caught."""
    assert DiscreteLaplace(sensitivity, epsilon).delta(epsilon) < Fraction(1, 10**15)
    planted = DiscreteLaplace(sensitivity, Fraction(epsilon) * Fraction(101, 100))
    assert planted.delta(epsilon) > Fraction(1, 10**4)


@pytest.mark.parametrize(("sensitivity", "epsilon"), [(1, "1"), (3, "2.5"), (2, "1/3"), (7, "30")])
def test_delta_equals_the_definition_in_both_directions(sensitivity: int, epsilon: str) -> None:
    noise = DiscreteLaplace(sensitivity, epsilon)
    p = weights(noise)
    moved = {k + sensitivity: v for k, v in p.items()}
    for claim in (Fraction(epsilon), Fraction(epsilon) * Fraction(9, 10), Fraction(0)):
        factor = Fraction(exp_bounds(claim, 192)[0], 2**192)
        assert excess(p, moved, factor) == excess(moved, p, factor) == noise.delta(claim)


@given(st.integers(1, 30), st.fractions(Fraction(1, 50), 20, max_denominator=1000))
@settings(max_examples=40, deadline=None)
def test_neighbouring_weights_differ_by_at_most_epsilon(
    sensitivity: int, epsilon: Fraction
) -> None:
    """Neighbouring weights never differ by more than a unit of epsilon."""
    noise = DiscreteLaplace(sensitivity, epsilon)
    side = noise._table.weights[noise._table.highest :].tolist()
    one_unit = exp_bounds(epsilon / sensitivity, 192)[0]
    assert all(
        after <= before and before << 192 <= after * one_unit for before, after in pairwise(side)
    )
    # The end of the table is flat for `sensitivity` cells: all that delta consists of.
    assert len(set(side[-sensitivity:])) == 1
    assert noise.delta(epsilon) == Fraction(sensitivity * side[-1], noise._table.total)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [(3,), (2, 1), (1, 1, 1)])
def test_no_spread_of_a_change_over_cells_exceeds_delta(spread: tuple[int, ...]) -> None:
    """The joint distribution of several cells, in full, on a small table."""
    noise = DiscreteLaplace(3, 12)
    p = weights(noise)
    factor = Fraction(exp_bounds(Fraction(12), 192)[0], 2**192)
    joint: dict[tuple[int, ...], Fraction] = {(): Fraction(1)}
    moved = dict(joint)
    reach = range(-noise._table.highest, noise._table.highest + 4)
    for change in spread:
        joint = {(*y, k): w * p.get(k, 0) for y, w in joint.items() for k in reach}
        moved = {(*y, k): w * p.get(k - change, 0) for y, w in moved.items() for k in reach}
    total = sum(
        (max(Fraction(0), w - factor * moved[y]) for y, w in joint.items() if w), Fraction(0)
    )
    assert total <= noise.delta(12)


@pytest.mark.parametrize(("sensitivity", "epsilon"), SETTINGS)
def test_the_table_is_the_discrete_laplace_distribution(sensitivity: int, epsilon: str) -> None:
    noise = DiscreteLaplace(sensitivity, epsilon)
    p = weights(noise)
    ratio = math.exp(-float(Fraction(epsilon)) / sensitivity)
    ideal = {k: (1 - ratio) / (1 + ratio) * ratio ** abs(k) for k in p}
    assert sum(p.values()) == 1
    assert all(p[k] == p[-k] for k in p)
    assert sum(abs(float(p[k]) - ideal[k]) for k in p) < 1e-12
    assert math.isclose(noise.variance, 2 * ratio / (1 - ratio) ** 2, rel_tol=1e-9)


def merged(
    draws: NDArray[np.int64], noise: DiscreteLaplace, least: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Observed and expected frequencies, the rare outer values put together."""
    edge = 0
    while noise.probability(edge + 1) * len(draws) > least:
        edge += 1
    clipped = np.clip(draws, -edge - 1, edge + 1)
    observed = np.bincount(clipped + edge + 1, minlength=2 * edge + 3).astype(float)
    inner = [float(noise.probability(k)) for k in range(-edge, edge + 1)]
    tail = (1 - sum(inner)) / 2
    return observed, np.array([tail, *inner, tail]) * len(draws)


@pytest.mark.parametrize(("sensitivity", "epsilon"), [*SETTINGS, (1, "1/3000")])
def test_draws_agree_with_theory(sensitivity: int, epsilon: str) -> None:
    noise = DiscreteLaplace(sensitivity, epsilon, entropy=seeded(17))
    observed, expected = merged(noise.sample(400_000), noise, least=50)
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_bits_beyond_the_table_are_drawn_again() -> None:
    answers = iter([b"\xff\xff", b"\xff" * 8, b"\x00\x80"])
    noise = DiscreteLaplace(5, 1, entropy=lambda n: next(answers))
    assert noise.sample(1).tolist() == [0]


def test_every_draw_is_what_its_64_bits_say() -> None:
    """The guide by 16-bit prefix gives the same as a search over all 64 bits."""
    source = np.random.default_rng(5)
    noise = DiscreteLaplace(40, 1)
    index = source.integers(0, len(noise._table.cumulative), 2_000)
    edges = noise._table.cumulative[index] - source.integers(0, 2, 2_000).astype(np.uint64)
    for edge in edges.tolist():
        parts = iter(
            [(edge >> 48).to_bytes(2, "little"), ((edge << 16) % 2**64).to_bytes(8, "little")]
        )
        fixed = DiscreteLaplace.__new__(DiscreteLaplace)
        fixed.__dict__ = noise.__dict__ | {"_entropy": lambda n, parts=parts: next(parts)}
        expected = int(np.searchsorted(noise._table.cumulative, np.uint64(edge), side="right"))
        if expected < len(noise._table.cumulative):
            assert fixed.sample(1).tolist() == [expected - noise._table.highest]


def repeats_are_chance(
    first: NDArray[np.int64], second: NDArray[np.int64], noise: DiscreteLaplace
) -> bool:
    """Whether two noise arrays agree as often as independent ones do; false alarm rate 1e-11.

    What is drawn afresh must be the system's, so no test of it can be seeded.
    """
    same = float(sum(p * p for p in weights(noise).values()))
    equal = int((first == second).sum())
    return bool(stats.binomtest(equal, len(first), same).pvalue > 1e-11)


def test_planted_fixed_entropy_and_reuse_are_caught() -> None:
    noise = DiscreteLaplace(5, 1)
    first, second = (DiscreteLaplace(5, 1, entropy=seeded(42)).sample(20_000) for _ in range(2))
    assert not repeats_are_chance(first, second, noise)
    reused = np.tile(noise.sample(5_000), 4)
    assert not repeats_are_chance(reused, np.roll(reused, 5_000), noise)


def test_one_call_does_not_repeat_itself() -> None:
    noise = DiscreteLaplace(5, 1)
    draws = noise.sample(40_000)
    assert repeats_are_chance(draws[:20_000], draws[20_000:], noise)


@pytest.mark.parametrize(("sensitivity", "epsilon"), SETTINGS)
@pytest.mark.parametrize("confidence", ["0.5", "0.95", "0.99", "0.999999"])
def test_interval_is_the_smallest_that_holds_the_confidence(
    sensitivity: int, epsilon: str, confidence: str
) -> None:
    noise = DiscreteLaplace(sensitivity, epsilon)
    p = weights(noise)

    def inside(h: int) -> Fraction:
        return sum((p[k] for k in range(-h, h + 1)), Fraction(0))

    h = noise.interval(confidence)
    assert inside(h) >= Fraction(confidence) > (inside(h - 1) if h else 0)


@pytest.mark.parametrize("probability", ["0.000001", "0.025", "0.5", "0.975", "0.999999"])
def test_quantile_is_the_smallest_that_holds_the_probability(probability: str) -> None:
    noise = DiscreteLaplace(5, 1)
    p = weights(noise)

    def below(k: int) -> Fraction:
        return sum((v for key, v in p.items() if key <= k), Fraction(0))

    k = noise.quantile(probability)
    assert below(k) >= Fraction(probability) > below(k - 1)


@pytest.mark.parametrize("n", [2, 3, 5, 9])
@pytest.mark.parametrize("confidence", ["0.5", "0.95", "0.999"])
def test_interval_of_sum_equals_exact_convolution(n: int, confidence: str) -> None:
    noise = DiscreteLaplace(2, "0.8")
    one = [int(w) for w in noise._table.weights]
    total = one
    for _ in range(n - 1):
        summed = [0] * (len(total) + len(one) - 1)
        for i, a in enumerate(total):
            for j, b in enumerate(one):
                summed[i + j] += a * b
        total = summed
    centre, whole = len(total) // 2, sum(total)
    h = 0
    while Fraction(sum(total[centre - h : centre + h + 1]), whole) < Fraction(confidence):
        h += 1
    assert noise.interval_of_sum(n, confidence) == h


@pytest.mark.parametrize("n", [1_440, 262_800])
def test_interval_of_a_long_sum_approaches_the_normal_one(n: int) -> None:
    noise = DiscreteLaplace(5, 1)
    assert [noise.interval_of_sum(few) for few in (1, 5, 15, 60)] == [15, 32, 54, 107]
    normal = stats.norm.ppf(0.975) * math.sqrt(n * noise.variance)
    assert abs(noise.interval_of_sum(n) - normal) < max(2, 0.001 * normal)


def test_intervals_cover_as_often_as_they_say() -> None:
    noise = DiscreteLaplace(5, 1, entropy=seeded(3))
    draws = noise.sample(24 * 40_000).reshape(40_000, 24)
    covered = int((abs(draws.sum(axis=1)) <= noise.interval_of_sum(24)).sum())
    assert stats.binomtest(covered, 40_000, 0.95, alternative="less").pvalue > 1e-3
    assert covered < 40_000 * 0.96


def test_impossible_intervals_are_refused() -> None:
    noise = DiscreteLaplace(5, 1)
    for confidence in ("0", "1", "1.5"):
        with pytest.raises(ParameterError, match="confidence"):
            noise.interval(confidence)
    assert noise.mass_of_sum(0).tolist() == [1.0]
    with pytest.raises(ParameterError, match="-1 draws"):
        noise.mass_of_sum(-1)
    with pytest.raises(ParameterError, match="no interval"):
        noise.interval_of_sum(0)
    with pytest.raises(ParameterError, match="too near 1"):
        noise.interval_of_sum(2, "0.9999999")
    with pytest.raises(ParameterError, match="too wide"):
        DiscreteLaplace(1_000, 1).interval_of_sum(10_000_000)


@pytest.mark.slow
def test_the_largest_scale_is_private_and_right() -> None:
    noise = DiscreteLaplace(1, "1/100000", entropy=seeded(9))
    assert noise.delta("1/100000") < Fraction(1, 10**14)
    assert math.isclose(noise.sample(1_000_000).var(), noise.variance, rel_tol=0.02)
    assert abs(noise.interval() - 100_000 * math.log(20)) < 2


SMALL = [(1, "1"), (5, "1"), (3, "1/20"), (40, "2")]
LARGE = [(1, "1/100000"), (5_000, "1/24"), (10**6, "1/3")]


def side(noise: WideLaplace) -> list[int]:
    """The weights of 0, 1, 2, ... up to the end."""
    highest = (noise._coarse.highest + 1) * noise._block - 1
    return [noise._weight(k) for k in range(highest + 1)]


@pytest.mark.parametrize(("sensitivity", "epsilon"), SMALL)
def test_neighbouring_weights_across_blocks_keep_epsilon(sensitivity: int, epsilon: str) -> None:
    """Neighbouring weights, also across blocks, differ by at most a unit of epsilon."""
    noise = WideLaplace(sensitivity, epsilon)
    weights = side(noise)
    one_unit = exp_bounds(Fraction(epsilon) / sensitivity, 192)[0]
    assert len(weights) > 3 * noise._block
    for before, after in pairwise(weights):
        assert after <= before and before << 192 <= after * one_unit


@pytest.mark.parametrize(("sensitivity", "epsilon"), SMALL)
def test_delta_is_the_largest_excess_of_any_set_of_outputs(sensitivity: int, epsilon: str) -> None:
    noise = WideLaplace(sensitivity, epsilon)
    right = side(noise)
    weights = [*right[:0:-1], *right]
    factor = Fraction(exp_bounds(Fraction(epsilon), 192)[0], 2**192)
    moved = [0] * sensitivity + weights[:-sensitivity]
    excess = sum(max(Fraction(0), w - factor * m) for w, m in zip(weights, moved, strict=True))
    assert sum(weights) == noise._total
    assert noise.delta(epsilon) == Fraction(excess) / noise._total


def test_spread_changes_are_covered_like_single_cells() -> None:
    """A change spread over cells leaves no more uncovered than one in a single cell."""
    noise = WideLaplace(40, "2")
    tail = [Fraction(0)]
    for weight in side(noise)[::-1][:40]:
        tail.append(tail[-1] + weight)
    assert all(tail[a] + tail[40 - a] <= tail[40] for a in range(41))
    assert tail[40] / noise._total == noise.delta(2)


@pytest.mark.parametrize(("sensitivity", "epsilon"), [*SMALL, *LARGE])
def test_delta_is_negligible(sensitivity: int, epsilon: str) -> None:
    assert WideLaplace(sensitivity, epsilon).delta(epsilon) < Fraction(1, 10**11)


def test_planted_blocks_with_rounding_errors_are_caught() -> None:
    """The plain recipe, H with ratio e^(-m/scale), steps down by a little too much."""
    noise = WideLaplace(3, "1/20")
    one_unit = exp_bounds(Fraction(1, 60), 192)[0]
    last, first = noise._fine.weight(noise._block - 1), noise._fine.weight(0)
    plain = 2**250 // exp_bounds(Fraction(noise._block, 60), 192)[0]  # 2^58 e^(-m/scale)
    assert 2**58 * last << 192 > plain * first * one_unit


@pytest.mark.parametrize(("sensitivity", "epsilon"), SMALL)
def test_it_is_the_distribution_of_the_single_table(sensitivity: int, epsilon: str) -> None:
    wide, narrow = WideLaplace(sensitivity, epsilon), DiscreteLaplace(sensitivity, epsilon)
    reach = narrow._table.highest
    apart = sum(abs(wide.probability(k) - narrow.probability(k)) for k in range(-reach, reach + 1))
    assert apart < Fraction(1, 10**12)
    assert math.isclose(wide.variance, narrow.variance, rel_tol=1e-10)
    assert wide.interval("0.5") == narrow.interval("0.5")
    assert wide.interval("0.999") == narrow.interval("0.999")


@given(st.fractions(Fraction(1, 1000), Fraction(999, 1000), max_denominator=1000))
@settings(max_examples=50, deadline=None)
def test_wide_interval_is_the_smallest_that_holds_it(confidence: Fraction) -> None:
    noise = WideLaplace(5, "1")
    h = noise.interval(confidence)

    def inside(limit: int) -> Fraction:
        return sum((noise.probability(k) for k in range(-limit, limit + 1)), Fraction(0))

    assert inside(h) >= confidence > (inside(h - 1) if h else 0)


@pytest.mark.parametrize(("sensitivity", "epsilon"), [(5, "1"), (1, "1/100000")])
def test_wide_draws_agree_with_theory(sensitivity: int, epsilon: str) -> None:
    noise = WideLaplace(sensitivity, epsilon, entropy=np.random.default_rng(23).bytes)
    draws = noise.sample(300_000)
    ideal = stats.dlaplace(1 / float(noise.scale))
    edges = np.unique(ideal.ppf(np.linspace(0.01, 0.99, 50)))
    observed = np.bincount(np.searchsorted(edges, draws), minlength=len(edges) + 1)
    expected = np.diff(ideal.cdf(edges), prepend=0, append=1) * len(draws)
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_minus_zero_is_drawn_again() -> None:
    parts: Iterator[bytes] = iter(
        # coarse and fine prefixes that mean 0, the sign; then the same with the other sign
        [b"\0\0", b"\0\0", b"\xff", b"\0\0", b"\0\0", b"\0"]
    )
    assert WideLaplace(5, "1", entropy=lambda n: next(parts)).sample(1).tolist() == [0]
    assert not list(parts)


@pytest.mark.parametrize(
    ("sensitivity", "epsilon", "what"),
    [(1, "2", "below 1"), (1, "1/2000000000", "above 1000000000"), (0, "1", "sensitivity")],
)
def test_what_it_cannot_hold_is_refused(sensitivity: int, epsilon: str, what: str) -> None:
    with pytest.raises(ParameterError, match=what):
        WideLaplace(sensitivity, epsilon)


def test_a_stronger_promise_than_it_was_made_for_is_refused() -> None:
    with pytest.raises(ParameterError, match="give 1, the epsilon of this noise"):
        WideLaplace(5, 1).delta("0.9")
    with pytest.raises(ParameterError, match="0 or more"):
        WideLaplace(5, 1).sample(-1)
