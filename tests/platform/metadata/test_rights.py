"""Users' rights in the metadata, in SQLite, MariaDB/MySQL and Redis."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.platform.support import Live, build, now_ms, small_settings, view

from tactful.config.settings import Settings
from tactful.config.storage import OnlineSettings
from tactful.erasure.erase import FORGOTTEN, names_dropped, request_erasure, run_erasures, work_of
from tactful.erasure.running_server import OnlineErasures
from tactful.metadata import store as metadata
from tactful.metadata.connections import open_installation, open_redis
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import person_accesses
from tactful.schemas.users import ErasureStep
from tactful.server.platform import Platform
from tactful.subjects.access_log import AccessLog
from tactful.subjects.consent import ConsentStore
from tactful.subjects.erasure_requests import ErasureJobs
from tactful.subjects.installation import Installation
from tactful.subjects.partition_erasures import PartitionErasures
from tactful.subjects.suppression import SuppressionStore, open_suppression
from tactful_privacy.people.consent import NOTHING, Purpose
from tactful_privacy.people.pseudonyms import Keyring
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.reader import load_definitions


@contextmanager
def installed(settings: Settings) -> Iterator[Installation]:
    settings.storage.data.mkdir(exist_ok=True)
    with closing(open_installation(settings)) as database:
        suppression = open_suppression(settings, database, clock=now_ms)
        yield Installation(settings, database, suppression, now_ms)


def state_of(installation: Installation, receipt: str) -> str:
    told = installation.jobs.find(receipt)
    assert told is not None
    return told.state


@pytest.mark.slow
def test_decisions_of_many_writers_are_all_followed_in_order(database: MetadataStore) -> None:
    writers = [ConsentStore(database, NOTHING, clock=now_ms) for _ in range(4)]

    def decide(number: int) -> None:
        said: dict[str, bool] = {
            Purpose.MARKETING: number % 2 == 0,
            Purpose.MEASUREMENT: True,
        }
        writers[number % 4].record(f"person-{number % 5}", said, source="form")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decide, range(40)))
    late = ConsentStore(database, NOTHING, clock=now_ms)
    for writer in writers:
        writer.refresh()
    assert late.consents.version == 40
    for person in (f"person-{number}" for number in range(5)):
        history = late.history(person)
        assert len(history) == 8
        last = history[-1].purposes[Purpose.MARKETING]
        for each in (*writers, late):
            assert each.consents.said(person)[Purpose.MARKETING] is last


def test_suppressed_ids_are_kept_as_hashes(database: MetadataStore, tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keyring.json", clock=now_ms)
    stones = tmp_path / "stones"
    one, other = (
        SuppressionStore(database, keyring, tombstones=stones, clock=now_ms) for _ in range(2)
    )
    one.suppress(["zoe", "bob"])
    one.suppress(["zoe"])
    other.refresh()
    assert other.found_among(["zoe", "bob", "cyd"]) == {"zoe", "bob"}
    assert len(other.suppressed) == 2
    assert other.take_tombstones() == 0
    with stones.open("ab") as file:
        file.write(b'{"key_id":')  # a process was killed while it wrote
    assert other.take_tombstones() == 0
    assert b"zoe" not in stones.read_bytes()
    with stones.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(OSError, match="cannot be read"):
        other.take_tombstones()


def test_a_trail_names_authors_and_no_user(database: MetadataStore, tmp_path: Path) -> None:
    """Each access is found by the user's id, also after a rotation of the keys, and by page."""
    keyring = Keyring(tmp_path / "keyring.json", clock=now_ms)
    log = AccessLog(database, keyring, clock=lambda: 1_000)
    assert log.accesses("zoe") == log.accesses() == []
    log.record("zoe", "export", by="key 0f3a9c21")
    log.record("bob", "export", by="key 0f3a9c21")
    former = Keyring(tmp_path / "keyring.json", clock=now_ms).current
    Keyring(tmp_path / "keyring.json", clock=now_ms).rotate()  # by another process
    log.record("zoe", "erase", by="ann@shop")
    latest, first = log.accesses("zoe")
    assert (latest.action, latest.by, latest.at) == ("erase", "ann@shop", 1_000)
    assert (first.action, first.by) == ("export", "key 0f3a9c21")
    assert log.accesses("zoe", limit=1) == [latest]
    assert log.accesses("zoe", before=latest.id) == [first]
    assert [access.action for access in log.accesses()] == ["erase", "export", "export"]
    rows = repr(database.fetch(sa.select(person_accesses)))
    assert "zoe" not in rows and "bob" not in rows
    Keyring(tmp_path / "keyring.json", clock=now_ms).destroy(former)
    assert log.accesses("zoe") == [latest]


