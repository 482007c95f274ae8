"""Apache Kafka with TLS, certificates of clients and SASL: all of our clients log in by each."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.platform.http.issuer import SECRET, Issuer
from tests.streaming.brokers import patiently, topic_name
from tests.streaming.secured_kafka import allowed_urls, secured_options

from benchmarks.apache_kafka import Cluster
from tactful_streaming.errors import LogError, LogUnreachableError
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.consumer_group import PartitionGroup
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.topics import ensure_topic, topic_id
from tactful_streaming.kafka.transactional_producer import TransactionalProducer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LOGINS = {
    "tls": ("ssl", None),
    "plain": ("sasl_ssl", "PLAIN"),
    "scram": ("sasl_ssl", "SCRAM-SHA-256"),
    "oauth": ("sasl_ssl", "OAUTHBEARER"),
}


class Secured:
    """The broker and the issuer of its tokens."""

    def __init__(self, cluster: Cluster, issuer: Issuer, folder: Path) -> None:
        self.cluster = cluster
        self.issuer = issuer
        self.folder = folder

    def settings(self, login: str, **changes: Any) -> KafkaSettings:
        security, mechanism = LOGINS[login]
        fields: dict[str, Any] = {"sasl_mechanism": mechanism}
        if login == "tls":
            fields |= {
                "certificate_file": self.folder / "client.pem",
                "key_file": self.folder / "client.key",
            }
        elif login == "oauth":
            fields |= {
                "username": "alice",
                "password": SECRET,
                "token_url": f"{self.issuer.url}/token",
                "token_scope": "kafka",
                "token_extensions": "logicalCluster=lkc-1,identityPoolId=pool-2",
            }
        else:
            fields |= {"username": "alice", "password": "alice-secret"}
        made: dict[str, Any] = {
            "servers": self.cluster.address(security),
            "topic": topic_name(),
            "security": security,
            "ca_file": self.folder / "ca.pem",
            "linger_ms": 1,
            **fields,
            **changes,
        }
        return KafkaSettings(**made)


@pytest.fixture(scope="module")
def secured(
    apache_cluster: Callable[..., AbstractContextManager[Cluster]],
) -> Iterator[Secured]:
    with ExitStack() as stack:
        issuer = stack.enter_context(Issuer())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in allowed_urls(issuer).items():
            patch.setenv(name, value)
        cluster = stack.enter_context(apache_cluster(1, *secured_options(issuer)))
        yield Secured(cluster, issuer, cluster.folder)


class Reader:
    """The only member of a group, and the records that it has read."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.group = PartitionGroup(
            settings,
            settings.topic,
            assigned=lambda _: 0,
            revoked=lambda _: None,
            lost=lambda _: None,
        )
        self.payloads: list[bytes] = []

    def read(self) -> int:
        """Poll once; return the number of records so far."""
        for run in self.group.poll(9, 0.05).values():
            self.payloads += [payload for _, payload in run]
        return len(self.payloads)


@pytest.mark.parametrize("login", LOGINS)
def test_every_client_logs_in(secured: Secured, login: str) -> None:
    settings = secured.settings(login)
    assert ensure_topic(settings, partitions=1) == 1
    assert topic_id(settings)
    producer = TransactionalProducer(settings, settings.topic)
    producer.append(settings.topic, [b"0"], 0)
    producer.close()
    with KafkaLog(settings) as log:
        log.append([b"1", b"2"], ["u", None])
        partition = log.partition(0)
        payloads: list[bytes] = []
        while len(payloads) < 3:
            records = partition.read(0, 9)
            payloads = [payload for _, payload in records]
        partition.close()
    reader = Reader(settings)
    patiently(lambda: reader.read() >= 3)
    reader.group.close()
    assert reader.payloads == payloads == [b"0", b"1", b"2"]


def test_refusals_are_explained(secured: Secured) -> None:
    for login, change, words in (
        (
            "tls",
            {"certificate_file": None, "key_file": None},
            "certificate required.*check .*certificates",
        ),
        ("plain", {"password": "wrong"}, "refused us .*check username, password"),
        ("oauth", {"password": "wrong"}, "token.*invalid_client.*check .*username"),
        ("oauth", {"username": "bob", "token_url": secured.issuer.url}, "token.*check .*username"),
    ):
        refused = secured.settings(login, delivery_timeout_ms=600_000, **change)
        with pytest.raises(LogError, match=words):
            ensure_topic(refused, timeout_s=600)
        with pytest.raises(LogError, match=words), KafkaLog(refused, connect_timeout_s=600) as log:
            log.append([b"x"], ["u"])


def test_tokens_are_renewed_and_an_issuer_that_is_away_is_an_outage(secured: Secured) -> None:
    issuer = secured.issuer
    settings = secured.settings("oauth", delivery_timeout_ms=5_000)
    ensure_topic(settings, partitions=1)
    issuer.program_s = 4
    sent: list[bytes] = []

    def append(log: KafkaLog) -> bool:
        payload = b"%d" % len(sent)
        try:
            log.append([payload], ["u"])
        except LogUnreachableError:
            return False
        sent.append(payload)
        return True

    try:
        with KafkaLog(settings) as log:
            reader = Reader(settings)
            asked = issuer.requests.count("/token")
            while issuer.requests.count("/token") < asked + 4:
                append(log)
                reader.read()
            assert sent
            issuer.down = True
            patiently(lambda: reader.read() >= 0 and not append(log))
            issuer.down = False
            patiently(lambda: reader.read() >= 0 and append(log))
            patiently(lambda: reader.read() and set(reader.payloads) >= set(sent))
            reader.group.close()
        # An append that failed may be in the log all the same.
        assert [payload for payload in dict.fromkeys(reader.payloads) if payload in sent] == sent
    finally:
        issuer.down, issuer.program_s = False, 300
