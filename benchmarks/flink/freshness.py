"""Time from an event until recommendations that a user polls for know it, served from Flink."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from benchmarks.figures import Figure, percentile_figure
from benchmarks.flink.cluster import flink
from benchmarks.flink.place import kafka, new_log
from benchmarks.services import mariadb, redis
from benchmarks.streaming.server import Server, worker
from tactful.config.settings import PACKAGED_FEATURES

_ITEMS = [f"i{number}" for number in range(30)]
_RATE, _BATCH = 500, 50
_PAUSE_S = 0.002
_PATIENCE_S = 120.0


def freshness(quick: bool, scratch: Path) -> list[Figure]:
    """Post views and poll for lists without the viewed item; nothing waits on `after`.

    Each probe is a new user, who asks with `exclude_seen`: the item leaves the list once the values
    that Flink has computed include the view.
    """
    seconds = 20 if quick else 120
    with ExitStack() as stack:
        servers = stack.enter_context(kafka(scratch))
        url = stack.enter_context(redis(scratch))
        database = stack.enter_context(mariadb(scratch))
        settings = new_log(servers).settings("flink", "flink", url)
        settings |= {"TACTFUL_METADATA_URL": database}
        settings |= {"TACTFUL_METADATA__URL_ENV": "TACTFUL_METADATA_URL"}
        cluster = stack.enter_context(flink(scratch))
        server = Server(scratch / "server", settings)
        stack.callback(server.stop)
        stack.enter_context(worker(scratch / "worker", settings))
        cluster.submit(PACKAGED_FEATURES, settings, checkpoint="10s")
        client = stack.enter_context(httpx.Client(base_url=server.url, timeout=30))
        client.put("/v1/items", json=[{"item_id": it} for it in _ITEMS]).raise_for_status()
        first = _probe(client, 0)
        with _load(server.url) as sent:
            began, taken = time.monotonic(), [_probe(client, 1)]
            while time.monotonic() < began + seconds:
                taken.append(_probe(client, len(taken) + 1))
            rate = sent() / (time.monotonic() - began)
    note = (
        "a view posted until /v1/recommend, polled without `after`, leaves the item out; Apache "
        f"Kafka, Flink with two subtasks, one worker, Redis, MariaDB; {rate:,.0f} events/s beside "
        f"it; the first list took {first:.1f} s, with the start of the job"
    )
    return [
        percentile_figure("flink_freshness_p50_ms", taken, 50, note),
        percentile_figure("flink_freshness_p99_ms", taken, 99, note),
    ]


def _probe(client: httpx.Client, number: int) -> float:
    """Return the seconds from a new user's first view until a list without the item."""
    user, item = f"probe-{number}", _ITEMS[number % len(_ITEMS)]
    if number:
        assert item in _shown(client, user), "the item was not shown before it was viewed"
    began = time.perf_counter()
    client.post("/v1/events", json=[_view(user, item)]).raise_for_status()
    while item in (shown := _shown(client, user)) or not shown:
        if time.perf_counter() > began + _PATIENCE_S:
            raise TimeoutError(f"no list knew of an event within {_PATIENCE_S:g} s")
        time.sleep(_PAUSE_S)
    return time.perf_counter() - began


def _shown(client: httpx.Client, user: str) -> set[str]:
    asked = {"user_id": user, "count": len(_ITEMS), "exclude_seen": True}
    answer = client.post("/v1/recommend", json=asked)
    if answer.status_code == 503:  # there is no copy before the job has published anything
        return set()
    answer.raise_for_status()
    return {item["item_id"] for item in answer.json()["items"]}


def _view(user: str, item: str) -> dict[str, object]:
    now = time.time_ns()
    return {
        "event_id": f"{user}-{now}",
        "type": "view",
        "timestamp": now // 1_000_000,
        "user_id": user,
        "item_id": item,
    }


@contextmanager
def _load(url: str) -> Iterator[Callable[[], int]]:
    """Post events of other users beside the probes; yield the function that counts them."""
    over, rng, count = threading.Event(), random.Random(1), 0

    def post() -> None:
        nonlocal count
        with httpx.Client(base_url=url, timeout=30) as client:
            due = time.monotonic()
            while not over.wait(max(due - time.monotonic(), 0)):
                users = [f"u{rng.randrange(2000)}" for _ in range(_BATCH)]
                events = [
                    {**_view(user, rng.choice(_ITEMS)), "event_id": f"{due}-{n}"}
                    for n, user in enumerate(users)
                ]
                client.post("/v1/events", json=events).raise_for_status()
                count += _BATCH
                due += _BATCH / _RATE

    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    try:
        yield lambda: count
    finally:
        over.set()
        thread.join()
