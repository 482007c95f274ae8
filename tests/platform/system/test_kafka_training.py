"""Training and reports from a log in Kafka, equal to those from files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.platform.cli.test_rescale import append
from tests.platform.shop import DAY, HOUR, definitions, entries, make_shop, write_log
from tests.streaming.brokers import broker_behind_proxy, mock_cluster, topic_name
from tests.streaming.shard import read_topic

from tactful.cli.main import main
from tactful.config.privacy import PrivacySettings
from tactful.config.recommendation import TrainingSettings
from tactful.config.settings import Settings
from tactful.config.storage import LogSettings, StorageSettings
from tactful.errors import ModelError, StorageError
from tactful.event_log import merged_log as followed
from tactful.event_log import open as log_opening
from tactful.event_log.batches import read_batches
from tactful.event_log.encryption import open_seal
from tactful.event_log.merged_log import MergedLog
from tactful.event_log.open import open_log
from tactful.metadata.connections import kafka_settings, make_topic, open_installation
from tactful.models.training_run import reason_to_train, run_training
from tactful.ranking.features import RANKING_FEATURES, columns_fingerprint, layout
from tactful.ranking.model import Pointer, version_directory, write_pointer
from tactful.schemas.positions import parse
from tactful.subjects.consented_log import Allows, PermittedLog, measured_log
from tactful.training.history import History
from tactful.training.options import TrainingOptions
from tactful.training.train import Trained, train
from tactful.util.checkpoint import Checkpoint
from tactful.util.clock import now_ms
from tactful_streaming.contract.log_entries import (
    Entry,
    Event,
    Forwarded,
    Item,
    Restricted,
    Tick,
    decode_entry,
    encode_entry,
    route_key,
)
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.log.encrypted_log import SealedPartitions

pytest.importorskip("confluent_kafka")

OPTIONS = TrainingOptions(label_days=14, lists=120, rounds=24, patience=24, threads=1)
PARTITIONS = 4


def on_kafka(servers: str, folder: Path) -> Settings:
    """Settings of an installation whose server has run before."""
    log = LogSettings(kind="kafka", brokers=servers, topic=topic_name(), consumer_threads=2)
    data = folder / "data"
    settings = replace(Settings(), log=log, storage=StorageSettings(data=data))
    data.mkdir()
    open_installation(settings).close()
    return settings


def fill(settings: Settings, what: Sequence[Entry]) -> None:
    """Append entries to the topic, and one in a batch of its own.

    The broker of the tests counts the last batch of a partition as one record.
    """
    append(settings, what)
    append(settings, [Tick(timestamp=0)])


def lists_shown(of: Sequence[Entry], count: int = 200) -> Iterator[Event]:
    """Yield impressions, takings, and impressions that training must leave out."""
    events = [it for it in of if isinstance(it, Event)]
    people = sorted({it.user_id for it in events if it.user_id})
    end = max(it.timestamp for it in events)
    draw = np.random.default_rng(3)
    meaning = layout(columns_fingerprint(definitions()))
    for number in range(count):
        features = draw.standard_normal((5, len(RANKING_FEATURES))).astype("<f4")
        # No other event has this time: partitions have no order at equal times.
        at = end - 12 * DAY + number * (10 * DAY // count) // 1000 * 1000 + 999
        person = people[number % len(people)]
        about: dict[str, Any] = {"user_id": person, "recommendation_id": f"r{number}"}
        yield Event(
            event_id=f"impression:r{number}",
            type="impression",
            timestamp=at,
            properties={
                "items": [f"item-{n:03}" for n in range(5)],
                "model_version": "1",
                "layout": meaning,
                "forced": number % 10 == 9,
                "features": b64encode(features.tobytes()).decode(),
            },
            **about,
        )
        best = int(np.argmax(features[:, 0]))
        for hours in (1, 30) if number % 3 else ():
            yield Event(
                event_id=f"taken-{number}-{hours}",
                type="purchase" if number % 2 else "add_to_cart",
                timestamp=at + hours * HOUR - hours,
                item_id=f"item-{best:03}" if hours == 1 else "item-004",
                **about,
            )


def everything() -> list[Entry]:
    """Return entries of every kind: also repeated and restricted ones."""
    what = entries(make_shop(3, people=12, items=40, days=30, guests=True))
    upserts = [it for it in what if not isinstance(it, Event)]
    events = [it for it in what if isinstance(it, Event)]
    found: list[Entry] = [*events, *lists_shown(what)]
    found.sort(key=lambda it: it.timestamp)
    for number in range(30, len(found), 7):
        event = found[number]
        assert isinstance(event, Event)
        purposes = ("measurement",) if number % 2 else ("measurement", "personalisation")
        found[number] = Restricted(timestamp=event.timestamp, purposes=purposes, event=event)
    twice = [found[number] for number in range(5, len(found), 11)]
    found += twice
    found.sort(key=lambda it: it.timestamp)
    changed = [it for it in upserts if isinstance(it, Item)][:10]
    middle = found[len(found) // 2].timestamp - 1
    found += [Item(item_id=it.item_id, timestamp=middle, price=50.0) for it in changed]
    found.sort(key=lambda it: it.timestamp)
    return [*upserts, *found]


def allowed(user: str | None, device: str | None, at: int, claim: str | None) -> bool:
    return user != "person-03"


def everybody(user: str | None, device: str | None, at: int, claim: str | None) -> bool:
    return True


def trained(settings: Settings, folder: Path, allows: Allows = allowed) -> Trained:
    with open_log(settings, clock=now_ms) as log:
        return train(PermittedLog(log, allows), definitions(), folder, OPTIONS)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(it) for it in arguments])


# Equal results


@pytest.mark.slow
def test_the_model_is_that_of_files(kafka_servers: str, tmp_path: Path) -> None:
    what = everything()
    settings = on_kafka(kafka_servers, tmp_path)
    # Forwarded events are repetitions for a reader of all partitions.
    events = [it for it in what if isinstance(it, Event) and it.user_id is None]
    forwarded = [Forwarded(target="person-01", timestamp=it.timestamp, event=it) for it in events]
    fill(settings, [*what, *forwarded])
    with write_log(tmp_path / "log", what) as files:
        ours = train(PermittedLog(files, allowed), definitions(), tmp_path / "files", OPTIONS)
    theirs = trained(settings, tmp_path / "kafka")
    assert ours.manifest.shown > 100
    assert theirs.manifest == ours.manifest
    assert theirs.manifest.data_hash == ours.manifest.data_hash
    forests = [(tmp_path / name / "model.ubj").read_bytes() for name in ("files", "kafka")]
    assert forests[0] == forests[1]
    assert ours.reach == len(what)
    assert isinstance(theirs.reach, str)
    held = read_topic(kafka_settings(settings.log))
    assert parse(theirs.reach) == {n: records[-1][0] + 1 for n, records in held.items()}
    upserts = sum(route_key(it) is None for it in what) + 1
    assert min(map(len, held.values())) > upserts, "people are in every partition"


def test_a_sealed_topic_without_erased_users(kafka_servers: str, tmp_path: Path) -> None:
    """Users whose key was deleted are left out."""
    what = entries(make_shop(3, people=12, items=40, days=30))
    key = tmp_path / "key"
    key.write_text("5c" * 32)
    settings = replace(
        on_kafka(kafka_servers, tmp_path),
        privacy=PrivacySettings(sealed_log=True, master_key_file=key),
    )
    kafka = kafka_settings(settings.log)
    make_topic(settings.log, kafka)
    seal = open_seal(settings, clock=now_ms)
    assert seal is not None
    with KafkaLog(kafka) as topic, closing(SealedPartitions(topic, seal)) as sealed:
        for batch in (what, [Tick(timestamp=0)]):
            payloads = [encode_entry(it, "json") for it in batch]
            sealed.submit(payloads, [route_key(it) for it in batch]).result()
    seal.erase(["person-02"])
    seal.close()
    with open_log(settings, clock=now_ms) as log:
        read = [decode_entry(payload) for _, payload in every(log)]
    events = [it for it in what if isinstance(it, Event)]
    kept = [it for it in events if it.user_id != "person-02"]
    assert len(kept) < len(events)
    assert [it for it in read if isinstance(it, Event)] == kept


def test_an_event_that_was_sent_twice_is_taken_once(tmp_path: Path) -> None:
    what = entries(make_shop(3, people=4, items=20, days=10))
    twice = [it for it in what for _ in range(1 + isinstance(it, Event))]
    found = []
    for name, each in (("once", what), ("twice", twice)):
        with write_log(tmp_path / name, each) as log:
            found.append(History.read(log))
    assert found[0].item.tolist() == found[1].item.tolist()
    assert found[0].session.tolist() == found[1].session.tolist()


KILLED = f"""
import os, signal, sys
from pathlib import Path
from tactful.config.load import load_settings
from tactful.training.options import TrainingOptions
from tactful.models.training_run import run_training

