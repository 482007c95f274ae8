"""Kills of everything between the log and Redis, under load; then all values are compared.

Rounds begin with an installation of their own. What a round found is appended to a file, from which
an interrupted run goes on.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.apache_kafka import Cluster
from benchmarks.figures import Figure, commit
from benchmarks.flink.cluster import Flink, flink
from benchmarks.flink.place import (
    DELAY_MS,
    LATENESS_MS,
    PARTITIONS,
    Log,
    await_true,
    marks,
    new_log,
)
from benchmarks.kills.load import Stream
from benchmarks.kills.processes import Failures, Process
from benchmarks.ports import await_port, free_port
from benchmarks.rounds import KeptRound, keep_round, read_rounds
from tactful.config.settings import PACKAGED_FEATURES
from tactful.metadata.connections import online_tag
from tactful_streaming.contract.log_entries import encode_entry, route_key
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.errors import LogError, OnlineStoreError
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.online.comparison import (
    Comparison,
    RedisSide,
    States,
    StateSide,
    compare_sides,
)
from tactful_streaming.online.store import RedisOnlineStore
from tactful_streaming.state.store import MemoryState

KINDS: Final = ("taskmanager", "jobmanager", "redis", "broker", "worker")
FIGURES: Final = (("flink_kills", "1"), ("flink_wrong_values", "1"))

_KILLS, _KILLS_OF_ROUND = 50, 10
_QUICK_KILLS = 4
_RATE = 400
_SPREAD_S, _DOWN_S = 4.0, 3.0
_PILED = 0.25
_WORKING_S = 300.0
_RETRY_S = 0.2
_READ = 5_000
_SEED = 41


class Round(KeptRound, frozen=True):
    """Result of one round, a line of the file."""

    seed: int
    kills: int
    killed: dict[str, int]  # number of kills by kind
    entities: int  # entities that both sides have
    wrong: int  # values that differ, and entities of one side alone
    planted: int  # the same after one value was changed by hand, less the wrong ones
    examples: list[str]


def kills(quick: bool, scratch: Path, done: Path | None) -> list[Figure]:
    """Kill processes at random moments in rounds; count values that are not those of the engine.

    Args:
        quick: four kills instead of fifty.
        scratch: folder for files.
        done: file of rounds that an interrupted run of this commit has finished; None: none.
    """
    wanted, of_round = (_QUICK_KILLS, _QUICK_KILLS) if quick else (_KILLS, _KILLS_OF_ROUND)
    rounds = finished(done, of_round)
    while sum(one.kills for one in rounds) < wanted:
        seed = _SEED + len(rounds)
        folder = scratch / f"round-{seed}"
        folder.mkdir()
        rounds.append(_round(seed, of_round, folder))
        keep_round(done, rounds[-1])
    return as_figures(rounds)


def finished(file: Path | None, kills: int) -> list[Round]:
    """Return the rounds of this commit, with so many kills each, that a file names."""
    return [one for one in read_rounds(file, Round) if one.kills == kills]


def as_figures(rounds: Sequence[Round]) -> list[Figure]:
    """Return the figures of all rounds together."""
    killed = sum((Counter(one.killed) for one in rounds), Counter[str]())
    examples = [example for one in rounds for example in one.examples]
    note = (
        f"kill -9 of {', '.join(f'{kind} {count}' for kind, count in killed.items())}, in "
        f"{len(rounds)} rounds, seeds from {rounds[0].seed}, under {_RATE} events/s"
    )
    entities = sum(one.entities for one in rounds)
    wrong = (
        f"values of {entities:,} users and visits that are not those of the embedded engine on the "
        "same log, after all was at work again; a value changed by hand was found in "
        f"{sum(one.planted > 0 for one in rounds)} of {len(rounds)} rounds"
    )
    return [
        Figure("flink_kills", sum(one.kills for one in rounds), "1", note=note),
        Figure(
            "flink_wrong_values",
            sum(one.wrong for one in rounds),
            "1",
            runs=entities,
            note="; ".join([wrong, *examples[:3]]),
        ),
    ]


@dataclass
class _Place:
    """What is killed."""

    log: Log
    broker: Cluster
    flink: Flink
    redis: Process
    redis_port: int
    worker: Process
    settings: dict[str, str]

    def kill(self, kind: str) -> None:
        """``kill -9``."""
        if kind in ("taskmanager", "jobmanager"):
            self.flink.kill(kind)
        elif kind == "broker":
            self.broker.kill()
        else:
            (self.redis if kind == "redis" else self.worker).kill()

    def bring_back(self, kind: str) -> None:
        """Start it again; after the loss of a JobManager, also the job."""
        if kind == "broker":
            self.broker.up()
        elif kind == "redis":
            self.redis.start()
            await_port(self.redis_port)
        elif kind == "worker":
            self.worker.start()
        else:
            self.flink.start()
            if kind == "jobmanager":
                self.submit()

    def submit(self) -> None:
        """Start the job with the newest state that it has left."""
        self.flink.submit(PACKAGED_FEATURES, self.settings, checkpoint="1s")


@contextmanager
def _place(folder: Path) -> Iterator[_Place]:
    """Start a broker, Redis, a cluster with the job, and a worker."""
    with ExitStack() as stack:
        broker = Cluster(folder / "kafka")
        stack.callback(broker.stop)
        log, port = new_log(broker.servers), free_port()
        words = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]
        redis = Process(words, folder, "redis", environment={}, launcher=("redis-server",))
        redis.start()
        stack.callback(redis.kill)
        await_port(port)
        settings = log.settings("flink", "flink", f"redis://127.0.0.1:{port}/0")
        cluster = stack.enter_context(flink(folder))
        data = str(folder / "worker-data")
        worker = Process(
            ["worker", "--data", data],
            folder,
            "worker",
            environment=settings,
            failures=Failures(),  # it asks to be started again while Redis or the broker is away
        )
        worker.start()
        stack.callback(worker.kill)
        place = _Place(log, broker, cluster, redis, port, worker, settings)
        place.submit()
        yield place


def _round(seed: int, wanted: int, folder: Path) -> Round:
    rng, killed = random.Random(seed), Counter[str]()
    definitions = load_definitions(PACKAGED_FEATURES)
    with _place(folder) as place, _Load(place.log, seed) as load:
        store = RedisOnlineStore(
            place.settings["TACTFUL_REDIS_URL"],
            prefix=place.settings["TACTFUL_ONLINE__PREFIX"],
            tag=online_tag(definitions),
        )
        with closing(store):
            _await_work(place, load.ends, store)
            for kind in deck(rng, wanted):
                time.sleep(rng.uniform(0, _SPREAD_S))
                place.kill(kind)
                killed[kind] += 1
                time.sleep(rng.uniform(0, _DOWN_S))
                place.bring_back(kind)
                if rng.random() >= _PILED:
                    _await_work(place, load.ends, store)
            load.stop()
            _await_work(place, load.ends, store)
            found = _compare(place.log, definitions, store)
            _plant(store, definitions)
            planted = _compare(place.log, definitions, store).different - found.different
    return Round(
        commit=commit(),
        seed=seed,
        kills=killed.total(),
        killed=dict(killed),
        entities=sum(kind.both for kind in found.kinds),
        wrong=found.different + found.unsettled,
        planted=planted,
        examples=[f"{it.feature}: {it.different}" for it in found.features if it.different],
    )


def deck(rng: random.Random, wanted: int) -> Iterator[str]:
    """Yield kinds to kill, each as often as the others, in random order."""
    kinds: list[str] = []
    for _ in range(wanted):
        kinds = kinds or rng.sample(KINDS, len(KINDS))
        yield kinds.pop()


def _await_work(place: _Place, ends: Callable[[], dict[int, int]], store: RedisOnlineStore) -> None:
    """Wait until Redis includes all that is in the log now."""
    wanted: dict[int, int] = {}

    def works() -> bool:
        place.worker.check()
        with suppress(LogError, OnlineStoreError):
            if not wanted:
                wanted.update(ends())
            reached = marks(store)
            return all(reached.get(number, 0) >= end for number, end in wanted.items())
        return False

    await_true(works, _WORKING_S, "the job or the worker does not come back to work")


def _compare(log: Log, definitions: Definitions, store: RedisOnlineStore) -> Comparison:
    """Compare what is in Redis with an engine that has read the log undisturbed."""
    truth = StateSide("engine", lambda: _truth(log, definitions))
    truth.reached()
    redis = RedisSide("flink", store, PARTITIONS)
    return compare_sides(redis, truth, definitions, settle=lambda: True)


def _truth(log: Log, definitions: Definitions) -> States:
    options = EngineOptions(watermark_delay_ms=DELAY_MS, allowed_lateness_ms=LATENESS_MS)
    states = []
    with closing(KafkaLog(KafkaSettings(log.servers, log.topic))) as opened:
        for number in range(PARTITIONS):
            state = MemoryState()
            engine = Engine(definitions, state, options)
            with closing(opened.partition(number)) as partition:
                while records := partition.read(engine.offset, _READ):
                    engine.apply(records)
            engine.commit()
            states.append((state, {number: engine.offset}))
    return states


def _plant(store: RedisOnlineStore, definitions: Definitions) -> None:
    """Overwrite the values of one user by those of another."""
    first, second, *_ = sorted(set(store.keys("user")))
    (blob,) = store.get_many([second])
    store.put_many({first: blob})


class _Load:
    """Appends events to the log in a thread, again and again while the broker is away."""

    def __init__(self, log: Log, seed: int) -> None:
        self._settings = KafkaSettings(log.servers, log.topic)
        self._stream = Stream(seed)
        self._over = threading.Event()
        self._log = KafkaLog(self._settings)
        self._partitions = [self._log.partition(number) for number in range(PARTITIONS)]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for partition in self._partitions:
            partition.close()
        self._log.close()

    def stop(self) -> None:
        """Append no more."""
        self._over.set()
        self._thread.join()

    def ends(self) -> dict[int, int]:
        """Return the ends of the log."""
        return {number: partition.end for number, partition in enumerate(self._partitions)}

    def _run(self) -> None:
        while not self._over.is_set():
            batch = self._stream.batch()
            payloads = [encode_entry(event, "json") for event in batch]
            keys = [route_key(event) for event in batch]
            while not self._over.is_set():
                try:
                    self._log.append(payloads, keys)
                    break
                except LogError:  # it may be in the log: the same event twice counts once
                    self._over.wait(_RETRY_S)
            self._over.wait(len(batch) / _RATE)