def test_an_access_that_cannot_be_written_does_not_happen(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        for method in ("GET", "DELETE"):
            path = "/v1/users/ada" + ("/export" if method == "GET" else "")
            assert live.http.request(method, path).status_code in (200, 202)
        found = live.http.get("/v1/users/ada/accesses").json()
        assert [access["action"] for access in found["accesses"]] == ["erase", "export"]
        assert {access["by"] for access in found["accesses"]} == {"the API without keys"}
        page = live.http.get("/v1/users/ada/accesses", params={"limit": 1}).json()
        after = {"limit": 1, "cursor": page["next_cursor"]}
        rest = live.http.get("/v1/users/ada/accesses", params=after).json()
        assert page["accesses"] + rest["accesses"] == found["accesses"]
        assert rest["next_cursor"] is None
        with sqlite3.connect(settings.storage.data / "metadata.db") as connection:
            connection.execute("ALTER TABLE person_accesses RENAME TO hidden")
        assert live.http.get("/v1/users/bob/export").status_code == 503
        assert live.http.delete("/v1/users/bob").status_code == 503
        assert not live.platform.permissions.is_erased("bob")


@pytest.mark.slow
def test_a_job_keeps_its_receipt_and_forgets_the_person(database: MetadataStore) -> None:
    now = 1_000
    jobs = ErasureJobs(database, clock=lambda: now, days=2.0)
    asked = jobs.request("ada")
    assert jobs.request("ada").receipt == asked.receipt
    assert (asked.state, asked.due_at) == ("requested", 1_000 + 2 * 86_400_000)
    assert jobs.waiting() == [(asked.receipt, "ada")]
    jobs.note(asked.receipt, [ErasureStep(place="log", removed=3)])
    found = jobs.find(asked.receipt)
    assert found is not None
    assert (found.state, found.steps[0].removed) == ("purging", 3)
    assert jobs.overdue() == 0
    now += 3 * 86_400_000
    assert jobs.overdue() == 1
    jobs.forget(asked.receipt, found.steps)
    assert (jobs.overdue(), jobs.waiting(), jobs.latest()) == (1, [], 0)
    assert jobs.incomplete() == 1
    assert jobs.forgotten()
    database.compact()
    jobs.complete()
    assert not jobs.forgotten()
    assert (jobs.overdue(), jobs.waiting(), jobs.latest()) == (0, [], now)
    assert jobs.incomplete() == 0
    assert jobs.request("ada").receipt != asked.receipt
    assert jobs.find("none") is None


def test_readers_delay_a_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "_READERS_S", 0.05)
    settings = small_settings(tmp_path)
    path = settings.storage.data / "metadata.db"

    def has_name() -> bool:
        return any(b"sentinel-ada" in file.read_bytes() for file in path.parent.glob("metadata*"))

    with installed(settings) as installation:
        mark = work_of(installation, FORGOTTEN)
        receipt = installation.jobs.request("sentinel-ada").receipt
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM erasures").fetchall()
            with names_dropped(installation):
                installation.jobs.forget(receipt, [])
            state = state_of(installation, receipt)
            assert (has_name(), mark.exists(), state) == (True, True, "purging")
        assert OnlineErasures(installation, {}).run() == 0
        state = state_of(installation, receipt)
        assert (has_name(), mark.exists(), state) == (False, False, "done")