def say(stage, done, total):
    if stage == sys.argv[2] and done >= total // 2:
        os.kill(os.getpid(), signal.SIGKILL)

run_training(load_settings(Path(sys.argv[1])), {OPTIONS!r}, say=say)
"""


@pytest.mark.slow
def test_a_killed_training_continues(kafka_servers: str, tmp_path: Path, tracking_uri: str) -> None:
    what = everything()
    settings = on_kafka(kafka_servers, tmp_path)
    config = tmp_path / "tactful.toml"
    config.write_text(toml(settings))
    fill(settings, what)
    whole = trained(settings, tmp_path / "whole", everybody)
    for stage in ("replay", "fit"):
        command = [sys.executable, "-c", KILLED, str(config), stage]
        killed = subprocess.run(command, capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        # The server appends meanwhile; the training reads the topic as it was.
        fill(settings, [later(it) for it in what if isinstance(it, Event)][-300:])
    result = run_training(settings, OPTIONS)
    anew = trained(settings, tmp_path / "anew", everybody)
    assert result["resumed"]
    assert result["read_until"] == whole.reach
    assert result["data_hash"] == whole.manifest.data_hash
    model = version_directory(settings.models, result["version"]) / "model.ubj"
    assert model.read_bytes() == (tmp_path / "whole" / "model.ubj").read_bytes()
    assert anew.reach != whole.reach
    assert anew.manifest.data_hash != whole.manifest.data_hash


def later(event: Event) -> Event:
    at = event.timestamp + 2 * DAY
    return msgspec.structs.replace(event, event_id=f"later-{event.event_id}", timestamp=at)


@pytest.mark.slow
def test_the_command_trains_a_topic(kafka_servers: str, tmp_path: Path, tracking_uri: str) -> None:
    from mlflow import MlflowClient

    settings = on_kafka(kafka_servers, tmp_path)
    config = tmp_path / "tactful.toml"
    config.write_text(toml(settings))
    # A log in files, from before the topic, is ignored.
    write_log(tmp_path / "data" / "log", []).close()
    fill(settings, everything())
    result = run("train", "--config", config, "--lists", "60", "--json", "--promote")
    assert result.exit_code == 0, result.output
    *progress, told = map(json.loads, result.stdout.splitlines())
    stages: dict[str, list[tuple[int, int]]] = {}
    for line in progress:
        stages.setdefault(line["stage"], []).append((line["done"], line["total"]))
    assert [*stages] == ["read", "index", "replay", "fit", "register"]
    assert all(done == total for done, total in (stages[it][-1] for it in ("read", "replay")))
    assert told["shown"] > 100
    assert told["skew"] == {"lists": 0, "skipped": 0, "share": None, "by_feature": {}}
    run_data = MlflowClient(tracking_uri).get_run(told["run_id"]).data
    assert run_data.params["read_until"] == told["read_until"]
    assert parse(told["read_until"]).keys() == set(range(PARTITIONS))
    assert run_data.tags["data_hash"] == told["data_hash"]


def toml(settings: Settings) -> str:
    return (
        f'[storage]\ndata = "{settings.storage.data}"\n[log]\nkind = "kafka"\n'
        f'brokers = "{settings.log.brokers}"\ntopic = "{settings.log.topic}"\n'
    )


# Drift


def test_topic_drift(kafka_servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest records are checked: earlier ones have no drift."""
    what = entries(make_shop(3, people=8, items=20, days=30))
    events = [it for it in what if isinstance(it, Event)]
    shown = [it for it in lists_shown(what, 2_400) if it.type == "impression"]
    price = RANKING_FEATURES.index("price")
    half = len(shown) // 2
    moved = [moved_by(3.0 * (number > half), it, price) for number, it in enumerate(shown)]
    settings = replace(on_kafka(kafka_servers, tmp_path), training=TrainingSettings(drift_psi=0.25))
    fill(settings, [*what[: -len(events)], *moved])
    models = tmp_path / "data" / "models"
    models.mkdir(parents=True)
    write_pointer(models, Pointer(version="1", previous=""))
    assert (reason_to_train(settings, now=now_ms()) or "").startswith("drift: price has moved by")
    monkeypatch.setattr("tactful.models.training_run.LATEST", 600)
    assert reason_to_train(settings, now=now_ms()) is None


