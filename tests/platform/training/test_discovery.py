"""The share of a list that is kept for items that are new to the user."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tactful.ranking.features import RANKING_FEATURES
from tactful.rerank.rerank import Bounds, Group, arrange
from tactful.training.discovery import SHARES, choose_discovery, new_to_user, shown

LISTS, ROWS = 200, 60


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 12), st.integers(1, 12))
def test_training_keeps_the_places_that_the_server_keeps(
    new: list[bool], least: int, count: int
) -> None:
    members = np.array(new, np.bool_)
    values = -np.arange(len(new), dtype=np.float32)
    group = Group("discovery", members, within=count, least=min(least, count))
    served = arrange(values, count, bounds=Bounds(groups=(group,)))
    assert shown(members, min(least, count), count).tolist() == served.order.tolist()


def lists(
    generator: np.random.Generator, new_answers: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Make lists whose known items have the best margins, and some answers that are new."""
    features = np.full((LISTS * ROWS, len(RANKING_FEATURES)), np.nan, np.float32)
    features[:, RANKING_FEATURES.index("in_session")] = 0.0
    place = np.tile(np.arange(ROWS), LISTS)
    known = place < 30
    features[known, RANKING_FEATURES.index("days_since_taken")] = 1.0
    margins = (-place - 0.1 * generator.random(len(place))).astype(np.float32)
    labels = np.zeros((LISTS, ROWS), np.bool_)
    for row in labels:
        is_new = generator.random() < new_answers
        row[generator.integers(30, 33) if is_new else generator.integers(0, 20)] = True
    return margins, labels.ravel(), np.full(LISTS, ROWS), features


def test_places_are_kept_where_answers_are_new() -> None:
    margins, labels, sizes, features = lists(np.random.default_rng(0), 0.5)
    chosen = choose_discovery(margins, labels, sizes, features)
    assert chosen.share >= 0.15
    assert chosen.new_mrr20_without == 0.0 < chosen.new_mrr20


def test_no_place_is_kept_where_that_costs_hits() -> None:
    margins, labels, sizes, features = lists(np.random.default_rng(0), 0.0)
    assert choose_discovery(margins, labels, sizes, features).share == 0.0
    few = 99 * ROWS
    chosen = choose_discovery(margins[:few], labels[:few], sizes[:99], features[:few])
    assert chosen.share == 0.0
    assert max(SHARES) <= 0.5


def test_items_of_the_visit_and_of_the_history_are_not_new() -> None:
    features = np.full((4, len(RANKING_FEATURES)), np.nan, np.float32)
    features[:, RANKING_FEATURES.index("in_session")] = [0, 1, 0, 0]
    features[2, RANKING_FEATURES.index("days_since_seen")] = 3.0
    features[3, RANKING_FEATURES.index("days_since_taken")] = 0.0
    assert new_to_user(features).tolist() == [True, False, False, False]
