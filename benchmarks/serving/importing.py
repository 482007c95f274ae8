"""``tactful import`` of a file: rate, processor time of each part, memory; then a training.

The server and the command are those that users run, with the packaged features, on all cores of the
machine. An event is imported when it is acknowledged, which is when it is on disk; it is applied
when the engine has counted it, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from benchmarks.figures import Figure

_DAYS_MS = 30 * 86_400_000
_ITEMS = 5_000
_PATIENCE_S = 900.0
_TICKS = os.sysconf("SC_CLK_TCK")
_TYPES = ("view", "view", "view", "view", "view", "view", "add_to_cart", "add_to_cart", "click")

NAMES = {
    "import_events_per_s": "events/s",
    "import_applied_events_per_s": "events/s",
    "import_csv_events_per_s": "events/s",
    "import_parquet_events_per_s": "events/s",
    "import_client_cpu_us": "us/event",
    "import_csv_client_cpu_us": "us/event",
    "import_parquet_client_cpu_us": "us/event",
    "import_server_cpu_us": "us/event",
    "import_engine_cpu_us": "us/event",
    "server_rss_empty_mb": "MB",
    "server_rss_250k_mb": "MB",
    "train_250k_peak_mb": "MB",
    "train_250k_cpu_s": "s",
}


@dataclass(frozen=True)
class _Imported:
    """One import into an empty server."""

    durable_s: float
    applied_s: float
    client_s: float  # processor seconds
    server_s: float  # of all threads but that of the engine
    engine_s: float
    empty_mb: float
    loaded_mb: float


def import_figures(quick: bool) -> list[Figure]:
    """Import 250,000 events of 6,250 people, some times into an empty server."""
    count = 50_000 if quick else 250_000
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name:
        folder = Path(name)
        _write(folder, count, people=count // 40)
        repeats = 1 if quick else 3
        runs = [_import(folder, f"data-{number}", "events.ndjson") for number in range(repeats)]
        tables = {
            name: [
                _import(folder, f"{name}-{number}", f"events.{name}") for number in range(repeats)
            ]
            for name in ("csv", "parquet")
        }
        trained = train(folder / "data-0")
    shape = f"{count:,} events of {count // 40:,} people; {os.cpu_count()} cores with the client"
    rates = {
        "import_events_per_s": ([count / r.durable_s for r in runs], f"on disk; {shape}"),
        "import_applied_events_per_s": (
            [count / r.applied_s for r in runs],
            f"on disk and in the features; bound by the interpreter lock that the event loop and "
            f"the engine share; {shape}",
        ),
        "import_client_cpu_us": ([r.client_s / count * 1e6 for r in runs], shape),
        **{
            f"import_{name}_events_per_s": (
                [count / r.durable_s for r in found],
                f"on disk, columns guessed, ids made; {shape}",
            )
            for name, found in tables.items()
        },
        **{
            f"import_{name}_client_cpu_us": ([r.client_s / count * 1e6 for r in found], shape)
            for name, found in tables.items()
        },
        "import_server_cpu_us": ([r.server_s / count * 1e6 for r in runs], shape),
        "import_engine_cpu_us": ([r.engine_s / count * 1e6 for r in runs], shape),
        "server_rss_empty_mb": ([r.empty_mb for r in runs], "after its start"),
        "server_rss_250k_mb": ([r.loaded_mb for r in runs], f"after the import; {shape}"),
        "train_250k_peak_mb": ([trained.ru_maxrss / 1e3], f"tactful train; {shape}"),
        "train_250k_cpu_s": ([trained.ru_utime + trained.ru_stime], f"tactful train; {shape}"),
    }
    figures = []
    for figure, (values, note) in rates.items():
        middle = sorted(values)[len(values) // 2]
        spread = min(values), max(values), len(values), note
        figures.append(Figure(figure, middle, NAMES[figure], *spread))
    return figures


def _write(folder: Path, count: int, people: int) -> None:
    """Write items, and events of visits of some six events in the last 30 days, by time."""
    chance, begin = random.Random(1), time.time_ns() // 1_000_000 - _DAYS_MS
    rows: list[tuple[int, str, int, int, int]] = []
    for visit in range(count):
        person, at = chance.randrange(people), begin + chance.randrange(_DAYS_MS - 7_200_000)
        for _ in range(1 + min(int(chance.expovariate(1 / 5.5)), 40)):
            at += int(chance.expovariate(1 / 30_000))
            item = int(chance.paretovariate(0.6)) % _ITEMS
            rows.append((at, chance.choice([*_TYPES, "purchase"]), person, visit, item))
        if len(rows) >= count:
            break
    with (folder / "events.ndjson").open("w") as file:
        for number, (at, kind, person, visit, item) in enumerate(sorted(rows[:count])):
            event: dict[str, Any] = {"event_id": f"e-{number}", "type": kind, "timestamp": at}
            event |= {"user_id": f"u-{person}", "session_id": f"s-{visit}", "item_id": f"i-{item}"}
            event["properties"] = {"price": 9.5, "category": f"c-{item % 40}"}
            file.write(json.dumps(event, separators=(",", ":")) + "\n")
    _write_tables(folder, sorted(rows[:count]))
    with (folder / "items.ndjson").open("w") as file:
        for item in range(_ITEMS):
            described = {"item_id": f"i-{item}", "category": f"c-{item % 40}", "price": 9.5}
            file.write(json.dumps({**described, "title": f"Item {item}"}) + "\n")


def _write_tables(folder: Path, rows: list[tuple[int, str, int, int, int]]) -> None:
    """Write the same events as CSV and as Parquet, without ids, under the names of a shop."""
    times, kinds, people, visits, items = zip(*rows, strict=True)
    table = pa.table(
        {
            "event_time": pa.array(times, pa.timestamp("ms")),
            "event_type": kinds,
            "customer_no": [f"u-{person}" for person in people],
            "visit_id": [f"s-{visit}" for visit in visits],
            "sku": [f"i-{item}" for item in items],
            "price": [9.5] * len(rows),
            "category": [f"c-{item % 40}" for item in items],
        }
    )
    pa.parquet.write_table(table, folder / "events.parquet", row_group_size=50_000)
    pa.csv.write_csv(table, folder / "events.csv")


def _import(folder: Path, data: str, events: str) -> _Imported:
    with server(folder / data) as (pid, url), httpx.Client(base_url=url) as http:
        empty = _resident_mb(pid)
        _send(folder / "items.ndjson", url, "--kind", "items")
        before, client = _threads(pid), _children_s()
        began = time.perf_counter()
        position = _send(folder / events, url)["position"]
        durable = time.perf_counter() - began
        client = _children_s() - client
        while http.get("/v1/users/u-0/features").json()["position"] < position:
            if time.perf_counter() - began > _PATIENCE_S:
                raise RuntimeError("the engine has not caught up with what was imported")
            time.sleep(0.01)
        applied = time.perf_counter() - began
        time.sleep(2)  # the last commit, after which free memory is returned
        after = {thread: s - before.get(thread, 0.0) for thread, s in _threads(pid).items()}
        engine = max(seconds for thread, seconds in after.items() if thread != pid)
        return _Imported(
            durable_s=durable,
            applied_s=applied,
            client_s=client,
            server_s=sum(after.values()) - engine,
            engine_s=engine,
            empty_mb=empty,
            loaded_mb=_resident_mb(pid),
        )


def _send(file: Path, url: str, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tactful", "import", str(file), "--url", url, "--json"]
    environment = {**os.environ, "XDG_STATE_HOME": str(file.parent / "state")}
    done = subprocess.run(
        [*command, "--restart", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def train(data: Path) -> resource.struct_rusage:
    """Train a model, and return what the command used."""
    command = [sys.executable, "-m", "tactful", "train", "--data", str(data), "--json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"`tactful train` ended with {process.returncode}")
    return used


@contextlib.contextmanager
def server(data: Path) -> Iterator[tuple[int, str]]:
    """Run a server; yield its process id and address."""
    command = [sys.executable, "-m", "tactful", "serve", "--dev", "--json", "--port", "0"]
    with subprocess.Popen(
        [*command, "--data", str(data)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            yield process.pid, json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


def _threads(pid: int) -> dict[int, float]:
    """Return the processor seconds of each thread of a process."""
    seconds = {}
    for path in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            seconds[int(path.name)] = (int(fields[11]) + int(fields[12])) / _TICKS
    return seconds


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
