"""Kafka over TLS with certificates of both sides; what is refused is explained."""

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.streaming.brokers import Broker, patiently, topic_name

from benchmarks.ports import free_port
from tactful_streaming.errors import LogError
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.consumer_group import PartitionGroup
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.kafka.transactional_producer import TransactionalProducer

pytest.importorskip("confluent_kafka")

_CERTIFICATES = """
set -e
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 1 -subj /CN=authority
for name in broker client; do
  openssl req -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /CN=$name
  printf "subjectAltName=IP:127.0.0.1" > $name.ext
  openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 \
    -extfile $name.ext -out $name.pem
done
openssl rsa -aes128 -passout pass:hunter2 -in client.key -out locked.key
openssl req -x509 -newkey rsa:2048 -nodes -keyout o.key -out other.pem -days 1 -subj /CN=other
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    made = subprocess.run(["bash", "-c", _CERTIFICATES], cwd=folder, capture_output=True)
    if made.returncode:
        pytest.skip("no openssl here to make certificates with")
    return folder


@contextlib.contextmanager
def tls_in_front(port: int, target: int, context: ssl.SSLContext) -> Iterator[None]:
    """Speaks TLS on `port` for a broker that does not."""
    loop = asyncio.new_event_loop()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(copy(reader, broker_writer), copy(broker_reader, writer))

    async def start() -> asyncio.Server:
        return await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)

    loop.set_exception_handler(lambda *_: None)  # of handshakes that are meant to fail
    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@pytest.fixture(scope="module")
def settings(certificates: Path) -> Iterator[KafkaSettings]:
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem")
    )
    context.load_cert_chain(certificates / "broker.pem", certificates / "broker.key")
    context.verify_mode = ssl.CERT_REQUIRED
    port = free_port()
    broker = Broker(advertised=port)
    try:
        with tls_in_front(port, broker.port, context):
            yield KafkaSettings(
                servers=broker.servers,
                topic=topic_name(),
                security="ssl",
                ca_file=certificates / "ca.pem",
                certificate_file=certificates / "client.pem",
                key_file=certificates / "locked.key",
                key_password="hunter2",
                linger_ms=1,
            )
    finally:
        broker.kill()


@pytest.mark.slow
def test_everything_speaks_tls(settings: KafkaSettings) -> None:
    ensure_topic(settings, consumer_threads=1)
    producer = TransactionalProducer(settings, "owner")
    assert producer.append(settings.topic, [b"0"], 0) == 0
    producer.close()
    with KafkaLog(settings) as log:
        log.append([b"1", b"2"], [None, None])
        partition = log.partition(0)
        payloads: list[bytes] = []
        while len(payloads) < 3:
            payloads += [payload for _, payload in partition.read(len(payloads), 9)]
        assert payloads == [b"0", b"1", b"2"]
        partition.close()
    group = PartitionGroup(
        settings, "g", assigned=lambda _: 0, revoked=lambda _: None, lost=lambda _: None
    )
    payloads.clear()

    def read() -> bool:
        payloads.extend(payload for run in group.poll(9, 0.05).values() for _, payload in run)
        return len(group.partitions) == 2 and len(payloads) >= 5

    patiently(read)
    assert sorted(payloads) == [b"0", b"1", b"1", b"2", b"2"]
    group.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ca_file": "other.pem"}, "certificate"),
        pytest.param(
            {"certificate_file": None, "key_file": None, "key_password": None},
            "certificates",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"security": "plaintext"}, "check the security settings", marks=pytest.mark.slow
        ),
        ({"key_password": "wrong"}, "refuses its settings"),
    ],
)
def test_refused_connections_are_explained(
    settings: KafkaSettings, certificates: Path, change: dict[str, str | None], words: str
) -> None:
    if change.get("ca_file"):
        change = {"ca_file": certificates / str(change["ca_file"])}  # type: ignore[dict-item]
    if "security" in change:
        nothing = ("ca_file", "certificate_file", "key_file", "key_password")
        change = {**change, **dict.fromkeys(nothing)}
    refused = replace(settings, **change)  # type: ignore[arg-type]
    with pytest.raises(LogError) as caught:
        ensure_topic(refused, timeout_s=3)
    assert words in str(caught.value)
    with pytest.raises(LogError) as caught, KafkaLog(refused, connect_timeout_s=3) as log:
        log.append([b"x"], ["u"])
    assert words in str(caught.value)
