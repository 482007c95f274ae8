"""How long it takes to take one person out of a large log while it is in use.

The log is written as the server writes it, by a template of an event, so that a hundred million of
them need no hour. People take turns, so that the person's events lie in every file of it, and every
file has to be written anew: nobody's erasure takes longer.
"""

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from tactful.config import Settings, StorageSettings
from tactful.connections import open_installation
from tactful.erasure import Installation, request_erasure
from tactful.online_erasure import OnlineErasures
from tactful.suppression import open_suppression
from tactful_streaming import EmbeddedLog, Event, decode_entry, encode_entry

FIGURES = [
    ("erase_log_online_s", "s"),
    ("erase_log_online_cpu_s", "s"),
    ("erase_log_online_cpu_s_per_gb", "s"),
    ("erase_log_online_sentinel_hits", "1"),
]

_EVENTS = 100
_BATCH = 50_000
_DAY_MS = 86_400_000
_RECORD = 200
_BLOCK = 1 << 24


class _Here(Executor):
    """Runs what it is given in this process, so that its time can be read."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def figures(quick: bool, *, people: int | None = None) -> list[Figure]:
    """Measure on a directory that is removed again.

    Args:
        quick: fewer people.
        people: how many; None: twenty thousand, or a million.
    """
    count = people or (20_000 if quick else 1_000_000)
    directory = Path(tempfile.mkdtemp(prefix="tactful-erasure-log-"))
    try:
        needed = 2 * count * _EVENTS * _RECORD
        free = shutil.disk_usage(directory).free
        if free < needed:
            why = f"{needed / 1e9:.0f} GB would be needed, {free / 1e9:.0f} GB are free"
            return [Figure(name, None, unit, note=why) for name, unit in FIGURES]
        return _measure(directory, count)
    finally:
        shutil.rmtree(directory)


def _measure(directory: Path, people: int) -> list[Figure]:
    settings = Settings(storage=StorageSettings(data=directory, durability="process"))
    token = f"zq{uuid.uuid4().hex}"
    now = time.time_ns() // 1_000_000
    clock = [now]
    with (
        contextlib.closing(open_installation(settings)) as metadata,
        EmbeddedLog(directory / "log", durability="process") as log,
    ):
        _fill(log, people, token, now)
        size = sum(file.stat().st_size for file in (directory / "log").glob("*.log"))
        suppression = open_suppression(settings, metadata, clock=lambda: clock[0])
        installation = Installation(settings, metadata, suppression, lambda: clock[0])
        receipt = request_erasure(installation, token).receipt
        erasures = OnlineErasures(installation, {"log": log}, executor=_Here())
        started, worked = time.perf_counter(), time.process_time()
        while not erasures.run():
            clock[0] += 10_000  # instead of waiting until nothing of theirs is on its way
        took, cpu = time.perf_counter() - started, time.process_time() - worked
        told = installation.jobs.find(receipt)
        assert told is not None
        step = next(step for step in told.steps if step.place == "log")
        hits = sum(_occurs(file, token.encode()) for file in (directory / "log").glob("*.log"))
    load = os.getloadavg()[0]
    note = (
        f"{people:,} people with {_EVENTS} events each, a log of {size / 1e9:,.2f} GB; "
        f"{step.removed} records removed, {step.note}; both searches included; load {load:.1f}"
    )
    return [
        Figure("erase_log_online_s", took, "s", note=note),
        Figure("erase_log_online_cpu_s", cpu, "s", note="processor time of that"),
        Figure("erase_log_online_cpu_s_per_gb", cpu / (size / 1e9), "s", note="each GB of log"),
        Figure("erase_log_online_sentinel_hits", hits, "1", note="files in which they occur"),
    ]


def _fill(log: EmbeddedLog, people: int, token: str, now: int) -> None:
    total, theirs = people * _EVENTS, people // 2
    template = _template(now)
    for start in range(0, total, _BATCH):
        batch = []
        for number in range(start, min(start + _BATCH, total)):
            person, turn = number % people, number // people
            if person == theirs:
                event = Event(
                    event_id=f"{token}-{turn}",
                    type="view",
                    timestamp=now,
                    user_id=token,
                    session_id=f"{token}-{turn // 10}",
                    device_id=token,
                    item_id="i-0001",
                )
                batch.append(encode_entry(event))
            else:
                batch.append(template % (number, person, person, turn // 10, number % 9_999))
        log.append(batch)


def _template(now: int) -> bytes:
    """An event of somebody as the server writes it, with gaps for numbers of fixed width."""
    marks = ("e-0000000001", "u-00000002", "s-00000003-04", "i-0005")
    event = Event(
        event_id=marks[0],
        type="view",
        timestamp=now,
        user_id=marks[1],
        session_id=marks[2],
        item_id=marks[3],
    )
    made = encode_entry(event).replace(b"%", b"%%")
    gaps = (b"e-%010d", b"u-%08d", b"s-%08d-%02d", b"i-%04d")
    for mark, gap in zip(marks, gaps, strict=True):
        made = made.replace(mark.encode(), gap)
    order = sorted(gaps, key=made.index)
    assert order == [gaps[0], gaps[1], gaps[2], gaps[3]], "the fields lie in another order"
    found = decode_entry(made % (7, 8, 8, 1, 9))
    assert isinstance(found, Event)
    assert (found.event_id, found.user_id, found.item_id) == (
        "e-0000000007",
        "u-00000008",
        "i-0009",
    )
    return made


def _occurs(file: Path, needle: bytes) -> bool:
    before = b""
    with file.open("rb") as reading:
        while block := reading.read(_BLOCK):
            if needle in before + block:
                return True
            before = block[-len(needle) :]
    return False
