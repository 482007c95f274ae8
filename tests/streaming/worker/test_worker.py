import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.streaming import shard as shards
from tests.streaming.brokers import patiently
from tests.streaming.shard import Shard, append, definitions, new_shard, read_topic
from tests.streaming.streams import START, event_of, random_entries

from tactful_streaming.contract.log_entries import Event, Tick
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import LateEvent
from tactful_streaming.errors import FencedError, LogError, StateError
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.kafka.transactional_producer import TransactionalProducer
from tactful_streaming.state.checkpoints import checkpoints_in_folder
from tactful_streaming.state.partition_checkpoint import PartitionState
from tactful_streaming.state.store import MemoryState, RocksState
from tactful_streaming.worker.partition_job import PartitionJob
from tactful_streaming.worker.worker import Worker, WorkerOptions, leading

pytest.importorskip("confluent_kafka")

PARTITIONS = 4
PATIENCE_S = 150.0
"""How long to wait for what has to happen at last, on a machine that does much else."""


@pytest.fixture
def shard(kafka_servers: str, tmp_path: Path) -> Iterator[Shard]:
    with new_shard(kafka_servers, tmp_path, PARTITIONS) as made:
        yield made


def new_worker(shard: Shard, now: Callable[[], int] = lambda: 0, **options: Any) -> Worker:
    defaults = WorkerOptions(commit_interval_s=0.05, batch=200, idle_ms=200)
    return Worker(definitions(), shard.options, pace=replace(defaults, **options), now=now)


def work_to(workers: Sequence[Worker], ends: Mapping[int, int]) -> None:
    """Let workers take turns until everything before `ends` is applied and committed."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        for worker in workers:
            worker.step()
        done = {n: job.offset for worker in workers for n, job in worker.jobs.items()}
        if all(done.get(number, 0) >= end for number, end in ends.items()):
            for worker in workers:
                worker.commit()
            return
    pytest.fail(f"the workers came to {done}, not to {ends}")


def settle(workers: Sequence[Worker], rounds: int) -> None:
    """Give actions and ticks some time to go round through the log."""
    for _ in range(rounds):
        for worker in workers:
            worker.step()
            worker.commit()


def settled(shard: Shard, workers: Sequence[Worker]) -> tuple[shards.Logs, shards.Truth]:
    """Return the log with all actions appended, and an uninterrupted run of it."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        logs = read_topic(shard.kafka)
        work_to(workers, {n: records[-1][0] + 1 for n, records in logs.items() if records})
        expected = shards.truth(shard, logs)
        missing = {
            action.event_id for engine in expected.engines.values() for action in engine.outbox()
        } - set(shards.actions_of(logs))
        if not missing and read_topic(shard.kafka) == logs:
            return logs, expected
    pytest.fail("actions are missing in the log, or it goes on and on")


def check(shard: Shard, workers: Sequence[Worker], *, given_up: bool = False) -> None:
    """Compare the results of all workers with an uninterrupted run of the log.

    If `given_up`, workers were cut off in the midst of transactions.
    """
    logs, expected = settled(shard, workers)
    assert shards.fired_table(shard, uncommitted=given_up) == expected.fired
    assert shards.match_table(shard, uncommitted=given_up) == expected.matches
    actions = shards.actions_of(logs)
    assert len(actions) == len(set(actions))
    compared = 0
    for worker in workers:
        for number, job in worker.jobs.items():
            engine = expected.engines[number]
            assert job.watermark == engine.watermark
            for user in range(20):
                for at in (engine.watermark, engine.watermark + 600_000):
                    key = f"u{user}"
                    assert job.engine.read("user", key, at) == engine.read("user", key, at)
                    compared += 1
    assert compared


@pytest.mark.parametrize(
    ("watermarks", "idle", "expected"),
    [
        ({}, [], set()),
        ({0: 500, 1: 0}, [], {0}),
        ({0: 100, 1: 0}, [], set()),
        ({0: 101, 1: 0, 2: 500}, [], {0, 2}),
        ({0: 500, 1: 0}, [1], set()),
        ({0: 500, 1: 0, 2: 390}, [1], {0}),
        ({0: 500, 1: 0}, [0, 1], set()),
        ({0: 500, 1: 0}, [0], set()),
    ],
)
def test_the_leading_wait(watermarks: dict[int, int], idle: list[int], expected: set[int]) -> None:
    assert leading(watermarks, idle, 100) == expected


