"""How long after an event is posted a recommendation knows of it, while the server is busy.

A process of its own offers 5,000 events a second over HTTP (:mod:`benchmarks.streaming.load`) and
posts single events beside them, each followed by a request for recommendations ``after`` its
position: the answer is held back until the event can be read. The time counts from the moment when
the event was due to be posted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec

from benchmarks.figures import Figure
from benchmarks.streaming.events import cpu_seconds
from benchmarks.streaming.load import BATCH, CONNECTIONS, PROBES_PER_S, RATE, Observed
from benchmarks.streaming.server import Server

_ROOT = Path(__file__).resolve().parents[2]
_ENOUGH = 0.99
_PROCESSES = ("serve", "worker", "redis-server", "broker")
"""What the processes of a measurement are called in their command lines."""


@dataclass(frozen=True)
class Run:
    """What one load saw, and what it took.

    Attributes:
        observed: what the load has seen.
        cores: what each process took of the cores, warm-up included.
    """

    observed: Observed
    cores: Mapping[str, float]


def freshness(name: str, data: Path, settings: Mapping[str, str], seconds: float) -> Figure:
    """Measure one server for so many seconds, as :func:`observe`."""
    run = observe(data, settings, seconds)
    return as_figure(name, run.observed, run.cores)


def observe(data: Path, settings: Mapping[str, str], seconds: float) -> Run:
    """Start a server and offer it the load.

    Args:
        data: folder for the server's data.
        settings: environment variables of the server.
        seconds: how long to measure.

    Raises:
        RuntimeError: if a list came back before the event that it was to have seen.
    """
    server = Server(data, settings)
    try:
        began, before = time.monotonic(), processor_seconds()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.streaming.load", server.url, str(seconds)],
            cwd=_ROOT,
            capture_output=True,
            timeout=seconds + 300,
            check=False,
        )
        took, after = time.monotonic() - began, processor_seconds()
    finally:
        server.stop()
    if done.returncode:
        raise RuntimeError(f"the load failed: {done.stderr.decode().strip()[-600:]}")
    cores = {process: (after[process] - before[process]) / took for process in before}
    return Run(msgspec.json.decode(done.stdout, type=Observed), cores)


def pooled(runs: Sequence[Run]) -> Run:
    """Several runs of one length as one: all that was seen, and the mean of the cores."""
    seen = [run.observed for run in runs]
    refused: Counter[str] = Counter()
    for one in seen:
        refused.update(one.refused)
    whole = Observed(
        seconds=sum(one.seconds for one in seen),
        offered=sum(one.offered for one in seen),
        accepted=sum(one.accepted for one in seen),
        refused=dict(refused),
        post_ms=[it for one in seen for it in one.post_ms],
        fresh_ms=[it for one in seen for it in one.fresh_ms],
        fresh_at_s=[it for one in seen for it in one.fresh_at_s],
        fresh_ack_ms=[it for one in seen for it in one.fresh_ack_ms],
        fresh_list_ms=[it for one in seen for it in one.fresh_list_ms],
        late_ms=[it for one in seen for it in one.late_ms],
        looked_up=sum(one.looked_up for one in seen),
        cpu_s=sum(one.cpu_s for one in seen),
    )
    cores = {name: statistics.mean(run.cores[name] for run in runs) for name in runs[0].cores}
    return Run(whole, cores)


def as_figure(
    name: str, observed: Observed, cores: Mapping[str, float] = MappingProxyType({})
) -> Figure:
    """What was observed; without a value if the server did not take the load or missed a probe.

    Args:
        name: name of the figure.
        observed: what the load has seen.
        cores: what each process took of the cores, warm-up included.
    """
    rate = observed.accepted / observed.seconds
    fresh = observed.fresh_ms
    waits = [all_ - ack for all_, ack in zip(fresh, observed.fresh_ack_ms, strict=True)]
    note = (
        f"an event due to be posted until /v1/recommend has answered with it, {PROBES_PER_S} a "
        f"second, {observed.looked_up} of them looked up and found among the user's features; "
        f"{rate:,.0f} of {RATE:,} events/s accepted beside it, {BATCH} a request, {CONNECTIONS} "
        f"connections, whatever the server does. p50/p99: acknowledged "
        f"{_percentiles(observed.fresh_ack_ms)}, then readable and answered "
        f"{_percentiles(waits)}; by quarter of a run {_by_quarter(observed)}; whole batches "
        f"acknowledged {_percentiles(observed.post_ms)}. The "
        f"load took {observed.cpu_s / observed.seconds:.2f} cores and began "
        f"{_percentiles(observed.late_ms)} late, both in the figures; low is p50; "
        f"{''.join(f'{process} {share:.2f}, ' for process, share in cores.items())}"
        f"{os.cpu_count()} cores for all, load {os.getloadavg()[0]:.1f}"
    )
    if observed.refused or rate < _ENOUGH * RATE or not fresh:
        refused = ", ".join(f"{n} answers {code}" for code, n in observed.refused.items())
        return Figure(
            name, None, "ms", note=f"the load was not taken ({refused or 'slow'}): {note}"
        )
    return Figure(
        name,
        round(_at(fresh, 0.99), 2),
        "ms",
        low=round(_at(fresh, 0.5), 2),
        runs=len(fresh),
        note=note,
    )


def processor_seconds() -> dict[str, float]:
    """CPU seconds of the processes that this one has started, by what they are."""
    mine = os.getpid()
    children = Path(f"/proc/{mine}/task/{mine}/children")
    if not children.exists():  # there is none but on Linux
        return {}
    found = {}
    for pid in map(int, children.read_text(encoding="ascii").split()):
        words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").split()
        kind = next((name for name in _PROCESSES if name in words), None)
        if kind is not None:
            found[kind] = cpu_seconds(pid)
    return found


def _by_quarter(observed: Observed) -> str:
    """Whether it gets slower as it goes on."""
    length = max(observed.fresh_at_s, default=0.0) / 4
    quarters: list[list[float]] = [[] for _ in range(4)]
    for at, fresh in zip(observed.fresh_at_s, observed.fresh_ms, strict=True):
        quarters[min(int(at / length), 3) if length else 0].append(fresh)
    return ", ".join(map(_percentiles, quarters))


def _percentiles(values: Sequence[float]) -> str:
    return f"{_at(values, 0.5):.1f}/{_at(values, 0.99):.1f} ms" if values else "never"


def _at(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]
