"""Time of a search among 100,000 items, in process and over HTTP, on one core."""

from __future__ import annotations

import contextlib
import os
import random
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np

from benchmarks.figures import Figure, percentile_figure
from benchmarks.search import catalogue
from benchmarks.serving.importing import server
from tactful.search.meaning import Meaning
from tactful.search.query import read_query
from tactful.search.text_index import TextIndex
from tactful_streaming.contract.log_entries import Item

FIGURES = (
    ("search_p99_ms", "ms"),
    ("search_p50_ms", "ms"),
    ("search_cpu_p99_ms", "ms"),
    ("search_cpu_p50_ms", "ms"),
    ("search_in_process_p99_ms", "ms"),
    ("search_in_process_p50_ms", "ms"),
    ("search_build_s", "s"),
    ("search_near_p99_ms", "ms"),
    ("search_near_build_s", "s"),
    ("search_visible_p99_ms", "ms"),
)
_ITEMS, _QUICK_ITEMS = 100_000, 10_000
_SEARCHES, _QUICK_SEARCHES = 3_000, 300
_PEOPLE = 200
_DIMENSIONS = 384
_WORD = re.compile(r"\w+")


def latency(quick: bool) -> list[Figure]:
    """Measure searches of one to three words, of which a third have a typing error."""
    source = catalogue.load()
    items = catalogue.shop(_QUICK_ITEMS if quick else _ITEMS, source)
    queries = _queries(source, _QUICK_SEARCHES if quick else _SEARCHES)
    note = f"{len(items):,} items; 1 to 3 words, a third with an error, a third unfinished; 1 core"
    with _one_core(0):
        figures = [*_in_process(items, queries, note), *_near(len(items))]
        return [*figures, *_over_http(items, queries, note)]


