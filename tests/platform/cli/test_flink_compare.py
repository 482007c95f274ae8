"""``tactful flink compare``: two prefixes in Redis, and states of engines, of one log in Kafka."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.streaming.brokers import topic_name
from tests.streaming.flink_cluster import append, write_log
from tests.streaming.redis_server import RedisServer

from tactful.cli.main import main
from tactful.event_log.log_offsets import LOG_OFFSETS, LogOffsets
from tactful.metadata.connections import online_tag
from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.flink.entities import entity_hash
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.transactional_producer import TransactionalProducer
from tactful_streaming.online.store import RedisOnlineStore
from tactful_streaming.state.key_layout import entity_prefix, named
from tactful_streaming.state.store import MemoryState, RocksState, StateStore

pytestmark = [pytest.mark.service("kafka"), pytest.mark.usefixtures("elsewhere")]

FEATURES = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 30d, slide: 1d}}
- {name: seen, entity: session, event: view, aggregate: count, window: {size: 1h, slide: 1m}}
- {name: sold, entity: item, event: view, aggregate: count, window: {size: 1h, slide: 1m}}
"""
DEFINITIONS = load_definitions(FEATURES)
START = 1_700_000_000_000


def view(number: int, user: str) -> Event:
    return Event(
        event_id=f"e{number}",
        type="view",
        timestamp=START + 1000 * number,
        user_id=user,
        session_id=f"visit of {user}",
        item_id="tea",
    )


LOGS = [[view(n, "ada" if n % 3 else "ä b|c") for n in range(40)], [view(50, "bob")]]


@dataclass
class Place:
    """A log, and a Redis with two computations of it."""

    servers: str
    topic: str
    redis: RedisServer

    def store(self, prefix: str) -> RedisOnlineStore:
        return RedisOnlineStore(self.redis.url, prefix=prefix, tag=online_tag(DEFINITIONS))

    def compute(self, prefix: str, logs: list[list[Event]] = LOGS) -> None:
        """Write what engines make of partitions to Redis."""
        store = self.store(prefix)
        for number, log in enumerate(logs):
            state = computed(MemoryState(), log)
            for kind in ("user", "session"):
                store.put_many(dict(named(state, entity_prefix(kind))), kind=kind)
            store.mark(number, len(log), previous=None)
        store.close()

    def compare(self, *arguments: object, timeout: float = 0) -> Result:
        words = ["flink", "compare", "--config", "tactful.toml", "--timeout", timeout, *arguments]
        return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def place(kafka_servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with RedisServer(tmp_path) as redis:
        monkeypatch.setenv("TACTFUL_REDIS_URL", redis.url)
        made = Place(kafka_servers, topic_name(), redis)
        write_log(kafka_servers, made.topic, LOGS)
        Path("features.yaml").write_text(FEATURES)
        Path("tactful.toml").write_text(
            f'[log]\nkind = "kafka"\nbrokers = "{kafka_servers}"\ntopic = "{made.topic}"\n'
            '[online]\nkind = "redis"\nprefix = "[first]*"\n'
            '[engine]\nfeatures = "features.yaml"\n'
        )
        made.compute("[first]*")
        yield made


def computed(
    state: StateStore, log: list[Event], options: EngineOptions | None = None
) -> StateStore:
    engine = Engine(DEFINITIONS, state, options or EngineOptions())
    engine.apply([(offset, encode_entry(event)) for offset, event in enumerate(log)])
    engine.commit()
    return state


def test_equal_sides(place: Place) -> None:
    place.compute("second")
    result = place.compare("--against", "second", "--json", "report.json")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "user      3 in both, 0 only in [first]*, 0 only in second",
        "session   3 in both, 0 only in [first]*, 0 only in second",
        "user      views                            0 differ",
        "session   seen                             0 differ",
        "[first]* and second are equal",
    ]
    report = json.loads(Path("report.json").read_text())
    assert report["equal"] is True
    assert [feature["feature"] for feature in report["features"]] == ["views", "seen"]


def test_a_value_that_was_changed_by_hand_is_found(place: Place) -> None:
    place.compute("second", [[*LOGS[0][:-1], view(39, "ada"), view(40, "ada")], []])
    store = place.store("second")
    for number, log in enumerate(LOGS):
        store.mark(number, len(log), previous=None)
    result = place.compare("--against", "second", "--json", "report.json")
    assert result.exit_code == 1, result.output
    report = json.loads(Path("report.json").read_text())
    (user, session) = report["kinds"]
    assert (user["only_first"], session["only_first"]) == (1, 1)  # bob
    (views, seen) = report["features"]
    assert (views["different"], seen["different"]) == (2, 2)
    numbers = {it["entity"]: (it["first"], it["second"]) for it in views["examples"]}
    expected = {entity_hash("user", "ada"): (26, 28), entity_hash("user", "ä b|c"): (14, 13)}
    assert numbers == expected
    assert "26 and 28" in result.stdout
    assert "[first]* and second are different" in result.stdout
    for name in ("ada", "ä b|c", "bob"):
        assert name not in result.output + Path("report.json").read_text()


