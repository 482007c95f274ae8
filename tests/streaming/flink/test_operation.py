"""Operation of a job on a real cluster: second submits, lost JobManagers, loops, upgrades."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.streaming.brokers import patiently, topic_name
from tests.streaming.flink.test_cluster import DEFINITIONS, call, counts, events, expected, scripts
from tests.streaming.flink_cluster import append, job_options, make_topic, read_rows

from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import FlinkError, FlinkRefusedError
from tactful_streaming.flink.compiler import compile_flink
from tactful_streaming.flink.job_health import ABSENT, JobHealth, job_health
from tactful_streaming.flink.options import FlinkOptions
from tactful_streaming.flink.rest_client import FlinkCluster, build_runner
from tactful_streaming.flink.submission import Program, stop_job, submit_job, upgrade_job

pytestmark = [pytest.mark.slow, pytest.mark.service("kafka", "flink"), pytest.mark.timeout(900)]

__all__ = ["scripts"]  # a fixture

NAME = "operated"
LONGER = load_definitions("""
- {name: n, entity: user, event: view, aggregate: count, window: {size: 3m, slide: 1m}}
- {name: left, entity: user, sequence: [view, leave], within: 5m}
""")
MORE = load_definitions("""
- {name: n, entity: user, event: view, aggregate: count, window: {size: 2m, slide: 1m}}
- {name: left, entity: user, sequence: [view, leave], within: 5m}
- {name: came, entity: user, sequence: [leave, view], within: 5m}
""")
FEWER = load_definitions("""
- {name: n, entity: user, event: view, aggregate: count, window: {size: 2m, slide: 1m}}
""")


@contextmanager
def opened(scripts: dict[str, str]) -> Iterator[FlinkCluster]:
    with FlinkCluster(f"http://127.0.0.1:{scripts['TACTFUL_FLINK_PORT']}") as cluster:
        yield cluster


@pytest.fixture
def options(kafka_servers: str) -> FlinkOptions:
    topics = topic_name(), topic_name(), topic_name()
    for topic in topics:
        make_topic(kafka_servers, topic)
    return replace(job_options(kafka_servers, *topics), checkpoint_ms=500, job=NAME)


def fired(options: FlinkOptions) -> dict[tuple[str, int], float]:
    return counts(read_rows(options.servers, options.features_topic, 0))


def end(scripts: dict[str, str], process: str) -> None:
    pid = int(Path(scripts["TACTFUL_FLINK_HOME"], "run", f"{process}.pid").read_text())
    os.kill(pid, signal.SIGKILL)


def test_a_job_is_operated(
    scripts: dict[str, str], kafka_servers: str, flink_home: Path, options: FlinkOptions
) -> None:
    runner = build_runner(flink_home)
    program = Program(NAME, compile_flink(DEFINITIONS, options))

    def well(cluster: FlinkCluster) -> bool:
        health = job_health(cluster, NAME)
        return health.problem == "" and health.lag == 0 and health.checkpoint_age_s is not None

    with opened(scripts) as cluster:
        assert job_health(cluster, NAME) == JobHealth(NAME, state=ABSENT)
        jar = cluster.upload(runner)
        first = submit_job(cluster, jar, program)
        assert first.restored is None
        append(kafka_servers, options.topic, events(0, 1000))
        patiently(lambda: fired(options) == expected(1000), 120)
        patiently(lambda: well(cluster), 60)
        with pytest.raises(FlinkRefusedError, match="RUNNING on this cluster already"):
            submit_job(cluster, jar, program)

        # The JobManager is lost with all that it knew.
        end(scripts, "jobmanager")
        patiently(lambda: not answers(cluster), 60)
        append(kafka_servers, options.topic, events(1000, 1500))
        call(scripts, "start")
        assert job_health(cluster, NAME).state == ABSENT
        jar = cluster.upload(runner)
        second = submit_job(cluster, jar, program)
        assert second.restored is not None and f"/{first.job}/chk-" in second.restored
        patiently(lambda: fired(options) == expected(1500), 120)
        patiently(lambda: well(cluster), 60)

        # Definitions without those that have state, which no other may take.
        for definitions in (LONGER, FEWER):
            changed = Program(NAME, compile_flink(definitions, options))
            with pytest.raises(FlinkRefusedError, match="1 would lose it"):
                upgrade_job(cluster, jar, changed)
            assert job_health(cluster, NAME).job == second.job
        # What is changed in the execution or added to the definitions leaves all state.
        program = Program(NAME, compile_flink(MORE, replace(options, checkpoint_ms=700)))
        steps: list[str] = []
        third = upgrade_job(cluster, jar, program, progress=steps.append)
        assert "what is new begins empty" in steps[0]
        assert third.restored is not None and f"/{second.job}/savepoint-" in third.restored
        append(kafka_servers, options.topic, events(1500, 2000))
        patiently(lambda: fired(options) == expected(2000), 120)

        # A stop and a submit go on, also after the cluster was started anew.
        savepoint = stop_job(cluster, third.job)
        assert "FINISHED" in job_health(cluster, NAME).problem
        call(scripts, "stop")
        append(kafka_servers, options.topic, events(2000, 2300))
        call(scripts, "start")
        jar = cluster.upload(runner)
        fourth = submit_job(cluster, jar, program)
        assert fourth.restored is not None
        assert fourth.restored.split(":")[-1].lstrip("/") == savepoint.split(":")[-1].lstrip("/")
        patiently(lambda: fired(options) == expected(2300), 120)
        cluster.cancel(fourth.job)
        assert cluster.wait(fourth.job, timeout=60) == "CANCELED"
        fewer = Program(NAME, compile_flink(FEWER, options))
        with pytest.raises(FlinkRefusedError, match="made by other definitions"):
            submit_job(cluster, jar, fewer)
    # Every row of a window has the same value, however often it was written.
    values: dict[tuple[str, int], set[float]] = {}
    for row in read_rows(kafka_servers, options.features_topic, len(expected(2300))):
        values.setdefault((row["entity_key"], row["window_end"]), set()).add(row["feature_value"])
    assert all(len(different) == 1 for different in values.values())


def answers(cluster: FlinkCluster) -> bool:
    try:
        cluster.version()
    except FlinkError:
        return False
    return True


def test_a_job_that_fails_again_and_again_is_an_error(
    scripts: dict[str, str], kafka_servers: str, flink_home: Path, options: FlinkOptions
) -> None:
    absent = replace(options, topic=topic_name())
    with opened(scripts) as cluster:
        jar = cluster.upload(build_runner(flink_home))
        job = submit_job(cluster, jar, Program(NAME, compile_flink(FEWER, absent))).job
        patiently(lambda: job_health(cluster, NAME).looping, 120)
        health = job_health(cluster, NAME)
        patiently(lambda: job_health(cluster, NAME).restarts >= 2, 60)  # the metric comes later
        assert "fails again and again" in health.problem
        assert "UnknownTopicOrPartition" in health.problem
        # As soon as its cause is gone it goes on by itself.
        make_topic(kafka_servers, absent.topic)
        append(kafka_servers, absent.topic, events(0, 1000))
        patiently(lambda: fired(options) == expected(1000), 180)
        patiently(lambda: job_health(cluster, NAME).problem == "", 60)
        # Without a worker it waits, and that is said.
        end(scripts, "taskmanager")
        patiently(lambda: job_health(cluster, NAME).state == "RESTARTING", 120)
        assert "is RESTARTING" in job_health(cluster, NAME).problem
        cluster.cancel(job)
