"""How long it takes to erase one of many people, and what a search for them finds afterwards.

Two people are erased from the same data: one while nothing uses it, then one by a server at work,
from the request to the receipt that is complete. Both reach everything: log, state, metadata. The
two left something in every file of the log, so all of it is written anew: nobody's erasure takes
longer. Their every field begins with a random text that occurs nowhere else; after each erasure all
files are searched for it, also in base64, hexadecimal and UTF-16, and so is what the state store
holds compressed, and what the server wrote to its own log.
"""

import base64
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import httpx

from benchmarks.figures import Figure
from benchmarks.privacy.people import EVENTS, Population, build, check, texts_of
from benchmarks.streaming.server import Server
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.erasure.erase import request_erasure, run_erasures
from tactful.metadata.connections import open_installation
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression
from tactful_streaming.state.store import RocksState

FIGURES = [
    ("erase_one_user_s", "s"),
    ("erase_one_user_cpu_s", "s"),
    ("erase_sentinel_hits", "1"),
    ("erase_sentinel_hits_before", "1"),
    ("erase_one_user_online_s", "s"),
    ("erase_online_sentinel_hits", "1"),
]

_LONGEST_S = 3_600
_MEMORY_MB = 1_024
_BLOCK = 1 << 24
_RECORD = 200
"""About how many bytes an event takes in the log."""


def figures(quick: bool, *, people: Population | None = None) -> list[Figure]:
    """Measure on a directory that is removed again.

    Args:
        quick: twenty thousand people instead of a million.
        people: others.
    """
    people = people or Population(models=200 if quick else 2_000, copies=100 if quick else 500)
    directory = Path(tempfile.mkdtemp(prefix="tactful-erasure-"))
    try:
        needed = 2 * people.size * EVENTS * _RECORD
        free = shutil.disk_usage(directory).free
        if free < needed:
            why = f"{needed / 1e9:.0f} GB would be needed, {free / 1e9:.0f} GB are free"
            return [Figure(name, None, unit, note=why) for name, unit in FIGURES]
        return _measure(directory, people)
    finally:
        shutil.rmtree(directory)


def _measure(directory: Path, people: Population) -> list[Figure]:
    settings = Settings(
        storage=StorageSettings(
            data=directory / "data", reports=directory / "reports", durability="process"
        )
    )
    alike = check(settings, directory / "check")
    build(settings, people)
    data = settings.storage.data
    first, second = people.erased
    before = _hits(directory, first)
    log, state = (
        sum(f.stat().st_size for f in (data / n).iterdir()) / 1e9 for n in ("log", "state")
    )
    started, worked = time.perf_counter(), time.process_time()
    done = _erase(settings, texts_of(first)["user"])
    took, cpu = time.perf_counter() - started, time.process_time() - worked
    after = _hits(directory, first)
    note = (
        f"{people.size:,} people with {EVENTS} events each, a log of {log:,.2f} GB and a state of "
        f"{state:,.2f} GB (made from those of {people.models:,} people; {alike:,} rows were "
        "compared with an engine that was fed everything); all places and the search of all files "
        "included"
    )
    load = f"load {os.getloadavg()[0]:.1f}"
    return [
        Figure("erase_one_user_s", took, "s", note=f"{note}; {done} records removed; {load}"),
        Figure("erase_one_user_cpu_s", cpu, "s", note="processor time of that"),
        _found("erase_sentinel_hits", after, "files with any of their texts"),
        _found("erase_sentinel_hits_before", before, "what the same search found before"),
        *_online(directory, second, note),
    ]


def _erase(settings: Settings, person: str) -> int:
    with contextlib.closing(open_installation(settings)) as metadata:
        suppression = open_suppression(settings, metadata, clock=_now)
        installation = Installation(settings, metadata, suppression, _now)
        request_erasure(installation, person)
        (receipt,) = run_erasures(installation)
    return next(step.removed for step in receipt.steps if step.place == "log")


def _online(directory: Path, mark: str, note: str) -> list[Figure]:
    """The same by a server, from the request until its receipt is complete, while it runs."""
    data = directory / "data"
    server = Server(data, {"TACTFUL_ENGINE__MEMORY_MB": str(_MEMORY_MB)})
    try:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            while http.get("/readyz").status_code != 200:
                time.sleep(0.1)
            started = time.perf_counter()
            receipt = http.delete(f"/v1/users/{texts_of(mark)['user']}").json()["receipt"]
            while (told := http.get(f"/v1/erasures/{receipt}").json())["state"] != "done":
                if time.perf_counter() - started > _LONGEST_S:
                    why = f"not complete within {_LONGEST_S} s: {told['state']}"
                    return [Figure(name, None, unit, note=why) for name, unit in FIGURES[4:6]]
                time.sleep(0.1)
            took = time.perf_counter() - started
            hits = _hits(directory, mark)
    finally:
        server.stop()
    waiting = (
        f"the server holds {_MEMORY_MB:,} MB of the state in memory; 7 to 12 s of it are waiting, "
        "until what was on its way has come"
    )
    load = f"load {os.getloadavg()[0]:.1f}"
    return [
        Figure("erase_one_user_online_s", took, "s", note=f"{note}; {waiting}; {load}"),
        _found("erase_online_sentinel_hits", hits, "while the server still runs"),
    ]


def _found(name: str, hits: Sequence[str], note: str) -> Figure:
    return Figure(
        name, len(hits), "1", note=": ".join([note, ", ".join(hits[:5])][: 1 + bool(hits)])
    )


def _hits(directory: Path, mark: str) -> list[str]:
    """Files and state stores in which a text occurs, in any of its encodings."""
    raw = mark.encode()
    needles = [raw, raw.hex().encode(), mark.encode("utf-16-le")]
    for pad in range(3):
        encoded = base64.b64encode(b"\0" * pad + raw)
        needles.append(encoded[4 : len(encoded) // 4 * 4 - 4])
    while True:
        try:
            return sorted(_searched(directory, needles))
        except FileNotFoundError:
            continue  # a server has put what was in it elsewhere, perhaps where the search had been


def _searched(directory: Path, needles: Sequence[bytes]) -> Iterator[str]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    for path in files:
        if _occur(_blocks(path), needles):
            yield str(path.relative_to(directory))
        if path.name == "CURRENT":
            with contextlib.closing(RocksState(path.parent, read_only=True)) as store:
                if _occur(_joined(store.scan(b"")), needles):
                    yield str(path.parent.relative_to(directory))


def _occur(blocks: Iterable[bytes], needles: Sequence[bytes]) -> bool:
    longest = max(map(len, needles))
    before = b""
    for block in blocks:
        searched = before + block
        if any(needle in searched for needle in needles):
            return True
        before = searched[-longest:]
    return False


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _joined(pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    parts: list[bytes] = []
    size = 0
    for pair in pairs:
        parts += pair
        size += len(pair[0]) + len(pair[1])
        if size > _BLOCK:
            yield b"\0".join(parts)
            parts, size = [], 0
    yield b"\0".join(parts)


def _now() -> int:
    return time.time_ns() // 1_000_000
