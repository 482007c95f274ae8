"""Which topic it is: one made anew has the name of the deleted one and other records."""

from __future__ import annotations

from typing import Final

from tactful_streaming.errors import TopicError
from tactful_streaming.kafka.config import KafkaSettings, explain, import_kafka
from tactful_streaming.state.key_layout import TOPIC
from tactful_streaming.state.store import StateStore

_NO_ID: Final = "A" * 22  # of a broker without ids: all zeros in base64


def topic_id(settings: KafkaSettings, *, timeout_s: float = 10.0) -> str | None:
    """The id that the brokers gave the topic when it was made.

    Args:
        settings: where, and what it is called.
        timeout_s: how long to wait for an answer, seconds.

    Returns:
        The id; None where brokers give none, as before Kafka 2.8.

    Raises:
        TopicError: if there is no such topic.
        LogError: if no broker answers, or it refuses us.
    """
    kafka = import_kafka()
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(settings.client_config())
    asked = kafka.TopicCollection([settings.topic])
    try:
        described = admin.describe_topics(asked, request_timeout=timeout_s)[settings.topic].result()
    except kafka.KafkaException as error:
        unsupported = (
            kafka.KafkaError._UNSUPPORTED_FEATURE,
            kafka.KafkaError.UNSUPPORTED_VERSION,
        )
        if error.args[0].code() in unsupported:
            return None
        raise explain(error.args[0], settings) from error
    found = str(described.topic_id)
    return None if found == _NO_ID else found


def check_topic(
    store: StateStore, known: str | None, *, fresh: bool, where: str, cure: str
) -> None:
    """Refuse a state of a topic that is gone; remember the topic of a new one.

    Args:
        store: the state.
        known: id of the topic as it is; None: nobody knows, and nothing is checked.
        fresh: whether nothing of any topic was applied to the state.
        where: the topic and the state, for the message.
        cure: how to begin again with what the new topic holds, for the message.

    Raises:
        TopicError: if the topic was made anew since the state was begun.
        StateError: if the state cannot be written.
    """
    stored = store.get(TOPIC)
    if known is None or stored == known.encode():
        return
    if stored is not None and not fresh:
        raise TopicError(
            f"{where}: the topic was deleted and made anew since. The state is of what was in the "
            "old one, and would read the new one from the middle. Restore the old one from a "
            "backup under another name and read that or, to begin again with what the new one "
            f"holds, {cure}"
        )
    store.write([(TOPIC, known.encode())])
