"""A real cluster of two processes: submit, stop, resume, lose a worker."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.streaming.brokers import patiently, topic_name
from tests.streaming.flink_cluster import append, job_options, make_topic, read_rows
from tests.streaming.streams import event_of

from benchmarks.ports import free_port
from tactful_streaming.contract.log_entries import Entry, Event
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.flink.compiler import compile_flink
from tactful_streaming.flink.rest_client import FlinkCluster, build_runner

pytestmark = [pytest.mark.slow, pytest.mark.service("kafka", "flink"), pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[3]
T0 = 1_700_000_040_000
USERS = 5

DEFINITIONS = load_definitions("""
- {name: n, entity: user, event: view, aggregate: count, window: {size: 2m, slide: 1m}}
- {name: left, entity: user, sequence: [view, leave], within: 5m}
""")


@pytest.fixture
def scripts(flink_home: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    home = tmp_path / "flink"
    home.mkdir()
    (home / "lib").symlink_to(flink_home / "lib")
    own = {"TACTFUL_FLINK_HOME": str(home), "TACTFUL_FLINK_PORT": str(free_port())}
    environment = {**os.environ, **own}
    call(environment, "start")
    yield environment
    call(environment, "stop")
    assert call(environment, "status", check=False).returncode == 1


def call(
    environment: dict[str, str], command: str, *, check: bool = True
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "scripts" / "flink"), command],
        env=environment,
        check=check,
        capture_output=True,
        text=True,
        timeout=300,
    )


def events(first: int, last: int) -> list[Entry]:
    """A view every half second by each of some users in turn; every seventh is a leave."""
    return [
        event_of(f"e{n}", "view" if n % 7 else "leave", T0 + 500 * n, f"u{n % USERS}")
        for n in range(first, last)
    ]


def counts(rows: list[dict[str, Any]]) -> dict[tuple[str, int], float]:
    return {(row["entity_key"], row["window_end"]): row["feature_value"] for row in rows}


def expected(last: int) -> dict[tuple[str, int], float]:
    """Counts of the windows that ended before the event number `last` - 1."""
    now = T0 + 500 * (last - 1)
    result: dict[tuple[str, int], float] = {}
    for entry in events(0, last):
        assert isinstance(entry, Event)
        pane = entry.timestamp // 60_000
        for end in ((pane + 1) * 60_000, (pane + 2) * 60_000):
            if entry.type == "view" and end <= now:
                assert entry.user_id is not None
                result[entry.user_id, end] = result.get((entry.user_id, end), 0.0) + 1
    return result


def test_a_job_survives_a_stop_and_the_loss_of_its_worker(
    scripts: dict[str, str], kafka_servers: str, flink_home: Path
) -> None:
    log, features, match_topic = topic_name(), topic_name(), topic_name()
    for topic in (log, features, match_topic):
        make_topic(kafka_servers, topic)
    options = job_options(kafka_servers, log, features, match_topic)
    script = compile_flink(DEFINITIONS, replace(options, checkpoint_ms=500)).text

    def fired() -> dict[tuple[str, int], float]:
        return counts(read_rows(kafka_servers, features, 0))

    def matches() -> set[tuple[str, ...]]:
        return {tuple(row["events"]) for row in read_rows(kafka_servers, match_topic, 0)}

    with FlinkCluster(f"http://127.0.0.1:{scripts['TACTFUL_FLINK_PORT']}") as cluster:
        jar = cluster.upload(build_runner(flink_home))
        job = cluster.run(jar, script)
        append(kafka_servers, log, events(0, 1000))
        patiently(lambda: fired() == expected(1000), 120)
        savepoint = cluster.stop(job)
        assert cluster.wait(job, timeout=60) == "FINISHED"
        append(kafka_servers, log, events(1000, 1500))
        job = cluster.run(jar, script, savepoint=savepoint)
        patiently(lambda: fired() == expected(1500), 120)
        worker = Path(scripts["TACTFUL_FLINK_HOME"], "run", "taskmanager.pid")
        os.kill(int(worker.read_text()), signal.SIGKILL)
        append(kafka_servers, log, events(1500, 2000))
        time.sleep(1)
        call(scripts, "start")  # what has died starts again, beside what runs
        patiently(lambda: fired() == expected(2000), 180)
        # A job that is cancelled does not write what it still holds back.
        wanted = set(pairs(2000))
        patiently(lambda: matches() == wanted, 60)
        cluster.cancel(job)
        assert cluster.wait(job, timeout=60) == "CANCELED"
    # Every row of a window has the same value, however often it was written.
    values: dict[tuple[str, int], set[float]] = {}
    for row in read_rows(kafka_servers, features, len(expected(2000))):
        key = row["entity_key"], row["window_end"]
        values.setdefault(key, set()).add(row["feature_value"])
    assert all(len(different) == 1 for different in values.values())


def pairs(last: int) -> Iterator[tuple[str, str]]:
    """Expect, for each leave, a match with the first view since the leave before."""
    waiting: dict[str, str] = {}
    now = T0 + 500 * (last - 1)
    for entry in events(0, last):
        assert isinstance(entry, Event) and entry.user_id is not None
        if entry.type == "view":
            waiting.setdefault(entry.user_id, entry.event_id)
        elif entry.user_id in waiting and entry.timestamp < now:
            yield waiting.pop(entry.user_id), entry.event_id