def moved_by(far: float, shown: Event, column: int) -> Event:
    raw = b64decode(str(shown.properties["features"]))
    features = np.frombuffer(raw, "<f4").reshape(5, -1).copy()
    features[:, column] += far
    changed = {**shown.properties, "features": b64encode(features.tobytes()).decode()}
    return msgspec.structs.replace(shown, properties={**changed, "forced": False})


# Reports


def test_equal_reports(kafka_servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    at = now_ms() - 3 * DAY
    what: list[Entry] = []
    for number in range(400):
        arm, identity = ("learned", "heuristic")[number % 2], f"r{number}"
        about: dict[str, Any] = {"user_id": f"p{number}", "recommendation_id": identity}
        shown: dict[str, Any] = {"items": ["a", "b"], "experiment": "ranking", "arm": arm}
        event = partial(Event, timestamp=at + number, **about)
        what.append(event(event_id=f"impression:{identity}", type="impression", properties=shown))
        if number % 2 == 0 or number % 10 == 1:
            bought = event(event_id=f"bought-{identity}", type="purchase", item_id="a")
            what.append(msgspec.structs.replace(bought, timestamp=at + number + HOUR))
    what.sort(key=lambda it: it.timestamp)
    settings = on_kafka(kafka_servers, tmp_path)
    fill(settings, what)
    write_log(tmp_path / "files" / "log", what).close()
    Path("e.yaml").write_text("[{key: ranking, arms: [{name: heuristic}, {name: learned}]}]")
    Path("kafka.toml").write_text(toml(settings) + '[recommend]\nexperiments = "e.yaml"\n')
    Path("files.toml").write_text('[storage]\ndata = "files"\n[recommend]\nexperiments = "e.yaml"')
    names = ("files", "kafka")
    said = [run("experiment", "report", "--config", f"{it}.toml", "--json") for it in names]
    assert [it.exit_code for it in said] == [0, 0], said[1].output
    assert said[1].stdout == said[0].stdout
    assert {row["verdict"] for row in json.loads(said[1].stdout)["comparisons"]} == {"higher"}


# Missing topics, brokers and records


@pytest.mark.slow  # the client waits for a topic
def test_a_topic_that_is_not_there_is_told(kafka_servers: str, tmp_path: Path) -> None:
    settings = on_kafka(kafka_servers, tmp_path)
    absent = r"nothing to train from: topic 'test-\w+' at .* does not exist .*make it"
    with pytest.raises(ModelError, match=absent):
        run_training(settings, OPTIONS)
    absent = "nothing to measure: topic"
    with pytest.raises(StorageError, match=absent), measured_log(settings, clock=now_ms):
        pass


def test_training_from_a_topic_needs_known_consent(kafka_servers: str, tmp_path: Path) -> None:
    settings = on_kafka(kafka_servers, tmp_path)
    fill(settings, [Tick(timestamp=1)])
    elsewhere = replace(settings, storage=StorageSettings(data=tmp_path / "elsewhere"))
    with pytest.raises(StorageError, match="users' consent is unknown"):
        run_training(elsewhere, OPTIONS)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_a_broker_that_is_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_opening, "_WAIT_S", 1.0)
    with broker_behind_proxy() as (broker, proxy):
        settings = on_kafka(broker.servers, tmp_path)
        fill(settings, everything())

        def gone(stage: str, done: int, total: int) -> None:
            if stage == "index":
                proxy.cut()

        ended = r"cannot be read to its end: partition \d of topic .* did not come within 1 s"
        with pytest.raises(ModelError, match=ended):
            run_training(settings, OPTIONS, say=gone)
        with pytest.raises(ModelError, match=r"nothing to train from: .*no broker answers"):
            run_training(settings, OPTIONS)
        # Its checkpoint remains.
        proxy.restore()
        with Checkpoint.hold(settings.models / "training") as checkpoint:
            assert checkpoint.about() is not None