def test_a_state_has_one_owner(tmp_path: Path) -> None:
    first = PartitionState(tmp_path / "p")
    with pytest.raises(StateError, match="another process has this state open"):
        PartitionState(tmp_path / "p", patience_s=0)
    released = threading.Event()

    def release() -> None:
        released.set()
        first.close()

    owner = threading.Timer(0.1, release)
    owner.start()
    second = PartitionState(tmp_path / "p")
    assert released.is_set()
    owner.join()
    first.close()
    with pytest.raises(StateError, match="another process"):
        PartitionState(tmp_path / "p", patience_s=0)
    second.close()


def test_a_damaged_state_is_refused_and_released(tmp_path: Path) -> None:
    (tmp_path / "p" / "state").mkdir(parents=True)
    (tmp_path / "p" / "state" / "CURRENT").write_text("nonsense")
    for _ in range(2):
        with pytest.raises(StateError, match="cannot be opened"):
            PartitionState(tmp_path / "p", patience_s=0)


@pytest.mark.slow
def test_fast_clock(shard: Shard) -> None:
    """Devices with fast clocks, in every partition, stop no match of others."""
    ahead = START + 295_000
    fast = [
        event_of(f"f{n}", "view", ahead, device_id=f"d{n}", received_at=START) for n in range(40)
    ]
    others = [
        event_of(f"{type_}-{n}", type_, START + after, f"u{n}", received_at=START + after)
        for after, type_ in enumerate(("view", "purchase"))
        for n in range(10)
    ]
    ends = append(shard, [*fast, *others, Tick(timestamp=START + 60_000)])
    assert len(ends) == PARTITIONS
    with contextlib.closing(new_worker(shard)) as worker:
        work_to([worker], ends)
        found = sorted(json.loads(row)["entity_key"] for row in shards.match_table(shard))
    assert found == [f"u{n}" for n in range(10)]


def test_a_former_owner_is_shut_out(kafka_servers: str, shard: Shard) -> None:
    topic = shard.options.features_topic
    assert topic is not None
    first = TransactionalProducer(shard.kafka, f"owner-{topic}")
    first.write(topic, [(b"k", b"1")])
    first.commit()
    first.commit()
    first.write(topic, [(b"k", b"2")])
    second = TransactionalProducer(shard.kafka, f"owner-{topic}")
    second.write(topic, [(b"k", b"3"), (b"", b"4")])
    assert second.append(shard.kafka.topic, [b"a", b"b"], 1) == 1
    with pytest.raises(FencedError, match="another process has taken over"):
        for _ in range(100):
            first.write(topic, [(b"k", b"5")])
            first.commit()
    first.close()
    second.close()
    found = read_topic(replace(shard.kafka, topic=topic)).values()
    values = {value for records in found for _, value in records}
    # Not every broker hides what was in a transaction that was given up.
    assert values - {b"2"} == {b"1", b"3", b"4"}
    assert read_topic(shard.kafka)[1] == [(0, b"a"), (1, b"b")]


@pytest.mark.slow
def test_what_is_committed_is_found_behind_what_was_given_up(shard: Shard) -> None:
    """Two owners are replaced in the middle of overlapping transactions."""
    from confluent_kafka import Producer

    given_up = []

    def owner(name: str) -> Producer:
        config = shard.kafka.producer_config()
        made = Producer({**config, "transactional.id": f"{name}-{shard.kafka.topic}"})
        made.init_transactions(PATIENCE_S)
        return made

    def write(to: Producer, value: bytes) -> None:
        to.begin_transaction()
        to.produce(shard.kafka.topic, value, partition=0)
        assert to.flush(PATIENCE_S) == 0

    one, other = owner("one"), owner("other")
    write(one, b"given up")
    write(other, b"given up")
    given_up.append(one)
    one = owner("one")
    write(one, b"given up")
    given_up += [one, other]
    one, other = owner("one"), owner("other")
    write(one, b"1")
    write(other, b"2")
    one.commit_transaction(PATIENCE_S)
    other.commit_transaction(PATIENCE_S)
    found = [value for _, value in read_topic(shard.kafka)[0]]
    # As above.
    assert [value for value in found if value != b"given up"] == [b"1", b"2"]


@pytest.mark.slow
def test_one_worker_computes_what_an_uninterrupted_run_does(shard: Shard) -> None:
    worker = new_worker(shard)
    work_to([worker], append(shard, random_entries(1, 3_000)))
    check(shard, [worker])
    progress = worker.progress()
    assert {*progress.partitions} == {*range(PARTITIONS)}
    assert progress.actions > 0
    assert progress.late > 0
    assert all(it.committed == it.offset for it in progress.partitions.values())
    worker.close()


