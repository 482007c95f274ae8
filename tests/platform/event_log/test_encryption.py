"""Sealed log records: readable with the vault, until an erasure."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from tests.platform.erasure.test_erase import (
    FIELDS,
    Tokens,
    installation_of,
    leave_traces,
    others,
    scan,
    settings_of,
)
from tests.platform.support import Live, build, now_ms, view, wait_until

from tactful.cli.main import main
from tactful.config.privacy import PrivacySettings
from tactful.config.settings import Settings
from tactful.erasure.erase import request_erasure, run_erasures
from tactful.errors import ConfigError, StorageError
from tactful.event_log.encryption import RecordSeal, log_in_files, open_seal, person_of
from tactful.maintenance.doctor import examine
from tactful.metadata.connections import open_installation
from tactful.server.platform import Platform
from tactful.subjects.export import export_person
from tactful_privacy.people.pseudonyms import Keyring
from tactful_privacy.people.vault import Vault
from tactful_streaming.contract.log_entries import (
    Entry,
    Event,
    Forwarded,
    Item,
    Link,
    Restricted,
    Tick,
    Transfer,
    User,
    decode_entry,
    encode_entry,
)
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import BackpressureError, LogCorruptedError, LogError
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.log.dead_letters import DeadLetter, DeadLetters
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.encrypted_log import SealedLog, SealedPartitions
from tactful_streaming.log.segment import BLANK
from tactful_streaming.state.store import RocksState
from tactful_streaming.worker.erasure import purge_partition
from tactful_streaming.worker.partition_job import JobOptions, purge_idle

EVENT = Event(event_id="e", type="view", timestamp=5, user_id="ada", device_id="phone")
ANONYMOUS = Event(event_id="e", type="view", timestamp=5, device_id="phone")
ENTRIES: list[tuple[Entry, str | None]] = [
    (EVENT, "ada"),
    (ANONYMOUS, "device:phone"),
    (Event(event_id="e", type="impression", timestamp=5), None),
    (User(user_id="ada", timestamp=5), "ada"),
    (Restricted(timestamp=5, purposes=("service",), event=ANONYMOUS), "device:phone"),
    (Forwarded(target="ada", timestamp=5, event=ANONYMOUS), "ada"),
    (Link(device_id="phone", timestamp=5, user_id="ada"), "ada"),
    (Link(device_id="phone", timestamp=5), "device:phone"),
    (
        Transfer(transfer_id="t", timestamp=5, source="device:phone", target="ada", state=b"s"),
        "ada",
    ),
    (Item(item_id="i", timestamp=5, properties={"user_id": "no one"}), None),
    (Tick(timestamp=5), None),
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    key = tmp_path / "master.key"
    key.write_text("a5" * 32 + "\n")
    privacy = PrivacySettings(sealed_log=True, master_key_file=key)
    return replace(settings_of(tmp_path), privacy=privacy)


@pytest.fixture
def seal(settings: Settings) -> Iterator[RecordSeal]:
    settings.storage.data.mkdir(exist_ok=True)
    opened = open_seal(settings, clock=now_ms)
    assert opened is not None
    yield opened
    opened.close()


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_an_entry_is_sealed_for_whom_it_is_of(seal: RecordSeal, format: str) -> None:
    payloads = [encode_entry(entry, format) for entry, _ in ENTRIES]  # type: ignore[arg-type]
    people = [person for _, person in ENTRIES]
    assert [person_of(payload) for payload in payloads] == people
    sealed = seal.seal([*payloads, b"\x93no entry", b""])
    assert sealed[-2:] == [b"\x93no entry", b""]
    for record, payload, person in zip(sealed, payloads, people, strict=False):
        assert (record == payload) is (person is None)
        assert person is None or not any(name in record for name in (b"ada", b"phone"))
    assert seal.open(sealed) == [*payloads, b"\x93no entry", b""]
    assert seal.erase(["ada", "nobody"]) == 1
    pairs = zip(payloads, people, strict=True)
    expected = [BLANK if person == "ada" else payload for payload, person in pairs]
    assert seal.open(sealed[:-2]) == expected


@examples(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=60), max_size=6), st.data())
def test_damaged_records(seal: RecordSeal, others: list[bytes], data: st.DataObject) -> None:
    others = [payload for payload in others if payload[:1] != b"\x01"]
    (sealed,) = seal.seal([encode_entry(EVENT)])
    place = data.draw(st.integers(17, len(sealed) - 1))
    bad = bytearray(sealed)
    bad[place] ^= 1 << data.draw(st.integers(0, 7))
    assert seal.open([*others, sealed]) == [*others, encode_entry(EVENT)]
    with pytest.raises(LogCorruptedError, match="damaged"):
        seal.open([*others, bytes(bad)])


def test_a_server_reads_what_it_sealed(settings: Settings, tmp_path: Path) -> None:
    tokens = Tokens(*FIELDS)
    with Live(Platform.open(settings, build)) as live:
        others(live)
        leave_traces(live, tokens)
        before = live.http.get(f"/v1/users/{tokens['user']}/features").json()["features"]
    assert before["recent"]
    log = settings.storage.data / "log"
    assert scan(log, tokens.needles()) == {}
    copy = tmp_path / "backup-of-the-log"
    shutil.copytree(log, copy)
    # A replay computes the same, an export shows everything, training reads it.
    with Live(Platform.open(settings, build, rebuild=True)) as live:
        live.http.post("/v1/recommend", json={"after": more(live, 100)})
        again = live.http.get(f"/v1/users/{tokens['user']}/features").json()["features"]
    assert again["recent"] == before["recent"]
    metadata = open_installation(settings)
    exported = export_person(settings, metadata, tokens["user"], clock=now_ms)
    assert tokens["query"] in str(exported.records)
    assert tokens["email"] in str(exported.description)
    with log_in_files(settings, clock=now_ms) as opened:
        entries = [decode_entry(payload) for _, payload in opened.read(0, 10_000)]
    assert tokens["user"] in str(entries)
    # What is written unsealed from now on lies beside it.
    unsealed = replace(settings, privacy=replace(settings.privacy, sealed_log=False))
    with Live(Platform.open(unsealed, build)) as live:
        more(live, 200)
    assert b"other-1" in b"".join(path.read_bytes() for path in log.glob("*.log"))
    installation = installation_of(settings, metadata)
    request_erasure(installation, tokens["user"])
    (receipt,) = run_erasures(installation)
    removed = {step.place: step.removed for step in receipt.steps}
    metadata.close()
    assert receipt.state == "done"
    assert removed["keys"] == 2
    assert removed["log"] == len(exported.records)
    assert removed["verification"] == 0
    assert scan(settings.storage.data, tokens.needles()) == {}
    # In the copy lie the sealed records still, and nothing opens them.
    seal = open_seal(settings, clock=now_ms)
    assert seal is not None
    kept = SealedLog(EmbeddedLog(copy, read_only=True), seal)
    payloads = [payload for _, payload in kept.read(0, 10_000)]
    kept.close()
    seal.close()
    assert sum(payload == BLANK for payload in payloads) == removed["log"]
    assert not any(needle in payload for needle in tokens.needles() for payload in payloads)
    assert any(b"other-1" in payload for payload in payloads)


def test_without_the_key_nothing_starts(settings: Settings, tmp_path: Path) -> None:
    nothing = replace(settings, privacy=PrivacySettings(sealed_log=True))
    with pytest.raises(ConfigError, match=r"privacy\.master_key_env or privacy\.master_key_file"):
        Platform.open(nothing, build)
    with Live(Platform.open(settings, build)) as live:
        others(live)
    # Sealing was switched off, but what is sealed has to be read.
    with pytest.raises(ConfigError, match=r"privacy\.master_key_env"):
        Platform.open(replace(settings, privacy=PrivacySettings()), build)
    other = tmp_path / "other.key"
    for text, error in (("00" * 32, StorageError), ("short", ConfigError)):
        other.write_text(text)
        privacy = replace(settings.privacy, master_key_file=other)
        with pytest.raises(error, match="master key"):
            Platform.open(replace(settings, privacy=privacy), build).close()


def test_the_doctor_tells_whether_sealed_records_can_be_read(settings: Settings) -> None:
    def told(privacy: PrivacySettings) -> tuple[str, str]:
        checks = examine(replace(settings, privacy=privacy))
        return next((it.state, it.said) for it in checks if it.name == "sealing")

    with Live(Platform.open(settings, build)) as live:
        others(live)
    assert told(settings.privacy) == ("ok", "records are sealed by vault.db")
    fired = replace(settings, worker=replace(settings.worker, fired_topic="windows"))
    (check,) = [it for it in examine(fired) if it.name == "sealing"]
    assert check.state == "warning"
    assert "rows are unsealed in topic 'windows'" in check.said
    off = replace(settings.privacy, sealed_log=False)
    assert told(off) == ("ok", "switched off; vault.db opens earlier records")
    state, note = told(PrivacySettings())
    assert state == "failed"
    assert "privacy.master_key_env" in note


def more(live: Live, number: int) -> Any:
    told = live.http.post("/v1/events", json=[view(number, "other-1")]).json()
    assert told["accepted"] == 1
    return told["position"]


class Partitions:
    """A log in memory that records its payloads."""

    partitions = 7

    def __init__(self) -> None:
        self.came: list[tuple[bytes, str | None]] = []

    def partition_of(self, key: str) -> int:
        return sum(key.encode()) % self.partitions

    def submit(self, payloads, keys):  # type: ignore[no-untyped-def]
        from concurrent.futures import Future

        self.came += zip(payloads, keys, strict=True)
        done: Future[dict[int, int]] = Future()
        done.set_result({0: len(self.came)})
        return done

    def close(self) -> None:
        pass


def test_record_keys_keep_the_partition(tmp_path: Path) -> None:
    """The routing key of a sealed record is no user id."""
    keyring = Keyring(tmp_path / "keyring.json", clock=lambda: 0)
    vault = Vault(tmp_path / "vault.db", bytes(32), keyring)
    seal = RecordSeal(vault, format="json", writes=True)
    log = Partitions()
    through = SealedPartitions(log, seal)
    people = [f"person-{number}" for number in range(40)]
    for person in people:
        entry = Event(event_id=f"of-{person}", type="view", timestamp=1, user_id=person)
        assert through.submit([encode_entry(entry, "json")], [person]).result(60)
    item = encode_entry(Item(item_id="i", timestamp=1), "json")
    through.submit([item], [None]).result(60)
    through.close()
    seal.close()
    assert log.came.pop() == (item, None)
    for person, (record, key) in zip(people, log.came, strict=True):
        assert key is not None
        assert log.partition_of(key) == log.partition_of(person)
        assert b"person" not in record
        assert "person" not in key


class Held:
    """A seal that waits until it is released."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.fails = False

    def seal(self, payloads: Sequence[bytes]) -> list[bytes]:
        assert self.go.wait(60)
        if self.fails:
            raise LogError("there are no keys to be had")
        return list(payloads)

    def open(self, payloads: Sequence[bytes]) -> list[bytes]:
        return list(payloads)


