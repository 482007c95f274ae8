import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tactful_bandits.assignment.assign import Arm, Experiment, assign
from tactful_bandits.assignment.eligibility import Holdout, Namespace
from tactful_bandits.assignment.hashing import BUCKETS, bucket, bucket_ranges, choose_range
from tactful_bandits.errors import AssignmentError, DefinitionError

CORPORA = ("cases-sdkjs.json", "cases-python-2.2.1.json")
HALVES = (Arm("control", 0.5), Arm("treatment", 0.5))
# 100 units per test keep the exhaustive ones short; the ids cover buckets well enough.
USERS = [f"user-{i}" for i in range(20_000)]


def unit_of_bucket(seed: str) -> dict[int, str]:
    """One unit for every bucket of a seed, found by trying."""
    found: dict[int, str] = {}
    i = 0
    while len(found) < BUCKETS:
        found.setdefault(round(bucket(seed, str(i)) * BUCKETS), str(i))
        i += 1
    return found


@st.composite
def experiments(draw: st.DrawFn) -> Experiment:
    parts = draw(st.lists(st.integers(1, 50), min_size=2, max_size=5))
    arms = tuple(Arm(f"arm-{i}", part / sum(parts)) for i, part in enumerate(parts))
    namespace = draw(
        st.none()
        | st.tuples(st.integers(0, 9), st.integers(1, 10))
        .filter(lambda ends: ends[0] < ends[1])
        .map(lambda ends: Namespace("page", ends[0] / 10, ends[1] / 10))
    )
    key = draw(st.sampled_from(["layout", "price-✓", "exp 1"]))
    # From 10 % up, even one part in 250 owns a bucket.
    return Experiment(key, arms, coverage=draw(st.floats(0.1, 1)), namespace=namespace)


@pytest.mark.slow
def test_assignment_follows_the_published_rule() -> None:
    quarters = Experiment("seed", (Arm("champion", 0.25), Arm("challenger", 0.75)))
    # Published places under this seed: a 0.0505, b 0.2696.
    assert [assign(quarters, unit).arm for unit in "ab"] == ["champion", "challenger"]
    assert assign(quarters, "b").propensity == 0.75
    weights = [0.1, 0.2, 0.3, 0.4]  # sums of these miss 0.3 and 0.6 by one rounding
    experiment = Experiment("edges", tuple(Arm(str(i), w) for i, w in enumerate(weights)), 0.7)
    ranges = bucket_ranges(4, 0.7, weights)
    for number, unit in unit_of_bucket("edges").items():
        expected = choose_range(number / BUCKETS, ranges)
        got = assign(experiment, unit)
        assert got.bucket == number / BUCKETS
        assert got.arm == (None if expected is None else str(expected))


@given(experiments(), st.sampled_from(USERS))
def test_assignment_is_a_pure_function(experiment: Experiment, unit: str) -> None:
    again = pickle.loads(pickle.dumps(experiment))
    assert again == experiment
    assert assign(again, unit) == assign(experiment, unit)


@given(experiments(), st.floats(0.1, 1), st.lists(st.sampled_from(USERS), max_size=200))
def test_a_ramp_never_reshuffles(experiment: Experiment, other: float, units: list[str]) -> None:
    small, large = sorted((experiment.coverage, other))
    before, after = replace(experiment, coverage=small), replace(experiment, coverage=large)
    for unit in units:
        arm = assign(before, unit).arm
        assert arm is None or assign(after, unit).arm == arm


def test_a_reshuffling_ramp_would_be_caught() -> None:
    # The mistake: ranges laid side by side instead of growing in place.
    def side_by_side(coverage: float, unit: str) -> int:
        place = bucket("ramp", unit)
        return -1 if place >= coverage else int(place >= coverage / 2)

    moved = [u for u in USERS if 0 <= side_by_side(0.2, u) != side_by_side(0.4, u)]
    assert moved


def test_renaming_with_the_old_seed_moves_nobody() -> None:
    old = Experiment("old", HALVES)
    new = Experiment("new", HALVES, seed="old")
    fresh = Experiment("new", HALVES)
    assert [assign(old, u).arm for u in USERS] == [assign(new, u).arm for u in USERS]
    assert [assign(old, u).arm for u in USERS] != [assign(fresh, u).arm for u in USERS]


@given(experiments())
def test_propensities_are_exact_shares_of_the_buckets(experiment: Experiment) -> None:
    ranges = bucket_ranges(
        len(experiment.arms), experiment.coverage, [arm.weight for arm in experiment.arms]
    )
    counts = Counter(choose_range(n / BUCKETS, ranges) for n in range(BUCKETS))
    enrolled = BUCKETS - counts[None]
    for i, arm in enumerate(experiment.arms):
        assert experiment.shares[arm.name] == counts[i] / enrolled
    assert sum(experiment.shares.values()) == pytest.approx(1)
    # 1 % of 0.1 % of 10,000 buckets is a tenth of a bucket; the arm gets a whole one.
    tiny = Experiment("tiny", (Arm("a", 0.99), Arm("b", 0.01)), coverage=0.001)
    assert tiny.shares == {"a": 10 / 11, "b": 1 / 11}
    for unit in USERS[:50]:
        got = assign(experiment, unit)
        assert got.propensity == (None if got.arm is None else experiment.shares[got.arm])


