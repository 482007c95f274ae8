"""Flink as a peer: a cluster of our own, and hand-written SQL (peers/flink_*.sql) sent to it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import threading
import time
import urllib.request
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.ports import free_port
from benchmarks.streaming.events import DELAY_MS, Topic, cpu_seconds
from tactful_streaming.flink.rest_client import FLINK_VERSION, build_runner

_ROOT = Path(__file__).resolve().parents[2]
_PEERS = Path(__file__).parents[1] / "peers"
_PATIENCE_S = 900
_ENDED = ("FINISHED", "FAILED", "CANCELED")
_STATE = {"hop": "rocksdb", "decay": "rocksdb", "cep": "hashmap"}
"""Where it keeps the state of a job. Of a sequence in the heap: in RocksDB, where each event walks
over what was deleted before, 60,000 events took it more than a minute of CPU."""


@dataclass(frozen=True)
class Run:
    """What a contender took for a job.

    Attributes:
        events: events read.
        cpu_s: CPU seconds of all its threads.
        wall_s: seconds.
        rows: result rows, where it counts them.
    """

    events: int
    cpu_s: float
    wall_s: float
    rows: int | None = None

    @property
    def rate(self) -> float:
        """Events per CPU-second."""
        return self.events / self.cpu_s


class Flink:
    """A running cluster."""

    def __init__(self, home: Path, port: int) -> None:
        """Talk to the cluster of `home` on `port`; upload our SQL runner."""
        self._url = f"http://127.0.0.1:{port}"
        self._worker = int((home / "run" / "taskmanager.pid").read_text())
        jar = build_runner(home)
        boundary = "tactful"
        body = (
            (
                f'--{boundary}\r\nContent-Disposition: form-data; name="jarfile"; '
                f'filename="{jar.name}"\r\nContent-Type: application/x-java-archive\r\n\r\n'
            ).encode()
            + jar.read_bytes()
            + f"\r\n--{boundary}--\r\n".encode()
        )
        kind = f"multipart/form-data; boundary={boundary}"
        self._jar = Path(self._call("jars/upload", body, kind)["filename"]).name

    def run(self, kind: str, topic: Topic, output: str) -> Run:
        """Run a job of peers/ over a topic to its end, where every open window fires.

        Args:
            kind: which job.
            topic: what it reads.
            output: topic for the results.
        """
        return self.run_script(_script(kind, topic, output), topic.count)

    def run_script(self, script: str, events: int) -> Run:
        """Run a job that ends by itself, after it has read so many events."""
        with _Watch(self._worker) as watch:
            job = self._submit(script)
            status = self._await_end(job)
        if status["state"] == "FAILED":
            raise RuntimeError(f"Flink: {self._call(f'jobs/{job}/exceptions')}")
        begun, ended = self._ran(job, status["vertices"])
        return Run(events, watch.at(ended) - watch.at(begun), ended - begun)

    def run_until(self, script: str, events: int, ended: Callable[[], float]) -> Run:
        """Run a job that goes on for ever, and cancel it.

        Args:
            script: the job.
            events: number of events that it reads.
            ended: waits until it has done its work; returns when that was, epoch seconds.
        """
        with _Watch(self._worker) as watch:
            job = self._submit(script)
            try:
                end = ended()
            finally:
                self._cancel(job)
            status = self._await_end(job)
        begun, _ = self._ran(job, status["vertices"])
        return Run(events, watch.at(end) - watch.at(begun), end - begun)

    def _submit(self, script: str) -> str:
        argument = base64.b64encode(script.encode()).decode()
        request = json.dumps({"programArgsList": ["run", argument], "parallelism": 1}).encode()
        answer = self._call(f"jars/{self._jar}/run", request, "application/json")
        return str(answer["jobid"])

    def _await_end(self, job: str) -> Any:
        """Return what is known of a job that has ended; it is cancelled if that takes too long."""
        submitted = time.perf_counter()
        while (status := self._call(f"jobs/{job}"))["state"] not in _ENDED:
            if time.perf_counter() - submitted > _PATIENCE_S:
                self._cancel(job)
                raise TimeoutError(f"Flink's job took longer than {_PATIENCE_S} s")
            time.sleep(0.1)
        return status

    def _cancel(self, job: str) -> None:
        cancel = f"{self._url}/jobs/{job}?mode=cancel"
        urllib.request.urlopen(
            urllib.request.Request(cancel, b"", method="PATCH"), timeout=60
        ).close()

    def _ran(self, job: str, tasks: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
        """Since when the first task of a job ran, and until when the last did, seconds.

        As of us, what it takes to start is not counted: code is made, state is opened. The times
        are Flink's own, for what it answers about a job that runs is up to three seconds old.
        """
        attempts = [
            attempt
            for task in tasks
            for attempt in self._call(f"jobs/{job}/vertices/{task['id']}")["subtasks"]
        ]
        begun = min(each["end-time"] - each["status-duration"]["RUNNING"] for each in attempts)
        return begun / 1000, max(each["end-time"] for each in attempts) / 1000

    def _call(self, path: str, body: bytes | None = None, kind: str = "") -> Any:
        headers = {"Content-Type": kind} if body is not None else {}
        request = urllib.request.Request(f"{self._url}/{path}", body, headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)


class _Watch:
    """Reads the CPU time of a process all the while, so that it can be said of any moment of it."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._seen: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def at(self, moment: float) -> float:
        """CPU seconds at a moment of the clock, to a hundredth."""
        place = bisect_left(self._seen, (moment, 0.0))
        return self._seen[min(place, len(self._seen) - 1)][1]

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self._seen.append((time.time(), cpu_seconds(self._process)))


