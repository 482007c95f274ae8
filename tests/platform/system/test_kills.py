"""``kill -9`` under load: no acknowledged event is lost, and no number is wrong.

The same code measures the figures ``kills``, ``kill_lost_events`` and ``kill_wrong_values``.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from tests.platform import planted_bugs
from tests.platform.support import wait_until
from tests.streaming.brokers import topic_name

from benchmarks.kills import installation
from benchmarks.kills.faults import find_fault, on_sound_broker
from benchmarks.kills.load import Load
from benchmarks.kills.processes import TACTFUL, Process
from benchmarks.kills.servers import on_embedded_log, on_kafka, with_workers
from benchmarks.kills.sinks import on_target
from benchmarks.kills.topics import BrokerFault, Stalled, hidden
from benchmarks.kills.truth import Comparison, Outcome
from benchmarks.ports import free_port
from tactful.util.supervisor import RESTART
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import ensure_topic

pytestmark = pytest.mark.timeout(2400)

# In each combination; `scripts/bench streaming` makes twenty.
KILLS = 6
SINK_KILLS = 3
PLANTED = Path(planted_bugs.__file__)

Brokers = Callable[[], AbstractContextManager[str]]
Launcher = tuple[str, ...]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with a name that no other run has given to a topic."""
    return tmp_path / uuid.uuid4().hex[:12]


def again(folder: Path, attempt: int) -> Path:
    """Another such folder, for a run that is made again."""
    return folder.with_name(f"{folder.name}-{attempt}")