def _queries(source: catalogue.Titles, count: int) -> list[str]:
    rng = random.Random(7)
    words = [word for title, _ in source.titles for word in _WORD.findall(title.lower())]
    queries = []
    for number in range(count):
        chosen = rng.sample(words, rng.randint(1, 3))
        if number % 3 == 0:
            chosen[0] = misspelt(chosen[0], rng)
        elif number % 3 == 1:
            chosen[-1] = chosen[-1][: max(3, len(chosen[-1]) // 2)]
        queries.append(" ".join(chosen))
    return queries


def misspelt(word: str, rng: random.Random) -> str:
    """Leave a letter out, double one, replace one or exchange two neighbours."""
    if len(word) < 4:
        return word
    at, letter = rng.randrange(1, len(word) - 1), rng.choice("abcdefghijklmnopqrstuvwxyz")
    return rng.choice(
        [
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + letter + word[at + 1 :],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        ]
    )


def _in_process(items: list[Item], queries: list[str], note: str) -> list[Figure]:
    index = TextIndex()
    began = time.perf_counter()
    index.put(items)
    built = time.perf_counter() - began
    seconds = []
    for query in queries:
        began = time.perf_counter()
        index.find(read_query(query))
        seconds.append(time.perf_counter() - began)
    return [
        percentile_figure("search_in_process_p99_ms", seconds, 99, f"{note}; all matches"),
        percentile_figure("search_in_process_p50_ms", seconds, 50, f"{note}; all matches"),
        Figure("search_build_s", built, "s", note="words of all items, from nothing"),
    ]


def _near(count: int) -> list[Figure]:
    """Measure the search of vectors alone: in groups, as titles of a shop are."""
    rng = np.random.default_rng(3)
    groups = rng.normal(size=(500, _DIMENSIONS))
    rows = groups[rng.integers(0, 500, count)] + rng.normal(size=(count, _DIMENSIONS))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    waiting = [{f"i{number}": row for number, row in enumerate(rows)}]
    meaning = Meaning(lambda: waiting.pop() if waiting else {}, _DIMENSIONS)
    began = time.process_time()
    meaning.refresh()
    built = time.process_time() - began
    seconds = []
    for row in rows[:: max(1, count // 500)]:
        began = time.process_time()
        meaning.near(row)
        seconds.append(time.process_time() - began)
    note = f"{count:,} vectors of {_DIMENSIONS} numbers in 500 groups; processor time"
    return [
        percentile_figure("search_near_p99_ms", seconds, 99, f"{note}; the nearest hundred"),
        Figure("search_near_build_s", built, "s", note=f"{note}; in the background"),
    ]


def _over_http(items: list[Item], queries: list[str], note: str) -> list[Figure]:
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder)) as (pid, url),
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        os.sched_setaffinity(pid, {0})
        with _one_core(-1):
            _fill(client, items)
            _search(client, {"query": "warm"})
            seconds, used = list[float](), list[float]()
            for number, query in enumerate(queries):
                asked: dict[str, object] = {"query": query, "facets": ["category", "price"]}
                if number % 2:
                    asked["user_id"] = f"u{number % _PEOPLE}"
                before = _cpu_s(pid)
                seconds.append(_search(client, asked))
                used.append(_cpu_s(pid) - before)
            visible = [_visible(client, number) for number in range(30)]
    told = f"{note}; POST /v1/search with two facets, half for known users without a model"
    return [
        percentile_figure("search_p99_ms", seconds, 99, told),
        percentile_figure("search_p50_ms", seconds, 50, told),
        percentile_figure("search_cpu_p99_ms", used, 99, f"{told}; processor time of the server"),
        percentile_figure("search_cpu_p50_ms", used, 50, f"{told}; processor time of the server"),
        percentile_figure(
            "search_visible_p99_ms", visible, 99, "from PUT /v1/items until it is found"
        ),
    ]


def _fill(client: httpx.Client, items: list[Item]) -> None:
    encoder = msgspec.json.Encoder()
    for start in range(0, len(items), 500):
        body = b"\n".join(_line(encoder, item) for item in items[start : start + 500])
        headers = {"content-type": "application/x-ndjson"}
        client.put("/v1/items", content=body, headers=headers).raise_for_status()
    now = int(time.time() * 1000)
    events = [
        {
            "event_id": f"e{number}",
            "type": "view",
            "timestamp": now - number * 1_000,
            "user_id": f"u{number % _PEOPLE}",
            "item_id": items[number * 7 % len(items)].item_id,
        }
        for number in range(_PEOPLE * 10)
    ]
    for start in range(0, len(events), 500):
        sent = client.post("/v1/events", json=events[start : start + 500]).json()
    _search(client, {"query": "ready", "after": sent["position"]})


def _line(encoder: msgspec.json.Encoder, item: Item) -> bytes:
    fields = {name: getattr(item, name) for name in ("item_id", "timestamp", "title", "category")}
    return encoder.encode({**fields, "price": item.price, "properties": item.properties})


def _search(client: httpx.Client, asked: dict[str, object]) -> float:
    began = time.perf_counter()
    answer = client.post("/v1/search", json=asked)
    took = time.perf_counter() - began
    answer.raise_for_status()
    return took


def _cpu_s(pid: int) -> float:
    """Return the processor time of all threads of a process, in nanoseconds' steps."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _visible(client: httpx.Client, number: int) -> float:
    now = int(time.time() * 1000)
    item = {"item_id": f"new-{number}", "title": f"novelty{number}x", "timestamp": now}
    began = time.perf_counter()
    answer = client.put("/v1/items", json=item)
    if answer.raise_for_status().json()["accepted"] != 1:
        raise RuntimeError(f"the item was refused: {answer.text}")
    while not client.post("/v1/search", json={"query": f"novelty{number}x"}).json()["items"]:
        time.sleep(0.002)
    return time.perf_counter() - began


@contextlib.contextmanager
def _one_core(core: int) -> Iterator[None]:
    """Run this process on one core, or with -1 on all but the first."""
    before = os.sched_getaffinity(0)
    every = {*range(os.cpu_count() or 1)}
    os.sched_setaffinity(0, {core} if core >= 0 else every - {0} or every)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
