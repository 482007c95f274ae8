"""Servers and workers that are killed under load, on every log and every place for features."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from benchmarks.kills.faults import find_fault
from benchmarks.kills.installation import Installation, event_ids, killing, redis_prefix
from benchmarks.kills.processes import TACTFUL
from benchmarks.kills.topics import partitions_of, show, values_of
from benchmarks.kills.truth import Outcome, table
from tactful_streaming.log.embedded_log import EmbeddedLog

_PARTITIONS = 4
_RATE = 1500.0
# Partitions come in at slightly different times. What lies between has to be less than the delay of
# the watermark, which passes with the load.
_RATE_KAFKA = 600.0


def on_embedded_log(
    kills: int,
    folder: Path,
    seed: int,
    *,
    redis_url: str | None = None,
    durability: str = "power",
    launcher: Sequence[str] = TACTFUL,
) -> Outcome:
    """The server alone.

    Args:
        kills: how often to kill.
        folder: empty, for all files.
        seed: of load and kills.
        redis_url: of a Redis for a copy of the features; None: there is no copy.
        durability: of the log.
        launcher: what starts the command line.
    """
    environment = {"TACTFUL_STORAGE__DURABILITY": durability}
    if redis_url is not None:
        environment |= redis_settings(redis_url, folder)
    place = Installation(folder, seed, environment, launcher, _RATE)

    def log() -> list[bytes]:
        with EmbeddedLog(folder / "data" / "log", read_only=True) as opened:
            return [payload for _, payload in opened.read(opened.begin, opened.end)]

    outcome = Outcome("embedded" if redis_url is None else "embedded with Redis")
    truth = place.run(outcome, killing(kills, seed), {}, log, ["close"])
    ids = event_ids(log())
    outcome.comparison.same("times an event is in the log twice", len(ids) - len(set(ids)), 0)
    place.check_state(outcome, truth, ("user", "session", "item", "category"))
    if redis_url is not None:
        place.check_copy(outcome, truth)
    return outcome


def on_kafka(
    kills: int, folder: Path, seed: int, servers: str, *, launcher: Sequence[str] = TACTFUL
) -> Outcome:
    """The server that follows all partitions of a topic by itself.

    Raises:
        BrokerFault: if the run stood still, and the broker is at fault.
    """
    topic = f"killed-{folder.name}-{seed}"
    judge, nudge = partial(find_fault, servers, topic), partial(show, servers, topic)
    settings = kafka_settings(servers, topic)
    place = Installation(folder, seed, settings, launcher, _RATE_KAFKA, judge, nudge)
    outcome = Outcome("Kafka")
    closing = partitions_of(_PARTITIONS)
    disturb = killing(kills, seed)
    truth = place.run(outcome, disturb, {}, lambda: values_of(servers, topic), closing)
    place.check_state(outcome, truth, ("user", "session", "item", "category"))
    return outcome


def with_workers(
    kills: int,
    folder: Path,
    seed: int,
    servers: str,
    redis_url: str,
    *,
    workers: int = 2,
    victims: Collection[str] = ("server", "worker"),
    launcher: Sequence[str] = TACTFUL,
) -> Outcome:
    """The server, and workers that compute the features of people and copy them to Redis.

    Args:
        kills: how often to kill.
        folder: empty, for all files.
        seed: of load and kills.
        servers: address of Kafka.
        redis_url: address of Redis.
        workers: how many processes share the partitions.
        victims: which kinds of process to kill.
        launcher: what starts the command line.

    Raises:
        BrokerFault: if the run stood still, and the broker is at fault.
    """
    topic, fired = (f"{kind}-{folder.name}-{seed}" for kind in ("killed", "fired"))
    environment = {
        **kafka_settings(servers, topic),
        **redis_settings(redis_url, folder),
        "TACTFUL_WORKER__GROUP": topic,
        "TACTFUL_WORKER__FIRED_TOPIC": fired,
        # By the clock all of the load is long ago: its time passes by its events alone.
        "TACTFUL_WORKER__IDLE_S": "86400",
    }
    # Workers write under a name for each partition: it comes from the group and the topic.
    names = [f"{topic}.{topic}-{number}" for number in range(_PARTITIONS)]
    judge = partial(find_fault, servers, topic, names=names, group=topic)
    nudge = partial(show, servers, topic)
    place = Installation(folder, seed, environment, launcher, _RATE_KAFKA, judge, nudge)
    beside = {
        f"worker-{number}": ["worker", "--json", "--data", str(folder / f"worker-{number}")]
        for number in range(workers)
    }
    outcome = Outcome("Kafka with workers and Redis")
    closing = partitions_of(_PARTITIONS)
    disturb = killing(kills, seed, victims)
    truth = place.run(outcome, disturb, beside, lambda: values_of(servers, topic), closing)
    place.check_state(outcome, truth, ("item", "category"))
    # The broker may never end a transaction of a worker that was killed, and hide what comes after.
    # It shows what was given up in any case: rows that come again with the same values.
    rows = values_of(servers, fired, uncommitted=True)
    outcome.comparison.same_all("window", table(rows), truth.fired())
    return outcome


def kafka_settings(servers: str, topic: str) -> dict[str, str]:
    """Return the settings of a log in a topic."""
    return {
        "TACTFUL_LOG__KIND": "kafka",
        "TACTFUL_LOG__BROKERS": servers,
        "TACTFUL_LOG__TOPIC": topic,
        "TACTFUL_LOG__CONSUMER_THREADS": str(_PARTITIONS // 2),
    }


def redis_settings(url: str, folder: Path) -> dict[str, str]:
    """Return the settings of a copy of the features in Redis."""
    return {
        "TACTFUL_ONLINE__KIND": "redis",
        "TACTFUL_ONLINE__PREFIX": redis_prefix(folder),
        "TACTFUL_REDIS_URL": url,
    }
