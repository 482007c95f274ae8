"""Draws of new items: as often as their logged probabilities say."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from scipy import stats

from tactful.kernels.sparse_scores import Scores
from tactful.recall.candidates import Candidates, CatalogueView
from tactful.rerank.new_items import draw_new_items

_VECTORS = np.array([[1.0, 0.0], [0.995, 0.1], [0.98, 0.2], [0.95, 0.31], [0.9, 0.44]], np.float32)
_NOWHERE = np.zeros(2, np.float32)
_ROWS = np.arange(5)


def asked(**known: Any) -> tuple[Candidates, CatalogueView]:
    """What a draw reads of a request, with the given parts known."""
    nothing = {"session_vector": _NOWHERE, "history_vector": _NOWHERE, "lift": None}
    search = SimpleNamespace(vectors_of=lambda rows: _VECTORS[rows])
    cohorts = SimpleNamespace(expected=lambda lift: lift.rows)
    view = SimpleNamespace(index=SimpleNamespace(cohorts=cohorts))
    candidates = SimpleNamespace(search=search, **(nothing | known))
    return cast("Candidates", candidates), cast("CatalogueView", view)


def firsts(number: int, **known: Any) -> tuple[Counter[int], dict[int, float]]:
    """Draw a first item many times; return how often each came, and its probability."""
    counted: Counter[int] = Counter()
    chances: dict[int, float] = {}
    generator = np.random.default_rng(1)
    for _ in range(number):
        ((row, chance),) = draw_new_items(_ROWS, *asked(**known), 1, generator).items()
        counted[row] += 1
        chances[row] = chance
    return counted, chances


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"session_vector": _VECTORS[0]},
        {"history_vector": _VECTORS[4]},
        {"lift": Scores(np.array([3]), np.ones(1, np.float32))},
    ],
    ids=["nothing", "visit", "history", "cohort"],
)
def test_items_come_as_often_as_their_probability_says(known: dict[str, Any]) -> None:
    """False alarm: 1 in 10,000 for each case, with a fixed seed."""
    counted, chances = firsts(4_000, **known)
    assert sum(chances.values()) == pytest.approx(1.0)
    expected = [4_000 * chances[row] for row in _ROWS.tolist()]
    found = [counted[row] for row in _ROWS.tolist()]
    assert stats.chisquare(found, expected).pvalue > 1e-4


def test_nearer_items_are_likelier() -> None:
    for anchor, near, far in ((0, 0, 4), (4, 4, 0)):
        _, chances = firsts(500, session_vector=_VECTORS[anchor])
        similar = _VECTORS @ _VECTORS[anchor]
        ratio = np.exp((similar[near] - similar[far]) / 0.05)
        assert chances[near] / chances[far] == pytest.approx(ratio, rel=1e-4)


def test_of_an_unknown_user_all_are_equally_likely() -> None:
    assert [*firsts(200)[1].values()] == pytest.approx([0.2] * 5)


def test_several_are_different_and_their_chances_given_the_earlier_ones() -> None:
    """Brute force: the probabilities of what is left, after each draw."""
    generator = np.random.default_rng(2)
    whole = np.exp(_VECTORS @ _VECTORS[1] / 0.05)
    for _ in range(50):
        drawn = draw_new_items(_ROWS, *asked(session_vector=_VECTORS[1]), 5, generator)
        left = {*_ROWS.tolist()}
        for row, chance in drawn.items():
            assert chance == pytest.approx(whole[row] / whole[[*left]].sum(), rel=1e-3)
            left.remove(row)
        assert not left


def test_a_draw_without_items_is_empty() -> None:
    nothing = np.zeros(0, np.int64)
    assert draw_new_items(nothing, *asked(), 3, np.random.default_rng(0)) == {}