@pytest.mark.slow
def test_workers_join_and_leave(shard: Shard) -> None:
    entries = random_entries(2, 4_000)
    first = new_worker(shard)
    work_to([first], append(shard, entries[:1_500]))
    second = new_worker(shard)
    ends = append(shard, entries[1_500:3_000])
    both = (first, second)
    patiently(lambda: [w.step() for w in both] and all(len(w.jobs) == 2 for w in both), PATIENCE_S)
    work_to([first, second], ends)
    first.close()
    work_to([second], append(shard, entries[3_000:]))
    assert len(second.jobs) == PARTITIONS
    check(shard, [second])
    second.close()


def refuse(*_: object) -> None:
    raise StateError("No space left on device")


@pytest.mark.slow
def test_what_was_not_committed_is_computed_again(shard: Shard) -> None:
    """A worker is killed repeatedly between two commits, also by a full disk."""
    rng = random.Random(3)
    ends = append(shard, random_entries(3, 2_000))
    for full_disk in (False, True, False):
        worker = new_worker(shard, batch=60, commit_interval_s=1e9)
        until, entries = time.monotonic() + PATIENCE_S, rng.randrange(300, 700)
        while worker.progress().entries < entries:
            worker.step()
            if rng.random() < 0.2:
                worker.commit()
            assert time.monotonic() < until
        if full_disk:  # rows are published by then, and come again
            with pytest.MonkeyPatch.context() as patch, pytest.raises(StateError, match="space"):
                patch.setattr(RocksState, "write", refuse)
                while time.monotonic() < until:
                    worker.step()
                    worker.commit()
        worker.abandon()
    worker = new_worker(shard)
    work_to([worker], ends)
    check(shard, [worker], given_up=True)
    worker.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "shared",
    [pytest.param(True, id="checkpoint"), pytest.param(False, marks=pytest.mark.slow, id="replay")],
)
def test_another_host_goes_on(shard: Shard, tmp_path: Path, shared: bool) -> None:
    here = shard
    if shared:
        place = checkpoints_in_folder(tmp_path / "shared")
        here = replace(shard, options=replace(shard.options, checkpoints=place))
    entries = random_entries(4, 2_000)
    first = new_worker(here, checkpoint_interval_s=0)
    work_to([first], append(here, entries[:1_000]))
    settle([first], 2)
    first.close()
    there = replace(here, options=replace(here.options, data=tmp_path / "elsewhere"))
    begun = []
    for number in range(PARTITIONS):
        job = PartitionJob(number, definitions(), there.options)
        begun.append(job.offset)
        job.close()
    assert all(offset > 0 for offset in begun) == shared
    second = new_worker(there)
    work_to([second], append(there, entries[1_000:]))
    check(there, [second])
    second.close()
    if shared:
        folders = [*(tmp_path / "shared").iterdir()]
        assert len(folders) == PARTITIONS
        assert all(len([*folder.iterdir()]) <= 2 for folder in folders)


def test_a_state_that_is_further_than_the_checkpoint_is_kept(tmp_path: Path, shard: Shard) -> None:
    options = replace(shard.options, checkpoints=checkpoints_in_folder(tmp_path / "shared"))
    append(shard, random_entries(5, 600))
    records = read_topic(shard.kafka)[0]
    job = PartitionJob(0, definitions(), options)
    job.apply(records[:50])
    job.commit()
    job.checkpoint()
    job.apply(records[50:90])
    job.commit()
    job.close()
    again = PartitionJob(0, definitions(), options)
    assert again.offset == 90
    again.close()


@pytest.mark.slow
def test_a_zombie_cannot_write(shard: Shard, tmp_path: Path) -> None:
    """A process that was asleep while its partition moved to another host, wakes up."""
    append(shard, random_entries(6, 2_000))
    records = read_topic(shard.kafka)[0]
    # Not every broker says that it is shut out; some only fall silent.
    impatient = replace(shard.kafka, delivery_timeout_ms=5_000)
    zombie = PartitionJob(0, definitions(), replace(shard.options, kafka=impatient))
    zombie.apply(records[:100])
    zombie.commit()
    zombie.apply(records[100:])
    there = replace(shard.options, data=tmp_path / "elsewhere")
    owner = PartitionJob(0, definitions(), there)
    with pytest.raises(LogError):
        zombie.commit()
    zombie.close()
    owner.apply(records)
    owner.commit()
    folder = shard.options.data / "partitions" / f"{shard.kafka.topic}-0"
    with contextlib.closing(PartitionState(folder)) as reopened:
        assert reopened.offset == 100
    owner.close()


