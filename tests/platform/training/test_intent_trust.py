"""The trust in intents is found again where it was planted, and logged intents outweigh others."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tactful.ranking.features import RANKING_FEATURES
from tactful.ranking.intent_effect import LEAST_TRUST, Trust, factors_of
from tactful.training.intent_trust import INTENDED, IntendedList, fit_trust, replayed_lists
from tactful.training.replay_rows import Rows

COUNT = 30


def planted(
    trust: float, lists: int, seed: int, *, known: bool, shown: int = COUNT
) -> list[IntendedList]:
    """Lists of users who want an intended category with the chance `trust`."""
    generator, found = np.random.default_rng(seed), []
    for _ in range(lists):
        chances = generator.dirichlet(np.full(COUNT, 0.5))
        category = generator.integers(0, 5, COUNT)
        weights = np.array([0.6, 0.3, 0.0, 0.0, 0.0])
        shares = np.bincount(category, chances, 5)
        weights[shares < 0.01] = 0.0
        ratios = (weights / np.maximum(shares, 0.01))[category]
        likely = chances * factors_of(ratios, float(weights.sum()), trust)
        # Only some items are shown, the likeliest first.
        items = np.argsort(-likely)[:shown]
        item = generator.choice(items, p=likely[items] / likely[items].sum())
        taken = (items == item).astype(float)
        found.append(
            IntendedList(chances[items], ratios[items], float(weights.sum()), taken, known)
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shown", [COUNT, 10])
@pytest.mark.parametrize("trust", [0.1, 0.6])
def test_a_planted_trust_is_found_again(trust: float, shown: int) -> None:
    known = planted(trust, 1_500, 1, known=True, shown=shown)
    unknown = planted(0.9, 1_500, 2, known=False, shown=shown)
    found = fit_trust([], [*known, *unknown])
    assert found.known == pytest.approx(trust, abs=0.08)
    assert found.unknown == pytest.approx(0.9, abs=0.08)


@pytest.mark.slow
def test_logged_intents_outweigh_many_replayed_ones() -> None:
    replayed, logged = planted(0.9, 3_000, 3, known=True), planted(0.1, 1_000, 4, known=True)
    assert fit_trust(replayed, []).known > 0.6
    assert fit_trust(replayed, logged).known < 0.35


@pytest.mark.slow
def test_the_default_holds_without_evidence_and_intents_always_count() -> None:
    found, default = fit_trust([], []), Trust()
    assert found.known == pytest.approx(default.known, abs=0.02)
    assert found.unknown == pytest.approx(default.unknown, abs=0.02)
    wrong = [
        IntendedList(np.array([0.5, 0.5]), np.array([1.0, 0.0]), 0.5, np.array([0.0, 1.0]), True)
    ]
    assert fit_trust([], wrong * 5_000).known == LEAST_TRUST


def test_replayed_lists_read_their_columns() -> None:
    features = np.full((7, len(RANKING_FEATURES)), np.nan, np.float32)
    features[:, RANKING_FEATURES.index("sold_28d")] = [9, 1, 0, 0, 1, 2, 3]
    # Of the first list: two items of the first category, one of the second, one of none.
    intended: NDArray[np.float32] = np.array(
        [
            [1.0, 0],
            [1.0, 0],
            [0.5, 1],
            [0, 3],
            [np.nan, np.nan],
            [np.nan, np.nan],
            [np.nan, np.nan],
        ],
        np.float32,
    )
    labels = np.array([0, 0, 1, 0, 1, 0, 0], np.bool_)
    rows = Rows(features, labels, np.array([4, 3]), np.ones(2, np.float32))
    margins = np.log(np.array([4, 2, 1, 1, 1, 1, 1], np.float32))
    known, unknown = replayed_lists(rows, intended, margins)
    assert known.known and not unknown.known
    assert known.total == pytest.approx(1.0)  # 1.5 in all is scaled
    assert known.ratios.tolist() == pytest.approx([(2 / 3) / 0.75] * 2 + [(1 / 3) / 0.125, 0.0])
    assert known.taken.tolist() == [0.0, 0.0, 1.0, 0.0]
    assert unknown.ratios[2] == pytest.approx((1 / 3) / (0.1 / 10.4))
    assert [RANKING_FEATURES.index(it) for it in ("intent_weight", "intent_place")] == INTENDED
