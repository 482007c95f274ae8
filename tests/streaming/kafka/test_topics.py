"""A topic that was made anew is not the topic that a state is of."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.streaming.brokers import topic_name
from tests.streaming.shard import definitions, new_shard

from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.errors import TopicError, TopicMissingError
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import check_topic, ensure_topic, topic_id
from tactful_streaming.state.store import MemoryState
from tactful_streaming.worker.partition_job import PartitionJob


@pytest.mark.slow
@pytest.mark.service("kafka")
def test_each_created_topic_has_its_own_id(kafka_servers: str) -> None:
    from confluent_kafka.admin import AdminClient

    settings = KafkaSettings(kafka_servers, topic_name())
    with pytest.raises(TopicMissingError, match=r"does not exist .*make it first"):
        topic_id(settings)
    ensure_topic(settings, consumer_threads=1)
    first = topic_id(settings)
    assert first is not None
    assert topic_id(settings) == first
    admin = AdminClient({"bootstrap.servers": kafka_servers})
    admin.delete_topics([settings.topic], operation_timeout=10)[settings.topic].result(120)
    ensure_topic(settings, consumer_threads=1)
    assert topic_id(settings) not in (None, first)


def test_a_state_belongs_to_the_topic_of_its_begin() -> None:
    store = MemoryState()

    def check(known: str | None, fresh: bool = False) -> None:
        check_topic(store, known, fresh=fresh, where="topic 'x'", cure="start anew")

    check(None)
    assert store.get(b"k") is None
    check("one")  # also one from before ids were kept
    check("one")
    check(None)
    with pytest.raises(TopicError, match=r"^topic 'x': .*deleted and made anew.*, start anew$"):
        check("two")
    check("one")
    check("two", fresh=True)
    check("two")


@pytest.mark.service("kafka")
def test_a_state_belongs_to_a_number_of_partitions(kafka_servers: str, tmp_path: Path) -> None:
    event = Event(event_id="e", type="view", timestamp=1_700_000_000_000, user_id="u1")
    with new_shard(kafka_servers, tmp_path, 2) as shard:
        known, grown = (replace(shard.options, partitions=count) for count in (2, 4))
        PartitionJob(0, definitions(), grown).close()  # nothing was applied yet
        job = PartitionJob(0, definitions(), known)
        job.apply([(0, encode_entry(event))])
        job.commit()
        job.close()
        with pytest.raises(TopicError, match=r"had 2 partitions and has 4 now.*rescale"):
            PartitionJob(0, definitions(), grown)
        PartitionJob(0, definitions(), shard.options).close()  # to rescale it
        with pytest.raises(TopicError, match="had 2 partitions and has 3 or more now"):
            PartitionJob(2, definitions(), known)  # assigned while it runs
        PartitionJob(0, definitions(), known).close()


@pytest.mark.service("kafka")
def test_a_recreated_topic_is_not_read_from_the_middle(kafka_servers: str, tmp_path: Path) -> None:
    event = Event(event_id="e", type="view", timestamp=1_700_000_000_000, user_id="u1")
    with new_shard(kafka_servers, tmp_path, 2, topic_id="old") as shard:
        anew = replace(shard.options, topic_id="new")
        PartitionJob(0, definitions(), shard.options).close()
        job = PartitionJob(0, definitions(), anew)  # nothing was applied yet
        job.apply([(0, encode_entry(event))])
        job.commit()
        job.close()
        with pytest.raises(TopicError, match="move the state and its checkpoints away"):
            PartitionJob(0, definitions(), shard.options)
        again = PartitionJob(0, definitions(), anew)  # the state was let go, and is as it was
        assert again.offset == 1
        assert again.engine.read("user", "u1", event.timestamp)["views"] == 1
        again.close()
