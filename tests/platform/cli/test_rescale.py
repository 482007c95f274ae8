"""``tactful features rescale``: as if there had always been so many partitions, whatever dies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.streaming.brokers import topic_name
from tests.streaming.engine.test_rescale import DELAY, SEQUENCES
from tests.streaming.shard import read_topic
from tests.streaming.streams import random_entries

from tactful.cli.main import main
from tactful.config.load import load_settings
from tactful.config.settings import Settings
from tactful.feature_workers.prepare import prepare_worker
from tactful.metadata.connections import kafka_settings, make_topic
from tactful_streaming.contract.log_entries import Entry, Event, Tick, encode_entry, route_key
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.state.store import MemoryState
from tactful_streaming.worker.worker import Worker

pytest.importorskip("confluent_kafka")

DEFINITIONS = (
    """
- {name: count, entity: user, event: view, aggregate: count, window: {size: 5m, slide: 1m}}
- {name: spend, entity: user, event: purchase, aggregate: sum, of: properties.price,
   window: {size: 30m, slide: 10m, decay: 0.7}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 5}
- {name: visit_views, entity: session, event: view, aggregate: count, window: {size: 8m, slide: 1m}}
- {name: item_views, entity: item, event: view, aggregate: count, window: {size: 1h}}
"""
    + SEQUENCES
)
BEFORE, AFTER = 2, 3

SLOWLY = """
import sys
import tactful_streaming.engine.rescale as rescaling
from tactful_streaming.state.store import RocksState

rescaling._PIECE = 20
write = RocksState.write

def noisy_write(self, changes):
    write(self, changes)
    if "partitions.rescaling" in str(self._path):
        print("moved", flush=True)

