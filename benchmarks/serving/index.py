"""Recall alone: a large index, what it finds, and how soon a change is found.

The vectors are made up: clusters of unequal size and width, 64 dimensions, unit length. The queries
are mixtures of one to four items. The index is the product's own, tuned by itself; the queries it
is measured on here are others than those it was tuned on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure
from benchmarks.serving.shop import DIMENSIONS, Shop
from tactful.catalogue.ids import ItemIds
from tactful.client import Client
from tactful.util.checksummed_directory import sealing
from tactful.vectors.build_index import build_vector_index, mixtures
from tactful.vectors.ivf_index import VectorIndex
from tactful.vectors.updatable_index import LiveIndex

_AT = 1_000
_FRESH = 20


def index_figures(quick: bool) -> list[Figure]:
    """Build once; measure what is found, how fast and how soon."""
    items = 100_000 if quick else 1_000_000
    vectors = Shop.of(items).vectors
    started = time.perf_counter()
    index = build_vector_index(vectors, threads=2)
    build_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name:
        place = Path(name)
        ids = ItemIds.of([f"item-{number}" for number in range(items)])
        index.save(place / "index")
        with sealing(place / "ids") as scratch:
            ids.save(scratch)
        loaded = VectorIndex.load(place / "index")
        queries = mixtures(loaded, 100 if quick else 300, seed=99).vectors
        np.save(place / "queries.npy", queries)
        return [
            *_recall(loaded, queries, build_s),
            *_fresh(place / "live", ids, loaded),
            _visible(place / "server"),
        ]


def _recall(index: VectorIndex, queries: NDArray[np.float32], build_s: float) -> list[Figure]:
    exact = VectorIndex(index.vectors)
    shares, cpu_ms = [], []
    for query in queries:
        started = time.thread_time()
        found, _ = index.nearest(query, _AT)
        cpu_ms.append((time.thread_time() - started) * 1e3)
        wanted, _ = exact.nearest(query, _AT)
        shares.append(len(np.intersect1d(found, wanted)) / _AT)
    error = 1.96 * float(np.std(shares)) / np.sqrt(len(shares))
    recall = float(np.mean(shares))
    tuning = index.tuning
    note = (
        f"{index.size:,} made-up vectors, {tuning.probes} of {tuning.cells} cells probed, "
        f"{tuning.recall:.3f} by the index's own check"
    )
    p50, p99 = np.percentile(cpu_ms, [50, 99]).tolist()
    return [
        Figure("recall_at_1000", recall, "1", recall - error, recall + error, len(shares), note),
        Figure("index_search_p50_ms", p50, "ms", runs=len(cpu_ms), note="CPU time, best 1,000"),
        Figure("index_search_p99_ms", p99, "ms", runs=len(cpu_ms), note="CPU time, best 1,000"),
        Figure("index_build_s", build_s, "s", runs=1, note=f"{index.size:,} vectors, tuned"),
    ]


def _fresh(place: Path, ids: ItemIds, index: VectorIndex) -> list[Figure]:
    """From handing over a vector to finding it, beside 2,000 earlier changes."""
    generator = np.random.default_rng(1)
    samples = []
    with LiveIndex(place, ids, index, writes=True) as live:
        earlier = generator.standard_normal((2_000, DIMENSIONS)).astype(np.float32)
        live.update({f"earlier-{n}": vector for n, vector in enumerate(earlier)})
        for number in range(_FRESH):
            vector = generator.standard_normal(DIMENSIONS).astype(np.float32)
            started = time.perf_counter()
            live.update({f"fresh-{number}": vector})
            rows, _ = live.snapshot.nearest(vector, 1)
            samples.append((time.perf_counter() - started) * 1e3)
            if rows.tolist() != live.snapshot.rows_of([f"fresh-{number}"]):
                raise AssertionError("a vector that was taken in was not found")
    samples.sort()
    note = f"journal, delta and search; {len(ids):,} items"
    return [
        Figure("fresh_vector_ms", samples[_FRESH // 2], "ms", samples[0], samples[-1], _FRESH, note)
    ]


def _visible(place: Path) -> Figure:
    """From sending an item over HTTP to a list that holds it."""
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "tactful", "serve", "--dev", "--json", "--port", "0"),
            *("--data", str(place)),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout is not None

        client = Client(json.loads(server.stdout.readline())["url"], timeout=60.0)
        client.items([{"item_id": f"old-{n}", "category": "old"} for n in range(1_000)])
        samples = []
        for number in range(_FRESH):
            category = f"new-{number}"
            started = time.perf_counter()
            client.items([{"item_id": category, "category": category}])
            while not client.recommend(category=category, count=1).items:
                time.sleep(0.005)
            samples.append(time.perf_counter() - started)
        client.close()
    finally:
        server.terminate()
        server.wait(60)
    samples.sort()
    note = "the slowest of them; over HTTP, a shop of 1,000 items"
    return Figure("fresh_item_visible_s", samples[-1], "s", samples[0], samples[-1], _FRESH, note)