def test_compaction_precedes_a_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are gone when the state is "done"; a kill in between is repaired."""
    with installed(small_settings(tmp_path)) as installation:
        receipt = request_erasure(installation, "sentinel-ada").receipt
        compact = MetadataStore.compact
        states: list[str] = []

        def killed(metadata: MetadataStore) -> bool:
            states.append(state_of(installation, receipt))
            raise KeyboardInterrupt

        monkeypatch.setattr(MetadataStore, "compact", killed)
        with pytest.raises(KeyboardInterrupt):
            run_erasures(installation)
        assert states == ["purging"]
        assert installation.jobs.waiting() == []
        monkeypatch.setattr(MetadataStore, "compact", compact)
        assert run_erasures(installation) == []
        assert state_of(installation, receipt) == "done"
        assert not installation.jobs.forgotten()


@pytest.mark.slow
def test_every_partition_reports(database: MetadataStore, tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keyring.json", clock=now_ms)
    now = 5_000

    def opened() -> PartitionErasures:
        suppression = SuppressionStore(database, keyring, clock=now_ms)
        return PartitionErasures(database, suppression, clock=lambda: now)

    server, worker = opened(), opened()
    names = [frozenset({f"{what}-é\0{n}" for n in range(2_000)}) for what in "udhse"]
    traces = SubjectIds(*names)
    assert server.missing("one") is None
    assert worker.newest == 0
    SuppressionStore(database, keyring, clock=now_ms).suppress(["ada"])
    server.publish("one", traces, partitions=3)
    server.publish("one", SubjectIds(), partitions=0)  # as after a kill: the first holds
    assert "ada" not in worker.suppressed
    worker.refresh()
    assert "ada" in worker.suppressed
    assert worker.newest == 5_000
    assert worker.after(0) == (5_000, traces)
    assert worker.after(5_000) == (5_000, SubjectIds())
    assert server.missing("one") == 3
    for number, partition in enumerate(("g.log-0", "g.log-1", "g.log-0")):
        worker.purged(partition, 5_000)
        assert server.missing("one") == (2, 1, 1)[number]
    worker.purged("g.log-2", 0)
    assert server.missing("one") == 1
    worker.purged("g.log-2", 5_000)
    assert server.missing("one") == 0
    server.finish("one")
    assert opened().after(0) == (5_000, SubjectIds())
    now = 4_000  # a clock that was set back
    server.publish("two", SubjectIds(users=frozenset({"bob"})))
    worker.refresh()
    assert worker.newest == 5_001
    assert server.missing("two") == 3
    # A database from before knows less than the states: what is new has to be new for them, too.
    now = 9_000
    server.publish("three", SubjectIds())
    assert server.after(5_001)[0] == 9_000


@pytest.mark.service("redis")
def test_erasure_in_redis(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACTFUL_REDIS_URL", redis_url)
    online = OnlineSettings(kind="redis", prefix=f"erasure-{tmp_path.name}:")
    settings = replace(small_settings(tmp_path), online=online)
    with Live(Platform.open(settings, build)) as live:
        sent = [view(1, "erased-person"), view(2, "other-person")]
        told = live.http.post("/v1/events", json=sent).json()
        live.http.post("/v1/recommend", json={"after": told["position"]})
    with closing(open_redis(online, load_definitions(settings.features))) as opened:
        before = opened.get_many(["erased-person", "other-person"])
        assert None not in before
        with installed(settings) as installation:
            request_erasure(installation, "erased-person")
            (receipt,) = run_erasures(installation)
        assert "online store" in [step.place for step in receipt.steps]
        assert opened.get_many(["erased-person", "other-person"]) == [None, before[1]]
        opened.put_many({"other-person": None})