@pytest.fixture
def small_topic(tmp_path: Path) -> Iterator[Settings]:
    """Topic of a mock cluster, which keeps some 5 MiB of each partition."""
    from confluent_kafka.admin import AdminClient

    with mock_cluster() as servers:
        settings = on_kafka(servers, tmp_path)
        AdminClient({"bootstrap.servers": servers}).list_topics(settings.log.topic, timeout=60)
        yield settings


def fill_up(settings: Settings) -> None:
    """Append so much that no earlier record is kept."""
    with KafkaLog(kafka_settings(settings.log)) as log:
        for number in range(log.partitions):
            for _ in range(14):
                log.append_to(number, [os.urandom(500_000)])


@pytest.mark.slow
def test_what_retention_has_dropped_before_is_not_missed(small_topic: Settings) -> None:
    what = entries(make_shop(3, people=12, items=40, days=30))
    put(small_topic, what[:100])
    fill_up(small_topic)
    put(small_topic, what)
    with open_log(small_topic, clock=now_ms) as log:
        begin = log.begin
        history = History.read(log)
        reached = log.begin + sum(1 for _ in every(log))
    assert begin > 0, "how many are gone is not known, but that some are"
    assert len(history.item_ids) == sum(isinstance(it, Item) for it in what)
    assert history.offset.min() > begin
    assert history.offset.max() < reached


