"""Hours of an even load on one server: its memory, descriptors, threads, and slowest answers.

People and items are a fixed number, so that memory can stop growing once all histories are full.
Requests are sent at fixed times; an answer's time counts from when its request was due.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.figures import Figure, percentile_figure
from benchmarks.kills.processes import Process
from benchmarks.ports import free_port
from tactful.client import Client
from tactful.errors import ClientError

FIGURES: Final = (
    ("soak_minutes", "min"),
    ("soak_memory_growth_mb", "MB"),
    ("soak_descriptor_growth", "descriptors"),
    ("soak_thread_growth", "threads"),
    ("soak_failed_requests", "requests"),
    ("soak_lists_p99_ms", "ms"),
    ("soak_lists_p99_vs_idle", "1"),
    ("soak_events_p99_ms", "ms"),
)
PEOPLE: Final = 2_000
ITEMS: Final = 1_000

_MINUTES, _QUICK_MINUTES = 120.0, 3.0
_BATCH = 20
_EVENTS_PER_S, _LISTS_PER_S = 200.0, 10.0
_FILLING = 100
"""Events of each person that are sent before: more than any packaged feature lists."""

_FILLING_BATCH = 1_000
_IDLE_S = 30.0
_LOOK_S = 5.0
_TYPES = ("view", "view", "view", "add_to_cart", "purchase")


class Sample(NamedTuple):
    """A server at one time."""

    resident_mb: float
    descriptors: int
    threads: int


@dataclass
class Arrivals:
    """Requests at even intervals, and how long each took.

    Attributes:
        seconds: from when a request was due until it was answered.
        failures: errors of those that failed, in words.
    """

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def send(self, request: Callable[[], object], rate: float, until: float) -> None:
        """Send requests, `rate` a second, until a time of the monotonic clock."""
        began = time.monotonic()
        for number in itertools.count():
            due = began + number / rate
            if due >= until:
                return
            time.sleep(max(due - time.monotonic(), 0.0))
            try:
                request()
            except ClientError as error:
                self.failures.append(f"{type(error).__name__}: {error}"[:200])
            self.seconds.append(time.monotonic() - due)


def soak(quick: bool, folder: Path, minutes: float | None = None) -> list[Figure]:
    """Load a server evenly, and watch it.

    Args:
        quick: three minutes instead of two hours.
        folder: empty, for its files.
        minutes: how long, instead of both.
    """
    minutes = minutes or (_QUICK_MINUTES if quick else _MINUTES)
    rng = random.Random(5)
    with _server(folder) as (server, url), Client(url, timeout=60.0, retries=0) as client:
        _fill(client, rng)
        idle, lists, events = Arrivals(), Arrivals(), Arrivals()
        with Client(url, timeout=60.0, retries=0) as other:

            def recommend() -> None:
                other.recommend(user_id=f"u{rng.randrange(PEOPLE)}", count=20)

            idle.send(recommend, _LISTS_PER_S, time.monotonic() + min(_IDLE_S, 20 * minutes))
            until = time.monotonic() + 60 * minutes
            sender = threading.Thread(
                target=events.send,
                args=(lambda: client.events(_events(rng, _BATCH)), _EVENTS_PER_S / _BATCH, until),
            )
            sender.start()
            with _watched(server.pid, minutes) as samples:
                lists.send(recommend, _LISTS_PER_S, until)
            sender.join()
    return as_figures(minutes, samples, idle, lists, events)


def as_figures(
    minutes: float, samples: Sequence[Sample], idle: Arrivals, lists: Arrivals, events: Arrivals
) -> list[Figure]:
    """Return the figures; growth is that of the last quarter over the second."""
    load = (
        f"{_EVENTS_PER_S:g} events/s in batches of {_BATCH} and {_LISTS_PER_S:g} lists/s, evenly, "
        f"of {PEOPLE:,} people with {_FILLING} events before and {ITEMS:,} items"
    )
    grown = [growth([sample[place] for sample in samples]) for place in range(3)]
    size = "median of the last quarter less that of the second; at its end "
    last = samples[-1]
    failures = [*idle.failures, *lists.failures, *events.failures]
    slowest = float(np.percentile(lists.seconds, 99))
    alone = float(np.percentile(idle.seconds, 99))
    return [
        Figure("soak_minutes", minutes, "min", note=load),
        Figure(
            "soak_memory_growth_mb", grown[0], "MB", note=f"{size}{last.resident_mb:.0f} resident"
        ),
        Figure("soak_descriptor_growth", grown[1], "descriptors", note=f"{size}{last.descriptors}"),
        Figure("soak_thread_growth", grown[2], "threads", note=f"{size}{last.threads}"),
        Figure(
            "soak_failed_requests",
            len(failures),
            "requests",
            runs=len(lists.seconds) + len(events.seconds),
            note="; ".join(["refusals among them", *dict.fromkeys(failures)][:4]),
        ),
        percentile_figure("soak_lists_p99_ms", lists.seconds, 99, load),
        Figure(
            "soak_lists_p99_vs_idle",
            slowest / alone,
            "1",
            runs=len(lists.seconds),
            note=f"without events {alone * 1e3:.1f} ms",
        ),
        percentile_figure("soak_events_p99_ms", events.seconds, 99, f"a batch of {_BATCH}"),
    ]


def growth(values: Sequence[float]) -> float:
    """Return the median of the last quarter less that of the second, by when histories are full.

    Raises:
        ValueError: if there are less than eight values.
    """
    quarter = len(values) // 4
    if quarter < 2:
        raise ValueError(f"{len(values)} samples are too few to tell growth: run longer")
    return float(np.median(values[-quarter:]) - np.median(values[quarter : 2 * quarter]))


def sample(pid: int) -> Sample:
    """Return what a process holds now."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return Sample(
        int(status["VmRSS"].split()[0]) / 1024,
        sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        int(status["Threads"]),
    )


