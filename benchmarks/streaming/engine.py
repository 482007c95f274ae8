"""The engine alone, in this process: many windows, more state than memory, and sketches."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import msgspec

from benchmarks.figures import Figure, interleave
from benchmarks.streaming.events import DELAY_MS, START, events
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.decode.projection import Projection
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.state.store import MemoryState, RocksState

_BATCH = 10_000
_SIX_WINDOWS = "".join(
    f"- {{name: views_{size}, entity: user, event: [view, click, add_to_cart, leave, purchase], "
    f"aggregate: count, window: {{size: {size}, tail: approximate}}}}\n"
    for size in ("1m", "5m", "15m", "1h", "6h", "1d")
)
_SPILLED = (
    "- {name: views, entity: user, event: [view], aggregate: count, window: {size: 1h, slide: 10m}}"
)
_DISTINCT = (
    "- {name: items, entity: user, event: [view], aggregate: distinct, of: item_id, "
    "window: {size: 1d}}"
)


def six_windows(quick: bool) -> list[Figure]:
    """Measure the rate with six windows of each user as a share of the rate of only decoding."""
    count = 200_000 if quick else 1_000_000
    encode = msgspec.json.Encoder().encode
    records = list(enumerate(map(encode, events(count))))
    batches = [records[start : start + _BATCH] for start in range(0, count, _BATCH)]

    def decode() -> None:
        projection = Projection(set())
        for batch in batches:
            projection.decode([payload for _, payload in batch])

    def compute() -> None:
        engine = Engine(
            load_definitions(_SIX_WINDOWS),
            MemoryState(),
            EngineOptions(dedupe_days=0, watermark_delay_ms=DELAY_MS),
        )
        for batch in batches:
            engine.apply(batch)

    rounds = 3 if quick else 7
    timings = interleave(
        {"compute": compute, "decode": decode}, rounds=rounds, clock=time.process_time
    )
    computed, decoded = (f"{count / timings[name].median:,.0f}" for name in ("compute", "decode"))
    share = timings["compute"].ratio(timings["decode"])
    note = (
        "rate with six windows of each user (1m to 1d, three levels of panes) / rate of decoding "
        "the same JSON to objects of type, time and user; "
        f"{computed} and {decoded} events/CPU-s"
    )
    name = "six_windows_decode_share"
    return [Figure(name, share.median, "1", share.low, share.high, rounds, note)]


def spill(quick: bool, scratch: Path) -> list[Figure]:
    """The rate with more state than memory, over the rate with all of it in memory.

    Raises:
        RuntimeError: if the two end with different states.
    """
    began = time.perf_counter()
    users, cap = (300_000, 30 * 2**20) if quick else (10_000_000, 2**30)
    runs: dict[str, _Applied] = {}
    before, most = _resident(), 0
    for name, limit in (("spilled", cap), ("memory", None)):
        engine = _open(scratch / f"spill-{name}", limit)
        first = _apply(engine, _each_user(users))
        runs[name] = _apply(engine, _random_users(users, users // 5))
        engine.close()
        if limit is not None:
            most = max(first.resident, runs[name].resident) - before
    spilled, memory = runs["spilled"], runs["memory"]
    started = time.perf_counter()
    engine = _open(scratch / "spill-spilled", cap)
    engine.read("user", "u1", START)
    restore = time.perf_counter() - started
    engine.close()
    entities = _compare(scratch / "spill-spilled", scratch / "spill-memory")
    size = f"{users:,} users, memory cap {cap / 2**20:,.0f} MB"
    if quick:
        size += " (--quick; in full 10,000,000 users and 1,024 MB)"
    note = (
        f"{size}; events of random users, wall, state committed to RocksDB every 100,000 events: "
        f"{spilled.rate:,.0f} events/s with the cap, {memory.rate:,.0f} without; per CPU-second "
        f"{spilled.cpu_rate / memory.cpu_rate:.2f} of it. All {entities:,} stored rows are equal. "
        f"The process grew by {most / 2**20:,.0f} MB with the cap, buffers of RocksDB and of the "
        f"stream included; all of it took {time.perf_counter() - began:,.0f} s"
    )
    ratio = spilled.rate / memory.rate
    return [
        Figure("spill_rate_ratio", round(ratio, 3), "1", runs=1, note=note),
        Figure("spill_restore_s", round(restore, 3), "s", runs=1, note=f"open, read one; {size}"),
    ]


def hll_error(quick: bool) -> Figure:
    """The relative error of distinct counts that 95 % stay below."""
    users, items = (100, 3000) if quick else (400, 10_000)
    engine = Engine(load_definitions(_DISTINCT), MemoryState(), EngineOptions(dedupe_days=0))
    rng = random.Random(3)
    encode = msgspec.json.Encoder().encode
    errors = []
    for user in range(users):
        keys = [f"i{rng.getrandbits(48):012x}" for _ in range(items)]
        viewed = [
            Event(event_id="", type="view", timestamp=START, user_id=f"u{user}", item_id=key)
            for key in keys
        ]
        engine.apply([(engine.offset + n, encode(event)) for n, event in enumerate(viewed)])
        estimate = engine.read("user", f"u{user}", START)["items"]
        assert isinstance(estimate, float)
        true = len(set(keys))
        errors.append(abs(estimate - true) / true)
    errors.sort()
    return Figure(
        "hll_error_p95",
        round(errors[int(0.95 * len(errors))], 5),
        "1",
        runs=users,
        note=f"relative error of `distinct`, default sketch, {items:,} different items each",
    )


def _open(folder: Path, memory_bytes: int | None) -> Engine:
    return Engine(
        load_definitions(_SPILLED),
        RocksState(folder),
        EngineOptions(dedupe_days=0, watermark_delay_ms=DELAY_MS, memory_bytes=memory_bytes),
    )


@dataclass(frozen=True)
class _Applied:
    """What it took to apply a stream.

    Attributes:
        rate: events per second of wall time.
        cpu_rate: events per CPU-second of all threads.
        resident: most memory of the process at a commit, bytes.
    """

    rate: float
    cpu_rate: float
    resident: int


def _apply(engine: Engine, payloads: Iterator[Sequence[bytes]]) -> _Applied:
    """Apply batches, committing every tenth; what makes the stream is not counted."""
    count, seconds, cpu, resident = 0, 0.0, 0.0, 0
    for number, batch in enumerate(payloads, 1):
        offset = engine.offset
        started, cpu_started = time.perf_counter(), time.process_time()
        engine.apply(list(enumerate(batch, offset)))
        if number % 10 == 0:
            engine.commit()
        seconds += time.perf_counter() - started
        cpu += time.process_time() - cpu_started
        count += len(batch)
        if number % 10 == 0:
            resident = max(resident, _resident())
    started, cpu_started = time.perf_counter(), time.process_time()
    engine.commit()
    seconds += time.perf_counter() - started
    cpu += time.process_time() - cpu_started
    return _Applied(count / seconds, count / cpu, max(resident, _resident()))


def _compare(folder: Path, other: Path) -> int:
    """See that two states hold the same rows; how many.

    Raises:
        RuntimeError: if they do not.
    """
    with (
        contextlib.closing(RocksState(folder)) as one,
        contextlib.closing(RocksState(other)) as two,
    ):
        count = 0
        for row, expected in zip_longest(one.scan(b"e"), two.scan(b"e")):
            if row != expected:
                raise RuntimeError(f"row {count} differs from that of a run in memory")
            count += 1
    return count


def _resident() -> int:
    """Memory of this process that is in use, bytes."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _each_user(users: int) -> Iterator[list[bytes]]:
    for start in range(0, users, _BATCH):
        yield [_view(user, START) for user in range(start, min(start + _BATCH, users))]


def _random_users(users: int, count: int) -> Iterator[list[bytes]]:
    rng = random.Random(5)
    for start in range(0, count, _BATCH):
        yield [_view(rng.randrange(users), START + start // 5) for _ in range(_BATCH)]


def _view(user: int, timestamp: int) -> bytes:
    return b'{"kind":"event","event_id":"","type":"view","timestamp":%d,"user_id":"u%d"}' % (
        timestamp,
        user,
    )
