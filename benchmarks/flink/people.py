"""Size and speed of a Flink job whose state holds very many people, in RocksDB on disk.

The log is made first, then the job reads it as after a start from nothing, with checkpoints. The
values of a sample of people are compared with those of the embedded engine on their events.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.apache_kafka import Cluster
from benchmarks.figures import Figure
from benchmarks.flink.cluster import Flink, flink
from benchmarks.flink.place import PARTITIONS, entities_job, entities_topic, new_log
from benchmarks.flink.published import different, engines, known_keys, read_values
from benchmarks.flink.shop import Shop, fill
from benchmarks.progress import progress_bar
from tactful.config.settings import PACKAGED_FEATURES
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.flink.compiler import compile_flink
from tactful_streaming.flink.options import FlinkOptions
from tactful_streaming.flink.rest_client import FlinkCluster

FIGURES: Final = (
    ("flink_people_events_per_s", "events/s"),
    ("flink_people_state_gb", "GB"),
    ("flink_people_checkpoint_gb", "GB"),
    ("flink_people_bytes_per_person", "bytes"),
    ("flink_people_memory_gb", "GB"),
    ("flink_people_checkpoint_s", "s"),
    ("flink_people_wrong_values", "1"),
)

_PEOPLE, _QUICK_PEOPLE, _SAMPLE = 10_000_000, 20_000, 1_000
_DISK_BYTES, _DISK_REST = 2_300, 2_000_000_000  # for each person, and for all else
_HEAP_MB, _STATE_MB = 1_536, 3_072
_CHECKPOINT_S = 60
_POLL_S, _REST_S, _START_S, _STALL_S = 0.5, 5.0, 300.0, 300.0


@dataclass
class _Progress:
    """Job's progress, as it is read while it runs."""

    began: float = 0.0
    ended: float = 0.0
    checkpoints: list[float] = field(default_factory=list)  # seconds of each


def people(quick: bool, scratch: Path, wanted: int | None = None) -> list[Figure]:
    """Measure the job over a log of `wanted` people.

    Args:
        quick: 20,000 people instead of ten million, unless `wanted` says otherwise.
        scratch: folder for files.
        wanted: number of people.

    Raises:
        RuntimeError: if the disk is too small, or a planted value is not found.
    """
    shop = Shop(wanted or (_QUICK_PEOPLE if quick else _PEOPLE))
    check_disk(shop.people, shutil.disk_usage(scratch).free, scratch)
    definitions = load_definitions(PACKAGED_FEATURES)
    with ExitStack() as stack:
        broker = Cluster(scratch / "kafka")
        stack.callback(broker.stop)
        log = new_log(broker.servers)
        count = int(shop.counts.sum())
        chosen = shop.sample(_SAMPLE)
        with progress_bar("events written") as bar:
            events, kept = fill(broker.servers, log.topic, shop, chosen, lambda n: bar(n, count))
        cluster = stack.enter_context(flink(scratch, heap_mb=_HEAP_MB, state_mb=_STATE_MB))
        options = replace(
            entities_job(broker.servers, log.topic, parallelism=PARTITIONS),
            checkpoint_ms=1000 * (5 if quick else _CHECKPOINT_S),
            kafka={"compression.type": "lz4"},
        )
        progress = _run(cluster, definitions, options, events)
        pids = [*cluster.pids(), int((scratch / "kafka" / "node0" / "pid").read_text("ascii"))]
        memory = [_peak_bytes(pid) for pid in pids]
        state, checkpoint, kafka = (
            _disk_bytes(folder)
            for folder in (
                cluster.home / "run" / "tmp",
                cluster.home / "run" / "checkpoints",
                scratch / "kafka",
            )
        )
        compared, wrong, planted = _check(kept, definitions, options)
    seconds = progress.ended - progress.began
    if not planted:
        raise RuntimeError("a planted value was not found: the comparison compares nothing")
    note = (
        f"{shop.people:,} people, {events:,} events in {PARTITIONS} partitions, packaged "
        "definitions; one TaskManager with two subtasks, state in RocksDB, checkpoints every "
        f"{options.checkpoint_ms // 1000} s; "
        f"the log was read in {seconds:,.0f} s; Kafka's topics took {kafka / 1e9:.2f} GB of disk"
    )
    parts = ", ".join(
        f"{name} {size / 1e9:.2f}"
        for name, size in zip(("JobManager", "TaskManager", "broker"), memory, strict=True)
    )
    took = sorted(progress.checkpoints)
    return [
        Figure(FIGURES[0][0], events / seconds, "events/s", note=note),
        Figure(FIGURES[1][0], state / 1e9, "GB", note="RocksDB on disk, once the log was read"),
        Figure(FIGURES[2][0], checkpoint / 1e9, "GB", note="the last checkpoint on disk"),
        Figure(FIGURES[3][0], state / shop.people, "bytes", note="of RocksDB for each person"),
        Figure(FIGURES[4][0], sum(memory) / 1e9, "GB", note=f"sum of the peaks: {parts}"),
        Figure(
            *(FIGURES[5][0], statistics.median(took), "s", took[0], took[-1], len(took)),
            note="end to end; high is the longest",
        ),
        Figure(
            *(FIGURES[6][0], wrong, "1", None, None, compared),
            note=f"of {_SAMPLE:,} people and the ten busiest; {planted} were found after one value "
            "was exchanged",
        ),
    ]


