"""How long it takes to erase one of many people, and what a search for them finds afterwards.

Twice: while nothing uses the data, and by a server at work, from the request to the receipt that is
complete. Both reach everything: log, state, metadata. The log and the state are made as the server
makes them, by the features that ship. One person's
every field is a random text that occurs nowhere else; after the erasure all files are searched for
each of them, also in base64, hexadecimal and UTF-16, and so is what the state store holds
compressed. How fast a withdrawal takes effect is measured from outside: another process records it,
and events are sent until the server refuses one.
"""

import base64
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np

from benchmarks._streaming_server import Server
from benchmarks.figures import Figure
from tactful.config import Settings, StorageSettings
from tactful.connections import open_installation
from tactful.erasure import FORGOTTEN, Installation, request_erasure, run_erasures
from tactful.suppression import open_suppression
from tactful_streaming import (
    EmbeddedLog,
    Engine,
    Event,
    Item,
    RocksState,
    User,
    encode_entry,
    load_definitions,
)

FIGURES = [
    ("erase_one_user_s", "s"),
    ("erase_one_user_cpu_s", "s"),
    ("erase_sentinel_hits", "1"),
    ("erase_sentinel_hits_before", "1"),
    ("erase_one_user_online_s", "s"),
    ("erase_online_sentinel_hits", "1"),
    ("withdrawal_s", "s"),
]

_EVENTS = 100
_ITEMS = 2_000
_DAY_MS = 86_400_000
_BATCH = 20_000
_WITHDRAWALS = 5
_LONGEST_S = 600


def figures(quick: bool) -> list[Figure]:
    """Measure on a directory that is removed again."""
    people = 2_000 if quick else 20_000
    directory = Path(tempfile.mkdtemp(prefix="tactful-erasure-"))
    try:
        settings = Settings(
            storage=StorageSettings(
                data=directory / "data", reports=directory / "reports", durability="process"
            )
        )
        tokens = _fill(settings, people)
        before = sum(_hits(settings.storage.data, token) for token in tokens.values())
        shutil.copytree(settings.storage.data, directory / "online")
        started, worked = time.perf_counter(), time.process_time()
        done = _erase(settings, tokens["user"])
        took, cpu = time.perf_counter() - started, time.process_time() - worked
        after = sum(_hits(settings.storage.data, token) for token in tokens.values())
        log, state = (
            sum(f.stat().st_size for f in (settings.storage.data / name).iterdir()) / 1e6
            for name in ("log", "state")
        )
        note = (
            f"{people:,} people with {_EVENTS} events each, a log of {log:,.0f} MB and a state of "
            f"{state:,.0f} MB, both included, as are the other places and the search of all files; "
            f"{done} records removed; load {os.getloadavg()[0]:.1f}"
        )
        return [
            Figure("erase_one_user_s", took, "s", note=note),
            Figure("erase_one_user_cpu_s", cpu, "s", note="processor time of that"),
            Figure("erase_sentinel_hits", after, "1", note=f"{len(tokens)} texts of one person"),
            Figure(
                "erase_sentinel_hits_before", before, "1", note="what the same search found before"
            ),
            *_online(directory / "online", tokens, note),
            _withdrawal(directory),
        ]
    finally:
        shutil.rmtree(directory)


def _fill(settings: Settings, people: int) -> dict[str, str]:
    """A log, its state and a database of metadata; the texts of one person."""
    fields = ("user", "device", "session", "event", "recommendation", "page", "query", "email")
    tokens = {field: f"zq{uuid.uuid4().hex}" for field in fields}
    definitions = load_definitions(settings.features)
    data = settings.storage.data
    with (
        EmbeddedLog(data / "log", durability="process") as log,
        contextlib.closing(
            Engine(definitions, RocksState(data / "state"), memory_bytes=1 << 30)
        ) as engine,
    ):
        for batch in _batches(people, tokens):
            first = log.end
            log.append(batch)
            engine.apply(list(enumerate(batch, first)))
            engine.commit()
    open_installation(settings).close()
    return tokens


