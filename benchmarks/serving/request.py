"""The whole request over HTTP, against the bare sum of the two libraries it stands on.

The bare sum is one search by Faiss itself for the best 1,000 and one XGBoost prediction (300 trees
of depth 6, 1,000 rows of 40 columns), called here one after the other. In turn with it, one request
goes to a server of the product in a process of its own, which searches an index of the same vectors
for 1,000 candidates, asks its other channels, assembles all columns, ranks, answers and logs the
list. What the bare sum leaves out, HTTP, features, JSON and the log, is in the request's time.

The caller is a bare socket. `http.client` takes some 0.35 ms of processor time more for a request,
and that is not what a server is asked for.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path

import faiss
import numpy as np
import xgboost
from numpy.typing import NDArray

from benchmarks.figures import Figure, interleave
from benchmarks.serving.build import CANDIDATES
from benchmarks.serving.overload import closed
from benchmarks.serving.ranking import forest
from benchmarks.serving.shop import PEOPLE, VIEWS, person
from tactful.ranking.model import version_directory
from tactful.recall.index import RecallIndex
from tactful.vectors.build_index import mixtures

BARE_COLUMNS = 40
_LIST = 20
_ITEM = b'"item_id":'


@contextmanager
def serving(data: Path, workers: int = 0) -> Iterator[Served]:
    """A server of its own process on a data directory, with all items in its lists."""
    with (data / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.server", str(data), str(workers)],
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: see {data / 'server.log'}")
        served = Served(json.loads(line)["port"], process.pid)
        while served.get("/readyz") != 200 or served.recommend(0) != _LIST:
            time.sleep(0.1)
        yield served
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()


class Served:
    """A server that runs.

    Attributes:
        port: where it answers.
        pid: of the process that was started.
    """

    def __init__(self, port: int, pid: int) -> None:
        """Talk to the server on `port`."""
        self.port = port
        self.pid = pid
        self._wire = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path: str) -> int:
        """The status of an answer."""
        return self._ask("GET", path)[0]

    def recommend(self, number: int) -> int:
        """Ask for a list for one of the shop's people in one of their visits; how long it is.

        Raises:
            RuntimeError: if there is none.
        """
        visits = PEOPLE * VIEWS // 8
        asked = {
            "user_id": person(number % PEOPLE),
            "session_id": f"s-{(number % PEOPLE + PEOPLE * (number // PEOPLE)) % visits}",
            "count": _LIST,
        }
        status, body = self._ask("POST", "/v1/recommend", json.dumps(asked).encode())
        if status != 200:
            raise RuntimeError(f"a request was answered with {status}")
        return body.count(_ITEM)

    def workers(self) -> list[int]:
        """Process ids of its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def cpu_s(self) -> float:
        """Processor seconds of it and its children so far."""
        return sum(cpu_s(pid) for pid in (self.pid, *self.workers()))

    def _ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of an answer.

        Raises:
            ConnectionError: if the server closes the connection before it is whole.
        """
        self._wire.sendall(
            b"%b %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (method.encode(), path.encode(), len(body), body)
        )
        answer = b""
        while True:
            part = self._wire.recv(1 << 16)
            if not part:
                raise ConnectionError(f"{method} {path}: the server closed the connection")
            answer += part
            head, ended, found = answer.partition(b"\r\n\r\n")
            if ended:
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                if len(found) == length:
                    return int(head[9:12]), found


def request_figures(data: Path, quick: bool) -> list[Figure]:
    """In turn with the bare sum at one caller, then as fast as one process can.

    Args:
        data: from `open_shop`.
        quick: fewer rounds.
    """
    index = RecallIndex.load(version_directory(data / "models", "1") / "index")
    bare = _bare(index)
    rounds = 100 if quick else 600
    with serving(data) as served:
        numbers = cycle(np.random.default_rng(3).integers(0, 10 * PEOPLE, 997).tolist())
        for _ in range(50):
            if served.recommend(next(numbers)) != _LIST:
                raise AssertionError("a list is shorter than what was asked for")
        timings = interleave(
            {"bare": bare, "request": lambda: served.recommend(next(numbers))}, rounds
        )
        before, began = served.cpu_s(), time.perf_counter()
        load = closed(served.port, waiting=4, seconds=4.0 if quick else 15.0)
        span, cpu_s = time.perf_counter() - began, served.cpu_s() - before
    answered = len(load.answered)
    bare_ms, request_ms = (np.array(timings[who].seconds) * 1e3 for who in ("bare", "request"))
    shape = f"{len(index.item_ids):,} items, {CANDIDATES} candidates, 300 trees of depth 6, HTTP"
    return [
        *_ratio("request_p50_vs_bare", request_ms, bare_ms, 50, shape),
        *_ratio("request_p99_vs_bare", request_ms, bare_ms, 99, shape),
        Figure(
            "requests_per_s_per_core",
            answered / cpu_s,
            "requests/s",
            runs=answered,
            note=f"answers by processor seconds of the server, 4 callers, {load.failed} failed; "
            f"{answered / span:.0f} a second by the clock, beside whatever else ran; {shape}",
        ),
    ]


def memory_figure(data: Path) -> Figure:
    """Private memory of a worker, beside another one and the process that keeps the state."""
    with serving(data, workers=2) as served:
        for number in range(400):
            served.recommend(number)
        # New connections, so that both have answered.
        load = closed(served.port, waiting=8, seconds=5.0)
        sizes = sorted(map(private_mb, served.workers()))
        mapped = max(map(mapped_mb, served.workers()))
        keeper = private_mb(served.pid)
    note = (
        f"of {len(sizes)} workers of `tactful serve --workers` after {len(load.answered)} more "
        f"lists, with everything that it has of its own; pages of files that it alone had touched "
        f"by then, in memory once for all workers, are not counted: {mapped:,.0f} MB at most; the "
        f"process that keeps the state: {keeper:,.0f} MB"
    )
    return Figure("worker_private_mb", sizes[-1], "MB", sizes[0], sizes[-1], len(sizes), note)


def private_mb(process: int) -> float:
    """Memory that only this process has and that no file holds.

    A page of a mapped file is in memory once, however many processes map it; that one of them alone
    has touched it yet (``Private_Clean``) says nothing of what another process would cost.
    """
    return _private(process, "Private_Dirty:")


def mapped_mb(process: int) -> float:
    """Pages of files that no other process has touched yet: they are in memory once for all."""
    return _private(process, "Private_Clean:")


def _private(process: int, kind: str) -> float:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def _bare(index: RecallIndex) -> Callable[[], object]:
    queries = cycle(mixtures(index.nearest, 200, seed=4).vectors)
    trees = forest("rank:ndcg", 0, trees=300, columns=BARE_COLUMNS)
    generator = np.random.default_rng(5)
    rows = cycle(
        [generator.standard_normal((CANDIDATES, BARE_COLUMNS)).astype(np.float32) for _ in range(9)]
    )

    cells, probing = index.nearest.cells, faiss.SearchParametersIVF()
    probing.nprobe = index.nearest.tuning.probes
    faiss.omp_set_num_threads(1)

    def once() -> object:
        query = next(queries)[None, :]
        if cells is None:  # a shop so small that the index is exact
            index.nearest.nearest(query[0], CANDIDATES)
        else:
            cells.search(query, CANDIDATES, params=probing)
        return trees.inplace_predict(next(rows), predict_type="margin")

    assert isinstance(trees, xgboost.Booster)
    return once


def _ratio(
    name: str, ours: NDArray[np.float64], theirs: NDArray[np.float64], share: int, shape: str
) -> list[Figure]:
    """The quotient of two percentiles, with a bootstrap interval over rounds."""
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(ours), (400, len(ours)))
    quotients = np.percentile(ours[drawn], share, 1) / np.percentile(theirs[drawn], share, 1)
    low, high = np.percentile(quotients, [2.5, 97.5]).tolist()
    mine, bare = float(np.percentile(ours, share)), float(np.percentile(theirs, share))
    value = mine / bare
    note = f"{mine:.2f} ms by {bare:.2f} ms, in turn in one run, 95 % bootstrap; {shape}"
    return [
        Figure(name, value, "1", min(low, value), max(high, value), len(ours), note),
        Figure(f"request_p{share}_ms", mine, "ms", runs=len(ours), note=shape),
        Figure(f"bare_p{share}_ms", bare, "ms", runs=len(ours), note="one search, one prediction"),
    ]


def cpu_s(process: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100
