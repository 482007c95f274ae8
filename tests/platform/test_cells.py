"""The search of cells against numpy, with vectors whose products are exact in any order."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.scores import kernels

MOST_IN_CELL = 70


@given(
    st.integers(0, 10_000),
    st.sampled_from([16, 48, 64, 80]),
    st.integers(1, 90),
    st.integers(1, 1_500),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from([1, 2, 40]),
)
@settings(max_examples=150, deadline=None)
def test_what_is_found_in_cells_is_what_numpy_finds(
    seed: int, dimensions: int, cells: int, count: int, share: float, different: int
) -> None:
    generator = np.random.default_rng(seed)
    probes = int(generator.integers(1, cells + 1))
    sizes = generator.integers(0, MOST_IN_CELL, cells)
    sizes[generator.random(cells) < 0.2] = 0
    total, ends = int(sizes.sum()), np.cumsum(sizes)
    rows = generator.permutation(total)
    vectors = generator.integers(-different, different + 1, (total, dimensions)) / 8
    centroids = (generator.integers(-2, 3, (cells, dimensions)) / 4).astype(np.float32)
    query = (generator.integers(-2, 3, dimensions) / 4).astype(np.float32)
    allowed = generator.random(total) < share
    bits = np.packbits(allowed, bitorder="little") if share else np.zeros(0, np.uint8)
    halves = vectors.astype(np.float16)

    found, scores = kernels().nearest(
        *(query, centroids.ctypes.data, probes, count),
        halves.ctypes.data + (ends - sizes) * dimensions * halves.itemsize,
        rows.ctypes.data + (ends - sizes) * rows.itemsize,
        *(sizes, bits),
    )

    probed = np.lexsort((np.arange(cells), -(centroids @ query)))[:probes]
    passing = np.isin(np.repeat(np.arange(cells), sizes), probed)
    if share:
        passing &= allowed[rows]
    products = (vectors[passing] @ query).astype(np.float32)
    best = np.lexsort((rows[passing], -products))[:count]
    assert found.tolist() == rows[passing][best].tolist()
    assert scores.tolist() == products[best].tolist()


def test_a_query_that_is_no_number_finds_nothing() -> None:
    vectors, centroids = np.ones((40, 16), np.float16), np.ones((2, 16), np.float32)
    query, rows = np.full(16, np.nan, np.float32), np.arange(40)

    found, scores = kernels().nearest(
        *(query, centroids.ctypes.data, 2, 40),
        *(np.full(2, array.ctypes.data) for array in (vectors, rows)),
        *(np.array([40, 40]), np.zeros(0, np.uint8)),
    )

    assert len(found) == len(scores) == 0


@given(st.integers(0, 10_000), st.sampled_from([16, 64]), st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_a_product_depends_on_its_two_vectors_alone(seed: int, dimensions: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((count, dimensions)).astype(np.float32)
    directions = generator.standard_normal((3, dimensions)).astype(np.float32)
    columns, found = np.array([4, 0, 2]), np.full((5, count), np.nan, np.float32)

    kernels().products(vectors, directions, columns, found)

    exact = directions.astype(np.float64) @ vectors.astype(np.float64).T
    np.testing.assert_allclose(found[columns], exact, atol=1e-5 * dimensions)
    assert np.isnan(found[[1, 3]]).all()
    for row in range(count):
        alone = np.empty((5, 1), np.float32)
        kernels().products(vectors[row : row + 1], directions, columns, alone)
        assert alone[columns, 0].tolist() == found[columns, row].tolist()