def test_units_arrive_in_proportion() -> None:
    # Fixed ids: one fixed answer, wrong about a perfect hash with probability 1e-4.
    experiment = Experiment("split", (Arm("champion", 0.9), Arm("challenger", 0.1)))
    counts = Counter(assign(experiment, unit).arm for unit in USERS)
    expected = [experiment.shares[arm.name] * len(USERS) for arm in experiment.arms]
    observed = [counts[arm.name] for arm in experiment.arms]
    assert stats.chisquare(observed, expected).pvalue > 1e-4


def test_coverage_zero_and_states_that_do_not_run_draw_nobody() -> None:
    running = Experiment("gate", HALVES)
    drawing_none = [
        replace(running, coverage=0),
        replace(running, status="draft"),
        replace(running, status="stopped"),
    ]
    for experiment in drawing_none:
        assert {assign(experiment, unit).arm for unit in USERS[:100]} == {None}
    assert drawing_none[0].shares == {"control": 0, "treatment": 0}


@pytest.mark.parametrize("version", [1, 2])
def test_disjoint_slices_share_no_unit_and_together_hold_all(version: int) -> None:
    low = Experiment("low", HALVES, namespace=Namespace("page", 0, 0.4, version))
    high = Experiment("high", HALVES, namespace=Namespace("page", 0.4, 1, version))
    for unit in USERS[:2000]:
        assert assign(low, unit).randomised != assign(high, unit).randomised


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "inside"),
    [({"namespace": Namespace("page", 0, 0.3)}, 0.3), ({"holdout": Holdout("all", 0.3)}, 0.7)],
)
def test_a_slice_or_holdout_does_not_tilt_the_arms(part: dict[str, Any], inside: float) -> None:
    counts = Counter(assign(Experiment("tilt", HALVES, **part), unit).arm for unit in USERS)
    drawn = counts["control"] + counts["treatment"]
    # Fixed ids, as above.
    assert stats.binomtest(counts["control"], drawn, 0.5).pvalue > 1e-4
    assert stats.binomtest(drawn, len(USERS), inside).pvalue > 1e-4


@pytest.mark.parametrize("corpus", CORPORA)
def test_all_published_namespaces(published: Callable[[str], Any], corpus: str) -> None:
    cases = published(corpus)["inNamespace"]
    assert len(cases) >= 16
    for name, unit, (namespace, start, end), expected in cases:
        assert Namespace(namespace, start, end, version=1).holds(unit) is expected, name


def test_a_forced_arm_is_marked_and_never_analysed() -> None:
    for status in ("draft", "running", "stopped"):
        experiment = Experiment(
            "qa", HALVES, coverage=0, status=status, namespace=Namespace("page", 0, 0.1)
        )
        for unit in USERS[:20]:
            got = assign(experiment, unit, forced="treatment")
            assert (got.arm, got.forced, got.propensity) == ("treatment", True, None)
            assert not got.randomised
    running = Experiment("qa", HALVES)
    # Even where the draw would have agreed: whom to force was somebody's choice.
    assert not any(assign(running, u, forced="control").randomised for u in USERS[:20])
    assert all(assign(running, u).randomised for u in USERS[:20])


def test_what_cannot_be_assigned_is_refused() -> None:
    experiment = Experiment("x", HALVES)
    with pytest.raises(AssignmentError, match="must not be empty"):
        assign(experiment, "")
    with pytest.raises(AssignmentError, match=r"cannot force 'nope', its arms are \['control'"):
        assign(experiment, "a", forced="nope")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Arm("", 0.5), "arm name must be printable"),
        (lambda: Arm(True, 0.5), "arm name must be text"),  # type: ignore[arg-type]
        (lambda: Arm("a", 1.5), "arm 'a': weight must be a number from 0 to 1, not 1.5"),
        (lambda: Arm("a", float("nan")), "weight must be a number from 0 to 1, not nan"),
        (lambda: Arm("a", True), "weight must be a number"),
        (lambda: Namespace("n", 0.5, 0.5), "start 0.5 must be below end 0.5"),
        (lambda: Namespace("n", 0, 2), "end must be a number from 0 to 1"),
        (lambda: Namespace("n", 0, 1, version=3), "version must be 1 or 2"),
        (lambda: Experiment(" x", HALVES), "experiment key must be printable"),
        (lambda: Experiment("x", HALVES[:1]), "experiment 'x': needs at least two arms"),
        (lambda: Experiment("x", (HALVES[0], HALVES[0])), r"these repeat: \['control'\]"),
        (lambda: Experiment("x", (Arm("a", 0.5), Arm("b", 0.4))), "they sum to 0.9"),
        (lambda: Experiment("x", (Arm("a", 0.5), Arm("b", 0.50001))), "they sum to 1.00001"),
        (lambda: Experiment("x", HALVES, coverage=1.1), "'x': coverage must be a number"),
        (lambda: Experiment("x", HALVES, status="on"), "status must be one of draft"),  # type: ignore[arg-type]
        (lambda: Experiment("x", HALVES, seed=""), "seed must be printable"),
        (
            lambda: Experiment("x", HALVES, seed="__n", namespace=Namespace("n", 0, 0.5)),
            "the slice would decide the arm",
        ),
        (
            lambda: Experiment("x", (Arm("a", 0.99995), Arm("b", 0.00005))),
            "arm 'b' gets none of the 10000 buckets",
        ),
    ],
)
def test_definitions_that_cannot_work_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        make()
