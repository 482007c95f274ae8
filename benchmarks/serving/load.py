"""Minutes of everything at once: lists at four fifths of capacity, and all that may change changes.

While callers come when they come, events arrive, items change and vanish, and the model is swapped
back and forth. What is looked for: an answer that is neither a list nor a refusal, memory that
grows, and how much slower the slowest lists are than those of an idle server.

Callers that wait for their answers make a busy server wait for nothing: they hold back, and so do
the changes. What they get is more than can be answered of what comes at random. So the rate is
raised step by step, and capacity is the last of them before answers are refused.
"""

from __future__ import annotations

import random
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import httpx
import msgspec
import numpy as np

from benchmarks.figures import Figure, percentile_figure
from benchmarks.serving.overload import Load, closed, opened
from benchmarks.serving.request import Served, private_mb, serving
from benchmarks.serving.shop import PEOPLE, name, person
from tactful.client import Client
from tactful.errors import ClientError
from tactful.ranking.model import Pointer, read_manifest, version_directory, write_pointer
from tactful.util.process_tuning import short_delays
from tactful.util.signing import open_signing_key, sign_directory

_SHARE = 0.8
_SWAP_S = 10.0
_EVENTS = 50
_PAUSE_S = 0.25
_MEASURE_S = 5.0
_FULL_S = 30.0
_STEP_S = 30.0
_STEPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, _SHARE)
_REFUSED = 0.001
_WITHIN = 2.0


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


@dataclass(frozen=True)
class _Step:
    """Lists asked for at one rate while everything changes.

    Attributes:
        rate: lists a second.
        load: what came of it.
        done: what changed meanwhile.
    """

    rate: float
    load: Load
    done: Counter[str]

    @property
    def refused(self) -> float:
        """Share of what was asked."""
        return len(self.load.refused) / max(self.load.asked, 1)

    def slower(self, idle: Load) -> float:
        """The 99th percentile by that of an idle server."""
        return _p99(self.load.answered) / _p99(idle.answered)

    def sustained(self) -> bool:
        """Whether (almost) nothing was refused and nothing failed."""
        return self.refused <= _REFUSED and not self.load.failed