@pytest.mark.slow
def test_silence_lets_the_clock_into_the_log(shard: Shard) -> None:
    """Timers are triggered although no event comes."""
    clock = START + 10_000
    worker = new_worker(shard, now=lambda: clock)
    view = Event(event_id="v", type="view", timestamp=START, user_id="u1", item_id="i")
    ends = append(shard, [view])
    work_to([worker], ends)
    settle([worker], 10)
    assert worker.progress().ticks == 0
    clock = START + 3_600_000
    until = time.monotonic() + PATIENCE_S
    while not worker.progress().ticks:
        settle([worker], 1)
        assert time.monotonic() < until
    check(shard, [worker])
    views = [value for row, value in shards.fired_table(shard).items() if '"views"' in row]
    assert views == [1, 1, 1, 1, 1]
    assert worker.progress().ticks == 1
    worker.close()


@pytest.mark.slow
def test_a_pause_in_history_loses_no_event(shard: Shard) -> None:
    """With a clock of events alone, a pause between two parts of history makes nothing late."""
    entries = random_entries(8, 1_500)
    worker = new_worker(shard, now=lambda: START + 365 * 86_400_000, sends_ticks=False)
    work_to([worker], append(shard, entries[:750]))
    settle([worker], 10)
    work_to([worker], append(shard, entries[750:]))
    check(shard, [worker])
    assert worker.progress().ticks == 0
    worker.close()


@pytest.mark.slow
def test_a_leading_partition_waits(shard: Shard) -> None:
    """One partition is a day ahead of another one, which is not idle."""
    times = [START + n * 1_000 * (n % 2) for n in range(4_000)]
    entries = [event_of(f"e{n}", "view", at, f"u{n % 2}") for n, at in enumerate(times)]
    ends = append(shard, entries)
    ahead, behind = (shard.log.partition_of(f"u{user}") for user in (1, 0))
    assert ahead != behind
    worker = new_worker(shard, batch=100, alignment_ms=60_000, commit_interval_s=60)
    paused = done = False
    until = time.monotonic() + PATIENCE_S
    while not done:
        worker.step()
        partitions = worker.progress().partitions
        if partitions and partitions[ahead].paused:
            paused |= not partitions[behind].paused
        done = len(partitions) == PARTITIONS and all(
            partitions[number].offset >= end for number, end in ends.items()
        )
        assert time.monotonic() < until, "the leading partition waits for ever"
    assert paused
    worker.close()


@pytest.mark.slow
def test_a_worker_stops_when_told(shard: Shard) -> None:
    stop = threading.Event()
    seen = []
    worker = new_worker(shard)
    append(shard, random_entries(7, 500))

    def progress(done: object) -> None:
        seen.append(done)
        if len(worker.jobs) == PARTITIONS and worker.progress().entries >= 500:
            stop.set()

    worker.run(stop.is_set, progress)
    assert seen
    worker.close()
    for number in range(PARTITIONS):
        job = PartitionJob(number, definitions(), shard.options)
        assert job.engine.watermark > 0
        job.close()


@pytest.mark.slow
def test_a_worker_writes_late_events_with_the_features_they_miss(
    kafka_servers: str, tmp_path: Path
) -> None:
    with new_shard(kafka_servers, tmp_path, lateness=0) as shard:
        late_topic = f"late-{shard.kafka.topic}"
        options = replace(shard.options, late_topic=late_topic)
        ensure_topic(replace(shard.kafka, topic=late_topic), consumer_threads=1)
        ends = append(shard, random_entries(5, 2_000))
        # Killed before it had committed everything, and begun anew: some rows come twice.
        for enough in (0.5, 1.0):
            pace = WorkerOptions(batch=100, idle_ms=200)
            worker = Worker(definitions(), options, pace=pace, now=lambda: 0)
            while sum(job.offset for job in worker.jobs.values()) < enough * sum(ends.values()):
                worker.step()
            if enough == 1.0:
                worker.commit()
                worker.close()
            else:
                worker.abandon()
        expected: Counter[tuple[int, int, str]] = Counter()
        events: dict[tuple[int, int], bytes] = {}

        def late(ones: list[LateEvent]) -> None:
            for one in ones:
                expected.update((one.partition, one.offset, name) for name in one.features)

        for number, records in read_topic(shard.kafka).items():
            events.update({(number, offset): payload for offset, payload in records})
            late_options = replace(options.engine, partition=number, on_late=late)
            engine = Engine(definitions(), MemoryState(), late_options)
            engine.apply(records)
        found: set[tuple[int, int, str]] = set()
        late_rows = read_topic(replace(shard.kafka, topic=late_topic), uncommitted=True)
        for records in late_rows.values():
            for _, value in records:
                row = json.loads(value)
                place = (row["partition"], row["offset"])
                assert row["event"] == json.loads(events[place])
                found |= {(*place, feature) for feature in row["features"]}
        assert found == set(expected)
        assert len(found) > 100
