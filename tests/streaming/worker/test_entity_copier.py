"""Copies of entities in Redis: order, restarts, lost data, erasures."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pytest
from tests.streaming.entity_topic import EntityTopic
from tests.streaming.redis_cluster import RedisCluster
from tests.streaming.redis_server import RedisServer
from tests.streaming.worker.test_erasure import Erasures

from tactful_streaming.contract.key_partition import partition_of
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import FencedError, TopicError
from tactful_streaming.flink.entities import entities_tag, entity_hash
from tactful_streaming.kafka.topics import topic_id
from tactful_streaming.online.fenced_store import FencedRedisStore
from tactful_streaming.online.partitioned_store import PartitionedRedisStore
from tactful_streaming.online.store import RedisOnlineStore
from tactful_streaming.windows.entity_table import read_packed
from tactful_streaming.worker.copied_partition import Copied
from tactful_streaming.worker.entity_copier import CopierOptions, EntityCopier

pytest.importorskip("confluent_kafka")

DEFINITIONS = load_definitions("""
- {name: views, entity: user, event: view, aggregate: count, window: {size: 30d, slide: 1d}}
""")
BOTH = load_definitions("""
- {name: views, entity: user, event: view, aggregate: count, window: {size: 30d, slide: 1d}}
- {name: seen, entity: session, event: view, aggregate: count, window: {size: 30d, slide: 1d}}
""")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


class Place:
    """A topic, a Redis and copiers between them."""

    def __init__(self, topic: EntityTopic, redis: RedisServer, *, cluster: bool = False) -> None:
        self.topic, self.redis = topic, redis
        self.tag = entities_tag(topic.definitions)
        self.store = RedisOnlineStore(redis.url, tag=self.tag)
        if cluster:
            self.store = PartitionedRedisStore(redis.url, 2, tag=self.tag)
        self._open = partial(FencedRedisStore, redis.url, tag=self.tag, cluster=cluster)
        self.erasures: Erasures | None = None
        self.log_id = "log"
        self._copiers: list[EntityCopier] = []

    def copier(self, clock: Callable[[], float] = time.monotonic) -> EntityCopier:
        options = CopierOptions(
            kafka=self.topic.kafka,
            log_topic="log",
            erased_topic=self.topic.erased.topic,
            group=f"{self.topic.kafka.topic}-group",
            owner="workers",
            open_store=self._open,
            topic_id=topic_id(self.topic.kafka),
            log_id=self.log_id,
            erasures=self.erasures,
        )
        copier = EntityCopier(self.topic.definitions, options, clock=clock)
        self._copiers.append(copier)
        return copier

    def views(self, key: str = "ada", kind: str = "user") -> float | None:
        (blob,) = self.store.get_many([key], kind=kind)
        if blob is None:
            return None
        features = self.topic.definitions.of_entity("user")
        value = read_packed(features, blob, 1_700_000_100_000)["views"]
        assert isinstance(value, float)
        return value

    def close(self) -> None:
        for copier in self._copiers:
            copier.close()
        self.store.close()


@pytest.fixture
def place(kafka_servers: str, redis: RedisServer) -> Iterator[Place]:
    made = Place(EntityTopic(kafka_servers, DEFINITIONS), redis)
    yield made
    made.close()


def step_until(copiers: Sequence[EntityCopier], holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < until, "it did not happen in time"
        for copier in copiers:
            copier.step()


def settle(copier: EntityCopier, steps: int = 20) -> None:
    for _ in range(steps):
        copier.step()


@pytest.mark.parametrize(
    ("notes", "reached"),
    [
        ([], None),
        ([("user", 0, 2, 5)], None),
        ([("user", 0, 2, 5), ("user", 1, 2, 7)], 5),
        ([("user", 0, 1, 5), ("user", 0, 2, 9)], 5),  # a new run, of which one mark is missing
        ([("user", 0, 1, 5), ("user", 0, 1, 3)], 5),  # a job that restarted
        ([("user", 0, 2, 5), ("user", 0, 1, 6)], 6),
    ],
)
def test_what_is_reached(notes: list[tuple[str, int, int, int]], reached: int | None) -> None:
    copied = Copied()
    for kind, subtask, subtasks, offset in notes:
        copied.note(kind, subtask, subtasks, offset)
        copied.advance(["user"])
    assert copied.reached == reached
    copied.advance(["user", "session"])
    assert copied.reached == reached, "the marks of a kind are missing"


@pytest.mark.parametrize(
    ("notes", "confirmed"),
    [
        ([], None),
        ([("user", 0, 1, 2)], None),
        ([("user", 0, 1, 5)], 2),
        ([("user", 0, 1, 8), ("user", 0, 1, 0)], 3),  # a job that restarted and has none to confirm
        ([("user", 0, 2, 9)], None),
        ([("user", 0, 2, 9), ("user", 1, 2, 7)], 2),
        ([("user", 0, 1, 9), ("user", 1, 2, 9)], None),  # a new run, of which one mark is missing
    ],
)
def test_erasures_that_are_confirmed(
    notes: list[tuple[str, int, int, int]], confirmed: int | None
) -> None:
    copied = Copied(asked={1: 3, 2: 5, 3: 8})
    for kind, subtask, subtasks, forgotten in notes:
        copied.note(kind, subtask, subtasks, 1, forgotten=forgotten)
    found = copied.confirm(["user"])
    assert found == confirmed
    assert set(copied.asked) == {number for number in (1, 2, 3) if number > (found or 0)}
    assert msgspec.json.decode(msgspec.json.encode(copied), type=Copied) == copied


def test_values_and_marks(place: Place) -> None:
    topic, copier = place.topic, place.copier()
    topic.value(0, 3, "ada", topic.packed(1))
    topic.value(1, 9, "bé b|☃", topic.packed(2))
    topic.raw(0, b"\xc1 no row")
    topic.raw(0, b"\x93\x00\x01\x02")
    topic.mark(0, 3, subtask=0, of=2)
    step_until([copier], lambda: place.views() == 1 and place.views("bé b|☃") == 2)
    settle(copier)
    assert place.store.marked(0) is None, "the other subtask may still have older events"
    topic.mark(0, 4, subtask=1, of=2)
    topic.mark(1, 10)
    step_until([copier], lambda: place.store.marked(0) == 3 and place.store.marked(1) == 10)
    progress = copier.progress()
    assert (progress.entries, progress.invalid) == (2, 2)
    assert {number: one.offset for number, one in progress.partitions.items()} == {0: 3, 1: 10}
    topic.value(0, 8, "ada", None)
    step_until([copier], lambda: place.views() is None)


def test_rows_of_other_definitions_are_left_out(place: Place) -> None:
    copier, other = place.copier(), EntityTopic.__new__(EntityTopic)
    other.__dict__.update(place.topic.__dict__, definitions=BOTH)
    other.value(0, 3, "ada", place.topic.packed(1))
    other.mark(0, 3)
    place.topic.value(0, 3, "bob", place.topic.packed(1))
    step_until([copier], lambda: place.views("bob") == 1)
    assert place.views("ada") is None
    assert place.store.marked(0) is None


def test_a_job_that_restarts_moves_nothing_back(place: Place) -> None:
    topic, copier = place.topic, place.copier()
    topic.value(0, 5, "ada", topic.packed(5))
    topic.mark(0, 6)
    topic.value(0, 9, "bob", topic.packed(9))  # newer than what is reached
    step_until([copier], lambda: place.views("bob") == 9)
    topic.value(0, 3, "ada", topic.packed(3))
    topic.value(0, 3, "cyd", None)
    topic.value(0, 7, "bob", topic.packed(7))
    topic.mark(0, 2)
    topic.value(0, 4, "dan", topic.packed(4))  # older, so it was copied before, and removed since
    topic.value(0, 10, "eve", topic.packed(1))
    step_until([copier], lambda: place.views("eve") == 1)
    assert (place.views("ada"), place.views("bob"), place.views("dan")) == (5, 9, None)
    assert place.store.marked(0) == 6
    topic.value(0, 11, "ada", topic.packed(6))
    step_until([copier], lambda: place.views() == 6)


def test_another_copier_goes_on(place: Place) -> None:
    topic, copier = place.topic, place.copier()
    topic.value(0, 5, "ada", topic.packed(5))
    topic.mark(0, 6)
    step_until([copier], lambda: place.store.marked(0) == 6)
    copier.close()
    topic.value(0, 8, "ada", topic.packed(6))
    after = place.copier()
    step_until([after], lambda: place.views() == 6)
    assert after.progress().entries == 1
    topic.mark(0, 9)
    step_until([after], lambda: place.store.marked(0) == 9)


def test_an_emptied_redis_is_filled_again(place: Place) -> None:
    """Without an event, too; and while it is being filled."""
    topic, copier = place.topic, place.copier()
    topic.value(0, 5, "ada", topic.packed(5))
    topic.value(1, 5, "bob", topic.packed(4))
    for partition in (0, 1):
        topic.mark(partition, 6)
    step_until([copier], lambda: place.store.marked(0) == place.store.marked(1) == 6)
    place.redis.kill()
    place.redis.start()
    step_until([copier], lambda: place.store.marked(0) == place.store.marked(1) == 6)
    assert (place.views(), place.views("bob")) == (5, 4)
    topic.value(0, 7, "ada", topic.packed(6))
    step_until([copier], lambda: place.views() == 6)


@pytest.mark.slow
def test_a_node_of_a_cluster_restarts_and_a_slot_moves(kafka_servers: str, tmp_path: Path) -> None:
    """The partition of a node that lost its data is copied again, beside the other one."""
    with RedisCluster(tmp_path) as cluster:
        place = Place(EntityTopic(kafka_servers, DEFINITIONS), cluster.servers[0], cluster=True)
        topic, copier = place.topic, place.copier()
        (ada, bob) = (next(k for k in "abcdefgh" if partition_of(k, 2) == n) for n in (0, 1))
        for partition, key in enumerate((ada, bob)):
            topic.value(partition, 3, key, topic.packed(partition + 1))
            topic.mark(partition, 4)
        step_until([copier], lambda: [place.store.marked(n) for n in (0, 1)] == [4, 4])
        assert [place.views(ada), place.views(bob)] == [1, 2]
        lost, other = cluster.node_of("{1}"), cluster.node_of("{0}")
        assert lost != other
        cluster.servers[lost].kill()
        cluster.servers[lost].start()
        cluster.wait()
        topic.value(1, 8, bob, topic.packed(3))
        topic.mark(1, 9)
        step_until([copier], lambda: place.store.marked(1) == 9 and place.views(bob) == 3)
        assert (place.store.marked(0), place.views(ada)) == (4, 1)

        def moved(_: int) -> None:
            topic.value(0, 10, ada, topic.packed(5))
            topic.value(0, 10, "c", topic.packed(1))
            for _ in range(3):
                copier.step()
            assert place.views(ada) in (1, 5)

        cluster.move("{0}", lost, moved)
        topic.mark(0, 11)
        step_until([copier], lambda: place.store.marked(0) == 11)
        assert place.views(ada) == 5
        place.close()


def test_redis_may_be_away(place: Place) -> None:
    topic, copier = place.topic, place.copier()
    topic.value(0, 5, "ada", topic.packed(5))
    step_until([copier], lambda: place.views() == 5)
    place.redis.kill()
    topic.value(0, 6, "ada", topic.packed(6))
    step_until([copier], lambda: copier.trouble is not None)
    place.redis.start()
    step_until([copier], lambda: copier.trouble is None and place.views() == 6)


def test_a_copier_that_was_replaced_stops(place: Place) -> None:
    topic, copier = place.topic, place.copier()
    topic.value(0, 5, "ada", topic.packed(5))
    step_until([copier], lambda: place.views() == 5)
    FencedRedisStore(place.redis.url, 0, tag=place.tag).close()
    topic.value(0, 6, "ada", topic.packed(6))
    with pytest.raises(FencedError):
        step_until([copier], lambda: False)
    assert place.views() == 5


def test_entities_of_a_log_that_is_gone_are_refused(place: Place) -> None:
    """Offsets of a topic that was made anew are not those of the old one."""
    topic, copier = place.topic, place.copier()
    topic.value(0, 500, "ada", topic.packed(5))
    step_until([copier], lambda: place.views() == 5)
    copier.close()
    place.log_id = "another"
    with pytest.raises(TopicError, match=r"name another flink\.entities_topic"):
        step_until([place.copier()], lambda: False)


def test_another_topic_begins_anew(place: Place) -> None:
    topic, copier = place.topic, place.copier()
    topic.value(0, 500, "ada", topic.packed(5))
    topic.mark(0, 501)
    step_until([copier], lambda: place.store.marked(0) == 501)
    copier.close()
    place.log_id = "another"
    place.topic = EntityTopic(topic.kafka.servers, DEFINITIONS)
    place.topic.value(0, 2, "ada", topic.packed(1))
    place.topic.mark(0, 3)
    step_until([place.copier()], lambda: place.store.marked(0) == 3)
    assert place.views() == 1


def test_erased_people(kafka_servers: str, redis: RedisServer) -> None:
    place = Place(EntityTopic(kafka_servers, BOTH), redis)
    topic = place.topic
    known = SubjectIds(users=frozenset({"ada"}), sessions=frozenset({"visit"}))
    place.erasures = erasures = Erasures((), known)
    erasures.newest = 0
    copier = place.copier()
    for key in ("ada", "bob"):
        topic.value(0, 5, key, topic.packed(5))
    topic.value(0, 5, "visit", topic.packed(5), kind="session")
    for kind in ("user", "session"):
        topic.mark(0, 6, kind=kind)
    step_until([copier], lambda: place.store.marked(0) == 6)
    erasures.suppressed = frozenset({"ada"})
    erasures.newest = 7
    step_until([copier], lambda: place.views("ada") is None)
    before = {"workers.log-0": 0, "workers.log-1": 0}
    settle(copier)
    assert erasures.reported == before, "the job has not confirmed it"
    copier.close()
    copier = place.copier()
    settle(copier)
    assert erasures.reported == before, "another owner knows it, too"
    ends = [at for at, row in enumerate(topic.rows(topic.erased, [0])) if row == (b"@", b"end")]
    for partition, kind in ((0, "user"), (0, "session"), (1, "user")):
        topic.mark(partition, 6, kind=kind, forgotten=ends[-1] + 1)
    step_until([copier], lambda: erasures.reported["workers.log-0"] == 7)
    assert erasures.reported["workers.log-1"] == 0
    topic.mark(1, 6, kind="session", forgotten=ends[-1] + 1)
    step_until([copier], lambda: erasures.reported["workers.log-1"] == 7)
    assert (place.views("ada"), place.views("visit", "session"), place.views("bob")) == (
        None,
        None,
        5,
    )
    topic.value(0, 9, "ada", topic.packed(9))  # was under way
    topic.value(0, 9, "bob", topic.packed(9))
    step_until([copier], lambda: place.views("bob") == 9)
    assert place.views("ada") is None
    rows = topic.rows(topic.kafka, (0, 1))
    assert [key for key, value in rows if value is None].count(b"user:ada") == 2
    assert (b"session:visit", None) in rows
    expected = {(entity_hash("user", "ada").encode(), b"user")}
    expected |= {(entity_hash("session", "visit").encode(), b"session")}
    assert set(topic.rows(topic.erased, [0])) - {(b"@", b"end")} == expected
    place.close()


def test_a_job_that_confirms_nothing_is_asked_again(kafka_servers: str, redis: RedisServer) -> None:
    place = Place(EntityTopic(kafka_servers, DEFINITIONS), redis)
    place.erasures = erasures = Erasures((), SubjectIds(users=frozenset({"ada"})))
    now = [0.0]
    copier = place.copier(clock=lambda: now[0])

    def asked() -> int:
        return place.topic.rows(place.topic.erased, [0]).count((b"@", b"end"))

    step_until([copier], lambda: len(copier.partitions) == 2)
    now[0] = 29.0
    settle(copier)
    assert asked() == 2, "once for each partition"
    now[0] = 61.0
    settle(copier)
    assert asked() == 3
    for partition in (0, 1):
        place.topic.mark(partition, 1, forgotten=6)
    now[0] = 62.0
    step_until([copier], lambda: erasures.reported == {"workers.log-0": 7, "workers.log-1": 7})
    now[0] = 120.0
    settle(copier)
    assert asked() == 3
    place.close()