def load_figures(data: Path, *, minutes: float, workers: int = 0) -> list[Figure]:
    """Idle, at rising rates, and then `minutes` at four fifths of capacity, everything changing.

    The steps are shares of what eight callers get that wait for their answers. The last of them up
    to which at most one in a thousand is refused, and nothing fails, is capacity. Then callers come
    at the same rate but at even intervals, for a tenth of the minutes. The changes are sent by a
    thread of this process, which is kept from holding the callers up.

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
        sign_directory(other, open_signing_key(data))
    items = len(np.load(version_directory(models, "1") / "index" / "item_ids_ends.npy"))
    with short_delays(), serving(data, workers) as served:
        closed(served.port, waiting=2, seconds=3.0)
        idle = closed(served.port, waiting=1, seconds=10.0)
        changes = _Changes(served.port, models, items)
        changes.start()

        def step(rate: float, seconds: float, *, evenly: bool = False) -> _Step:
            before = Counter(changes.done)
            load = opened(served.port, rate=rate, seconds=seconds, evenly=evenly)
            return _Step(rate, load, changes.done - before)

        full = closed(served.port, waiting=8, seconds=_FULL_S)
        reached = len(full.answered) / full.span
        brief = min(_STEP_S, minutes * 60 / 10)
        steps = [step(share * reached, brief) for share in _STEPS]
        sustained = list(takewhile(_Step.sustained, steps))
        rate = _SHARE * (sustained or steps[:1])[-1].rate
        with _watched(served) as sizes:
            long = step(rate, minutes * 60)
        even = step(rate, minutes * 60 / 10, evenly=True)
        changes.stopping.set()
        changes.join()
    write_pointer(models, Pointer(version="1"))
    # Changes that fail count at any time, between two rates as well.
    failed = full.failed + sum(each.load.failed for each in (*steps, even))
    failed += changes.done["failed"] - long.done["failed"]
    return [
        *_step_figures(idle, steps, sustained, reached, failed),
        *_long_figures(idle, long, sizes, minutes),
        _slower_figure("sustained_evenly_p99_vs_idle", even, idle),
    ]


@dataclass(frozen=True)
class _Size:
    """Memory at one time, MB.

    Attributes:
        private: of all processes, that no other and no file holds.
        state: of it, about what the engine knows of people and items.
    """

    private: float
    state: float


@contextmanager
def _watched(served: Served) -> Iterator[list[_Size]]:
    """Meanwhile, what memory is taken from time to time."""
    sizes: list[_Size] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_MEASURE_S):
            private = sum(map(private_mb, (served.pid, *served.workers())))
            with suppress(httpx.HTTPError):  # a server that is too busy to tell is asked again
                sizes.append(_Size(private, _state_mb(served.port)))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield sizes
    finally:
        ended.set()
        watching.join()


def _state_mb(port: int) -> float:
    told = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text
    value = re.search(r"^tactful_engine_state_bytes (\S+)$", told, re.MULTILINE)
    if value is None:
        raise RuntimeError("the server does not tell how large its state is")
    return float(value[1]) / 2**20


def _step_figures(
    idle: Load, steps: Sequence[_Step], sustained: Sequence[_Step], reached: float, failed: int
) -> Iterator[Figure]:
    """Of the rising rates."""
    prompt = list(takewhile(lambda each: each.slower(idle) <= _WITHIN, sustained))
    yield Figure("load_callers_lists_per_s", reached, "lists/s", note="eight that wait")
    yield Figure(
        "load_capacity_lists_per_s",
        sustained[-1].rate if sustained else None,
        "lists/s",
        note=f"at random, at most {_REFUSED:.1%} refused, none failed; up to {_SHARE:g} of what "
        f"waiting callers get was asked for, from {_STEPS[0]:g} on",
    )
    yield Figure(
        "load_within_twice_idle_lists_per_s",
        prompt[-1].rate if prompt else None,
        "lists/s",
        note=f"at random, p99 up to {_WITHIN:g} times that of an idle server"
        + ("" if prompt else f": not even at {steps[0].rate:.0f}"),
    )
    for share, each in zip(_STEPS, steps, strict=True):
        yield _slower_figure(f"load_p99_vs_idle_at_{share:g}", each, idle)
    yield Figure("load_steps_failed_requests", failed, "requests", note="changes among them")


def _long_figures(
    idle: Load, long: _Step, sizes: Sequence[_Size], minutes: float
) -> Iterator[Figure]:
    """Of the minutes at four fifths of capacity."""
    done, load = long.done, long.load
    note = (
        f"{minutes:g} minutes at {long.rate:.0f} lists/s, {done['events']:,} events, "
        f"{done['items']:,} items, {done['swaps']} swaps"
    )
    # The first third warms caches and indexes up.
    settled = sizes[len(sizes) // 3 :]
    growth = _growth([size.private for size in settled])
    known = _growth([size.state for size in settled])
    yield Figure("sustained_failed_requests", load.failed + done["failed"], "requests", note=note)
    yield Figure(
        "swap_failed_requests",
        load.failed,
        "requests",
        note=f"of {load.asked:,} with {done['swaps']} swaps among them; refusals are not failures"
        + "".join(f"; {many} x {what}" for what, many in load.failures.items()),
    )
    yield Figure("sustained_refused_share", long.refused, "1", note=note)
    yield Figure(
        "sustained_p99_vs_idle", long.slower(idle), "1", runs=len(load.answered), note=note
    )
    yield percentile_figure("sustained_p99_ms", load.answered, 99, note)
    yield percentile_figure("load_idle_p99_ms", idle.answered, 99, "one caller")
    size = "private memory of all processes, the later half less the earlier one"
    brief = "too short a run to tell"
    yield Figure(
        "sustained_memory_growth_mb",
        growth,
        "MB",
        runs=len(settled),
        note=brief if growth is None else f"{size}; {note}",
    )
    yield Figure(
        "sustained_memory_growth_beyond_state_mb",
        None if growth is None or known is None else growth - known,
        "MB",
        runs=len(settled),
        note=brief
        if known is None
        else f"without {known:.0f} MB that the engine knows more of people and items: any item is "
        "as likely as another here, so that most events name one for the first time",
    )
    yield percentile_figure(
        "sustained_sender_late_p99_ms",
        load.late,
        99,
        "of the load itself; where it is large, the machine was too busy to tell",
    )


def _growth(sizes: Sequence[float]) -> float | None:
    """The later half less the earlier one; None of too few."""
    if len(sizes) < 4:
        return None
    half = len(sizes) // 2
    return float(np.median(sizes[half:]) - np.median(sizes[:half]))


def _slower_figure(name: str, step: _Step, idle: Load) -> Figure:
    span = step.load.span
    return Figure(
        name,
        step.slower(idle),
        "1",
        runs=len(step.load.answered),
        note=f"{step.rate:.0f} lists/s for {span:.0f} s, {step.refused:.2%} refused, "
        f"{step.done['events'] / span:.0f} events/s",
    )


def _p99(seconds: Sequence[float]) -> float:
    return float(np.percentile(seconds, 99))