def check_disk(number: int, free: int, folder: Path) -> None:
    """Refuse a run that would fill the disk.

    Raises:
        RuntimeError: names the folder, and what is needed.
    """
    needed = _DISK_REST + number * _DISK_BYTES
    if free < needed:
        raise RuntimeError(
            f"{folder} has {free / 1e9:.1f} GB free, and {number:,} people need "
            f"{needed / 1e9:.1f} GB: choose another folder with TMPDIR, or fewer with --people"
        )


def _run(cluster: Flink, definitions: Definitions, options: FlinkOptions, events: int) -> _Progress:
    """Run the job until it has published all, and a checkpoint after that is complete."""
    progress = _Progress()
    with FlinkCluster(cluster.url) as api, entities_topic(options) as rows:
        job = api.run(api.upload(cluster.jar), compile_flink(definitions, options).text)
        with progress_bar("events read by Flink") as bar:
            _await_rows(
                progress,
                lambda: sum(it.end for it in rows),
                lambda: _read(api, job),
                lambda done: bar(done, events),
                events,
            )
        _await_checkpoint(progress, api, job, 2 * options.checkpoint_ms / 1000 + _STALL_S)
        if failed := api.failure(job):
            raise RuntimeError(f"the job failed on the way: {failed[:300]}")
    return progress


def _await_rows(
    progress: _Progress,
    rows: Callable[[], int],
    read: Callable[[], int],
    show: Callable[[int], None],
    events: int,
) -> None:
    """Wait until all events are read and the rows of the last ones published; note both times."""
    known, done, submitted = 0, 0, time.time()
    changed = submitted
    while done < events or time.time() < changed + _REST_S:
        time.sleep(_POLL_S)
        if (present := rows()) != known:
            known, changed = present, time.time()
            progress.began = progress.began or changed
        if (newest := read()) != done:
            done = newest
            show(done)
        if time.time() > changed + (_STALL_S if known else _START_S):
            raise TimeoutError(f"the job published nothing more after {done:,} events")
    progress.ended = changed


def _read(api: FlinkCluster, job: str) -> int:
    """Return the number of records that the operator behind the log has read."""
    vertices = api.read(f"/jobs/{job}")["vertices"]
    return sum(
        vertex["metrics"]["read-records"]
        for vertex in vertices
        if vertex["name"].startswith("partitions of ")
    )


def _await_checkpoint(progress: _Progress, api: FlinkCluster, job: str, seconds: float) -> None:
    until = time.time() + seconds
    while time.time() < until:
        found: dict[str, Any] = api.read(f"/jobs/{job}/checkpoints")
        completed = [it for it in found["history"] if it["status"] == "COMPLETED"]
        progress.checkpoints = [it["end_to_end_duration"] / 1000 for it in completed]
        if any(it["trigger_timestamp"] / 1000 > progress.ended for it in completed):
            return
        time.sleep(_POLL_S)
    raise TimeoutError(f"no checkpoint was completed within {seconds:g} s of the last row")


def _check(
    events: Mapping[int, Sequence[bytes]], definitions: Definitions, options: FlinkOptions
) -> tuple[int, int, int]:
    """Compare a sample; return the numbers of compared and wrong values, and of planted ones."""
    times = [msgspec.json.decode(event)["timestamp"] for part in events.values() for event in part]
    keys = [known_keys(events[number]) for number in range(PARTITIONS)]
    truth = list(zip(engines(definitions, events), keys, strict=True))
    wanted = frozenset(f"{kind}:{key}".encode() for part in keys for kind, key in part)
    values, _ = read_values(options.servers, options.entities_topic, wanted)
    compared, wrong = different(definitions, truth, values, max(times))
    planted = dict(values)
    busiest = sorted((len(value), key) for key, value in values.items() if key[0] == "user")
    planted[busiest[0][1]] = values[busiest[-1][1]]
    _, found = different(definitions, truth, planted, max(times))
    return compared, wrong, found - wrong


def _peak_bytes(pid: int) -> int:
    """Return the peak of a process's resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(peak)


def _disk_bytes(folder: Path) -> int:
    """Return the disk that the files of a folder take; files may vanish meanwhile."""
    seen: dict[int, int] = {}  # RocksDB's local snapshots are links to the same files
    for file in folder.rglob("*"):
        try:
            status = file.lstat()
        except FileNotFoundError:
            continue
        seen[status.st_ino] = 512 * status.st_blocks
    return sum(seen.values())
