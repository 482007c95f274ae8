"""``tactful features backfill`` on a log in Kafka: workers' states and a server's, and kills."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.platform.cli.test_features import CHANGED
from tests.platform.cli.test_rescale import append, at_work, new_worker
from tests.platform.support import Live, build, now_ms, view, wait_until
from tests.platform.system.test_kafka_server import on_kafka
from tests.streaming.brokers import topic_name
from tests.streaming.streams import random_entries

from tactful.cli.main import main
from tactful.config.load import load_settings
from tactful.config.settings import Settings
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Entry, Event, route_key
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.worker.worker import Worker

pytest.importorskip("confluent_kafka")

OLD = (
    "- {name: count, entity: user, event: view, aggregate: count, window: {size: 5m, slide: 1m}}\n"
)
NEW = (
    OLD
    + """
- {name: longer, entity: user, event: view, aggregate: count, window: {size: 50m, slide: 1m}}
- {name: spend, entity: user, event: purchase, aggregate: sum, of: properties.price,
   window: {size: 30m, slide: 10m, decay: 0.7}}
- {name: visit_views, entity: session, event: view, aggregate: count, window: {size: 8m, slide: 1m}}
- {name: item_views, entity: item, event: view, aggregate: count, window: {size: 1h}}
"""
)

SLOWLY = """
import sys
import tactful_streaming.engine.backfill as backfilling
from tactful_streaming.state.store import RocksState

backfilling._BATCH, backfilling._COMMIT_EVERY, backfilling._PIECE = 20, 1, 3
write = RocksState.write

def noisy_write(self, changes):
    write(self, changes)
    print("written", flush=True)

RocksState.write = noisy_write
from tactful.cli.main import main
main(sys.argv[1:])
"""


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(it) for it in arguments])


def views(live: Live) -> object:
    return live.platform.features("u", now_ms()).features["views"]


def everything(worker: Worker, entries: Sequence[Entry]) -> Mapping[str, Any]:
    events = [entry for entry in entries if isinstance(entry, Event)]
    people = {(route_key(event) or "", "user") for event in events}
    people |= {(event.session_id, "session") for event in events if event.session_id}
    at = max(job.watermark for job in worker.jobs.values())
    return {
        f"{number} {key}": job.engine.read(entity, key, at)
        for number, job in worker.jobs.items()
        for key, entity in people
    }


@pytest.mark.slow
@pytest.mark.service("kafka")
@pytest.mark.parametrize("identity", [True, False])
def test_backfilled_workers_equal_fresh(kafka_servers: str, tmp_path: Path, identity: bool) -> None:
    topic = topic_name()
    config, features = tmp_path / "tactful.toml", tmp_path / "features.yaml"
    features.write_text(OLD)
    (tmp_path / "new.yaml").write_text(NEW)
    config.write_text(
        f'[engine]\nfeatures = "{features}"\nallowed_lateness_ms = 100000000\n'
        f'[storage]\ndata = "{tmp_path / "data"}"\n'
        f'[log]\nkind = "kafka"\nbrokers = "{kafka_servers}"\ntopic = "{topic}"\n'
        f"consumer_threads = 1\n[identity]\nenabled = {str(identity).lower()}\n"
        f'[worker]\ngroup = "{topic}"\nidle_s = 1000.0\n'
    )
    settings = load_settings(config)
    entries: list[Entry] = [*random_entries(3, 400)]
    append(settings, entries)
    worker = new_worker(settings, load_definitions(OLD))
    at_work(worker, settings)
    command = ("features", "backfill", "--config", config, "--features", tmp_path / "new.yaml")
    planned = run("features", "plan", *command[2:])
    assert planned.exit_code == 0, planned.output
    assert "longer: to be computed from the log" in planned.stdout
    assert "of 2 partitions" in planned.stdout
    beside = run(*command)
    assert beside.exit_code == 1
    assert "Stop servers and workers and run this again" in beside.stderr
    worker.close()
    for writes in (5, 12, 30):
        program = [sys.executable, "-c", SLOWLY, *map(str, command)]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(writes):
                if not process.stdout.readline():
                    break
            process.kill()
    done = run(*command, "--json")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "data" / "backfill").exists()
    assert json.loads(run(*command, "--json").stdout) == {"computed": []}
    features.write_text(NEW)
    worker = new_worker(settings, load_definitions(NEW))
    at_work(worker, settings)
    assert not any(job.engine.missing for job in worker.jobs.values())
    backfilled = everything(worker, entries)
    worker.close()
    elsewhere = replace(
        settings,
        storage=replace(settings.storage, data=tmp_path / "other"),
        worker=replace(settings.worker, group=topic_name()),
    )
    rebuilt = new_worker(elsewhere, load_definitions(NEW))
    at_work(rebuilt, elsewhere)
    if not identity:  # else what was handed over is in the log as the old definitions knew it
        assert backfilled == everything(rebuilt, entries)
    assert sum(any(values.values()) for values in backfilled.values()) > 20
    rebuilt.close()


@pytest.mark.slow
@pytest.mark.service("kafka")
def test_the_state_of_a_server_is_backfilled_from_all_partitions(
    settings: Settings, kafka_servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = on_kafka(settings, kafka_servers)
    with Live(Platform.open(kafka, build)) as live:
        live.http.post("/v1/events", json=[view(number) for number in range(40)])
        wait_until(lambda: views(live) == 40)
    (tmp_path / "new.yaml").write_text(CHANGED)
    log = {"KIND": "kafka", "BROKERS": kafka_servers, "TOPIC": kafka.log.topic}
    for name, value in log.items():
        monkeypatch.setenv(f"TACTFUL_LOG__{name}", value)
    data = kafka.storage.data
    what = ("--data", data, "--features", tmp_path / "new.yaml", "--json")
    done = run("features", "backfill", *what)
    assert done.exit_code == 0, done.output
    assert "views" in json.loads(done.stdout)["computed"]
    kafka.features.write_text(CHANGED)
    with Live(Platform.open(kafka, build)) as live:
        assert live.platform.engine.missing == ()
        wait_until(lambda: views(live) == 40)
        live.http.post("/v1/events", json=[view(number) for number in range(30, 50)])
        wait_until(lambda: views(live) == 50)
