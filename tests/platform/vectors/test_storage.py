"""Vectors by row: the same as a matrix, and products that depend on their two vectors alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.vectors.storage import StoredVectors, products


@given(st.integers(0, 10_000), st.sampled_from([5, 16, 64, 100]), st.integers(1, 70))
@settings(max_examples=100, deadline=None)
def test_a_product_depends_on_its_two_vectors_alone(seed: int, dimensions: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((count, dimensions)).astype(np.float32)
    directions = generator.standard_normal((3, dimensions)).astype(np.float32)

    found = products(vectors, directions)

    exact = directions.astype(np.float64) @ vectors.astype(np.float64).T
    np.testing.assert_allclose(found, exact, atol=1e-5 * dimensions)
    for row in range(count):
        alone = products(vectors[row : row + 1].copy(), directions)
        assert alone[:, 0].tolist() == found[:, row].tolist()
    for number in range(3):
        alone = products(vectors, directions[number : number + 1].copy())
        assert alone[0].tolist() == found[number].tolist()


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_latest_vector_of_a_row_is_read(seed: int, some_left: bool, some_new: bool) -> None:
    generator = np.random.default_rng(seed)
    built = generator.standard_normal((30, 4)).astype(np.float32)
    kept = generator.random(30) < 0.7 if some_left else None
    rows = np.flatnonzero(generator.random(40) < 0.3) if some_new else np.zeros(0, np.int64)
    vectors = generator.standard_normal((len(rows), 4)).astype(np.float32)
    every = np.zeros((40, 4), np.float32)
    every[:30] = built
    if kept is not None:
        every[:30][~kept] = 0.0
    every[rows] = vectors
    asked = generator.integers(0, 40, 25)

    stored = StoredVectors(built, kept=kept, rows=rows, vectors=vectors)

    assert np.array_equal(stored.of(asked), every[asked])