@contextmanager
def _server(folder: Path) -> Iterator[tuple[Process, str]]:
    """Start a server that nothing disturbs."""
    port = free_port()
    arguments = ["serve", "--dev", "--json", "--port", str(port), "--data", str(folder / "data")]
    server = Process(arguments, folder, "server", environment={})
    server.start()
    try:
        server.await_word()
        yield server, f"http://127.0.0.1:{port}"
    finally:
        server.kill()


@contextmanager
def _watched(pid: int, minutes: float) -> Iterator[list[Sample]]:
    """Take samples meanwhile, at least thirty."""
    samples: list[Sample] = []
    over = threading.Event()
    pause = min(_LOOK_S, 60 * minutes / 30)

    def watch() -> None:
        with tqdm(total=round(60 * minutes), unit="s", desc="soak") as bar:
            while not over.wait(pause):
                samples.append(sample(pid))
                bar.update(pause)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def _fill(client: Client, rng: random.Random) -> None:
    client.items(
        {"item_id": f"i{item}", "category": f"c{item % 20}", "price": 1.0 + item % 50}
        for item in range(ITEMS)
    )
    for _ in tqdm(range(PEOPLE * _FILLING // _FILLING_BATCH), desc="histories", unit="batch"):
        client.events(_events(rng, _FILLING_BATCH))


def _events(rng: random.Random, count: int) -> list[dict[str, object]]:
    now = time.time_ns() // 1_000_000
    made: list[dict[str, object]] = []
    for _ in range(count):
        user = rng.randrange(PEOPLE)
        made.append(
            {
                "type": rng.choice(_TYPES),
                "timestamp": now,
                "user_id": f"u{user}",
                "session_id": f"u{user}-{now // 3_600_000}",
                "item_id": f"i{min(int(rng.expovariate(1 / 200)), ITEMS - 1)}",
            }
        )
    return made
