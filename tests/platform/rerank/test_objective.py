"""Weights of an arm: bounded, additive, and never a reversal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import RequestContext
from tactful.recall.popularity import Popularity
from tactful.rerank.objective import MOST_WEIGHT, Objective, cheapness, freshness, novelty
from tactful_streaming.contract.log_entries import Item

DAY = 86_400_000
AT = 20_000 * DAY
NAMES = Objective.__struct_fields__


def item(number: int, price: float | None = None, **properties: Any) -> Item:
    return Item(item_id=f"i{number}", timestamp=0, price=price, properties=properties)


def catalogue_of(*items: Item) -> Catalogue:
    return Catalogue([it.item_id for it in items], {it.item_id: it for it in items})


def context(*session: int, history: tuple[int, ...] = ()) -> RequestContext:
    return RequestContext(at=AT, user={}, session=[*session], history=[*history])


def every(catalogue: Catalogue) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(len(catalogue))


SHOP = catalogue_of(
    item(0, 10.0, margin=0.5, released=AT),
    item(1, 40.0, margin=-0.25, released="2024-09-04", campaign="spring"),
    item(2, 2.5, margin=7.0, released=AT - 30 * DAY, campaign=True),
    item(3, None, margin="much", released="soon", campaign=""),
    item(4, 0.0, margin=True, released=True, campaign=None),
    item(5, 20.0),
)
POPULAR = Popularity.of(np.array([5, 0, 1]), len(SHOP))


def value(objective: Objective, scores: list[float], *session: int) -> list[float]:
    given = np.array(scores, np.float32)
    found = objective.value(given, every(SHOP), SHOP, context(*session), POPULAR)
    return [round(float(it), 5) for it in found]


def test_the_signals_are_what_they_say() -> None:
    zeros = [0.0] * len(SHOP)
    assert AT // DAY == 20_000, "2024-10-04"
    # 10 is the usual price, so 40 is four times, 2.5 a quarter and 20 twice as much.
    assert value(Objective(price=2.0), zeros, 0) == [0.0, -2.0, 2.0, 0.0, 2.0, -1.0]
    assert value(Objective(margin=2.0), zeros) == [1.0, -0.5, 2.0, 0.0, 0.0, 0.0]
    assert value(Objective(campaign=3.0), zeros) == [0.0, 3.0, 3.0, 0.0, 0.0, 0.0]
    assert value(Objective(freshness=1.0), zeros) == [1.0, 0.5, 0.5, 0.0, 0.0, 0.0]
    third = round(math.log(3) / math.log(4), 5)
    assert value(Objective(novelty=1.0), zeros) == [0.5, third, 1.0, 1.0, 1.0, 0.0]


def test_the_usual_price_falls_back() -> None:
    """The visit gives the usual price, else the history, else the items themselves."""
    rows = every(SHOP)
    assert cheapness(SHOP, context(1, 3, history=(0,)), rows)[1] == 0.0
    assert cheapness(SHOP, context(history=(5,)), rows)[5] == 0.0
    assert cheapness(SHOP, context(), rows)[0] == pytest.approx(math.log(1.5) / math.log(4))
    unpriced = catalogue_of(item(0), item(1))
    assert cheapness(unpriced, context(0), every(unpriced)).tolist() == [0.0, 0.0]
    assert novelty(Popularity.of(np.zeros(0, np.int64), 2), np.arange(2)).tolist() == [0.0, 0.0]
    assert freshness(SHOP, AT - 5 * DAY, rows)[0] == 1.0, "not released yet"


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=len(SHOP), max_size=len(SHOP)),
    st.fixed_dictionaries({name: st.floats(0.0, MOST_WEIGHT) for name in NAMES}),
    st.sampled_from(NAMES[1:]),
    st.floats(0.01, MOST_WEIGHT),
    st.floats(-1e3, 1e3, width=32),
)
def test_nothing_is_ever_reversed(
    scores: list[float], weights: dict[str, float], name: str, larger: float, shift: float
) -> None:
    """A wish moves what has more of it up against what has less, whatever the scores' signs."""

    def worth(given: dict[str, float], of: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
        scores = np.array(of, np.float32)
        found = Objective(**given).value(scores, every(SHOP), SHOP, context(0), POPULAR)
        return found.astype(np.float64)

    before, after = worth({**weights, name: 0.0}, scores), worth({**weights, name: larger}, scores)
    signal = worth({**dict.fromkeys(NAMES, 0.0), name: 1.0}, [0.0] * len(SHOP))
    slack = 1e-6 * (1.0 + np.abs(before).max() + np.abs(after).max())
    gained = after - before
    for more, less in zip(*np.nonzero(signal[:, None] > signal[None, :]), strict=True):
        assert gained[more] >= gained[less] - slack
    # Better for the model and otherwise alike is better; so is it when all scores are negative.
    same = worth(weights, [shift] * len(SHOP))
    better = worth(weights, [shift + 2.0, *[shift] * (len(SHOP) - 1)])
    assert better[0] >= same[0]
    assert better[1:].tolist() == same[1:].tolist()


def test_a_weight_of_zero_is_not_computed() -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was read")

    nothing: Any = Untouchable()
    scores = np.array([1.0, -2.0], np.float32)
    assert Objective().value(scores, nothing, nothing, nothing, nothing) is scores
    twice = Objective(relevance=2.0).value(scores, nothing, nothing, nothing, nothing)
    assert twice.tolist() == [2.0, -4.0]