RocksState.write = noisy_write
from tactful.cli.main import main
main(sys.argv[1:])
"""


def configured(folder: Path, servers: str, topic: str) -> Path:
    (folder / "features.yaml").write_text(DEFINITIONS)
    file = folder / "tactful.toml"
    file.write_text(
        f'[engine]\nfeatures = "{folder / "features.yaml"}"\nwatermark_delay_ms = {DELAY}\n'
        f'allowed_lateness_ms = 100000000\n[storage]\ndata = "{folder / "data"}"\n'
        f'[log]\nkind = "kafka"\nbrokers = "{servers}"\ntopic = "{topic}"\nconsumer_threads = 1\n'
        f'[worker]\ngroup = "{topic}"\nidle_s = 1000.0\n[identity]\nenabled = false\n'
    )
    return file


def append(settings: Settings, entries: Sequence[Entry]) -> None:
    kafka = kafka_settings(settings.log)
    make_topic(settings.log, kafka)
    with KafkaLog(kafka) as log:
        log.append([encode_entry(it, "json") for it in entries], [route_key(it) for it in entries])


def new_worker(settings: Settings, definitions: Definitions) -> Worker:
    return prepare_worker(settings, definitions, None)(0)


def at_work(worker: Worker, settings: Settings) -> None:
    """Let a worker apply all that is there, actions that follow from it, and so on."""
    while True:
        ends = {n: it[-1][0] + 1 for n, it in read_topic(kafka_settings(settings.log)).items()}
        while any(n not in worker.jobs or worker.jobs[n].offset < end for n, end in ends.items()):
            worker.step()
        before = worker._appended()
        worker.commit()
        if worker._appended() == before:
            return


class Always:
    """What engines make of it that have had the new partitions from the beginning."""

    def __init__(self, definitions: Definitions) -> None:
        self.actions: set[str] = set()
        self.offsets = [0] * AFTER
        self.engines = [
            Engine(
                definitions,
                MemoryState(),
                EngineOptions(watermark_delay_ms=DELAY, allowed_lateness_ms=10**8),
            )
            for _ in range(AFTER)
        ]

    def route(self, key: str) -> int:
        from confluent_kafka import murmur2

        return int(murmur2(key.encode(), AFTER))

    def feed(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            key = route_key(entry)
            for number in range(AFTER) if key is None else [self.route(key)]:
                self._apply(number, entry)
        for number, engine in enumerate(self.engines):
            engine.commit()
            while actions := engine.outbox():
                for action in actions:
                    self.actions.add(action.event_id)
                    self._apply(number, action)
                engine.sent(actions)
                engine.commit()

    def _apply(self, number: int, entry: Entry) -> None:
        self.engines[number].apply([(self.offsets[number], encode_entry(entry))])
        self.offsets[number] += 1


def actions(settings: Settings, *topics: str) -> set[str]:
    kafka = kafka_settings(settings.log)
    logs = [read_topic(replace(kafka, topic=topic)) for topic in topics]
    entries = [json.loads(value) for log in logs for it in log.values() for _, value in it]
    return {entry["event_id"] for entry in entries if entry.get("type") == "x.thanks"}


@pytest.mark.slow
@pytest.mark.service("kafka")
def test_rescaled_workers_equal_fresh_ones(kafka_servers: str, tmp_path: Path) -> None:
    old, new = topic_name(), topic_name()
    config = configured(tmp_path, kafka_servers, old)
    settings = load_settings(config)
    definitions = load_definitions(DEFINITIONS)
    entries: list[Entry] = [*random_entries(11, 1200)]
    half = len(entries) // 2
    append(settings, entries[:half])
    # While a worker runs it is refused, and changes nothing.
    command = [
        *("features", "rescale", "--config", str(config), "--topic", new),
        *("--partitions", str(AFTER), "--into", str(tmp_path / "new"), "--json"),
    ]
    worker = new_worker(settings, definitions)
    at_work(worker, settings)
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1
    assert "Stop all workers" in refused.stderr
    assert not (tmp_path / "new").exists()
    worker.close()
    for moves in (4, 9):
        program = [sys.executable, "-c", SLOWLY, *command]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(moves):
                assert process.stdout.readline() == "moved\n"
            process.kill()
        assert not (tmp_path / "new" / "partitions").exists()
    # What came meanwhile is noticed, and counted when it is done again.
    more = entries[half : half + 50]
    append(settings, more)
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["partitions"] == AFTER
    assert [it.name for it in (tmp_path / "new").iterdir()] == ["partitions"]
    again = CliRunner().invoke(main, command)
    assert "states exist already" in again.stderr
    always = Always(
        Definitions(
            tuple(it for it in definitions.features if it.entity in ("user", "session")),
            tuple(it for it in definitions.sequences if it.entity in ("user", "session")),
            definitions.joins,
        )
    )
    first = entries[: half + 50]
    always.feed([*first, Tick(timestamp=max(entry.timestamp for entry in first))])
    settings = replace(
        settings,
        log=replace(settings.log, topic=new),
        storage=replace(settings.storage, data=tmp_path / "new"),
    )
    rest = entries[half + 50 :]
    append(settings, rest)
    always.feed(rest)
    worker = new_worker(settings, definitions)
    try:
        at_work(worker, settings)
        assert worker.jobs.keys() == {0, 1, 2}
        people = {route_key(it) for it in entries if isinstance(it, Event)}
        compared = 0
        for key in people:
            assert key is not None
            number = always.route(key)
            ours, theirs = worker.jobs[number].engine, always.engines[number]
            for at in (theirs.watermark, theirs.watermark + 600_000):
                assert ours.read("user", key, at) == theirs.read("user", key, at)
                compared += any(theirs.read("user", key, at).values())
        assert compared > 20
        known = worker.jobs[0].engine
        seen = [it.event_id for it in first if isinstance(it, Event)][-100:]
        assert all(known.seen(it) for it in seen)
    finally:
        worker.close()
    sent = actions(settings, old, new)
    assert sent == always.actions
    assert len(sent) > 10
