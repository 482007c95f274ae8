"""What the client answers while brokers start, leaders move or refuse it."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException

from tactful_streaming.errors import LogError, LogUnreachableError, TopicError, TopicMissingError
from tactful_streaming.kafka import client, kafka_log, topics
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.kafka_partition import KafkaPartition
from tactful_streaming.kafka.topics import ensure_topic, topic_id
from tactful_streaming.kafka.transactional_producer import TransactionalProducer

NOWHERE = KafkaSettings("127.0.0.1:1", "t")

UNSETTLED = [
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_CONTROLLER,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError.KAFKA_STORAGE_ERROR,
]
UNKNOWN = [
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
]
REFUSED = [KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL]


def failed(code: int) -> KafkaException:
    return KafkaException(KafkaError(code))


def answers(*answers: object) -> Callable[[], Any]:
    """A question whose answers come in this order."""
    return Mock(side_effect=answers)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSE_S", 0.0)
    monkeypatch.setattr(kafka_log, "_PROBE_EVERY_S", 0.0)


def controller_says(monkeypatch: pytest.MonkeyPatch, exists: bool | None) -> None:
    monkeypatch.setattr(client, "topic_exists", lambda *_: exists)


@pytest.mark.parametrize("code", [*UNSETTLED, KafkaError._TRANSPORT, KafkaError.REQUEST_TIMED_OUT])
def test_a_question_is_repeated_while_leaders_move(code: int) -> None:
    assert client.ask(answers(failed(code), failed(code), 7), 60) == 7
    with pytest.raises(KafkaException):
        client.ask(answers(failed(code), 7))
    assert isinstance(client.explain(KafkaError(code), NOWHERE), LogUnreachableError)
    assert client.lasting_problem(KafkaError(code), NOWHERE) is None


def test_other_errors_are_not_repeated() -> None:
    question = answers(failed(KafkaError.TOPIC_AUTHORIZATION_FAILED), 7)
    with pytest.raises(KafkaException):
        client.ask(question, 60)


@pytest.mark.parametrize("code", UNKNOWN)
def test_a_question_is_repeated_while_a_topic_is_unknown(code: int) -> None:
    """A broker that starts knows no topic: "make it again" would lose what is in one."""
    assert client.ask(answers(failed(code), failed(code), 7), 60) == 7
    with pytest.raises(KafkaException):
        client.ask(answers(failed(code), 7))
    consumer = Mock()
    consumer.get_watermark_offsets.side_effect = failed(code)
    with pytest.raises(TopicMissingError, match="by one answer") as caught:
        client.partition_bounds(consumer, NOWHERE, 0, 0.05, repeat=True)
    assert "deleted" not in str(caught.value)


@pytest.mark.parametrize("exists", [True, False, None])
def test_a_topic_that_a_start_needs(exists: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is missing after two seconds of answers, not after one, and was not deleted."""
    controller_says(monkeypatch, exists)
    monkeypatch.setattr(topics, "_ASK_EVERY_S", 0.0)
    monkeypatch.setattr(topics, "START_S", 0.2)
    described: Future[None] = Future()
    described.set_exception(failed(KafkaError.UNKNOWN_TOPIC_OR_PART))
    admin = Mock()
    admin.describe_topics.return_value = {"t": described}
    monkeypatch.setattr("confluent_kafka.admin.AdminClient", lambda *_: admin)
    kind: type[LogError] = LogUnreachableError if exists else TopicMissingError
    missing = r"does not exist \(all answers of 0.2 s .*make it first"
    words = "does not know it yet" if exists else missing
    with pytest.raises(LogError, match=words) as caught:
        topic_id(NOWHERE, timeout_s=0.3)
    assert type(caught.value) is kind
    assert admin.describe_topics.call_count > 1


@pytest.mark.parametrize("causes", [True, False])
def test_the_loss_of_all_brokers_is_told_without_counts(causes: bool) -> None:
    """The client counts "0/5 brokers are down" when all of one broker are."""
    error = KafkaError(KafkaError._ALL_BROKERS_DOWN, "0/5 brokers are down")
    found = client.Causes()
    found.note(error)
    found.note(KafkaError(KafkaError._TRANSPORT, "127.0.0.1:1: Connection refused"))
    said = str(client.explain(error, NOWHERE, found if causes else None))
    assert "0/5" not in said
    assert ("no broker answers (127.0.0.1:1: Connection refused)" in said) == causes
    assert said.endswith("no broker answers") == (not causes)


class Refusing:
    """A client whose brokers refuse it; its error callback is called by `poll` only."""

    def __init__(self, config: object, code: int, error_cb: Callable[[KafkaError], None]) -> None:
        self._error = KafkaError(code)
        self._error_cb = error_cb
        self.calls = 0

    def _fail(self, *_: object, **__: object) -> None:
        self.calls += 1
        error = KafkaError(KafkaError._TRANSPORT, "broker transport failure", retriable=True)
        raise KafkaException(error)

    list_topics = init_transactions = _fail

    def poll(self, timeout: float) -> int:
        self._error_cb(self._error)
        return 1