@pytest.mark.slow
def test_what_retention_drops_while_it_is_read_is_told(small_topic: Settings) -> None:
    put(small_topic, entries(make_shop(3, people=12, items=40, days=30)))

    def drop(stage: str, done: int, total: int) -> None:
        if stage == "index" and not done:
            fill_up(small_topic)

    with pytest.raises(ModelError, match=r"does not hold offset \d+: retention dropped it"):
        run_training(small_topic, OPTIONS, say=drop)


def put(settings: Settings, what: Sequence[Entry]) -> None:
    with KafkaLog(kafka_settings(settings.log)) as log:
        log.append([encode_entry(it, "json") for it in what], [route_key(it) for it in what])


def every(log: Any) -> Iterator[tuple[int, bytes]]:
    for records in read_batches(log, log.begin, log.end, size=700):
        yield from records


# Merged log


@pytest.mark.slow
def test_reach_is_kept(kafka_servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = everything()
    settings = on_kafka(kafka_servers, tmp_path)
    fill(settings, what)
    with open_log(settings, clock=now_ms) as log:
        assert isinstance(log, MergedLog)
        first, reach = [*every(log)], log.reach
        assert [*every(log)] == first
        assert [offset for offset, _ in first] == [*range(len(what) + 1)]
        assert log.read(len(first), 10) == []
        monkeypatch.setattr(followed, "_QUEUE", 20)
        again = log.read(0, 100)
        while not log._full:
            again += log.read(len(again), 100)
            assert len(again) < len(first), "much waits in some partitions"
        assert again == first[: len(again)]
        assert [*every(log)] == first
        assert not log.reach_to("0:1")
        assert not log.reach_to("0:999999,1:1,2:1,3:1")
        assert not log.reach_to("nonsense")
    fill(settings, [later(it) for it in what if isinstance(it, Event)])
    with open_log(settings, clock=now_ms) as log:
        assert isinstance(log, MergedLog)
        assert len([*every(log)]) > len(first)
        assert log.reach_to(reach)
        assert [*every(log)] == first
    with open_log(settings, clock=now_ms, latest=400) as log:
        newest = [*every(log)]
        assert 100 < len(newest) <= 400
        assert log.begin == newest[0][0]
