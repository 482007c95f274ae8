"""Transfer of profiles: planted tastes cross, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from tactful.domains.bridge import fit_bridge, fit_embedding

KINDS, USERS, ITEMS = 4, 400, 40


def histories(seed: int, share: float) -> tuple[csr_matrix, csr_matrix, list[int]]:
    """Users of a few kinds: by `share`, their items in both domains are of their kind."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, KINDS, USERS)
    domains = []
    for _ in range(2):
        rows = np.repeat(np.arange(USERS), 12)
        of_kind = rng.random(len(rows)) < share
        kind = np.where(of_kind, kinds[rows], rng.integers(0, KINDS, len(rows)))
        items = kind + KINDS * rng.integers(0, ITEMS // KINDS, len(rows))
        domains.append(csr_matrix((np.ones(len(rows)), (rows, items)), shape=(USERS, ITEMS)))
    return domains[0], domains[1], kinds.tolist()


def hits(share: float) -> float:
    """Share of new users whose first ten items are of their kind."""
    releasing, receiving, kinds = histories(3, share)
    embedding = fit_embedding(releasing, 8)
    known, new = np.arange(USERS // 2), np.arange(USERS // 2, USERS)
    bridge = fit_bridge(embedding.vectors(releasing[known]), receiving[known])
    scores = bridge.scores(embedding.vectors(releasing[new]))
    first = np.argsort(-scores, axis=1)[:, : ITEMS // KINDS] % KINDS
    return float(np.mean(first == np.array(kinds)[new, np.newaxis]))


def test_a_planted_taste_crosses_to_new_users() -> None:
    assert hits(0.9) > 0.9


def test_without_a_common_taste_nothing_crosses() -> None:
    assert abs(hits(0.0) - 1 / KINDS) < 0.1


def test_ridge_regression_is_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    vectors, taken = rng.normal(size=(60, 3)), csr_matrix(rng.random((60, 5)) < 0.4)
    bridge = fit_bridge(vectors, taken, ridge=2.0)
    away, target = vectors - vectors.mean(0), taken.toarray().astype(float)
    # The same as least squares with one more row for each weight.
    rows = np.vstack([away, np.sqrt(2.0) * np.eye(3)])
    wanted = np.linalg.lstsq(rows, np.vstack([target, np.zeros((3, 5))]), rcond=None)[0]
    np.testing.assert_allclose(bridge.weights, wanted, atol=1e-12)
    np.testing.assert_allclose(bridge.scores(vectors).mean(0), target.mean(0), atol=1e-12)


@given(st.integers(2, 1_000))
@settings(max_examples=8, deadline=None)
def test_a_history_and_its_multiple_in_rarity_keep_a_bounded_vector(times: int) -> None:
    releasing, _, _ = histories(5, 0.5)
    embedding = fit_embedding(releasing, 4)
    one = embedding.vectors(releasing[:1] * times)
    assert np.linalg.norm(one) <= 1 + 1e-9
    nothing = embedding.vectors(csr_matrix((1, ITEMS)))
    assert np.all(nothing == 0)


def test_a_vector_is_the_same_alone_and_among_others() -> None:
    releasing, _, _ = histories(7, 0.5)
    embedding = fit_embedding(releasing, 4)
    together = embedding.vectors(releasing)
    for user in range(20):
        own = releasing[user]
        own.sum_duplicates()
        alone = embedding.vector(own.indices.astype(np.int64), own.data)
        assert alone is not None
        np.testing.assert_allclose(alone, together[user], atol=1e-12)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_histories_give_the_same_vectors(seed: int) -> None:
    releasing, _, _ = histories(seed, 0.5)
    first, second = (fit_embedding(releasing, 4).vectors(releasing) for _ in range(2))
    np.testing.assert_allclose(first, second, atol=1e-9)
