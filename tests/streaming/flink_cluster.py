"""A Flink in one JVM, started once for all scripts, and its topics."""

import base64
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.ports import free_port
from tactful_streaming.contract.log_entries import Entry, encode_entry
from tactful_streaming.flink.options import FlinkOptions
from tactful_streaming.flink.rest_client import RUNNER_CLASS, build_runner

# Packages that a JVM since 17 must open to Flink, from Flink's own configuration.
_OPENED = "lang net io nio lang.reflect text time util util.concurrent util.concurrent.atomic"
# Each job brings thousands of methods: after some jobs the 48 MB are full that a JVM without its
# second compiler keeps for compiled code. It then compiles no more, and says so on standard output,
# between our answers, unless it is told to say such things elsewhere.
_JVM = [
    "-Xmx1g",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:ReservedCodeCacheSize=256m",
    "-XX:+DisplayVMOutputToStderr",
    "-Xlog:disable",
    "-Xlog:all=warning:stderr",
    # To verify the classes of Flink takes a seventh of a first job; a cluster does, in tests, too.
    "-XX:+UnlockDiagnosticVMOptions",
    "-XX:-BytecodeVerificationRemote",
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent.locks=ALL-UNNAMED",
    *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in _OPENED.split()),
]
# A job that has failed would begin again and again, until nobody knows why any more.
_ONCE = "SET 'restart-strategy.type' = 'none';\n\n"
_LAST_WORDS = 1500


class LocalFlink:
    """A JVM that runs one script after the other; the first takes longest."""

    def __init__(self, flink_home: Path, log: Path) -> None:
        jar = build_runner(flink_home)
        self.log = log
        command = ["java", *_JVM]
        command += ["-cp", f"{flink_home}/lib/*:{jar}", RUNNER_CLASS, "serve"]
        with log.open("wb") as written:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=written
            )
        self._answers: queue.Queue[bytes] = queue.Queue()
        self._strays: list[bytes] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def run(self, script: str, timeout: float = 400.0) -> None:
        """Run a script whose sources end, to its end."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(base64.b64encode((_ONCE + script).encode()) + b"\n")
            self._process.stdin.flush()
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise AssertionError(f"no end after {timeout:.0f} s: {self._last_words()}") from None
        except OSError as error:
            raise AssertionError(f"Flink's JVM is gone: {self._last_words()}") from error
        if answer == b"failed":
            raise AssertionError(f"Flink's JVM ended: {self._last_words()}")
        if answer != b"ok":
            reason = base64.b64decode(answer.removeprefix(b"failed "), validate=True).decode()
            raise AssertionError(f"Flink refused the script: {reason[-_LAST_WORDS:]}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in map(bytes.strip, self._process.stdout):
            if line == b"ok" or line.startswith(b"failed "):
                self._answers.put(line)
            else:
                self._strays.append(line)
        self._answers.put(b"failed")

    def _last_words(self) -> str:
        said = self.log.read_bytes() + b"".join(line + b"\n" for line in self._strays)
        return said[-_LAST_WORDS:].decode(errors="replace")


@contextmanager
def local_flink(flink_home: Path) -> Iterator[LocalFlink]:
    with tempfile.TemporaryDirectory(prefix="tactful-flink-") as folder:
        flink = LocalFlink(flink_home, Path(folder, "flink.log"))
        try:
            yield flink
        finally:
            flink.close()


def make_topic(servers: str, topic: str, partitions: int = 1) -> None:
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin = AdminClient({"bootstrap.servers": servers})
    for future in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        future.result(120)


def job_options(servers: str, log: str, features: str, matches: str) -> FlinkOptions:
    """Options of a job with one subtask, whose group is named after its log."""
    return FlinkOptions(
        servers,
        log,
        features_topic=features,
        matches_topic=matches,
        group_id=log,
        watermark_delay_ms=0,
        allowed_lateness_ms=0,
        parallelism=1,
    )


def append(
    servers: str, topic: str, entries: Sequence[Entry], *, partition: int = 0, codec: str = "none"
) -> None:
    """Append entries in JSON to a partition."""
    from confluent_kafka import Producer

    producer = Producer(
        {"bootstrap.servers": servers, "acks": "all", "linger.ms": 20, "compression.type": codec}
    )
    for entry in entries:
        while True:
            try:
                producer.produce(topic, encode_entry(entry, "json"), partition=partition)
                break
            except BufferError:
                producer.poll(1)
    assert producer.flush(60) == 0


def write_log(
    servers: str, topic: str, partitions: Sequence[Sequence[Entry]], *, codec: str = "none"
) -> dict[int, int]:
    """Make a topic with these entries in each partition; its end offsets."""
    make_topic(servers, topic, len(partitions))
    for number, entries in enumerate(partitions):
        append(servers, topic, entries, partition=number, codec=codec)
    return {number: len(entries) for number, entries in enumerate(partitions)}


def read_rows(servers: str, topic: str, expected: int) -> list[dict[str, Any]]:
    """Rows of a topic with one partition: the expected ones, and those soon after."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "test", "enable.auto.commit": False}
        | {"fetch.wait.max.ms": 20, "fetch.queue.backoff.ms": 5, "log_level": 0}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    rows: list[dict[str, Any]] = []
    # The broker of the tests does not say where a topic ends.
    until = time.monotonic() + 120
    while time.monotonic() < until:
        records = consumer.consume(5000, 0.5)
        values = [value for r in records if r.error() is None and (value := r.value()) is not None]
        rows += map(msgspec.json.decode, values)
        if not values and len(rows) >= expected:
            break
    consumer.close()
    return rows


class FlinkProcesses:
    """A JobManager and a TaskManager of their own, by ``scripts/flink``."""

    def __init__(self, flink_home: Path, folder: Path) -> None:
        self.home = folder / "flink"
        self.home.mkdir()
        (self.home / "lib").symlink_to(flink_home / "lib")
        self.port = free_port()
        own = {"TACTFUL_FLINK_HOME": str(self.home), "TACTFUL_FLINK_PORT": str(self.port)}
        self._environment = {**os.environ, **own, "TACTFUL_FLINK_SLOTS": "2"}
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start what does not run."""
        self._call("start")

    def stop(self) -> None:
        self._call("stop")

    def kill_worker(self) -> None:
        """``kill -9`` of the TaskManager."""
        os.kill(int((self.home / "run" / "taskmanager.pid").read_text()), signal.SIGKILL)

    def _call(self, command: str) -> None:
        script = Path(__file__).parents[2] / "scripts" / "flink"
        subprocess.run(
            [str(script), command],
            env=self._environment,
            check=True,
            capture_output=True,
            timeout=300,
        )


@contextmanager
def flink_processes(flink_home: Path, folder: Path) -> Iterator[FlinkProcesses]:
    processes = FlinkProcesses(flink_home, folder)
    processes.start()
    try:
        yield processes
    finally:
        processes.stop()
