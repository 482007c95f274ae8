"""A server killed at random while events come in: what it acknowledged, and what it says then.

The same events go to a second server that nobody kills. In the end both must hold every
acknowledged event and say the same features of everybody.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks._streaming_events import START, events
from benchmarks._streaming_server import Server
from benchmarks.figures import Figure
from tactful.client import Client
from tactful.errors import ClientError
from tactful.positions import Position
from tactful_streaming import EmbeddedLog, decode_entry

_BATCH = 100
_PEOPLE = 300


def kills(quick: bool, scratch: Path, seed: int = 11) -> list[Figure]:
    """Kill an embedded server at random moments while events are posted."""
    wanted = 5 if quick else 20
    rng = random.Random(seed)
    batches = _batches(wanted * 6000)
    killed = 0
    server = Server(scratch / "killed")
    killer = _killer(server, rng)
    acknowledged: list[str] = []
    position: Position = 0
    for batch in batches:
        while True:
            try:
                with Client(server.url, timeout=30.0, retries=0) as client:
                    position = client.events(batch).position
                break
            except ClientError:
                time.sleep(0.02)
            if not server.alive():
                killed += 1
                server = Server(scratch / "killed")
                if killed < wanted:
                    killer = _killer(server, rng)
        acknowledged += [str(event["event_id"]) for event in batch]
    killer.cancel()
    killer.join()
    people = sorted({str(event["user_id"]) for batch in batches for event in batch})[:_PEOPLE]
    interrupted = _features(server, people, position)
    server.stop()
    in_log = _ids_in_log(scratch / "killed")
    lost = len(set(acknowledged) - in_log)

    server = Server(scratch / "spared")
    with Client(server.url, timeout=30.0) as client:
        for batch in batches:
            position = client.events(batch).position
    spared = _features(server, people, position)
    server.stop()
    wrong = sum(
        interrupted[person][name] != value
        for person, values in spared.items()
        for name, value in values.items()
    )
    where = "server with the embedded log, features and state, kill -9 while events are posted"
    compared = sum(map(len, spared.values()))
    return [
        Figure("kills", killed, "1", runs=1, note=where),
        Figure(
            "kill_lost_events",
            lost,
            "1",
            runs=len(acknowledged),
            note="acknowledged, not in the log",
        ),
        Figure(
            "kill_wrong_values",
            wrong,
            "1",
            runs=compared,
            note=f"features of {len(people)} people that differ from a server nobody killed",
        ),
    ]


def _killer(server: Server, rng: random.Random) -> threading.Timer:
    """Kills a server after a while, whatever it is doing then."""
    timer = threading.Timer(rng.uniform(0.05, 1.5), server.kill)
    timer.start()
    return timer


def _batches(count: int) -> list[list[dict[str, object]]]:
    plain = [msgspec.to_builtins(event) for event in events(count)]
    for event in plain:
        del event["kind"]
    return [plain[start : start + _BATCH] for start in range(0, count, _BATCH)]


def _features(
    server: Server, people: Sequence[str], position: Position
) -> dict[str, dict[str, object]]:
    at = START + 3_600_000
    with Client(server.url, timeout=30.0) as client:
        client.recommend(user_id=people[0], after=position, timestamp=at)
        return {
            person: msgspec.to_builtins(client.features(person, at=at).features)
            for person in people
        }


def _ids_in_log(data: Path) -> set[str]:
    ids = set()
    log = EmbeddedLog(data / "log", read_only=True)
    try:
        offset = log.begin
        while offset < log.end:
            for number, payload in log.read(offset, 10_000):
                entry = decode_entry(payload)
                ids.add(getattr(entry, "event_id", ""))
                offset = number + 1
    finally:
        log.close()
    return ids
