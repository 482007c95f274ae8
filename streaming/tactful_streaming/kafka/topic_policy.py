"""Properties of an existing topic that lose records of a log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from tactful_streaming.errors import TopicError
from tactful_streaming.kafka import client
from tactful_streaming.kafka.config import MAX_KAFKA_BATCH, KafkaSettings

_logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_RETENTION = ("retention.ms", "retention.bytes")


def check_policy(
    settings: KafkaSettings, *, retention_ms: int | None, retention_bytes: int | None
) -> list[str]:
    """Check an existing topic of the log; return what a warning is worth.

    Without the right to read the properties, or from brokers that do not report them, nothing is
    checked.

    Args:
        settings: address and name of the topic.
        retention_ms: age to which the log is to keep records, milliseconds; None: for ever.
        retention_bytes: size of a partition to which it is to keep them; None: any.

    Raises:
        TopicError: if the topic is compacted, which deletes all but the last event of each user.
    """
    properties = _properties(settings)
    where = f"topic {settings.topic!r} at {settings.servers}"
    if "compact" in properties.get("cleanup.policy", ""):
        raise TopicError(
            f"{where} is compacted: it keeps the last event of each user and deletes the others. "
            "Set its cleanup.policy to delete, or name another topic"
        )
    problems = []
    for name, wanted in zip(_RETENTION, (retention_ms, retention_bytes), strict=True):
        found = int(properties.get(name, -1))
        if found >= 0 and (wanted is None or found < wanted):
            ours = "none" if wanted is None else wanted
            problems.append(f"{name} is {found}, and the settings ask for {ours}")
    largest = int(properties.get("max.message.bytes", MAX_KAFKA_BATCH))
    if largest < MAX_KAFKA_BATCH:
        problems.append(f"max.message.bytes is {largest}: larger records are refused")
    if properties.get("unclean.leader.election.enable") == "true":
        problems.append("unclean.leader.election.enable is true: acknowledged records may be lost")
    return [f"{where}: {problem}" for problem in problems]


def _properties(settings: KafkaSettings) -> Mapping[str, str]:
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.admin._config import ConfigResource

    kafka = client.import_kafka()
    admin = AdminClient(settings.client_config())
    named = ConfigResource(ConfigResource.Type.TOPIC, settings.topic)
    asked: Any = admin.describe_configs([named], request_timeout=_TIMEOUT_S)[named]
    try:
        entries = asked.result(_TIMEOUT_S + 1).items()
        return {name: entry.value for name, entry in entries if entry.value}
    except (TimeoutError, kafka.KafkaException) as error:
        _logger.info("the properties of topic %s are not known: %s", settings.topic, error)
        return {}
