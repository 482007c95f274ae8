"""How soon a withdrawal is in force, at a server of the product with two processes that answer."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks.figures import Figure
from tactful.metadata.store import open_metadata
from tactful.schemas.recommendations import NOT_PERSONALISED
from tactful.subjects.consent import ConsentStore
from tactful_privacy.people.consent import EVERYTHING, Purpose

FIGURES = [
    ("withdrawal_ms", "ms"),
    ("withdrawal_broken", "1"),
    ("withdrawal_elsewhere_ms", "ms"),
]

_CONNECTIONS, _PATIENCE_S = 4, 10.0


def figures(quick: bool) -> list[Figure]:
    """Let people withdraw, at the server itself and in another process that shares its metadata."""
    people = 20 if quick else 100
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name, _served(Path(name)) as url:
        here, broken = _at_the_server(url, people)
        elsewhere = _elsewhere(url, Path(name) / "metadata.db", people)
    return [
        _spread(
            "withdrawal_ms",
            here,
            "from sending the withdrawal of personalisation to its answer; it is in force by then",
        ),
        Figure(
            "withdrawal_broken",
            broken,
            "1",
            runs=people,
            note="lists that read a history, and events of who withdrew the service that were"
            f" taken, after the answer; {_CONNECTIONS} connections, each person asked on all",
        ),
        _spread(
            "withdrawal_elsewhere_ms",
            elsewhere,
            "from the record by another process that shares the metadata, as another server does,"
            " to the first list of this one that reads no history; it looks four times a second",
        ),
    ]


def _spread(name: str, values: list[float], note: str) -> Figure:
    return Figure(
        name, statistics.median(values), "ms", min(values), max(values), len(values), note
    )


def _at_the_server(url: str, people: int) -> tuple[list[float], int]:
    taken: list[float] = []
    broken = 0
    with contextlib.ExitStack() as stack:
        wires = [
            stack.enter_context(httpx.Client(base_url=url, timeout=60)) for _ in range(_CONNECTIONS)
        ]
        for number in range(people):
            person = f"here-{number}"
            _arrive(wires[0], person)
            began = time.perf_counter()
            _withdraw(wires[0], person, "personalisation")
            taken.append((time.perf_counter() - began) * 1e3)
            broken += sum(_reads_history(wire, person) for wire in wires)
            _withdraw(wires[0], person, "service")
            broken += sum(_look(wire, person) for wire in wires)
    return taken, broken


def _elsewhere(url: str, metadata: Path, people: int) -> list[float]:
    """Decide in this process, and ask the server until it knows."""
    taken: list[float] = []
    store = open_metadata(metadata)
    try:
        consents = ConsentStore(store, EVERYTHING, clock=lambda: time.time_ns() // 1_000_000)
        with httpx.Client(base_url=url, timeout=60) as wire:
            for number in range(people):
                person = f"elsewhere-{number}"
                _arrive(wire, person)
                began = time.perf_counter()
                consents.record(person, {Purpose.PERSONALISATION: False}, source="benchmark")
                while _reads_history(wire, person):
                    if time.perf_counter() - began > _PATIENCE_S:
                        raise RuntimeError("a withdrawal was not followed within ten seconds")
                taken.append((time.perf_counter() - began) * 1e3)
    finally:
        store.close()
    return taken


def _arrive(wire: httpx.Client, person: str) -> None:
    """Somebody comes, and gets lists of their own."""
    if not _look(wire, person) or not _reads_history(wire, person):
        raise RuntimeError("lists are not personal before anybody has withdrawn anything")


def _look(wire: httpx.Client, person: str) -> int:
    """Send an event; how many were taken."""
    now = time.time_ns()
    event = {
        "event_id": f"{person}-{now}",
        "type": "view",
        "timestamp": now // 1_000_000,
        "user_id": person,
        "item_id": "i-0",
    }
    return int(_asked(wire, "POST", "/v1/events", [event])["accepted"])


def _withdraw(wire: httpx.Client, person: str, purpose: str) -> None:
    _asked(wire, "PUT", f"/v1/users/{person}/consent", {"purposes": {purpose: False}})


def _reads_history(wire: httpx.Client, person: str) -> bool:
    answer = _asked(wire, "POST", "/v1/recommend", {"user_id": person, "count": 5})
    return NOT_PERSONALISED not in (answer["fallback"] or "")


def _asked(wire: httpx.Client, method: str, path: str, body: object) -> dict[str, Any]:
    answer = wire.request(method, path, json=body)
    answer.raise_for_status()
    told: dict[str, Any] = answer.json()
    return told


@contextlib.contextmanager
def _served(data: Path) -> Iterator[str]:
    """The address of a server of the product, ready."""
    command = [sys.executable, "-m", "tactful", "serve", "--json", "--dev", "--port", "0"]
    with (
        (data / "server.log").open("wb") as log,
        subprocess.Popen(
            [*command, "--workers", "2", "--data", str(data)], stdout=subprocess.PIPE, stderr=log
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError((data / "server.log").read_text(errors="replace")[-600:])
            url = str(json.loads(line)["url"])
            until = time.monotonic() + 60
            while not _is_ready(url) and time.monotonic() < until:
                time.sleep(0.1)
            items = [{"item_id": f"i-{n}", "category": "k"} for n in range(20)]
            httpx.put(f"{url}/v1/items", json=items, timeout=60).raise_for_status()
            yield url
        finally:
            process.terminate()


def _is_ready(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/readyz", timeout=60).status_code == 200
    return False
