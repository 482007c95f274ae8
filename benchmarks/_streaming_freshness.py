"""How long after an event is posted a recommendation knows of it, while the server is busy.

A process of its own offers 5,000 events a second over HTTP (:mod:`benchmarks._streaming_load`) and
posts single events beside them, each followed by a request for recommendations ``after`` its
position: the answer is held back until the event can be read. The time counts from the moment when
the event was due to be posted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from benchmarks._streaming_events import cpu_seconds
from benchmarks._streaming_load import BATCH, CONNECTIONS, PROBES_PER_S, RATE, Observed
from benchmarks._streaming_server import Server
from benchmarks.figures import Figure

_ROOT = Path(__file__).resolve().parents[1]
_ENOUGH = 0.99
_PROCESSES = ("serve", "worker", "redis-server", "broker")
"""What the processes of a measurement are called in their command lines."""


def freshness(name: str, data: Path, settings: Mapping[str, str], seconds: float) -> Figure:
    """Measure one server for so many seconds.

    Args:
        name: name of the figure.
        data: folder for the server's data.
        settings: environment variables of the server.
        seconds: how long to measure.

    Raises:
        RuntimeError: if a list came back before the event that it was to have seen.
    """
    server = Server(data, settings)
    try:
        began, before = time.monotonic(), _processor_seconds()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks._streaming_load", server.url, str(seconds)],
            cwd=_ROOT,
            capture_output=True,
            timeout=seconds + 300,
            check=False,
        )
        took, after = time.monotonic() - began, _processor_seconds()
    finally:
        server.stop()
    if done.returncode:
        raise RuntimeError(f"the load failed: {done.stderr.decode().strip()[-600:]}")
    cores = {process: (after[process] - before[process]) / took for process in before}
    return as_figure(name, msgspec.json.decode(done.stdout, type=Observed), cores)


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
        f"{_percentiles(waits)}; whole batches acknowledged {_percentiles(observed.post_ms)}. The "
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


def _processor_seconds() -> dict[str, float]:
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


def _percentiles(values: Sequence[float]) -> str:
    return f"{_at(values, 0.5):.1f}/{_at(values, 0.99):.1f} ms" if values else "never"


def _at(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]
