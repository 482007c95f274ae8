"""Minutes of everything at once: lists at four fifths of capacity, and all that may change changes.

While callers come when they come, events arrive, items change and vanish, and the model is swapped
back and forth. What is looked for: an answer that is neither a list nor a refusal, memory that
grows, and how much slower the slowest lists are than those of an idle server.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np

from benchmarks._serving_overload import Load, closed, opened
from benchmarks._serving_request import Served, private_mb, serving
from benchmarks._serving_shop import PEOPLE, name, person
from benchmarks.figures import Figure
from tactful.client import Client
from tactful.errors import ClientError
from tactful.interpreter import short_delays
from tactful.ranking import Pointer, read_manifest, version_directory, write_pointer

_SHARE = 0.8
_SWAP_S = 10.0
_EVENTS = 50
_PAUSE_S = 0.25
_MEASURE_S = 5.0
_FULL_S = 30.0


class _Changes(threading.Thread):
    """Sends events and item changes, and swaps models, until told to stop."""

    def __init__(self, port: int, models: Path, items: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._models = models
        self._items = items
        self.stopping = threading.Event()
        self.done: Counter[str] = Counter()

    def run(self) -> None:
        chance = random.Random(9)
        swapped, version = time.monotonic(), 1
        with Client(f"http://127.0.0.1:{self._port}", retries=2, timeout=30.0) as client:
            while not self.stopping.wait(_PAUSE_S):
                try:
                    self._once(client, chance)
                except ClientError:
                    self.done["failed"] += 1
                if time.monotonic() - swapped >= _SWAP_S:
                    swapped, version = time.monotonic(), 3 - version
                    write_pointer(self._models, Pointer(version=str(version)))
                    self.done["swaps"] += 1

    def _once(self, client: Client, chance: random.Random) -> None:
        now = time.time_ns() // 1_000_000
        told = client.events(
            {
                "type": chance.choice(["view", "view", "add_to_cart", "purchase"]),
                "timestamp": now,
                "user_id": person(chance.randrange(PEOPLE)),
                "session_id": f"s-{chance.randrange(2_000)}",
                "item_id": name(chance.randrange(self._items)),
                "properties": {"price": 5.0},
            }
            for _ in range(_EVENTS)
        )
        self.done["events"] += told.accepted
        chosen = [chance.randrange(self._items) for _ in range(3)]
        client.items(
            {
                "item_id": name(item),
                "category": f"c-{item % 2_000}",
                "price": round(chance.uniform(1, 99), 2),
                "available": place > 0,  # the first of each time is taken off
            }
            for place, item in enumerate(chosen)
        )
        client.items([{"item_id": f"new-{now}-{chance.random()}", "price": 1.0}])
        self.done["items"] += 4


def load_figures(data: Path, *, minutes: float, workers: int = 0) -> list[Figure]:
    """Idle, at capacity, and then `minutes` at four fifths of it with everything changing.

    Capacity is what eight callers that wait for their answers get while everything changes, too.
    The changes are sent by a thread of this process, which is kept from holding the callers up.

    Args:
        data: from `open_shop`; a second version of its model is put there.
        minutes: how long.
        workers: of the server; 0 for the one process that it is unless told otherwise.
    """
    models = data / "models"
    other = version_directory(models, "2")
    if not other.exists():
        shutil.copytree(version_directory(models, "1"), other)
        manifest = msgspec.structs.replace(read_manifest(other), version="2")
        (other / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    items = len(np.load(version_directory(models, "1") / "index" / "item_ids_ends.npy"))
    with short_delays(), serving(data, workers) as served:
        closed(served.port, waiting=2, seconds=3.0)
        idle = closed(served.port, waiting=1, seconds=10.0)
        changes = _Changes(served.port, models, items)
        changes.start()
        full = closed(served.port, waiting=8, seconds=_FULL_S)
        rate = _SHARE * len(full.answered) / full.span
        changes.done = Counter(failed=changes.done["failed"])  # which counts at any time
        load, sizes = _loaded(served, rate, minutes * 60)
        changes.stopping.set()
        changes.join()
    write_pointer(models, Pointer(version="1"))
    return _figures(idle, load, sizes, changes.done, minutes, rate)


def _loaded(served: Served, rate: float, seconds: float) -> tuple[Load, list[float]]:
    """The load, and the private memory of all processes from time to time."""
    sizes: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_MEASURE_S):
            sizes.append(sum(map(private_mb, (served.pid, *served.workers()))))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    load = opened(served.port, rate=rate, seconds=seconds)
    ended.set()
    watching.join()
    return load, sizes


def _figures(
    idle: Load, load: Load, sizes: list[float], done: Counter[str], minutes: float, rate: float
) -> list[Figure]:
    note = (
        f"{minutes:g} minutes at {rate:.0f} lists/s, {done['events']:,} events, "
        f"{done['items']:,} items, {done['swaps']} swaps"
    )
    slow, calm = (float(np.percentile(each.answered, 99)) for each in (load, idle))
    # The first third warms caches and indexes up.
    settled = sizes[len(sizes) // 3 :]
    growth: float | None = None
    if len(settled) >= 4:
        half = len(settled) // 2
        growth = float(np.median(settled[half:]) - np.median(settled[:half]))
    total = len(load.answered) + len(load.refused) + load.failed
    return [
        Figure("load_failed_requests", load.failed + done["failed"], "requests", note=note),
        Figure(
            "swap_failed_requests",
            load.failed,
            "requests",
            note=f"of {total:,} with {done['swaps']} swaps among them; refusals are not failures",
        ),
        Figure("load_refused_share", len(load.refused) / max(total, 1), "1", note=note),
        Figure("load_p99_vs_idle", slow / calm, "1", runs=len(load.answered), note=note),
        Figure("load_p99_ms", slow * 1e3, "ms", runs=len(load.answered), note=note),
        Figure("load_idle_p99_ms", calm * 1e3, "ms", runs=len(idle.answered), note="one caller"),
        Figure(
            "load_memory_growth_mb",
            growth,
            "MB",
            runs=len(settled),
            note=f"private memory of all processes, the later half less the earlier one; {note}"
            if growth is not None
            else "too short a run to tell",
        ),
        Figure(
            "load_sender_late_p99_ms",
            float(np.percentile(load.late, 99)) * 1e3,
            "ms",
            note="of the load itself; where it is large, the machine was too busy to tell",
        ),
    ]
