"""An intent moves items by its weight, one way only, and weighs them as the formula says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.kernels.sparse_scores import Scores
from tactful.ranking.intent_effect import (
    LEAST_TRUST,
    MOST_TRUST,
    IntentEffect,
    Trust,
    chances_of,
    intent_effect,
)
from tactful.recall.candidates import Candidates
from tactful.recall.index import CHANNELS
from tactful_streaming.contract.log_entries import Item

NAMES = ("tea", "茶", "mugs", "none")
COUNT = 12
CATALOGUE = Catalogue(
    [f"i{row:02}" for row in range(COUNT)],
    {
        f"i{row:02}": Item(item_id=f"i{row:02}", timestamp=1, category=NAMES[row % 3])
        for row in range(COUNT)
        if row != 5  # of no category
    },
)
CATEGORY = CATALOGUE.category
WEIGHTS = st.dictionaries(st.sampled_from(NAMES), st.floats(0.0, 1.0, width=32), max_size=4)
CHANCES = st.lists(st.floats(0.0, 1.0, width=32), min_size=COUNT, max_size=COUNT)


def candidates(intent: Mapping[str, float], added: frozenset[int] = frozenset()) -> Candidates:
    """All items as candidates, some of them by the intent alone."""
    channel = np.zeros(COUNT, np.int8)
    channel[sorted(added)] = CHANNELS.index("intent")
    of_items: Any = dict(
        rows=np.arange(COUNT), channel=channel, intent=intent, search=None, neighbours=None
    )
    vectors = np.zeros((3, 2), np.float32)
    return Candidates(
        **of_items,
        similar_sessions=Scores(np.zeros(0, np.int64), vectors[:0, 0]),
        last_vector=vectors[0],
        session_vector=vectors[1],
        history_vector=vectors[2],
    )


def effect(
    intent: Mapping[str, float],
    chances: list[float],
    trust: float = 0.5,
    added: frozenset[int] = frozenset(),
) -> IntentEffect | None:
    values = np.array(chances, np.float32)
    return intent_effect(
        candidates(intent, added), CATALOGUE, values, Trust(known=trust), known=True
    )


def test_an_intent_mixes_the_ranking_with_its_categories() -> None:
    chances = [0.3, 0.1, 0.0, 0.1, 0.1, 0.1, 0.0, 0.1, 0.0, 0.1, 0.1, 0.0]
    held = effect({"tea": 0.5, "茶": 0.25, "none": 1.0, "no such": 1.0}, chances, trust=0.4)
    assert held is not None and held.total == pytest.approx(0.75)
    tea, other = 1 - 0.4 * 0.75 + 0.4 * 0.5 / 0.5, 1 - 0.4 * 0.75
    cha = other + 0.4 * 0.25 / 0.4
    wanted = [{0: tea, 1: cha}.get(row % 3, other) if row != 5 else other for row in range(COUNT)]
    assert held.factors.tolist() == pytest.approx(wanted)
    # The mixture is a distribution again.
    assert float(held.factors @ held.chances) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "intent",
    [{}, {"no such": 1.0}, {"tea": 0.0}, {"tea": math.nan}, {"tea": math.inf}, {"tea": -1.0}],
    ids=str,
)
def test_an_intent_that_says_nothing_changes_nothing(intent: dict[str, float]) -> None:
    assert effect(intent, [1.0] * COUNT) is None


def test_weights_above_one_in_all_are_scaled() -> None:
    chances = [1.0] * COUNT
    many = effect({"tea": 1.0, "茶": 1.0}, chances)
    half = effect({"tea": 0.5, "茶": 0.5}, chances)
    assert many is not None and half is not None
    assert many.total == 1.0 and many.factors.tolist() == half.factors.tolist()


@given(
    WEIGHTS,
    st.sampled_from(NAMES[:3]),
    st.floats(0.0, 1.0, width=32),
    CHANCES,
    st.floats(LEAST_TRUST, MOST_TRUST),
    st.frozensets(st.integers(0, COUNT - 1)),
)
@example({}, "tea", 1.0, [0.0] * COUNT, MOST_TRUST, frozenset())
@example({"tea": 0.1, "茶": 1.0}, "tea", 1.0, [0.1] * COUNT, LEAST_TRUST, frozenset({0, 3, 6, 9}))
@settings(deadline=None)
def test_a_larger_weight_never_lowers_an_item_of_its_category(
    intent: dict[str, float],
    name: str,
    weight: float,
    chances: list[float],
    trust: float,
    added: frozenset[int],
) -> None:
    less, more = (
        _factors(effect(intent | {name: value}, chances, trust, added))
        for value in sorted((intent.get(name, 0.0), weight))
    )
    inside = np.isin(np.arange(COUNT), np.flatnonzero(CATALOGUE.category_numbers[name] == CATEGORY))
    ratio = more / less
    assert ratio[inside].min() >= ratio[~inside].max() * (1 - 1e-5)
    assert ratio[inside].min() >= 1 - 1e-5 >= (ratio[~inside].max() - 1e-5) * (1 - 1e-5)
    assert (less > 0).all() and np.isfinite(more).all()


def _factors(held: IntentEffect | None) -> NDArray[np.float64]:
    return np.ones(COUNT) if held is None else held.factors.astype(np.float64)


def test_chances_follow_from_margins() -> None:
    assert chances_of(np.log([0.2, 0.4]).astype(np.float32)).tolist() == pytest.approx([0.5, 1.0])
    assert len(chances_of(np.zeros(0, np.float32))) == 0
