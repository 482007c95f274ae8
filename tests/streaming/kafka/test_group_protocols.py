"""Members of one group with both of Kafka's protocols, and changes between these."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from tests.streaming.brokers import patiently, topic_name
from tests.streaming.kafka.test_consumer_group import Worker, fill, finish

from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.kafka.topics import ensure_topic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PARTITIONS = 4


def owned(members: Sequence[Worker]) -> list[int]:
    return [len(member.group.partitions) for member in members]


def test_a_group_changes_its_protocol_and_back(apache_servers: str) -> None:
    """Every record is read once and in order: each member checks the offsets of its state.

    Brokers admit no member of the protocol `consumer` while the group has data of the assignor of
    `classic`, so it waits until these members have left. In the other direction both share.
    """
    classic = KafkaSettings(apache_servers, topic_name(), linger_ms=1)
    consumer = replace(classic, group_protocol="consumer")
    ensure_topic(classic, partitions=PARTITIONS)
    state: dict[int, list[bytes]] = {}
    expected: dict[int, list[bytes]] = {number: [] for number in range(PARTITIONS)}
    with KafkaLog(classic) as log:

        def member(settings: KafkaSettings) -> Worker:
            return Worker(settings, state)

        def work(members: Sequence[Worker], done: Callable[[], bool]) -> None:
            """Append, and work, until it is done."""

            def turn() -> bool:
                fill(log, expected, 5, start=sum(map(len, expected.values())))
                for each in members:
                    each.work(wait_s=0.02)
                return done()

            patiently(turn)

        old = [member(classic)]
        work(old, lambda: owned(old) == [4])
        old.append(member(classic))  # its rebalance leaves data of the assignor in the group
        work(old, lambda: owned(old) == [2, 2])
        new = member(consumer)
        work([*old, new], lambda: new.group.trouble is not None)
        assert "members of the protocol classic" in str(new.group.trouble)
        assert not new.group.at_end()
        old.pop().group.close()
        work([*old, new], lambda: owned(old) == [4])
        assert not new.group.partitions
        old.pop().group.close()
        work([new], lambda: owned([new]) == [4])
        assert new.group.trouble is None
        back = member(classic)
        both = [new, back]
        work(both, lambda: owned(both) == [2, 2])
        new.group.close()
        work([back], lambda: owned([back]) == [4])
        finish([back], expected)
        back.group.close()