def _batches(people: int, tokens: dict[str, str]) -> Iterator[list[bytes]]:
    rng = np.random.default_rng(7)
    now = time.time_ns() // 1_000_000
    items = [
        Item(item_id=f"i-{n}", timestamp=now, category=f"c-{n % 50}", price=float(n % 90))
        for n in range(_ITEMS)
    ]
    yield [encode_entry(item) for item in items]
    described = User(user_id=tokens["user"], timestamp=now, properties={"email": tokens["email"]})
    yield [encode_entry(described)]
    theirs = people // 2
    total = people * _EVENTS
    for start in range(0, total, _BATCH):
        batch = []
        chosen = rng.integers(0, _ITEMS, _BATCH).tolist()
        for number in range(start, min(start + _BATCH, total)):
            # People take turns, so that everybody's events lie all over the log.
            person, turn = number % people, number // people
            item = f"i-{chosen[number - start]}"
            at = now - _DAY_MS + number * (_DAY_MS // total)
            event = Event(
                event_id=f"e-{number}",
                type="view",
                timestamp=at,
                user_id=f"u-{person}",
                session_id=f"s-{person}-{turn // 10}",
                item_id=item,
            )
            if person == theirs:
                event = Event(
                    event_id=f"{tokens['event']}-{turn}",
                    type=("x.login", "view", "search")[turn % 3],
                    timestamp=at,
                    user_id=None if turn % 5 == 1 else tokens["user"],
                    device_id=tokens["device"],
                    session_id=tokens["session"],
                    item_id=item,
                    recommendation_id=tokens["recommendation"],
                    properties={"query": tokens["query"]},
                    context={"page": tokens["page"]},
                )
            batch.append(encode_entry(event))
        yield batch


def _erase(settings: Settings, person: str) -> int:
    with contextlib.closing(open_installation(settings)) as metadata:
        suppression = open_suppression(settings, metadata, clock=_now)
        installation = Installation(settings, metadata, suppression, _now)
        request_erasure(installation, person)
        (receipt,) = run_erasures(installation)
    return next(step.removed for step in receipt.steps if step.place == "log")


def _online(data: Path, tokens: dict[str, str], note: str) -> list[Figure]:
    """The same by a server, from the request until its receipt is complete, while it runs."""
    server = Server(data)
    try:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            while http.get("/readyz").status_code != 200:
                time.sleep(0.1)
            started = time.perf_counter()
            receipt = http.delete(f"/v1/users/{tokens['user']}").json()["receipt"]
            while (told := http.get(f"/v1/erasures/{receipt}").json())["state"] != "done":
                if time.perf_counter() - started > _LONGEST_S:
                    why = f"not complete within {_LONGEST_S} s: {told['state']}"
                    return [Figure(name, None, unit, note=why) for name, unit in FIGURES[4:6]]
                time.sleep(0.1)
            # The receipt is complete a moment before names are gone from the file of the metadata.
            while (data / "erasures" / FORGOTTEN).exists():
                if time.perf_counter() - started > _LONGEST_S:
                    break
                time.sleep(0.1)
            took = time.perf_counter() - started
        hits = sum(_hits(data, token) for token in tokens.values())
    finally:
        server.stop()
    return [
        Figure(
            "erase_one_user_online_s",
            took,
            "s",
            note=f"{note}; 7 to 12 s of it are waiting, until what was on its way has come",
        ),
        Figure("erase_online_sentinel_hits", hits, "1", note="while the server still runs"),
    ]


def _hits(directory: Path, token: str) -> int:
    """In how many files and state stores a text occurs, in any of its encodings."""
    raw = token.encode()
    needles = [raw, raw.hex().encode(), token.encode("utf-16-le")]
    for pad in range(3):
        encoded = base64.b64encode(b"\0" * pad + raw)
        needles.append(encoded[4 : len(encoded) // 4 * 4 - 4])
    found = 0
    for path in directory.rglob("*"):
        if path.is_file():
            found += any(needle in path.read_bytes() for needle in needles)
    for path in directory.rglob("CURRENT"):
        with contextlib.closing(RocksState(path.parent, read_only=True)) as store:
            found += any(
                needle in key or needle in value
                for key, value in store.scan(b"")
                for needle in needles
            )
    return found


def _withdrawal(directory: Path) -> Figure:
    """From the decision that another process records until the server refuses an event."""
    data = directory / "withdrawal"
    server = Server(data)
    took = []
    try:
        with httpx.Client(base_url=server.url, timeout=30) as http:
            for number in range(_WITHDRAWALS):
                person = f"person-{number}"
                command = [sys.executable, "-m", "tactful", "user", "consent", person]
                command += ["--deny", "service", "--data", str(data), "--json"]
                process = subprocess.run(command, check=True, capture_output=True)
                ended = time.perf_counter()
                assert process.stdout
                while http.post("/v1/events", json=[_event(person)]).json()["accepted"]:
                    pass
                took.append(time.perf_counter() - ended)
    finally:
        server.stop()
    return Figure(
        "withdrawal_s",
        max(took),
        "s",
        low=min(took),
        high=max(took),
        runs=len(took),
        note="the longest, in a process other than the one that records it; there it is at once",
    )


def _event(person: str) -> dict[str, object]:
    return {"type": "view", "user_id": person, "timestamp": _now(), "item_id": "i"}


def _now() -> int:
    return time.time_ns() // 1_000_000
