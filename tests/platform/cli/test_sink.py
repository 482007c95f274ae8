"""``tactful sink``: what it refuses, and a topic moved to a database."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner, Result

from tactful.cli.main import main
from tactful_streaming.errors import LogError, LogUnreachableError, TopicError, TopicMissingError
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topics import ensure_topic
from tactful_streaming.sinks.sink import WindowValue
from tactful_streaming.sinks.sql import SqlRows


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["sink", *map(str, arguments)])


def fire(servers: str, topic: str, values: list[object]) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True})
    for number, value in enumerate(values):
        row = {"feature": "views", "entity_key": "u1", "window_start": 0, "feature_value": value}
        producer.produce(topic, json.dumps({**row, "window_end": 60_000 + number}), partition=0)
    assert producer.flush(30) == 0


@pytest.mark.slow
@pytest.mark.service("kafka")
def test_a_topic_is_moved_and_gone_on_with(kafka_servers: str, tmp_path: Path) -> None:
    topic = f"test-{uuid.uuid4().hex}"
    ensure_topic(KafkaSettings(kafka_servers, topic), consumer_threads=1)
    where = f"sqlite:///{tmp_path / 'rows.db'}"
    properties = tmp_path / "client.properties"
    properties.write_text("# a comment\n\nfetch.wait.max.ms = 20\nsecurity.protocol=PLAINTEXT\n")
    options = ["--kafka", kafka_servers, "--topic", topic, "--to", where, "--json"]
    options += ["--kafka-properties", str(properties), "--idle-exit", "6"]
    fire(kafka_servers, topic, [1, 2, "x", 4])
    first = run(*options)
    fire(kafka_servers, topic, [{"a": 1}])
    second = run(*options)
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert json.loads(first.stdout) == {"rows": 4, "invalid": 0, "empty": 0, "failures": 0}
    assert json.loads(second.stdout)["rows"] == 1
    target = SqlRows(where)
    assert target.read(["u1"]) == [{"views": WindowValue(0, 60_003, 4)}]
    target.close()


@pytest.mark.slow
@pytest.mark.service("kafka")
def test_sigterm_ends_it_well(kafka_servers: str, tmp_path: Path) -> None:
    topic = f"test-{uuid.uuid4().hex}"
    ensure_topic(KafkaSettings(kafka_servers, topic), consumer_threads=1)
    where = f"sqlite:///{tmp_path / 'rows.db'}"
    fire(kafka_servers, topic, [1, 2])
    command = [sys.executable, "-m", "tactful", "sink", "--kafka", kafka_servers]
    command += ["--topic", topic, "--to", where, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 120
    target = SqlRows(where)
    while target.read(["u1"]) == [{}]:
        assert time.monotonic() < deadline, "nothing arrives"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["rows"]) == (0, 2)
    target.close()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--kafka", "nowhere"], 2, "servers"),
        (["--topic", "a b"], 2, "topic"),
        (["--to", "nonsense"], 1, "not a database URL"),
        (["--to", "mysql+pymysql://u:secret@127.0.0.1:1/d"], 1, "database failed"),
        (["--to", "redis://:secret@127.0.0.1:1/0"], 1, "Redis cannot be reached"),
        (["--ttl", "60"], 2, "--ttl is for Redis"),
        (["--kafka-properties", "bad.properties"], 2, "bad.properties:2: a line is NAME=VALUE"),
        (["--kafka-properties", "fixed.properties"], 2, "may not set enable.auto.commit"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    options: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.properties").write_text("a=b\nnonsense\n")
    Path("fixed.properties").write_text("enable.auto.commit=true\n")
    base = {"--kafka": "127.0.0.1:1", "--topic": "t", "--to": "sqlite:///rows.db"}
    ran = run(*(word for pair in {**base, options[0]: options[1]}.items() for word in pair))
    assert ran.exit_code == code
    assert said in ran.stderr
    assert "secret" not in ran.output
    assert "Traceback" not in ran.output


def test_a_target_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACTFUL_SINK_TARGET", "nonsense")
    ran = run("--kafka", "127.0.0.1:1", "--topic", "t")
    assert ran.exit_code == 1
    assert "not a database URL" in ran.stderr


def test_a_target_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "target"
    monkeypatch.setenv("TACTFUL_SINK_TARGET_FILE", str(file))
    cases = ((None, 2, "cannot be read"), ("nonsense\n", 1, "not a database URL"))
    for text, code, said in cases:
        if text is not None:
            file.write_text(text)
        ran = run("--kafka", "127.0.0.1:1", "--topic", "t")
        assert ran.exit_code == code
        assert said in ran.stderr
    monkeypatch.delenv("TACTFUL_SINK_TARGET_FILE")
    ran = run("--kafka", "127.0.0.1:1", "--topic", "t")
    assert ran.exit_code == 2
    assert "--to is missing" in ran.stderr
    assert "TACTFUL_SINK_TARGET" in ran.stderr


def test_silence_before_the_end_of_the_topic_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a group shared out its partitions, or a broker was away, a sink ended too early."""
    row = {"feature": "f", "entity_key": "u", "window_start": 0, "window_end": 9}

    class Rows:
        """Silent for long, and then a record and the end."""

        def __init__(self) -> None:
            self.asked = 0
            self.given = False

        def poll(self, limit: int, wait_s: float) -> dict[int, list[tuple[int, bytes]]]:
            time.sleep(0.005)
            if self.asked < 20 or self.given:
                return {}
            self.given = True
            return {0: [(0, json.dumps({**row, "feature_value": 7}).encode())]}

        def commit(self, offsets: object, *, wait: bool = False) -> None:
            pass

        def at_end(self) -> bool:
            self.asked += 1
            return self.given

        def close(self) -> None:
            pass

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tactful.cli.streaming.sink.open_rows", lambda *_: Rows())
    options = ("--kafka", "127.0.0.1:1", "--topic", "t", "--to", "sqlite:///rows.db", "--json")
    ran = run(*options, "--idle-exit", "0.02")
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["rows"] == 1


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (TopicMissingError("topic 't' does not exist: make it first", "t"), 75),
        (LogUnreachableError("no broker answers", retry_after=1.0), 75),
        (TopicError("deleted"), 1),
        (LogError("refused us"), 1),
    ],
)
def test_what_may_pass_asks_for_another_start(
    failure: LogError, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink started before its topic ended for good, and said that the topic was deleted."""

    class Rows:
        def poll(self, limit: int, wait_s: float) -> NoReturn:
            raise failure

        def close(self) -> None:
            pass

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tactful.cli.streaming.sink.open_rows", lambda *_: Rows())
    ran = run("--kafka", "127.0.0.1:1", "--topic", "t", "--to", "sqlite:///rows.db")
    assert ran.exit_code == code
    assert str(failure) in ran.stderr