def test_records_that_wait_to_be_sealed_are_limited() -> None:
    seal = Held()
    through = SealedPartitions(Partitions(), seal, max_waiting_bytes=100)
    waiting = [through.submit([b"x" * 60], ["ada"]), through.submit([b"x" * 40], ["bob"])]
    assert through.waiting_bytes == 100
    with pytest.raises(BackpressureError, match="100 bytes wait"):
        through.submit([b"x"], ["cyd"])
    seal.go.set()
    assert all(done.result(60) for done in waiting)
    wait_until(lambda: through.waiting_bytes == 0)
    # One that is larger than the limit goes through alone; what fails does not wait for ever.
    seal.fails = True
    failed = through.submit([b"x" * 400], ["ada"])
    with pytest.raises(LogError, match="no keys"):
        failed.result(60)
    wait_until(lambda: through.waiting_bytes == 0)
    through.close()
    with pytest.raises(LogError, match="closed"):
        through.submit([b"x"], ["ada"])
    assert through.waiting_bytes == 0


def letters_of(people: Sequence[str]) -> list[DeadLetter]:
    viewed = partial(Event, type="view", timestamp=1)
    made = partial(DeadLetter, rule="r", reason="why", partition=0)
    payloads = [encode_entry(viewed(event_id=f"of-{it}", user_id=it)) for it in people]
    return [made(payload=payload, offset=number) for number, payload in enumerate(payloads)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dead-letters", "late"])
def test_dead_letters_are_sealed(settings: Settings, tmp_path: Path, name: str) -> None:
    people = ("erased-person", "other-person")
    letters = letters_of(people)
    # Some lie there from before the log was sealed; the last one comes again after a crash.
    with contextlib.closing(DeadLetters.open(settings.storage.data / name)) as plain:
        plain.add(letters_of(["early-person"]))
    kept = replace(settings, engine=replace(settings.engine, keep_late=True))
    with Live(Platform.open(kept, build)) as live:
        backend = live.platform.backend
        opened = backend.dead_letters if name == "dead-letters" else backend.late
        assert opened is not None
        opened.add(letters)
        opened.add(letters[1:])
        found = [letter.payload for _, letter in opened.read()]
    assert found == [it.payload for it in (*letters_of(["early-person"]), *letters)]
    stored = b"".join(path.read_bytes() for path in (settings.storage.data / name).iterdir())
    assert b"early-person" in stored
    assert not any(person.encode() in stored for person in people)
    metadata = open_installation(settings)
    exported = export_person(settings, metadata, people[0], clock=now_ms)
    assert [people[0] in letter["record"] for letter in exported.dead_letters] == [True]
    installation = installation_of(settings, metadata)
    request_erasure(installation, people[0])
    (receipt,) = run_erasures(installation)
    metadata.close()
    assert {step.place: step.removed for step in receipt.steps}[name] == 1
    with contextlib.closing(EmbeddedLog(settings.storage.data / name, read_only=True)) as log:
        raw = [msgspec.msgpack.decode(it, type=DeadLetter) for _, it in log.read(0, 10)]
    assert [letter.reason for letter in raw] == ["why", "erased", "why", "why"]
    assert raw[1].payload == BLANK, "not merely without a key"


def test_the_letters_of_a_sealed_log_are_listed_by_the_command(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        live.platform.backend.dead_letters.add(letters_of(["ada"]))
    told = CliRunner().invoke(
        main,
        ["rules", "letters", "--json", "--data", str(settings.storage.data)],
        env={"TACTFUL_PRIVACY__MASTER_KEY_FILE": str(settings.privacy.master_key_file)},
    )
    assert told.exit_code == 0, told.output
    assert '"ada"' in told.stdout


class OneErasure:
    """Erasures of a worker, with one erased user."""

    newest = 1
    suppressed = frozenset({"erased-person"})

    def after(self, number: int) -> tuple[int, SubjectIds]:
        return 1, SubjectIds(users=self.suppressed)


@pytest.mark.parametrize(
    ("key_is_gone", "is_idle"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_worker_purge(settings: Settings, tmp_path: Path, key_is_gone: bool, is_idle: bool) -> None:
    """They do so before and after the key is deleted."""
    keyring = Keyring(tmp_path / "keyring.json", clock=lambda: 0)
    seal = RecordSeal(Vault(tmp_path / "vault.db", bytes(32), keyring), format="json", writes=True)
    folder = tmp_path / "partitions" / "events-3"
    with contextlib.closing(DeadLetters.open(folder / "dead-letters", seal=seal)) as letters:
        letters.add(letters_of(["erased-person", "other-person"]))
    if key_is_gone:  # the server was there first
        seal.erase(["erased-person"])
    definitions = load_definitions(settings.features)
    erasures: Any = OneErasure()
    if is_idle:  # the partition went to another host
        kafka = KafkaSettings("broker:9092", topic="events")
        purge_idle(JobOptions(kafka=kafka, data=tmp_path, seal=seal), definitions, erasures)
    else:
        with contextlib.closing(RocksState(folder / "state")) as store:
            purge_partition(store, folder, definitions, erasures, seal)
    with contextlib.closing(EmbeddedLog(folder / "dead-letters", read_only=True)) as log:
        raw = [msgspec.msgpack.decode(it, type=DeadLetter) for _, it in log.read(0, 10)]
    assert [letter.reason for letter in raw] == ["erased", "why"]
    assert raw[0].payload == BLANK
    assert seal.open([raw[1].payload]) == [letters_of(["other-person"])[0].payload]
    seal.close()
