"""Figures against recounts, and intervals against what they must contain."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.training.evaluation import (
    CUTOFF,
    NdcgByTree,
    Scorecard,
    list_metrics,
    ndcg,
    user_intervals,
)


def test_a_list_is_scored_by_hand() -> None:
    card = Scorecard()
    assert card.add("p", ["a", "b", "c"], {"b", "z"})
    assert not card.add("q", ["a", "b"], {"z"})
    quality = card.quality(10)
    assert quality.hr20.value == 0.5
    assert quality.mrr20.value == 0.25
    ideal = 1 / math.log2(2) + 1 / math.log2(3)
    assert quality.ndcg20.value == pytest.approx((1 / math.log2(3)) / ideal / 2)
    assert quality.coverage20.value == 0.3
    long = Scorecard()
    assert not long.add("p", [str(i) for i in range(30)], {"25"}), "the first twenty count"
    assert long.quality(100).coverage20.value == 0.2
    assert math.isnan(Scorecard().quality(10).hr20.value)


@given(st.sets(st.integers(0, CUTOFF - 1)), st.integers(1, 50))
def test_ndcg_stays_within_zero_and_one(places: set[int], more: int) -> None:
    relevant = len(places) + more - 1 or 1
    value = ndcg(sorted(places), max(relevant, len(places), 1))
    assert 0.0 <= value <= 1.0 + 1e-12
    if places and relevant <= CUTOFF and places == set(range(relevant)):
        assert value == pytest.approx(1.0)


def test_intervals_resample_people_not_questions() -> None:
    """One person asking 500 times says no more than one person: the interval must be wide."""
    many, few = Scorecard(), Scorecard()
    for number in range(500):
        many.add(f"person {number}", ["a"], {"a"} if number % 2 else {"b"})
        few.add(f"person {number % 4}", ["a"], {"a"} if number % 4 < 2 else {"b"})
    wide, narrow = few.quality(1).hr20, many.quality(1).hr20
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
    # 1.96 standard errors of 500 fair coins.
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 500), rel=0.15)


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """95 % intervals of 200 samples miss at most 21 times with probability above 0.999."""
    generator = np.random.default_rng(7)
    missed = 0
    for sample in range(200):
        card = Scorecard()
        for person in range(60):
            rate = generator.beta(2, 3)
            for _ in range(int(generator.integers(1, 6))):
                card.add(f"{person}", ["a"], {"a"} if generator.random() < rate else {"b"})
        found = card.quality(1, resamples=200, seed=sample).hr20
        missed += not found.low <= 0.4 <= found.high
    assert missed <= 21


def test_list_metrics_count_lists_recall_did_not_serve() -> None:
    scores = np.array([3, 2, 1, 1, 2], np.float32)
    labels = np.array([False, True, False, False, False])
    found = list_metrics(scores, labels, np.array([3, 2]), [1, 1])
    assert found == pytest.approx(
        {"hr20": 0.5, "ndcg20": 0.5 / math.log2(3), "mrr20": 0.25, "recall": 0.5}
    )


def test_recall_is_the_share_of_what_was_taken() -> None:
    card = Scorecard()
    card.add("p", ["a", "b", "c"], {"b", "c", "y", "z"})
    card.add("q", ["a"], {"a"})
    assert card.mean("recall20") == 0.75
    assert card.estimate("recall20").value == 0.75


def test_a_ratio_pairs_the_same_people() -> None:
    """Alone both are uncertain; question by question one is always twice as good."""
    better, worse = Scorecard(), Scorecard()
    generator = np.random.default_rng(3)
    for number in range(400):
        place = int(generator.integers(0, 9))
        shown = [f"{it}" for it in range(20)]
        better.add(f"{number % 40}", shown, {f"{place}"})
        worse.add(f"{number % 40}", shown, {f"{2 * place + 1}"})
    found = better.ratio(worse, "mrr20")
    assert found.value == found.low == found.high == pytest.approx(2.0)
    alone = better.estimate("mrr20")
    assert alone.high - alone.low > 0.02
    assert worse.ratio(better, "mrr20").value == pytest.approx(0.5)


def test_a_ratio_needs_the_same_questions() -> None:
    one, other = Scorecard(), Scorecard()
    one.add("p", ["a"], {"a"})
    other.add("q", ["a"], {"a"})
    with pytest.raises(ValueError, match="different requests"):
        one.ratio(other, "hr20")
    with pytest.raises(ValueError, match="scorecards are empty"):
        Scorecard().ratio(Scorecard(), "hr20")


@given(st.integers(0, 2**32 - 1))
def test_ndcg_by_tree_is_the_ndcg_of_list_metrics(seed: int) -> None:
    """Also with equal scores, lists without an answer, and answers that recall did not find."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 40, int(draw.integers(1, 12)))
    labels = draw.random(int(sizes.sum())) < draw.choice([0.0, 0.05, 0.5])
    held = np.add.reduceat(labels.astype(int), np.cumsum(sizes) - sizes)
    relevant = (held + draw.integers(0, 3, len(sizes))).clip(1).tolist()
    by_tree = NdcgByTree(labels, sizes, relevant)
    for _ in range(2):
        scores = draw.integers(0, 6, len(labels)).astype(np.float32)
        by_tree.add(scores)
        wanted = list_metrics(scores, labels, sizes, relevant)["ndcg20"]
        assert by_tree.values[-1] == pytest.approx(wanted, abs=1e-9)


def test_user_intervals_agree_with_those_of_a_scorecard() -> None:
    card, draw = Scorecard(), np.random.default_rng(5)
    users = draw.integers(0, 60, 400)
    hits = draw.random(400) < 0.3 + 0.4 * (users % 2)
    for user, hit in zip(users.tolist(), hits.tolist(), strict=True):
        card.add(f"{user}", ["a"], {"a" if hit else "b"})
    wanted = card.estimate("hr20")
    (found,) = user_intervals(hits[:, None].astype(float), users)
    assert found == pytest.approx((wanted.low, wanted.high), abs=0.01)
