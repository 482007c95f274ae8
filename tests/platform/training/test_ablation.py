"""Loss of a model without some of its columns."""

from __future__ import annotations

import numpy as np
import pytest
import xgboost

from tactful.ranking.features import RANKING_FEATURES
from tactful.training.ablation import GROUPS, columns_of, losses, neutral_values
from tactful.training.replay_rows import Rows

WIDTH = len(RANKING_FEATURES)


def test_every_column_is_in_a_group_and_no_name_is_unknown() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert set(grouped) == set(RANKING_FEATURES)
    assert sorted(grouped) == sorted([*RANKING_FEATURES, "blend", "blend_place"])


def test_own_columns_belong_to_the_visit_or_to_the_past() -> None:
    names = (*RANKING_FEATURES, "session.scrolls", "item.rating_28d")
    assert columns_of("real_time", names)[-1] == WIDTH
    assert columns_of("offline", names)[-1] == WIDTH + 1
    assert columns_of("intent", names) == [names.index(it) for it in GROUPS["intent"]]


def test_a_neutral_column_is_the_median_or_missing() -> None:
    features = np.array([[1, 5, 9], [2, np.nan, 8], [6, np.nan, 7]], np.float32)
    assert np.array_equal(neutral_values(features, [0, 1, 2]), [2, np.nan, 8], equal_nan=True)
    assert np.array_equal(neutral_values(features, [2] * 9 + [0]), [8] * 9 + [2])
    assert len(neutral_values(features, [])) == 0


def test_the_loss_is_that_of_the_columns_that_order() -> None:
    """The planted answer lies in a content column; without it the order is chance."""
    draw, lists, size = np.random.default_rng(0), 200, 200
    features = draw.random((lists * size, WIDTH), np.float32)
    features[:, RANKING_FEATURES.index("blend")] = 1.0
    price = features[:, RANKING_FEATURES.index("price")].reshape(lists, size)
    labels = (price == price.max(axis=1, keepdims=True)).ravel()
    forest = xgboost.train(
        {"max_depth": 6, "nthread": 1, "eta": 1.0},
        xgboost.DMatrix(features, price.ravel()),
        8,
    )
    rows = Rows(features, labels, np.full(lists, size), np.ones(lists, np.float32))
    found = losses(forest, rows, [1] * lists, np.arange(lists), RANKING_FEATURES)
    assert list(found) == ["real_time", "offline", "content", "intent"]
    content = found["content"]
    assert content["hr20"].value > 0.7
    assert content["hr20"].low <= content["hr20"].value <= content["hr20"].high
    assert content["ndcg20"].low > 0.3
    assert abs(found["intent"]["hr20"].value) < 0.05
    assert losses(forest, Rows.none(), [], np.zeros(0, np.int64), RANKING_FEATURES) == {}


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_has_columns(group: str) -> None:
    assert columns_of(group, RANKING_FEATURES)