@pytest.mark.parametrize("code", REFUSED)
def test_a_refusal_is_reported_after_the_first_request(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after the timeout, and not as "no broker answers"."""
    made: list[Refusing] = []

    def connect(config: object, error_cb: Callable[[KafkaError], None], **_: object) -> Refusing:
        made.append(Refusing(config, code, error_cb))
        return made[-1]

    monkeypatch.setattr(confluent_kafka, "Producer", connect)
    for opened in (ensure_topic, lambda it: TransactionalProducer(it, "owner")):
        with pytest.raises(LogError, match=r"'t' at 127\.0\.0\.1:1: refused us .*check username"):
            opened(NOWHERE)
    assert [one.calls for one in made] == [1, 1]


def test_a_slow_broker_gets_longer_each_time() -> None:
    """An answer that comes after its timeout is lost."""
    timeouts: list[float] = []

    def list_topics(timeout: float) -> Any:
        timeouts.append(timeout)
        if timeout < 4:
            raise failed(KafkaError._TIMED_OUT)
        return Mock(topics={"t": Mock(partitions={0: 0, 1: 1})})

    slow = Mock(list_topics=list_topics)
    assert client.count_partitions(slow, NOWHERE, 60, client.Causes()) == 2
    assert timeouts == [1.0, 2.0, 4.0]


def listed(*errors: int | None) -> Mock:
    """An admin client whose leaders fail with these codes, one at each request."""
    codes = iter(errors)

    def list_offsets(asked: Sequence[Any], **_: object) -> dict[Any, Future[int]]:
        code, future = next(codes), Future[int]()
        if code is None:
            future.set_result(0)
        else:
            future.set_exception(failed(code))
        return dict.fromkeys(asked, future)

    created: Future[None] = Future()
    created.set_result(None)
    admin = Mock(list_offsets=Mock(side_effect=list_offsets))
    admin.create_topics.return_value = {"t": created}
    return admin


@pytest.mark.parametrize("known", [[None, None, 2], [2]])
def test_a_topic_is_ready_when_its_leaders_answer(
    known: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new topic, and one whose broker is down when the server starts."""
    controller_says(monkeypatch, True)
    moving = KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError._TRANSPORT
    admin = listed(*moving, KafkaError.UNKNOWN_TOPIC_OR_PART, None)
    monkeypatch.setattr("confluent_kafka.admin.AdminClient", lambda *_: admin)
    counts = iter(known)
    monkeypatch.setattr(client, "count_partitions", lambda *_: next(counts))
    assert ensure_topic(NOWHERE, partitions=2) == 2
    assert admin.list_offsets.call_count == 4
    assert admin.create_topics.call_count == (known[0] is None)


def test_a_log_opens_when_brokers_know_its_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([None, None])
    monkeypatch.setattr(client, "count_partitions", lambda *_: next(counts, 4))
    controller_says(monkeypatch, True)
    with KafkaLog(NOWHERE) as log:
        assert log.partitions == 4


@pytest.mark.parametrize("exists", [True, False, None])
def test_a_log_without_its_topic(exists: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported as missing within seconds, if the controller does not have it."""
    monkeypatch.setattr(client, "count_partitions", lambda *_: None)
    controller_says(monkeypatch, exists)
    if not exists:
        ticks = iter(range(1000))
        with pytest.raises(TopicMissingError, match=r"does not exist \(all answers of 2 s") as told:
            KafkaLog(NOWHERE, clock=lambda: next(ticks) / 4)
        assert "deleted" not in str(told.value)
        return
    with KafkaLog(NOWHERE, clock=lambda: time.monotonic() * 1000) as log:
        assert isinstance(log.problem, LogUnreachableError)


@pytest.mark.parametrize("exists", [True, False, None])
def test_a_topic_is_deleted_after_half_a_minute(
    exists: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that restarts knows no topic for a while, and its writers and readers wait."""
    counts: dict[str, int | None] = {"now": 4}
    monkeypatch.setattr(client, "count_partitions", lambda *_: counts["now"])
    monkeypatch.setattr(KafkaLog, "_serve", lambda _: None)
    controller_says(monkeypatch, exists)
    now = 0.0

    def problem(count: int | None, seconds: float) -> LogError | None:
        nonlocal now
        counts["now"], now = count, now + seconds
        log._probe()
        return log.problem

    with KafkaLog(NOWHERE, clock=lambda: now) as log:
        for _ in range(2):
            for seconds in (1, 10, 10, 9.5):
                assert isinstance(problem(None, seconds), LogUnreachableError)
                assert isinstance(log.doubt(), LogUnreachableError)
            assert problem(4, 1) is None
        assert isinstance(problem(None, 1), LogUnreachableError)
        if exists:
            assert isinstance(problem(None, 3600), LogUnreachableError)
        else:
            assert isinstance(problem(None, 30), TopicError)
            assert "all answers of 30 s" in str(log.problem)
            assert log.doubt() is log.problem
        assert problem(4, 1) is None


def test_a_truncated_log_is_called_that() -> None:
    reset = KafkaError._AUTO_OFFSET_RESET
    text = "Partition log truncation detected at offset 9: Local: Partition log truncation detected"
    cut = client.missing_offset(NOWHERE, 3, 9, KafkaError(reset, text))
    assert "partition 3" in str(cut)
    assert "was truncated before offset 9" in str(cut)
    dropped = client.missing_offset(NOWHERE, 3, 9, KafkaError(reset, "Broker: Offset out of range"))
    assert "retention dropped it" in str(dropped)


def test_a_quota_is_waited_for() -> None:
    """A broker that delays its answers is not one that does not deliver."""
    log: Any = SimpleNamespace(settings=NOWHERE, known_end=lambda _: 5)
    partition = KafkaPartition(log, 0, timeout_s=0.05)
    partition._position = 3
    record = Mock(error=lambda: None, offset=lambda: 3, value=lambda: b"x")
    partition._consumer = Mock()
    partition._consumer.poll.side_effect = lambda wait_s: time.sleep(wait_s)
    with pytest.raises(LogUnreachableError, match="exists and was not delivered"):
        partition.read(3, 1)
    partition._position = 3
    partition._on_throttle(SimpleNamespace(throttle_time=60.0))
    partition._consumer.poll.side_effect = [None, None, record]
    assert partition.read(3, 1) == [(3, b"x")]
    assert NOWHERE.consumer_config("g")["fetch.message.max.bytes"] == 1024 * 1024