def drop_rows(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS tactful_fired_values"))
    engine.dispose()


def check(outcome: Outcome, kills: int) -> None:
    """Check that a run had load and kills, and found no loss."""
    assert outcome.kills >= kills
    assert outcome.acknowledged > 50 * kills, "there was hardly any load"
    assert outcome.comparison.compared > 1000
    assert (outcome.lost, outcome.comparison.examples) == (0, [])
    assert outcome.comparison.wrong == 0


@pytest.mark.slow
def test_the_server_on_its_own_log(folder: Path) -> None:
    check(on_embedded_log(2, folder, 1), 2)


@pytest.mark.long
@pytest.mark.parametrize("durability", ["power", "process"])
def test_the_server_on_its_own_log_often(folder: Path, durability: str) -> None:
    check(on_embedded_log(KILLS, folder, 2, durability=durability), KILLS)


@pytest.mark.slow
def test_the_server_with_a_copy_in_redis(folder: Path, redis_url: str) -> None:
    check(on_embedded_log(KILLS, folder, 3, redis_url=redis_url), KILLS)


@pytest.mark.long
def test_the_server_on_kafka(folder: Path, kafka_brokers: Brokers) -> None:
    def run(servers: str, attempt: int) -> Outcome:
        return on_kafka(KILLS, again(folder, attempt), 4, servers)

    check(on_sound_broker(kafka_brokers, run), KILLS)


def run_workers(
    brokers: Brokers,
    redis_url: str,
    kills: int,
    folder: Path,
    seed: int,
    *,
    victims: Sequence[str] = ("server", "worker"),
    launcher: Launcher = TACTFUL,
) -> Outcome:
    def run(servers: str, attempt: int) -> Outcome:
        place = again(folder, attempt)
        return with_workers(
            kills, place, seed, servers, redis_url, victims=victims, launcher=launcher
        )

    return on_sound_broker(brokers, run)


@pytest.mark.slow
def test_server_and_workers(folder: Path, kafka_brokers: Brokers, redis_url: str) -> None:
    check(run_workers(kafka_brokers, redis_url, KILLS, folder, 5), KILLS)


def run_sink(
    brokers: Brokers,
    kills: int,
    folder: Path,
    seed: int,
    location: Callable[[Path], str],
    launcher: Launcher = TACTFUL,
) -> Outcome:
    """Kill a sink; `location` says where its rows go, given the folder of the run."""

    def run(servers: str, attempt: int) -> Outcome:
        place = again(folder, attempt)
        return on_target(kills, place, seed, servers, location(place), launcher=launcher)

    return on_sound_broker(brokers, run)


def in_sqlite(place: Path) -> str:
    return f"sqlite:///{place.with_suffix('.db')}"


@pytest.mark.slow
def test_a_sink_to_sqlite(folder: Path, kafka_brokers: Brokers) -> None:
    check(run_sink(kafka_brokers, SINK_KILLS, folder, 6, in_sqlite), SINK_KILLS)


@pytest.mark.long
def test_a_sink_to_mariadb(folder: Path, kafka_brokers: Brokers, mysql_url: str) -> None:
    def emptied(place: Path) -> str:
        drop_rows(mysql_url)
        return mysql_url

    check(run_sink(kafka_brokers, SINK_KILLS, folder, 7, emptied), SINK_KILLS)


@pytest.mark.long
def test_a_sink_to_redis(folder: Path, kafka_brokers: Brokers, redis_url: str) -> None:
    check(run_sink(kafka_brokers, SINK_KILLS, folder, 8, lambda _: redis_url), SINK_KILLS)


# Planted faults that a run must find.


@pytest.fixture
def planted(request: pytest.FixtureRequest) -> Launcher:
    """The command line with the mistake that the test names."""
    assert request.param in planted_bugs.MISTAKES
    return (sys.executable, str(PLANTED), request.param)


def with_mistake(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return pytest.mark.parametrize("planted", [name], indirect=True)


@pytest.mark.slow
@with_mistake("acknowledge_before_append")
def test_events_acknowledged_too_early_are_missed(folder: Path, planted: Launcher) -> None:
    assert on_embedded_log(3, folder, 1, launcher=planted).lost > 0


@pytest.mark.slow
@with_mistake("offset_before_state")
def test_an_offset_ahead_of_its_state_shows(folder: Path, planted: Launcher) -> None:
    outcome = on_embedded_log(3, folder, 1, launcher=planted)
    assert outcome.lost == 0
    assert outcome.comparison.wrong > 0


@pytest.mark.long
@with_mistake("offset_before_state")
def test_an_offset_ahead_of_its_state_shows_in_workers(
    folder: Path, planted: Launcher, kafka_brokers: Brokers, redis_url: str
) -> None:
    outcome = run_workers(
        kafka_brokers, redis_url, 4, folder, 1, victims=["worker"], launcher=planted
    )
    assert outcome.lost == 0
    assert outcome.comparison.wrong > 0


@pytest.mark.slow
@with_mistake("actions_stay_in_the_outbox")
def test_actions_that_are_taken_twice_show(folder: Path, planted: Launcher) -> None:
    outcome = on_embedded_log(3, folder, 1, launcher=planted)
    assert outcome.comparison.wrong > 0
    assert all("action" in it for it in outcome.comparison.examples)


@pytest.mark.long
@with_mistake("rows_after_state")
def test_windows_that_are_fired_too_late_are_missed(
    folder: Path, planted: Launcher, kafka_brokers: Brokers, redis_url: str
) -> None:
    outcome = run_workers(
        kafka_brokers, redis_url, 4, folder, 1, victims=["worker"], launcher=planted
    )
    assert any("window" in it for it in outcome.comparison.examples)


@pytest.mark.slow
@with_mistake("sink_commits_before_it_writes")
def test_rows_committed_too_early(folder: Path, planted: Launcher, kafka_brokers: Brokers) -> None:
    assert run_sink(kafka_brokers, 3, folder, 1, in_sqlite, planted).lost > 0


@pytest.mark.slow  # only those above look for such faults
def test_an_open_transaction_is_no_fault_of_the_broker(kafka_servers: str) -> None:
    from confluent_kafka import Producer

    topic = topic_name()
    ensure_topic(KafkaSettings(kafka_servers, topic), consumer_threads=1)
    settings = {"bootstrap.servers": kafka_servers, "transactional.id": topic}
    producer = Producer(settings)
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(topic, b"a", partition=1)
    producer.flush(60)
    assert hidden(kafka_servers, topic) == [1]
    assert find_fault(kafka_servers, topic, names=[topic], group=topic) is None
    assert hidden(kafka_servers, topic) == []


def test_a_run_is_made_again_where_the_broker_is_at_fault(kafka_brokers: Brokers) -> None:
    used: list[str] = []

    def run(servers: str, attempt: int) -> int:
        used.append(servers)
        if attempt < 2:
            raise BrokerFault("nothing moves")
        return attempt

    with pytest.warns(UserWarning, match="nothing moves"):
        assert on_sound_broker(kafka_brokers, run) == 2
    assert len(used) == 3

    def fail(error: type[Exception], servers: str, attempt: int) -> None:
        used.append(servers)
        raise error("it stands still")

    used.clear()
    with pytest.raises(Stalled):
        on_sound_broker(kafka_brokers, partial(fail, Stalled))
    assert len(used) == 1, "a fault of ours is not tried again"
    with pytest.warns(UserWarning), pytest.raises(BrokerFault, match="3 brokers in a row"):
        on_sound_broker(kafka_brokers, partial(fail, BrokerFault))


def test_the_load_does_not_wait_for_a_server_that_has_ended(folder: Path) -> None:
    folder.mkdir()
    code = ["-c", "raise SystemExit('it is over')"]
    server = Process(code, folder, "server", environment={}, launcher=[sys.executable])
    server.start()
    load = Load(f"http://127.0.0.1:{free_port()}", 1, rate=100.0, watch=server.check)
    with pytest.raises(RuntimeError, match="server ended with 1: it is over"), load:
        wait_until(lambda: bool(load.stream.given))


def test_a_process_that_asks_for_it_is_started_again(folder: Path) -> None:
    folder.mkdir()
    script = (
        "import pathlib, time\n"
        "try: pathlib.Path('been').mkdir()\n"
        "except FileExistsError: print('again', flush=True); time.sleep(300)\n"
        f"raise SystemExit({RESTART})\n"
    )
    worker = Process(["-c", script], folder, "worker", environment={}, launcher=[sys.executable])
    worker.start()
    worker.await_word()
    worker.check()
    worker.kill()


def test_a_run_that_has_failed_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(installation, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    place: Any = SimpleNamespace(_check=lambda: None)
    truth: Any = SimpleNamespace(actions=lambda: ["late"])
    outcome = Outcome("any")

    def waited() -> float:
        begin = now
        assert installation.Installation._await_actions(place, outcome, list, truth) == []
        return now - begin

    assert waited() > 20, "an action may be late"
    outcome.comparison.same("difference", 1, 2)
    assert waited() < 2


def test_numbers_are_compared_as_they_should_be() -> None:
    comparison = Comparison()
    comparison.same("rounding", {"a": [0.1 + 0.2, "x"]}, {"a": [0.3, "x"]})
    comparison.same("a list of pairs", [("i", 1)], [["i", 1]])
    comparison.once("ids", ["a", "b"], ["b", "a"])
    assert (comparison.compared, comparison.wrong) == (4, 0)
    for found, expected in [
        *(({"a": 1.0}, {"a": 1.1}), ({"a": 1.0}, {}), ({}, {"a": 0.0}), ([1, 2], [1])),
        *(("1", 1), (None, 0.0)),
    ]:
        before = comparison.wrong
        comparison.same("difference", found, expected)
        assert comparison.wrong == before + 1
    comparison.once("twice", ["a", "a"], ["a"])
    comparison.once("missing", [], ["a"])
    comparison.once("extra", ["a"], [])
    assert comparison.wrong == 9
