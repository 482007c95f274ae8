"""The topic of the log: create it, and detect that it was deleted and created again."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

from tactful_streaming.errors import TopicError
from tactful_streaming.kafka import client
from tactful_streaming.kafka.config import MAX_KAFKA_BATCH, KafkaSettings
from tactful_streaming.kafka.topic_identity import identity_of, lacks_ids
from tactful_streaming.kafka.topic_watch import START_S, TopicWatch
from tactful_streaming.state.key_layout import PARTITIONS, TOPIC
from tactful_streaming.state.store import StateStore

_logger = logging.getLogger(__name__)

_PAUSE_S = 0.1
_LEADER_S = 5.0
_ASK_EVERY_S = 0.5


def ensure_topic(
    settings: KafkaSettings,
    *,
    consumer_threads: int = 4,
    partitions: int | None = None,
    replication: int = 1,
    retention_ms: int | None = None,
    retention_bytes: int | None = None,
    compacted: bool = False,
    timeout_s: float = 30.0,
) -> int:
    """Create the topic of the log, or one with rows by key, if it does not exist.

    The number of partitions cannot be changed later: users are routed by it. Twice the number of
    consumer threads leaves room to double them, and is the default. An append is acknowledged by
    all but one of the `replication` brokers that hold a partition. Retention (None: for ever) is by
    age of records, milliseconds, and by size of a partition, bytes. A `compacted` topic keeps the
    last row of each key.

    Returns:
        The number of partitions of the topic, also if it existed.
    """
    kafka = client.import_kafka()
    from confluent_kafka.admin import AdminClient

    wanted = 2 * consumer_threads if partitions is None else partitions
    topic = kafka.cimpl.NewTopic(
        settings.topic,
        num_partitions=wanted,
        replication_factor=replication,
        config={
            "cleanup.policy": "compact" if compacted else "delete",
            "retention.ms": str(-1 if retention_ms is None else retention_ms),
            "retention.bytes": str(-1 if retention_bytes is None else retention_bytes),
            "min.insync.replicas": str(max(replication - 1, 1)),
            "max.message.bytes": str(MAX_KAFKA_BATCH),
        },
    )
    causes = client.Causes()
    until = time.monotonic() + timeout_s
    # The admin client does not say why it has no connection; a producer does.
    producer = client.connect("Producer", settings.client_config(), causes.note)
    admin = AdminClient(settings.client_config())
    try:
        count = client.count_partitions(producer, settings, timeout_s, causes)
        if count is None:
            _create(admin, topic, until)
            count = _await_topic(producer, settings, until) or wanted
        _await_leaders(admin, settings, count, until)
    except kafka.KafkaException as error:
        producer.poll(0)
        if client.is_unknown(error.args[0]):  # by a leader, and another broker lists it
            raise client.unknown_yet(settings) from error
        raise client.explain(error.args[0], settings, causes) from error
    return count


def _create(admin: Any, topic: Any, until: float) -> None:
    kafka = client.import_kafka()

    def create() -> None:
        left_s = _find_controller(admin, until)
        admin.create_topics([topic], request_timeout=left_s)[topic.topic].result()

    try:
        client.ask(create, until - time.monotonic())
    except kafka.KafkaException as error:
        # Another process may have created it just now, or the first of two requests has.
        if error.args[0].code() != kafka.KafkaError.TOPIC_ALREADY_EXISTS:
            raise
    else:
        _logger.info("created topic %s", topic.topic)


def _find_controller(admin: Any, until: float) -> float:
    """Update which broker is the controller; return the seconds that it has to answer.

    An admin client that waits for a controller that died would learn of the next one in minutes.
    """
    left_s = min(max(until - time.monotonic(), 1.0), _LEADER_S)
    admin.list_topics(timeout=left_s)
    return left_s


def _await_topic(producer: Any, settings: KafkaSettings, until: float) -> int | None:
    """Wait until a broker lists the topic; return the number of its partitions."""
    while True:
        left_s = until - time.monotonic()
        count = client.count_partitions(producer, settings, max(left_s, 1.0))
        if count is not None or left_s <= 0:
            return count
        time.sleep(_PAUSE_S)


def _await_leaders(admin: Any, settings: KafkaSettings, count: int, until: float) -> None:
    """Wait until the leader of each partition answers for it.

    A broker that was just made one does not know it yet, and a new leader has to be found for the
    partitions of a broker that is down.
    """
    kafka = client.import_kafka()
    newest = kafka.admin.OffsetSpec.latest()
    asked = {kafka.TopicPartition(settings.topic, number): newest for number in range(count)}

    def answer() -> None:
        left_s = _find_controller(admin, until)
        for future in admin.list_offsets(asked, request_timeout=left_s).values():
            future.result()

    client.ask(answer, until - time.monotonic())


def topic_id(settings: KafkaSettings, *, timeout_s: float = 30.0) -> str | None:
    """Ask for the topic's id (None before Kafka 2.8) until it exists.

    Raises:
        TopicMissingError: if all answers of two seconds report it missing.
        LogError: if the cluster refuses, or no broker answers until the timeout.
    """
    ask = partial(ask_topic_id, timeout_s=timeout_s)
    watch = TopicWatch(settings, None, ask, unseen_s=START_S, every_s=_ASK_EVERY_S)
    return watch.wait(timeout_s)


def ask_topic(any_client: Any, settings: KafkaSettings, timeout_s: float) -> str | None:
    """Ask a broker by any client, then as :func:`ask_topic_id`.

    A client looks for a missing topic every five minutes only, unless it is asked.
    """
    try:
        count = client.count_partitions(any_client, settings, timeout_s)
    except client.import_kafka().KafkaException as error:
        raise client.explain(error.args[0], settings) from error
    if count is None:
        raise client.explain_absence(settings, timeout_s)
    return ask_topic_id(settings, timeout_s=timeout_s)


def ask_topic_id(settings: KafkaSettings, *, timeout_s: float) -> str | None:
    """Ask once for the topic's id (None before Kafka 2.8), as a :class:`TopicWatch` asks.

    Raises:
        TopicMissingError: if neither a broker nor the controller knows it.
        LogError: if the cluster refuses, or no broker answers until the timeout.
    """
    kafka = client.import_kafka()
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(settings.client_config())
    asked = kafka.TopicCollection([settings.topic])
    until = time.monotonic() + timeout_s

    def describe() -> Any:
        left_s = _find_controller(admin, until)
        try:
            return admin.describe_topics(asked, request_timeout=left_s)[settings.topic].result()
        except kafka.KafkaException as error:
            if not client.is_unknown(error.args[0]):
                raise
            raise client.explain_absence(settings, left_s) from error

    try:
        described = client.ask(describe, timeout_s)
    except kafka.KafkaException as error:
        if lacks_ids(error.args[0]):
            return None
        raise client.explain(error.args[0], settings) from error
    return identity_of(described)


def check_topic(
    store: StateStore, known: str | None, *, fresh: bool, where: str, cure: str
) -> None:
    """Check that a state belongs to the present topic; store its id in a new state.

    `known` is the id of the present topic; if it is None, nothing is checked. A `fresh` state has
    no record applied. `where` (topic and state) and the command `cure`, which begins again with the
    new topic, complete the message of the TopicError.
    """
    stored = store.get(TOPIC)
    if known is None or stored == known.encode():
        return
    if stored is not None and not fresh:
        raise TopicError(
            f"{where}: the topic was deleted and made anew since. The state was computed from the "
            "old topic and would read the new one from the middle. Restore the old one from a "
            "backup under another name and read that or, to begin again with the records of the "
            f"new one, {cure}"
        )
    store.write([(TOPIC, known.encode())])


def check_partitions(
    store: StateStore, settings: KafkaSettings, partitions: int, *, fresh: bool
) -> None:
    """Check that the topic routes users as when a state was begun; store it in a new state.

    A `fresh` state has no record applied.

    Raises:
        TopicError: if the number of partitions has changed.
    """
    stored = store.get(PARTITIONS)
    if stored == b"%d" % partitions:
        return
    if stored is not None and not fresh:
        raise client.changed_partitions(settings, int(stored), partitions)
    store.write([(PARTITIONS, b"%d" % partitions)])
