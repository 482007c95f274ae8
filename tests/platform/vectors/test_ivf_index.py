"""Search against brute force: exact where it says so, tuned elsewhere, and filters always hold."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import faiss
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.vectors.build_index import Queries, build_vector_index, mixtures
from tactful.vectors.ivf_index import EXACT_BELOW, Tuning, VectorIndex, best

ROWS, DIMENSIONS = 6_000, 16


def clustered(rows: int = ROWS, *, seed: int = 0, absent: float = 0.02) -> NDArray[np.float32]:
    """Unit vectors around a few centres, and some rows of zeros."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((40, DIMENSIONS))
    vectors = centres[generator.integers(0, 40, rows)]
    vectors += 0.7 * generator.standard_normal(vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[generator.random(rows) < absent] = 0.0
    return vectors.astype(np.float32)


def by_hand(
    vectors: NDArray[np.float32], query: NDArray[np.float32], count: int, allowed: NDArray[np.bool_]
) -> set[int]:
    passing = np.flatnonzero(allowed & vectors.any(axis=1))
    scores = vectors[passing].astype(np.float64) @ query
    return set(passing[np.argsort(-scores)[:count]].tolist())


@cache
def large() -> tuple[VectorIndex, Queries]:
    """An index with cells, tuned on half of what it is asked here."""
    vectors = clustered()
    queries = mixtures(VectorIndex(vectors), 200, seed=5)
    asked = Queries(queries.vectors, "visits")
    return build_vector_index(vectors, queries=asked, exact_below=500), asked


vectors_of_few = st.integers(0, 9).map(lambda seed: clustered(300, seed=seed, absent=0.2))


@given(vectors_of_few, st.integers(1, 400), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_exact_search(vectors: NDArray[np.float32], count: int, share: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    allowed = generator.random(300) < share
    query = generator.standard_normal(DIMENSIONS).astype(np.float32)
    rows, scores = VectorIndex(vectors).nearest(query, count, allowed)
    assert set(rows.tolist()) == by_hand(vectors, query, count, allowed)
    assert scores == pytest.approx(vectors[rows] @ query, abs=1e-5)
    assert (np.diff(scores) <= 0).all()


def test_ties_go_to_the_lower_row_and_large_counts_are_cut() -> None:
    rows, scores = np.arange(6), np.array([1, 3, 1, 3, 2, 1], np.float32)
    for count in range(8):
        found, kept = best(rows, scores, count)
        assert found.tolist() == [1, 3, 4, 0, 2, 5][:count]
        assert kept.tolist() == [3, 3, 2, 1, 1, 1][:count]


KINDS = st.sampled_from(["none", "random", "cluster"])


@given(KINDS, st.floats(0, 1), st.integers(0, 199), st.integers(1, 1_500))
@settings(max_examples=120, deadline=None)
def test_filters_always_hold(kind: str, share: float, number: int, count: int) -> None:
    index, queries = large()
    query = queries.vectors[number]
    if kind == "cluster":  # as a category is: far from independent of the query
        allowed = np.isin(np.argsort(-(index.vectors @ query)), np.arange(int(share * ROWS)))
    else:
        allowed = np.random.default_rng(number).random(ROWS) < (1.0 if kind == "none" else share)
    rows, scores = index.nearest(query, count, None if kind == "none" else allowed)
    wanted = by_hand(index.vectors, query, count, allowed)
    assert len(set(rows.tolist())) == len(rows) == len(wanted), "as many as there are, each once"
    assert allowed[rows].all()
    assert index.vectors[rows].any(axis=1).all()
    assert (np.diff(scores) <= 0).all()
    assert scores == pytest.approx(index.vectors[rows] @ query, abs=2e-3), "stored in 16 bits"
    if np.count_nonzero(allowed & index.vectors.any(axis=1)) <= 500:
        assert set(rows.tolist()) == wanted


@cache
def tied() -> VectorIndex:
    """An index of few different vectors, so that many are exactly as near as others."""
    generator = np.random.default_rng(3)
    vectors = (generator.integers(-1, 2, (ROWS, DIMENSIONS)) / 4).astype(np.float32)
    vectors[ROWS // 2 :] = vectors[: ROWS // 2]
    return build_vector_index(vectors, exact_below=500, target=0.8)


@given(st.integers(1, 2_000), st.floats(0.3, 1), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_filtered_search_equals_a_full_one(count: int, share: float, seed: int) -> None:
    index, generator = tied(), np.random.default_rng(seed)
    allowed = generator.random(ROWS) < share
    query = generator.integers(-1, 2, DIMENSIONS).astype(np.float32)
    probes = index._select(allowed).probes
    assert probes
    rows, scores = index.nearest(query, count, allowed)
    parameters = faiss.SearchParametersIVF()
    parameters.nprobe = probes
    near, labels = index.cells.search(query[None, :], ROWS, params=parameters)
    passing = (labels[0] >= 0) & allowed[labels[0]]
    near, labels = near[0][passing], labels[0][passing]
    if len(labels) >= count:
        wanted = np.lexsort((labels, -near))
        assert scores.tolist() == near[wanted[:count]].tolist()
        # Of those exactly as near as the last one, Faiss keeps any; they are in order of rows.
        nearer = int(np.count_nonzero(near > scores[-1]))
        assert rows[:nearer].tolist() == labels[wanted[:nearer]].tolist()
        assert (np.diff(rows[nearer:]) > 0).all()
        assert set(rows[nearer:].tolist()) <= set(labels[near == scores[-1]].tolist())
    else:  # too few in the cells near the query: compared one by one
        assert len(rows) == min(count, int((allowed & index.present).sum()))


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [16, 48, 20])
def test_products_in_cells_are_those_of_faiss(dimensions: int) -> None:
    generator = np.random.default_rng(dimensions)
    vectors = generator.standard_normal((ROWS, dimensions)).astype(np.float32)
    vectors *= 10.0 ** generator.uniform(-8, 4, vectors.shape).astype(np.float32)
    vectors[:, 0] = np.where(generator.random(ROWS) < 0.5, 0.0, -0.0)
    index = build_vector_index(vectors, exact_below=500, target=0.5)
    query = generator.standard_normal(dimensions).astype(np.float32)
    everything = msgspec.structs.replace(index.tuning, probes=index.tuning.cells)
    index = VectorIndex(vectors, cells=index.cells, tuning=everything)
    rows, scores = index.nearest(query, ROWS)
    parameters = faiss.SearchParametersIVF()
    parameters.nprobe = index.tuning.cells
    near, labels = index.cells.search(query[None, :], ROWS, params=parameters)
    wanted = np.empty(ROWS, np.float32)
    wanted[labels[0]] = near[0]
    assert sorted(rows.tolist()) == list(range(ROWS))
    size = np.abs(vectors[rows]) @ np.abs(query)
    assert np.all(np.abs(scores - wanted[rows]) <= 1e-6 * size + 1e-12)


def test_the_probes_are_the_fewest_that_reach_the_target() -> None:
    index, queries = large()
    tuning = index.tuning
    everything = np.ones(ROWS, np.bool_)

    def recall(at: VectorIndex, part: slice) -> tuple[float, float]:
        found = [
            len(by_hand(at.vectors, q, 1_000, everything) & set(at.nearest(q, 1_000)[0].tolist()))
            / 1_000
            for q in queries.vectors[part]
        ]
        return float(np.mean(found)), float(np.std(found)) / np.sqrt(len(found))

    assert tuning.source == "visits"
    assert 0 < tuning.probes < tuning.cells
    checked, _ = recall(index, slice(100, None))
    assert tuning.recall == pytest.approx(checked, abs=1e-3)
    assert checked >= tuning.target
    ladder = sorted({round(2 ** (step / 8)) for step in range(16, 128)})
    less = ladder[ladder.index(tuning.probes) - 1]
    untuned = msgspec.structs.replace(tuning, probes=less)
    fewer = VectorIndex(index.vectors, cells=index.cells, tuning=untuned)
    mean, error = recall(fewer, slice(0, 100))
    assert min(mean - 2 * error, recall(fewer, slice(100, None))[0]) < tuning.target


def test_a_target_out_of_reach_is_reported_not_hidden(caplog: pytest.LogCaptureFixture) -> None:
    index, queries = large()
    with caplog.at_level(logging.INFO, logger="tactful.vectors.build_index"):
        again = build_vector_index(
            index.vectors, queries=queries, target=1.0, exact_below=500, before=index
        )
    assert again.tuning.recall <= 1.0
    assert again.tuning.probes == again.tuning.cells
    levels = {record.levelname for record in caplog.records}
    assert levels == ({"INFO"} if again.tuning.recall == 1.0 else {"WARNING"})
    assert "cells find" in caplog.text


def test_how_many_vectors_decides_between_the_two_ways() -> None:
    vectors = clustered(600, absent=0.0)
    vectors[:100] = 0.0
    assert build_vector_index(vectors, exact_below=500).tuning.cells == 0
    assert build_vector_index(vectors, exact_below=499).tuning.cells > 0
    assert build_vector_index(vectors).tuning == Tuning(exact_below=EXACT_BELOW)


@pytest.mark.slow
def test_cells_are_taken_over_until_the_index_has_outgrown_them() -> None:
    first = build_vector_index(clustered(1_000, absent=0.0), exact_below=100)
    kept = build_vector_index(clustered(1_500, absent=0.0), exact_below=100, before=first)
    assert (kept.tuning.trained_on, kept.tuning.cells) == (1_000, first.tuning.cells)
    anew = build_vector_index(clustered(1_501, absent=0.0), exact_below=100, before=kept)
    assert anew.tuning.trained_on == 1_501
    assert first.nearest(first.vectors[3], 1)[0].tolist() == [3], "the old one is as it was"


@pytest.mark.slow
def test_the_same_vectors_give_the_same_index() -> None:
    first, second = (build_vector_index(clustered(2_000), exact_below=100) for _ in "ab")
    assert first.tuning == second.tuning
    for query in clustered(20, seed=9, absent=0.0):
        assert first.nearest(query, 50)[0].tolist() == second.nearest(query, 50)[0].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("exact_below", [500, EXACT_BELOW])
def test_a_loaded_index_answers_as_the_built_one(tmp_path: Path, exact_below: int) -> None:
    built = build_vector_index(clustered(), exact_below=exact_below)
    built.save(tmp_path / "index")
    loaded = VectorIndex.load(tmp_path / "index")
    assert loaded.tuning == built.tuning
    assert isinstance(loaded.vectors.base, np.memmap)
    allowed = np.random.default_rng(0).random(ROWS) < 0.6
    for query in clustered(20, seed=3, absent=0.0):
        rows, scores = built.nearest(query, 300, allowed)
        again, as_well = loaded.nearest(query, 300, allowed)
        assert np.array_equal(rows, again)
        assert np.array_equal(scores, as_well)


def test_a_damaged_index_is_refused_with_the_name_of_the_file(tmp_path: Path) -> None:
    large()[0].save(tmp_path / "index")
    for name in ("about.json", "vectors.npy", "present.npy", "cells.faiss"):
        path = tmp_path / "index" / name
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 0xFF
        for damaged in (flipped, whole[:-1]):
            path.write_bytes(damaged)
            with pytest.raises(ModelError, match=f"{name}: damaged"):
                VectorIndex.load(tmp_path / "index")
        path.write_bytes(whole)
    assert VectorIndex.load(tmp_path / "index").size == large()[0].size


def test_a_filter_that_may_still_change_is_read_anew() -> None:
    index, queries = large()
    allowed = np.ones(ROWS, np.bool_)
    first = index.nearest(queries.vectors[0], 5, allowed)[0]
    allowed[first] = False
    assert not set(index.nearest(queries.vectors[0], 5, allowed)[0]) & set(first)
    allowed.flags.writeable = False
    again = index.nearest(queries.vectors[0], 5, allowed)[0]
    assert again.tolist() == index.nearest(queries.vectors[0], 5, allowed)[0].tolist()
