"""One replay through the embedded engine, workers and Flink: values and lists, row by row."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx

from benchmarks.figures import Figure
from benchmarks.flink.cluster import flink
from benchmarks.flink.place import compared, kafka, new_log, values_in
from benchmarks.services import mariadb, redis
from benchmarks.streaming.server import Server, worker
from tactful.config.settings import PACKAGED_FEATURES
from tactful.metadata.connections import online_tag
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.online.store import RedisOnlineStore

_PEOPLE = [f"u{number}" for number in range(40)]
_ITEMS = [f"i{number}" for number in range(200)]
_TYPES = ("view", "view", "view", "view", "click", "add_to_cart", "purchase")
_BATCH = 100
_LATEST_MS = 7_200_000
_TOLERANCE = 1e-9
_ASKED = 20
_TABLES_S, _PAUSE_S = 60.0, 1.0


def lists(quick: bool, scratch: Path) -> list[Figure]:
    """Send one replay to a log that three installations read, and compare all that they make of it.

    Then one value is changed in Redis by hand, which the comparison has to find.
    """
    count = 2_000 if quick else 40_000
    definitions = load_definitions(PACKAGED_FEATURES)
    with ExitStack() as stack:
        servers = stack.enter_context(kafka(scratch))
        url = stack.enter_context(redis(scratch))
        database = stack.enter_context(mariadb(scratch))
        log = new_log(servers)
        by_flink, by_workers = (
            log.settings(kind, prefix, url)
            for kind, prefix in (("flink", "flink"), ("embedded", "workers"))
        )
        embedded = log.settings("embedded", "engine", None)
        for settings in (by_flink, by_workers, embedded):
            # What servers learn of items from the log is learned once: it comes from no features.
            settings["TACTFUL_STORAGE__MODELS"] = str(scratch / "models")
            settings["TACTFUL_TRAINING__RECALL_SECONDS"] = "0"
        by_flink |= {"TACTFUL_METADATA_URL": database}
        by_flink |= {"TACTFUL_METADATA__URL_ENV": "TACTFUL_METADATA_URL"}
        cluster = stack.enter_context(flink(scratch))
        clients = []
        for name, settings in (("f", by_flink), ("w", by_workers), ("e", embedded)):
            server = Server(scratch / name, settings)
            stack.callback(server.stop)
            clients.append(stack.enter_context(httpx.Client(base_url=server.url, timeout=90)))
            if settings is not embedded:
                stack.enter_context(worker(scratch / f"{name}-worker", settings))
        cluster.submit(PACKAGED_FEATURES, by_flink, checkpoint="5s")
        after = _replay(clients[0], count)
        reports = [
            compared(by_flink, scratch, "--against", "workers"),
            compared(by_flink, scratch, "--against-state", str(scratch / "e")),
        ]
        _learn_recall(scratch, by_flink)
        lists_different = _await_equal(clients, after)
        with closing(RedisOnlineStore(url, prefix="flink", tag=online_tag(definitions))) as store:
            (other,) = store.get_many([_PEOPLE[1]])
            store.put_many({_PEOPLE[0]: other})
        planted = compared(by_flink, scratch, "--against", "workers")["different"]
    values = sum(values_in(report, definitions) for report in reports)
    found = [name for report in reports for name in _differing(report)]
    note = (
        f"{count:,} events; {values:,} values of users and visits by Flink, each compared with "
        "that of the workers or of the embedded engine, and as many lists as users with each: "
        f"{lists_different} lists different"
        + (f"; values of {', '.join(found[:5])} different" if found else "")
    )
    return [
        Figure(
            "flink_list_rows_different",
            sum(report["different"] for report in reports) + lists_different,
            "1",
            runs=values + 2 * len(_PEOPLE),
            note=note,
        ),
        Figure(
            "flink_planted_values_found",
            planted,
            "1",
            note="values found different after one user's were overwritten in Redis by hand",
        ),
    ]


def _learn_recall(scratch: Path, settings: Mapping[str, str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "tactful", "train", "--recall-only", "--data", str(scratch / "f")],
        env={**os.environ, **settings},
        check=True,
        capture_output=True,
    )


def _await_equal(clients: Sequence[httpx.Client], after: str) -> int:
    """Return the number of lists that differ from Flink's, once all servers are up to date.

    Values are read at each request, but each server looks for learned tables at times of its own.
    """
    until = time.monotonic() + _TABLES_S
    while True:
        answers = [[_answer(client, user, after) for user in _PEOPLE] for client in clients]
        count = sum(different(answers[0], others) for others in answers[1:])
        if not count or time.monotonic() > until:
            return count
        time.sleep(_PAUSE_S)


def different(answers: Sequence[Any], others: Sequence[Any]) -> int:
    """Return the number of lists whose items or scores differ."""
    return sum(not _alike(*pair) for pair in zip(answers, others, strict=True))


def _alike(answer: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> bool:
    if [item["item_id"] for item in answer] != [item["item_id"] for item in other]:
        return False
    scores = [(one["score"], two["score"]) for one, two in zip(answer, other, strict=True)]
    return all(math.isclose(*pair, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) for pair in scores)


def _differing(report: Mapping[str, Any]) -> list[str]:
    return [feature["feature"] for feature in report["features"] if feature["different"]]


def _answer(client: httpx.Client, user: str, after: str) -> list[dict[str, Any]]:
    """Return a list for the time of the latest event, once the server knows all of them."""
    asked = {"user_id": user, "count": _ASKED, "as_of": "last", "after": after}
    answer = client.post("/v1/recommend", json=asked)
    answer.raise_for_status()
    items: list[dict[str, Any]] = answer.json()["items"]
    assert items, "a list is empty"
    return items


def _replay(client: httpx.Client, count: int) -> str:
    """Post items and events, some of them out of order or twice; return the last position."""
    rng = random.Random(5)
    items = [
        {"item_id": it, "category": f"c{rng.randrange(12)}", "price": rng.randrange(1, 400) / 4}
        for it in _ITEMS
    ]
    _taken(client.put("/v1/items", json=items))
    begin, position = time.time_ns() // 1_000_000 - _LATEST_MS, ""
    events = [_event(rng, number, begin + number * _LATEST_MS // count) for number in range(count)]
    for first in range(0, count, _BATCH):
        batch = events[first : first + _BATCH] + rng.sample(events[: first + 1], min(first, 3))
        position = _taken(client.post("/v1/events", json=batch))["position"]
    return position


def _event(rng: random.Random, number: int, at: int) -> dict[str, Any]:
    user = rng.choice(_PEOPLE)
    return {
        "event_id": f"e{number}",
        "type": rng.choice(_TYPES),
        "timestamp": at - rng.choice([0, 0, 0, rng.randrange(4_000)]),
        "user_id": user,
        "session_id": f"{user}-{number // 700}",
        "item_id": _ITEMS[min(int(rng.paretovariate(0.8)), len(_ITEMS)) - 1],
        "properties": {"price": rng.randrange(1, 400) / 4, "quantity": rng.randrange(1, 4)},
    }


def _taken(answer: httpx.Response) -> dict[str, Any]:
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    assert not found.get("rejected"), found
    return found
