"""The thread that takes over work of a request: all of it is done, and each piece once."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import pytest
from numba import types

from tactful.companion import Companion, Work, open_companion
from tactful.stored_vectors import StoredVectors
from tactful.vector_index import VectorIndex

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="for Linux with a second core",
)

_words: Any = types.CPointer(types.int64)  # type: ignore[no-untyped-call]
_self: Any = types.ExternalFunction("pthread_self", types.int64())


@numba.cfunc(types.void(_words))
def _count(words: Any) -> None:
    """Add the numbers up to the first word, count the call, and say which thread it was."""
    total = 0
    for number in range(words[0]):
        total += number
    words[1] = total
    words[2] += 1
    words[3] = _self()


@pytest.fixture(scope="module")
def helper() -> Iterator[Companion]:
    with Companion() as helper:
        yield helper


def _begin(helper: Companion, size: int) -> Work:
    return helper.begin(int(_count.address or 0), (size, -1, 0, 0))


def test_all_work_is_done_once_whoever_does_it(helper: Companion) -> None:
    chance = random.Random(5)
    by_helper = 0
    for _ in range(3_000):
        if chance.random() < 0.7:
            helper.rouse()
        time.sleep(chance.choice([0.0, 0.0, 0.00002, 0.0003]))
        work = _begin(helper, size := chance.choice([0, 3, 1_000, 30_000]))
        if chance.random() < 0.5:
            time.sleep(0.0)
        helper.finish(work)
        assert work.words[:3].tolist() == [size, size * (size - 1) // 2, 1]
        by_helper += int(work.words[3]) != threading.get_ident()
    assert by_helper > 0


def test_two_works_that_overlap_are_both_done(helper: Companion) -> None:
    helper.rouse()
    time.sleep(0.0005)
    first, second = _begin(helper, 1_000), _begin(helper, 2_000)
    helper.finish(second)
    helper.finish(first)
    assert [int(work.words[2]) for work in (first, second)] == [1, 1]
    assert [int(work.words[1]) for work in (first, second)] == [499_500, 1_999_000]


def test_one_that_is_awake_does_it_and_one_that_sleeps_leaves_it(helper: Companion) -> None:
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        helper.rouse()
        time.sleep(0.0003)
        work = _begin(helper, 10)
        time.sleep(0.0003)
        helper.finish(work)
        if int(work.words[3]) != threading.get_ident():
            break
    else:
        pytest.fail("it never did anything, although it was roused")
    time.sleep(0.5)
    work = _begin(helper, 10)
    helper.finish(work)
    assert work.words[2:].tolist() == [1, threading.get_ident()]


def test_once_awake_it_does_one_work_after_the_other_until_it_may_rest(helper: Companion) -> None:
    deadline = time.monotonic() + 30.0
    while True:
        assert time.monotonic() < deadline, "it never did three works, although it was roused"
        helper.rouse()
        time.sleep(0.0003)
        done = []
        for size in (10, 1_000, 100):
            done.append(_begin(helper, size))
            time.sleep(0.0001)
            helper.finish(done[-1])
        assert [work.words[2] for work in done] == [1, 1, 1]
        if threading.get_ident() not in [work.words[3] for work in done]:
            break
    helper.rest()
    work = _begin(helper, 10)
    assert helper._offered is None
    helper.finish(work)
    assert work.words[2:].tolist() == [1, threading.get_ident()]


def test_it_can_be_roused_as_soon_as_it_may_rest(helper: Companion) -> None:
    deadline = time.monotonic() + 30.0
    by_helper = 0
    while by_helper < 20:
        assert time.monotonic() < deadline, "it never did anything, although it was roused"
        helper.rouse()
        helper.rest()
        helper.rouse()
        work = _begin(helper, 1_000)
        time.sleep(0.0003)
        helper.finish(work)
        assert work.words[:3].tolist() == [1_000, 499_500, 1]
        by_helper += work.words[3] != threading.get_ident()


def test_it_ends_although_a_request_left_something() -> None:
    with Companion() as helper:
        helper.rouse()
        left = _begin(helper, 1_000)
    assert not helper._thread.is_alive()
    assert left.words[2] <= 1


def test_work_that_nobody_finished_is_not_in_the_way(helper: Companion) -> None:
    deadline = time.monotonic() + 30.0
    while helper._offered is None:
        assert time.monotonic() < deadline, "it never took anything, although it was roused"
        helper.rouse()
        time.sleep(0.0002)
        left = _begin(helper, 1_000)
    helper.rouse()
    assert left.words[:3].tolist() == [1_000, 499_500, 1]
    assert helper._offered is None


def test_it_does_not_spin_for_long_when_nobody_needs_it(helper: Companion) -> None:
    helper.rouse()
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.25


def test_what_is_left_after_the_end_is_done_here() -> None:
    with Companion() as helper:
        pass
    work = _begin(helper, 10)
    helper.finish(work)
    assert work.words[2:].tolist() == [1, threading.get_ident()]


def test_there_is_none_where_it_would_be_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert open_companion() is None


def test_it_finds_the_vectors_that_are_found_here(helper: Companion) -> None:
    generator = np.random.default_rng(4)
    centres = generator.standard_normal((40, 32))
    vectors = centres[generator.integers(0, 40, 6_000)] + generator.standard_normal((6_000, 32)) / 3
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    index = VectorIndex.build(vectors, exact_below=500)
    assert index.tuning.probes > 0
    chance, narrow = random.Random(6), np.arange(6_000) % 37 == 0
    for number in range(300):
        query = vectors[generator.integers(0, 6_000, 3)].mean(0)
        count = chance.choice([0, 1, 50, 900, 7_000])
        allowed = chance.choice([None, generator.random(6_000) < 0.5, narrow])
        if number % 3:
            helper.rouse()
            time.sleep(chance.choice([0.0, 0.0002]))
        finish = index.begin(query, count, allowed, helper)
        rows, scores = finish()
        wanted, products = index.nearest(query, count, allowed)
        assert rows.tolist() == wanted.tolist()
        assert scores.tolist() == products.tolist()


def test_it_makes_the_products_that_are_made_here(helper: Companion) -> None:
    generator = np.random.default_rng(8)
    chance = random.Random(9)
    for number in range(200):
        dimensions, count = chance.choice([5, 16, 33, 64]), chance.choice([0, 1, 40, 700])
        vectors = generator.standard_normal((900, dimensions)).astype(np.float32)
        changed = np.flatnonzero(generator.random(count) < 0.1)
        stored = StoredVectors(
            vectors[:500][: count // 2 + 1],
            kept=chance.choice([None, generator.random(count // 2 + 1) < 0.8]),
            rows=changed,
            vectors=vectors[: len(changed)],
        )
        rows = np.sort(generator.permutation(count)[: chance.choice([0, 1, 15, 16, 300])])
        directions = generator.standard_normal((chance.choice([1, 3]), dimensions))
        columns = [4, 0, 2][: len(directions)]
        mine, theirs = (np.full((5, len(rows)), np.nan, np.float32) for _ in range(2))
        if number % 3:
            helper.rouse()
            time.sleep(chance.choice([0.0, 0.0002]))
        given = rows, directions.astype(np.float32), columns
        finish = stored.begin_products(*given, theirs, helper)
        stored.begin_products(*given, mine, None)()
        finish()
        assert theirs.tobytes() == mine.tobytes()
        wanted = directions @ stored.of(rows).T.astype(np.float64)
        np.testing.assert_allclose(mine[columns], wanted, atol=1e-4)