@contextlib.contextmanager
def flink(scratch: Path) -> Iterator[Flink]:
    """A cluster of one JobManager and one TaskManager, with folders of its own."""
    jars = Path(os.environ.get("TACTFUL_FLINK_HOME", _ROOT / ".flink"))
    command = str(_ROOT / "scripts" / "flink")
    subprocess.run([command, "fetch"], check=True, stdout=subprocess.DEVNULL)
    home = scratch / "flink"
    home.mkdir()
    (home / "lib").symlink_to(jars.resolve() / "lib")
    port = free_port()
    environment = {
        **os.environ,
        "TACTFUL_FLINK_HOME": str(home),
        "TACTFUL_FLINK_PORT": str(port),
        "TACTFUL_FLINK_HEAP": "1024",
        "TACTFUL_FLINK_STATE": "1024",
    }
    subprocess.run([command, "start"], check=True, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield Flink(home, port)
    finally:
        subprocess.run([command, "stop"], check=False, env=environment)


def settings_of(kind: str) -> str:
    """How a job is run, in words."""
    state = (
        "RocksDB" if _STATE[kind] == "rocksdb" else "state in the heap (in RocksDB it is slower)"
    )
    return (
        f"Flink {FLINK_VERSION}, {state}, checkpoints every 10 s, parallelism 1, warm; only its "
        "TaskManager is counted"
    )


def _script(kind: str, topic: Topic, output: str) -> str:
    offsets = ";".join(f"partition:{number},offset:{end}" for number, end in enumerate(topic.ends))
    source = {
        "connector": "kafka",
        "topic": topic.name,
        "properties.bootstrap.servers": topic.servers,
        "properties.group.id": output,
        "scan.startup.mode": "earliest-offset",
        "scan.bounded.mode": "specific-offsets",
        "scan.bounded.specific-offsets": offsets,
        "format": "json",
    }
    sink = {
        "connector": "kafka",
        "topic": output,
        "properties.bootstrap.servers": topic.servers,
        "properties.linger.ms": "20",
        "properties.batch.size": "262144",
        "properties.compression.type": "lz4",
        "format": "json",
    }
    if kind != "cep":
        sink["connector"] = "upsert-kafka"
        del sink["format"]
        sink |= {"key.format": "json", "value.format": "json"}
    settings = {
        "state.backend.type": _STATE[kind],
        "execution.checkpointing.incremental": "true",
        "execution.checkpointing.interval": "10s",
    }
    lines = [f"SET '{key}' = '{value}';" for key, value in settings.items()]
    text = Template((_PEERS / f"flink_{kind}.sql").read_text(encoding="utf-8"))
    return "\n".join(lines) + text.substitute(
        delay_s=DELAY_MS // 1000, source=_options(source), sink=_options(sink)
    )


def _options(options: dict[str, str]) -> str:
    return ", ".join(f"'{key}' = '{value}'" for key, value in options.items())