def test_a_side_that_is_behind_is_not_compared(place: Place) -> None:
    place.compute("second", [LOGS[0][:-1], LOGS[1]])
    result = place.compare("--against", "second")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "second: partition 0 is at 39, and the log ended at 40" in result.stderr
    result = place.compare("--against", "third")
    assert result.exit_code == 2
    assert "third: partition 0 is at no offset" in result.stderr


def test_it_waits_for_a_side_that_is_behind(place: Place) -> None:
    place.compute("second", [LOGS[0][:-1], LOGS[1]])
    later = threading.Timer(1.0, lambda: place.compute("second"))
    later.start()
    result = place.compare("--against", "second", timeout=60)
    later.join()
    assert result.exit_code == 0, result.output


def test_events_that_one_side_has_first_are_no_difference(place: Place) -> None:
    """Both have passed the end; then more events come, which one of them reads a second later."""
    logs = [[*LOGS[0], view(40, "ada")], LOGS[1]]
    place.compute("second", logs)

    def go_on() -> None:
        time.sleep(1.0)
        place.compute("[first]*", logs)

    append(place.servers, place.topic, [view(40, "ada")])
    thread = threading.Thread(target=go_on)
    thread.start()
    result = place.compare("--against", "second", timeout=60)
    thread.join()
    assert result.exit_code == 0, result.output


def test_markers_of_transactions_are_no_events(place: Place) -> None:
    producer = TransactionalProducer(KafkaSettings(place.servers, place.topic), place.topic)
    end = producer.append(place.topic, [encode_entry(view(40, "ada"), "json")], 0) + 1
    producer.close()
    for prefix in ("[first]*", "second"):
        place.compute(prefix, [[*LOGS[0], view(40, "ada")], LOGS[1]])
        place.store(prefix).mark(0, end, previous=None)
    result = place.compare("--against", "second")
    assert result.exit_code == 0, result.output


def test_states_of_workers(place: Place) -> None:
    """Their states are read while workers have them open."""
    held = []
    for number, log in enumerate(LOGS):
        path = Path(f"worker-{number}/partitions/{place.topic}-{number}/state")
        path.parent.mkdir(parents=True)
        held.append(computed(RocksState(path), log))
    result = place.compare("--against-state", "worker-0", "--against-state", "worker-1")
    assert result.exit_code == 0, result.output
    result = place.compare("--against-state", "worker-0")
    assert result.exit_code == 2
    assert "worker-0: partition 1 is at no offset" in result.stderr
    result = place.compare("--against-state", "elsewhere")
    assert result.exit_code == 2
    assert "there is no state of topic" in result.stderr
    for state in held:
        state.close()


def test_the_state_of_a_server(place: Place) -> None:
    offsets = LogOffsets(place.topic)
    offsets.offsets = lambda: {number: len(log) for number, log in enumerate(LOGS)}
    options = EngineOptions(consumers={LOG_OFFSETS: offsets})
    Path("data").mkdir()
    computed(RocksState(Path("data/state")), [*LOGS[0], *LOGS[1]], options).close()
    result = place.compare("--against-state", "data")
    assert result.exit_code == 0, result.output
    assert "[first]* and data are equal" in result.stdout
    Path("features.yaml").write_text(FEATURES.replace("30d", "60d"))
    result = place.compare("--against-state", "data")
    assert result.exit_code == 2
    assert (
        "[first]*: partition 0 is at no offset" in result.stderr or "definitions" in result.stderr
    )


def test_wrong_usage(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, said in (
        ((), "either --against or --against-state is needed"),
        (("--against", "a", "--against-state", "b"), "either --against or --against-state"),
        (("--against", "[first]*"), "is online.prefix itself"),
    ):
        result = place.compare(*arguments)
        assert result.exit_code == 2
        assert said in result.stderr
    monkeypatch.setenv("TACTFUL_ONLINE__KIND", "engine")
    result = place.compare("--against", "second")
    assert result.exit_code == 2
    assert "online.kind is not redis" in result.stderr


def test_redis_that_is_away_is_no_difference(place: Place) -> None:
    place.redis.kill()
    result = place.compare("--against", "second")
    assert result.exit_code == 2
    assert "Redis cannot be reached" in result.stderr
