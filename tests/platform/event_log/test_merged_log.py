"""A server that follows a topic through restarts of its brokers."""

import logging
from collections.abc import Callable
from contextlib import closing
from typing import Any
from unittest.mock import Mock

import pytest
from confluent_kafka import KafkaError

from tactful.event_log.merged_log import MergedLog, Span
from tactful_streaming.errors import TopicError, TopicMissingError
from tactful_streaming.kafka import client, topic_watch, topics
from tactful_streaming.kafka.config import KafkaSettings

SETTINGS = KafkaSettings("127.0.0.1:1", "t")


class Brokers:
    """Brokers that report the topic missing, or another of its name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count: int | None = 1
        self.identity = "one"
        self.on_error: Callable[[Any], None] = lambda _: None
        self._consumer = Mock()
        self._consumer.get_watermark_offsets.return_value = 0, 0
        self._consumer.consume.return_value = []
        self._consumer.poll.return_value = None
        monkeypatch.setattr(client, "connect", self._connect)
        monkeypatch.setattr(client, "count_partitions", lambda *_: self.count)
        monkeypatch.setattr(client, "topic_exists", lambda *_: self.count is not None)
        monkeypatch.setattr(topics, "ask_topic_id", lambda *_, **__: self.identity)
        monkeypatch.setattr(topic_watch, "_BELIEVED_AFTER_S", 0.2)
        monkeypatch.setattr(topic_watch, "_ASK_EVERY_S", 0.0)

    def _connect(self, kind: str, config: object, on_error: Callable[[Any], None]) -> Mock:
        self.on_error = on_error
        return self._consumer

    def report_missing(self) -> None:
        self.on_error(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    return Brokers(monkeypatch)


def follow() -> MergedLog:
    return MergedLog(SETTINGS, 1, Span(), wait_s=0.0, topic_id="one")


def test_one_answer_does_not_end_a_server(
    brokers: Brokers, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that restarts knows no topic; the server ended with "the topic is not there"."""
    caplog.set_level(logging.INFO)
    with closing(follow()) as log:
        for _ in range(2):
            brokers.count = None
            brokers.report_missing()
            brokers.report_missing()
            assert log.read(0, 10) == []
            brokers.count = 1
            assert log.read(0, 10) == []
    said = " ".join(record.getMessage() for record in caplog.records)
    assert [said.count(words) for words in ("nothing is read until", "is read again")] == [2, 2]
    assert "rebuild" not in said


def test_a_deleted_topic_ends_a_server_after_a_while(brokers: Brokers) -> None:
    with closing(follow()) as log:
        brokers.count = None
        brokers.report_missing()
        assert log.read(0, 10) == []
        with pytest.raises(TopicError, match="If it was deleted, its records are lost"):
            while True:
                log.read(0, 10)


def test_a_topic_made_anew_is_not_followed(brokers: Brokers) -> None:
    with closing(follow()) as log:
        brokers.identity = "two"
        brokers.report_missing()
        with pytest.raises(TopicError, match="deleted and made anew"):
            log.read(0, 10)


def test_a_report_does_not_wait_for_its_topic(brokers: Brokers) -> None:
    bounded = Span(bounded=True, ends={0: 5})
    with closing(MergedLog(SETTINGS, 1, bounded, wait_s=0.0)) as log:
        brokers.report_missing()
        with pytest.raises(TopicMissingError, match="by one answer"):
            log.read(0, 10)
