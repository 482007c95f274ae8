"""A group member while brokers are away, restart, or lose their disks."""

import logging

import pytest
from confluent_kafka import KafkaError, Message
from hypothesis import given
from hypothesis import strategies as st
from tests.streaming.fake_client import TOPIC, FakeClient, Member, patched_client

from tactful_streaming.errors import (
    FencedError,
    LogError,
    LogUnreachableError,
    TopicError,
    TopicMissingError,
)
from tactful_streaming.kafka import client
from tactful_streaming.kafka.config import KafkaSettings

SETTINGS = KafkaSettings("127.0.0.1:1", TOPIC)
AWAY = LogUnreachableError("no broker answers", retry_after=2.0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    return patched_client(monkeypatch)


@pytest.mark.parametrize("end", ["revoke", "lost", "close"])
def test_partitions_that_never_opened_can_be_taken_away(fake: FakeClient, end: str) -> None:
    """An outage that begins during the assignment hung the client in the next rebalance."""
    member = Member(fake)
    fake.rebalance("assign", [0, 1])
    member.work(1)
    assert member.open.keys() == {0, 1}
    fake.code = KafkaError._TIMED_OUT
    fake.rebalance("assign", [2, 3])
    member.work(20)
    assert member.open.keys() == {0, 1}, "those that are open go on"
    if end != "close":
        fake.rebalance(end, [1, 2])
        member.work(1)
        assert member.open.keys() == {0}
        fake.code = None
        member.work(15)
        assert member.open.keys() == {0, 3}
    member.group.close()
    assert not member.open
    assert not fake.assigned


@pytest.mark.parametrize(
    "code",
    [
        *(KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT),
        *(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE),
        *(KafkaError.KAFKA_STORAGE_ERROR, KafkaError.NOT_COORDINATOR, KafkaError._INCONSISTENT),
        *(KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.NOT_ENOUGH_REPLICAS),
        *(KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION),
    ],
)
def test_an_outage_during_the_assignment_is_waited_for(fake: FakeClient, code: int) -> None:
    member = Member(fake)
    fake.code = code
    fake.rebalance("assign", [0, 1, 2, 3])
    member.work(25)
    assert not member.open
    assert member.group.trouble is not None
    assert fake.asked < 60, "with pauses"
    fake.code = None
    member.work(15)
    assert member.open.keys() == {0, 1, 2, 3}
    assert sorted(fake.starts) == [(0, 0), (1, 10), (2, 20), (3, 30)]
    assert member.group.trouble is None
    member.group.close()


def test_one_partition_without_leader_delays_no_other(fake: FakeClient) -> None:
    member = Member(fake)
    opened = member.assigned
    member.group._assigned = lambda number: opened(number) if number != 1 else failing()

    def failing() -> int:
        raise AWAY

    fake.rebalance("assign", [0, 1, 2, 3])
    member.work(4)
    assert member.open.keys() == {0, 2, 3}
    member.group._assigned = opened
    member.work(15)
    assert member.open.keys() == {0, 1, 2, 3}


def test_suspended_states_are_opened_again(fake: FakeClient) -> None:
    member = Member(fake)
    fake.rebalance("assign", [0, 1])
    member.work(1)
    fake.code = KafkaError._TIMED_OUT
    member.suspend(AWAY)
    # What was fetched before is of no use: the states begin again at their last commits.
    fake.messages.append(Message(topic=TOPIC, partition=0, offset=7, value=b"x"))
    member.now += 0.2
    assert member.group.poll(10, 0.0) == {}
    member.work(70)
    assert member.opened == 2
    fake.rebalance("lost", [1])
    fake.code = None
    member.work(3)
    assert member.open.keys() == {0}
    assert (member.opened, fake.starts[2:]) == (3, [(0, 0)])
    member.group.close()


@pytest.mark.parametrize("end", ["revoke", "lost", "suspend"])
def test_a_pause_ends_with_the_assignment(fake: FakeClient, end: str) -> None:
    """The client kept the pause of a partition that came back, which was never read again."""
    member = Member(fake)
    fake.rebalance("assign", [0, 1])
    member.work(1)
    member.group.pause([1])
    if end == "suspend":
        member.suspend(AWAY)
    else:
        fake.rebalance(end, [1])
        member.work(1)
        fake.rebalance("assign", [1])
    member.work(3)
    assert member.open.keys() == {0, 1}
    assert not fake.paused


def test_a_topic_that_one_broker_reports_missing(
    fake: FakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that restarts reported the topic missing, and workers ended over it."""
    caplog.set_level(logging.INFO)
    member = Member(fake, "one")
    fake.rebalance("assign", [0, 1])
    member.work(1)
    error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    fake.messages.append(Message(topic=TOPIC, partition=-1, offset=-1, error=error))
    fake.missing = True
    member.work(20)
    assert isinstance(member.group.trouble, TopicMissingError)
    fake.missing = False
    member.work(3)
    assert member.group.trouble is None
    assert member.open.keys() == {0, 1}
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "rebuild" not in said
    assert [said.count(words) for words in ("nothing is read until", "is read again")] == [1, 1]


def test_a_deleted_topic_is_believed_after_a_while(fake: FakeClient) -> None:
    member = Member(fake, "one")
    fake.rebalance("assign", [0, 1])
    member.work(1)
    fake.missing = True
    fake.on_error(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    with pytest.raises(TopicError, match="If it was deleted, its records are lost"):
        member.work(40)
    assert 30 <= member.now <= 36
    member.group.close()


def test_a_topic_made_anew_in_an_outage_is_not_read(fake: FakeClient) -> None:
    member = Member(fake)
    fake.rebalance("assign", [0, 1])
    member.work(1)
    fake.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    member.work(3)
    fake.identity = "two"
    member.suspend(AWAY)
    with pytest.raises(TopicError, match="deleted and made anew"):
        member.work(10)
    assert not member.open


def test_a_member_started_before_its_topic(fake: FakeClient) -> None:
    """A sink started before its topic said that the topic had been deleted."""
    member = Member(fake)
    fake.missing = True
    fake.on_error(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    member.work(20)
    fake.missing = False
    fake.rebalance("assign", [0])
    member.work(3)
    assert member.open.keys() == {0}


def test_a_topic_that_nobody_makes(fake: FakeClient) -> None:
    member = Member(fake)
    fake.missing = True
    fake.on_error(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    with pytest.raises(TopicMissingError, match=r"does not exist .*make it first"):
        member.work(40)


def test_an_outage_ends_although_no_record_comes(fake: FakeClient) -> None:
    """`trouble` ended with the next record only, which a quiet topic does not have for hours."""
    member = Member(fake)
    fake.rebalance("assign", [0])
    member.work(1)
    fake.code = KafkaError._TRANSPORT
    fake.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    member.work(10)
    assert member.group.trouble is not None
    fake.code = None
    member.work(3)
    assert member.group.trouble is None


def test_a_refusal_is_no_outage(fake: FakeClient) -> None:
    member = Member(fake)
    fake.code = KafkaError.TOPIC_AUTHORIZATION_FAILED
    fake.rebalance("assign", [0])
    with pytest.raises(LogError, match="refused us"):
        member.work(3)
    member.group.close()


@pytest.mark.parametrize(
    "error",
    [KafkaError(KafkaError._FATAL), KafkaError(KafkaError.FENCED_INSTANCE_ID, "x", fatal=True)],
)
def test_a_member_that_was_shut_out_ends(fake: FakeClient, error: KafkaError) -> None:
    """A fatal error was taken for an outage, and the member waited for ever."""
    member = Member(fake)
    fake.rebalance("assign", [0])
    member.work(1)
    fake.on_error(error)
    with pytest.raises(FencedError, match="shut out"):
        member.work(1)


def test_an_offset_that_the_group_cannot_tell_is_asked_again(
    fake: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error beside a committed offset was read as no offset, and all records came again."""
    member = Member(fake)
    member.group._assigned = lambda _: None
    answers = [(-1001, KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT)), (42, None)]

    class Committed:
        def __init__(self) -> None:
            self.offset, self.error = answers.pop(0)

    monkeypatch.setattr(fake, "committed", lambda *_: [Committed()])
    fake.rebalance("assign", [0])
    for _ in range(50):
        member.now += 0.2
        member.group.poll(1, 0.0)
    assert fake.starts == [(0, 42)]


EVENTS = st.one_of(
    st.tuples(st.sampled_from(["assign", "revoke", "lost"]), st.sets(st.integers(0, 3))),
    st.tuples(st.sampled_from(["cut", "restore", "suspend", "missing"]), st.just(set[int]())),
)


@given(events=st.lists(EVENTS, max_size=12))
def test_after_any_outages_a_member_has_all_partitions_given(
    events: list[tuple[str, set[int]]],
) -> None:
    """Whatever rebalances and outages come, the member neither hangs nor keeps too much."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        fake = patched_client(monkeypatch)
        member = Member(fake, "one")
        for kind, numbers in events:
            if kind == "assign":
                fake.rebalance(kind, sorted(numbers - fake.given))
            elif kind in ("revoke", "lost"):
                fake.rebalance(kind, sorted(numbers & fake.given))
            elif kind == "suspend":
                member.suspend(AWAY)
            elif kind == "missing":
                fake.on_error(KafkaError(KafkaError._UNKNOWN_TOPIC))
            else:
                fake.code = KafkaError._TIMED_OUT if kind == "cut" else None
            member.work(2)
        fake.code = None
        member.work(15)
        assert member.open.keys() == fake.given == fake.assigned
        assert member.group.trouble is None
        member.group.close()
        assert not member.open


def test_texts_of_temporary_errors() -> None:
    """A cluster that answers is not called unreachable, and one broker's answer no deletion."""
    for code, text in (
        (KafkaError.KAFKA_STORAGE_ERROR, "not served at present (KAFKA_STORAGE_ERROR"),
        (KafkaError._INCONSISTENT, "not served at present (_INCONSISTENT"),
        (KafkaError._TIMED_OUT, "no broker answers"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "by one answer"),
    ):
        problem = client.explain(KafkaError(code), SETTINGS)
        assert text in str(problem)
        assert "rebuild" not in str(problem)
