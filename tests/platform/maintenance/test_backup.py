"""Backups beside a running server; restores that reset no spent budget."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from tests.platform.databases import SERVERS, empty_database
from tests.platform.erasure.test_erase import (
    FIELDS,
    Tokens,
    leave_traces,
    others,
    scan,
    settings_of,
)
from tests.platform.metadata.test_rights import installed
from tests.platform.statistics.test_service import LINES
from tests.platform.support import Live, build, killed_after, now_ms, view

from tactful.cli.main import main
from tactful.config.privacy import PrivacySettings
from tactful.config.settings import Settings
from tactful.config.storage import MetadataSettings
from tactful.erasure.erase import RESTORED, complete_erasures, request_erasure
from tactful.errors import BackupError
from tactful.maintenance import backup
from tactful.maintenance.backup import Trust, copy_database, make_backup, read_manifest
from tactful.maintenance.backup_paths import is_left_out
from tactful.maintenance.backup_source import FILES, BackupSource
from tactful.maintenance.restore import check_backup, restore_backup
from tactful.maintenance.retention import PROGRESS
from tactful.metadata.connections import open_installation, open_keys
from tactful.metadata.restore_journal import RESTORING, finish_restore
from tactful.metadata.tables import suppressions
from tactful.server.platform import Platform
from tactful.statistics.counter import NOT_BEFORE, StatisticsCounter
from tactful.subjects.consent import ConsentStore
from tactful.util.signing import ADOPTED_MODELS, SIGNING_KEY
from tactful_privacy.errors import SealError
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import Statistic
from tactful_privacy.people.consent import NOTHING, Purpose
from tactful_privacy.people.pseudonyms import Keyring, Pseudonym
from tactful_privacy.people.vault import Vault
from tactful_privacy.people.vault_file import drop_keys
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import RocksState

DAY_MS = 86_400_000


def soon() -> int:
    return 20_000 * DAY_MS + 5


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    apart = tmp_path / "apart"
    apart.mkdir()
    made = settings_of(tmp_path)
    return replace(made, consent=replace(made.consent, tombstones=apart / "tombstones"))


def remake(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


def suppress(settings: Settings, person: str) -> None:
    with installed(settings) as installation:
        installation.suppression.suppress([person])


def fill(settings: Settings, first: int = 0) -> None:
    with Live(Platform.open(settings, build)) as live:
        others(live, first)


def restored(settings: Settings, backup: Path | BackupSource, **options: Any) -> Any:
    # A data directory that was lost has another signing key.
    options = {"clock": now_ms, "trust": Trust(accept_unsigned=True), **options}
    return restore_backup(settings, backup, **options)


def values_of(live: Live, people: int = 3) -> list[Any]:
    return [
        live.http.get(f"/v1/users/other-{n}/features").json()["features"] for n in range(people)
    ]


def log_of(settings: Settings) -> list[tuple[int, bytes]]:
    with EmbeddedLog(settings.storage.data / "log", read_only=True) as log:
        return log.read(log.begin, 100_000)


def test_the_fit_of_life_cycles_is_in_no_backup() -> None:
    assert is_left_out(PurePath("lifecycle.json"))
    assert not is_left_out(PurePath("log/0.seg"))


@pytest.mark.slow
def test_a_live_backup_holds_all_acknowledged_events(tmp_path: Path, settings: Settings) -> None:
    """Events arrive all the time; the restored server continues without a difference."""
    with Live(Platform.open(settings, build)) as live:
        others(live)
        manifest = make_backup(settings, tmp_path / "first", clock=now_ms)
        position = others(live, 20)
        live.http.post("/v1/recommend", json={"user_id": "other-0", "after": position})
        second = make_backup(settings, tmp_path / "second", clock=now_ms)
        values = values_of(live)
    assert manifest.log == (0, 20)
    assert (manifest.state or 0) <= 20
    assert second.log is not None
    assert second.log[1] >= 40
    assert second.state is not None
    assert second.state <= second.log[1]
    before = log_of(settings)
    remake(settings.storage.data)
    restored(settings, tmp_path / "second", without_tombstones=True)
    assert log_of(settings) == before[: second.log[1]]
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/recommend", json={})
        assert values_of(live) == values
        assert live.http.post("/v1/events", json=[view(99, "other-1")]).json()["accepted"] == 1
    assert not (settings.storage.data / RESTORED).exists()


def log_file(backup: Path) -> Path:
    return next((backup / FILES / "log").glob("*.log"))


def flip_a_bit(backup: Path) -> None:
    data = bytearray(log_file(backup).read_bytes())
    data[len(data) // 2] ^= 1
    log_file(backup).write_bytes(data)


def change_the_manifest(backup: Path) -> None:
    path = backup / "manifest.json"
    path.write_text(path.read_text().replace('"path":"metadata.db"', '"path":"metadate.db"'))


def make_it_newer(backup: Path) -> None:
    path = backup / "manifest.json"
    inner = json.dumps({**json.loads(path.read_text())["manifest"], "format": 99})
    digest = hashlib.sha256(inner.encode()).hexdigest()
    path.write_text(f'{{"sha256":"{digest}","manifest":{inner}}}')


HARMS: list[tuple[Callable[[Path], Any], str]] = [
    (flip_a_bit, "damaged"),
    (lambda it: os.truncate(log_file(it), log_file(it).stat().st_size - 1), "damaged"),
    (lambda it: (it / FILES / "metadata.db").unlink(), "missing"),
    (lambda it: (it / "manifest.json").unlink(), "no complete backup"),
    (change_the_manifest, "checksum"),
    (make_it_newer, "format 99"),
]


def test_a_damaged_backup_changes_nothing(tmp_path: Path, settings: Settings) -> None:
    fill(settings)
    make_backup(settings, tmp_path / "whole", clock=now_ms)
    check_backup(tmp_path / "whole")
    before = files_of(settings.storage.data)
    for number, (harm, message) in enumerate(HARMS):
        backup = Path(shutil.copytree(tmp_path / "whole", tmp_path / f"harmed-{number}"))
        harm(backup)
        with pytest.raises(BackupError, match=message):
            check_backup(backup)
        with pytest.raises(BackupError, match=message):
            restored(settings, backup, replace=True)
        assert files_of(settings.storage.data) == before


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.startswith("LOG") and path.suffix != ".db-shm"
    }


def test_no_backup_or_restore_overwrites_by_accident(tmp_path: Path, settings: Settings) -> None:
    Platform.open(settings, build).close()
    make_backup(settings, tmp_path / "backup", clock=now_ms)
    with pytest.raises(BackupError, match="exists already"):
        make_backup(settings, tmp_path / "backup", clock=now_ms)
    with pytest.raises(BackupError, match="lost with it"):
        make_backup(settings, settings.storage.data / "backup", clock=now_ms)
    with pytest.raises(BackupError, match="--replace"):
        restored(settings, tmp_path / "backup")
    assert list(tmp_path.glob(".*")) == []
    remake(settings.storage.data)
    with pytest.raises(BackupError, match="users erased since"):
        restored(settings, tmp_path / "backup")
    left = {path.name for path in settings.storage.data.iterdir()}
    assert left == {SIGNING_KEY, ADOPTED_MODELS}
    restored(settings, tmp_path / "backup", without_tombstones=True)


@pytest.mark.slow
def test_a_restore_removes_no_files_of_others(tmp_path: Path, settings: Settings) -> None:
    """``tactful restore BACKUP --data ~`` removed everything in there, even without --replace."""
    Platform.open(settings, build).close()
    make_backup(settings, tmp_path / "backup", clock=now_ms)
    data = settings.storage.data
    remake(data)
    (data / "notes").mkdir()
    for replace_too in (False, True):
        with pytest.raises(BackupError, match="no data directory, it has 'notes'"):
            restored(settings, tmp_path / "backup", without_tombstones=True, replace=replace_too)
    assert (data / "notes").is_dir()


def erase(settings: Settings, person: str) -> None:
    with installed(settings) as installation:
        request_erasure(installation, person)
        complete_erasures(installation)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
def test_a_restore_erases_who_was_erased(tmp_path: Path, settings: Settings, lost: bool) -> None:
    tokens = Tokens(*FIELDS)
    with Live(Platform.open(settings, build)) as live:
        leave_traces(live, tokens)
        others(live)
    backup = tmp_path / "backup"
    make_backup(settings, backup, clock=now_ms)
    assert scan(backup, tokens.needles())
    erase(settings, tokens["user"])
    if lost:
        keys = settings.storage.data / "keyring.json"
        kept = keys.read_bytes()
        remake(settings.storage.data)
        keys.write_bytes(kept)
    restored(settings, backup, replace=True)
    assert (settings.storage.data / RESTORED).exists()
    Platform.open(settings, build).close()
    assert scan(settings.storage.data, tokens.needles()) == {}
    with Live(Platform.open(settings, build)) as live:
        told = live.http.post("/v1/events", json=[view(1, tokens["user"])]).json()
        assert told["rejected"][0]["code"] == "no_consent"
        assert values_of(live)[0]["views"] == 7


STATISTIC = Statistic(name="views", epsilon=Fraction(1), cap=5, keys=("a", "b"), pane_ms=60_000)


def draw(settings: Settings, start: int, value: int) -> Any:
    with contextlib.closing(Ledger(settings.storage.data / "ledger.db", daily_epsilon=2)) as ledger:
        ledger.register(STATISTIC)
        drawn = ledger.release_once(STATISTIC, start, lambda: np.array([value, value], np.int64))
        return list(drawn.noisy_counts)


def test_the_ledger_forgets_nothing_that_was_released(tmp_path: Path, settings: Settings) -> None:
    """A pane that was drawn since the backup would be drawn a second time."""
    Platform.open(settings, build).close()
    assert draw(settings, 0, 10) == [10, 10]
    make_backup(settings, tmp_path / "backup", clock=now_ms)
    assert draw(settings, 60_000, 20) == [20, 20]
    _, parts = restored(settings, tmp_path / "backup", replace=True)
    assert parts.ledger == "both"
    assert draw(settings, 60_000, 99) == [20, 20]
    assert draw(settings, 0, 99) == [10, 10]
    # An older ledger in the place is completed by the backup's as well.
    make_backup(settings, tmp_path / "later", clock=now_ms)
    (settings.storage.data / "ledger.db").unlink()
    draw(settings, 0, 10)
    restored(settings, tmp_path / "later", replace=True)
    assert draw(settings, 60_000, 99) == [20, 20]
    # A ledger that is no copy of the backup's is refused.
    (settings.storage.data / "ledger.db").unlink()
    draw(settings, 0, 11)
    before = files_of(settings.storage.data)
    with pytest.raises(BackupError, match="not copies"):
        restored(settings, tmp_path / "backup", replace=True)
    assert files_of(settings.storage.data) == before


def test_a_restore_resets_retention_and_counts_later(tmp_path: Path, settings: Settings) -> None:
    """Contributions since the backup are lost."""
    Platform.open(settings, build).close()
    draw(settings, 0, 10)
    with contextlib.closing(RocksState(settings.storage.data / "state")) as store:
        names = (b"cstatistics", b"cstatistics.changes")
        store.write([(name, b"counters of people") for name in names])
    # Retention may advance after the log was copied with records that it blanked since.
    (settings.storage.data / PROGRESS).write_text('{"until": {"impressions": 9}}')
    manifest = make_backup(settings, tmp_path / "backup", clock=now_ms)
    assert PROGRESS not in {file.path for file in manifest.files}
    restored(settings, tmp_path / "backup", clock=soon, replace=True)
    data = settings.storage.data
    assert int((data / NOT_BEFORE).read_text()) == 20_001 * DAY_MS
    with contextlib.closing(RocksState(data / "state", read_only=True)) as store:
        assert store.get_many(names) == [None, None]
    assert not (data / PROGRESS).exists()


def test_a_lost_ledger_may_have_released_today(tmp_path: Path, settings: Settings) -> None:
    """The backup has no ledger, so nothing is released of today."""
    Platform.open(settings, build).close()
    make_backup(settings, tmp_path / "backup", clock=now_ms)
    data = settings.storage.data
    assert not (data / "ledger.db").exists()
    remake(data)  # without a ledger that was begun since
    _, parts = restored(settings, tmp_path / "backup", clock=soon, without_tombstones=True)
    assert parts.ledger == "none"
    assert int((data / NOT_BEFORE).read_text()) == 20_001 * DAY_MS


def test_a_database_is_copied_beside_constant_writers(tmp_path: Path) -> None:
    """A copy that begins again with every change would not end."""
    source, row = tmp_path / "source.db", b"x" * 4_096
    with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (number INTEGER PRIMARY KEY, content BLOB)")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO t VALUES (?, ?)", ((n, row) for n in range(4_000)))
        connection.execute("COMMIT")
    ended, written = threading.Event(), threading.Event()

    def write() -> None:
        with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            for number in range(4_000, 200_000):
                connection.execute("INSERT INTO t VALUES (?, ?)", (number, b"new"))
                written.set()
                if ended.is_set():
                    break

    writer = threading.Thread(target=write)
    writer.start()
    written.wait(60)
    copy_database(source, tmp_path / "copy.db")
    assert writer.is_alive(), "the copy ended only when nobody wrote any more"
    ended.set()
    writer.join()
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        counted = connection.execute("SELECT min(number), count(*), max(number) FROM t")
        (first, count, last) = counted.fetchone()
    assert first == 0
    assert count == last + 1 > 4_000


@pytest.mark.parametrize("restored_today", [False, True])
def test_counting_anew_releases_nothing_of_the_day(tmp_path: Path, restored_today: bool) -> None:
    today = 20_000
    now = [today * DAY_MS + 3_600_000]
    path = tmp_path / "ledger.db"
    with contextlib.closing(Ledger(path, daily_epsilon=10)) as ledger:
        counter = StatisticsCounter(
            (LINES,),
            ledger,
            secret=b"a secret of these tests, 32 bytes",
            clock=lambda: now[0],
            not_before=(today + 1) * DAY_MS if restored_today else 0,
        )
        for hours in range(60):
            event = Event(event_id=f"e-{hours}", type="view", timestamp=now[0], user_id="a")
            counter.apply(event, None)
            counter.before_commit()
            now[0] += 3_600_000
        assert min(ledger.released_days(0, 30_000)[LINES.name]) == today + restored_today


def test_decisions_and_revoked_keys_outlive_a_restore(tmp_path: Path, settings: Settings) -> None:
    with open_keys(settings) as (metadata, keys):
        _, revoked = keys.create(["ingest"])
        consents = ConsentStore(metadata, NOTHING, clock=now_ms)
        consents.record("ada", {Purpose.PERSONALISATION: True}, source="test")
    make_backup(settings, tmp_path / "backup", clock=now_ms)
    with open_keys(settings) as (metadata, keys):
        keys.revoke(revoked.id)
        consents = ConsentStore(metadata, NOTHING, clock=now_ms)
        consents.record("ada", {Purpose.PERSONALISATION: False}, source="test")
    _, parts = restored(settings, tmp_path / "backup", replace=True)
    assert parts.metadata == "present"
    with open_keys(settings) as (metadata, keys):
        (key,) = keys.list()
        assert key.revoked_at is not None
        assert len(ConsentStore(metadata, NOTHING, clock=now_ms).history("ada")) == 2


def test_a_database_of_another_installation_is_refused(tmp_path: Path, settings: Settings) -> None:
    """An empty database is replaced."""
    with open_keys(settings) as (_, keys):
        keys.create(["ingest"])
    make_backup(settings, tmp_path / "backup", clock=now_ms)
    (settings.storage.data / "metadata.db").unlink()
    with open_keys(settings) as (_, keys):
        pass
    _, parts = restored(settings, tmp_path / "backup", replace=True, without_tombstones=True)
    assert parts.metadata == "backup"
    (settings.storage.data / "metadata.db").unlink()
    with open_keys(settings) as (_, keys):
        keys.create(["admin"])
    with pytest.raises(BackupError, match="neither empty nor later"):
        restored(settings, tmp_path / "backup", replace=True)


def test_erased_keys_of_the_vault_are_not_brought_back(tmp_path: Path, settings: Settings) -> None:
    data = settings.storage.data
    data.mkdir()
    master = tmp_path / "apart" / "master.key"
    master.write_text("6d" * 32)
    settings = replace(settings, privacy=PrivacySettings(master_key_file=master))
    keyring = Keyring(settings.keyring, clock=now_ms)

    def vault() -> Vault:
        return Vault(data / "vault.db", b"m" * 32, keyring)

    with contextlib.closing(vault()) as made:
        sealed = {name: made.seal(name, b"secret") for name in ("ada", "bob")}
    make_backup(settings, tmp_path / "backup", clock=now_ms)
    with contextlib.closing(vault()) as made:
        made.erase("ada")
    suppress(settings, "ada")
    # Also where the vault in place is lost: then the list of the erased says whose keys go.
    for lost in (False, True):
        if lost:
            (data / "vault.db").unlink()
        restored(settings, tmp_path / "backup", replace=True)
        with installed(settings) as installation:
            complete_erasures(installation)
        with contextlib.closing(vault()) as made:
            assert made.open(sealed["bob"]) == b"secret"
            with pytest.raises(SealError):
                made.open(sealed["ada"])


@pytest.mark.parametrize("inside", [False, True])
def test_keys_and_tombstones_elsewhere(tmp_path: Path, settings: Settings, inside: bool) -> None:
    """A copy elsewhere would keep deleted keys, or lose erased users."""
    data = settings.storage.data
    secrets = (data if inside else tmp_path / "apart") / "secrets"
    secrets.mkdir(parents=True)
    places: dict[str, Any] = {"keyring": secrets / "ring.json", "tombstones": secrets / "stones"}
    consent = replace(settings.consent, **places)
    settings = replace(settings, consent=consent, privacy=PrivacySettings(vault=secrets / "v.db"))
    keyring = Keyring(settings.keyring, clock=now_ms)
    with contextlib.closing(Vault(settings.vault, b"m" * 32, keyring)) as vault:
        vault.seal("ada", b"secret")
    (data / "log").mkdir(parents=True, exist_ok=True)
    manifest = make_backup(settings, tmp_path / "backup", clock=now_ms)
    assert any("vault: " in line for line in manifest.elsewhere) is not inside
    keyring.rotate()
    suppress(settings, "ada")
    before = settings.consent.tombstones.read_bytes()
    restored(settings, tmp_path / "backup", replace=True)
    assert settings.consent.tombstones.read_bytes() == before
    assert Keyring(settings.keyring, clock=now_ms).current == keyring.current
    assert not (data / "vault.db").exists()
    assert not (data / "keyring.json").exists()
    with installed(settings) as installation:
        assert "ada" in installation.suppression.suppressed


@pytest.mark.slow
def test_a_restore_opens_no_records_of_the_erased(tmp_path: Path, settings: Settings) -> None:
    """Sealed records of users erased after the backup stay sealed."""
    master = tmp_path / "apart" / "master.key"
    master.write_text("ab" * 32)
    settings = replace(settings, privacy=PrivacySettings(sealed_log=True, master_key_file=master))
    tokens = Tokens(*FIELDS)
    with Live(Platform.open(settings, build)) as live:
        leave_traces(live, tokens)
        others(live)
    backup = tmp_path / "backup"
    assert "master key" in str(make_backup(settings, backup, clock=now_ms).elsewhere)
    erase(settings, tokens["user"])
    restored(settings, backup, replace=True)
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/recommend", json={})
        assert values_of(live)[0]["views"] == 7
    assert scan(settings.storage.data, tokens.needles()) == {}


WORK = """
import pickle, time
from pathlib import Path
import tactful.maintenance.backup as backup, tactful.maintenance.restore as restore

settings = pickle.loads(Path(sys.argv[1]).read_bytes())
what, place = sys.argv[2], Path(sys.argv[3])

def clock():
    return time.time_ns() // 1_000_000

def work(count):
    sys.addaudithook(countdown(count, ("os.rename", "os.remove", "os.mkdir", "os.rmdir")))
    if what == "backup":
        backup.make_backup(settings, place, clock=clock)
    else:
        restore.restore_backup(settings, place, clock=clock, replace=True)
"""


def killed(
    settings: Settings, what: str, place: Path
) -> contextlib.AbstractContextManager[Callable[[int], bool]]:
    """Run work in a process that dies at its n-th change of a file."""
    written = settings.storage.data.parent / "settings.pickle"
    written.write_bytes(pickle.dumps(settings))
    return killed_after(WORK, written, what, place)


def steps() -> Iterator[int]:
    """Every change at first, then fewer: there are as many as files."""
    count = 0
    while count < 10_000:
        yield count
        count += 1 + count // 4


@pytest.mark.slow
def test_a_backup_killed_anywhere_is_none(tmp_path: Path, settings: Settings) -> None:
    fill(settings)
    target = tmp_path / "backup"
    kills = 0
    with killed(settings, "backup", target) as killed_at:
        for count in steps():
            if not killed_at(count):
                break
            kills += 1
            assert not target.exists()
            with pytest.raises(BackupError):
                read_manifest(target)
    assert kills >= 3
    check_backup(target)


@pytest.mark.slow
def test_a_killed_restore_is_the_old_or_the_new(tmp_path: Path, settings: Settings) -> None:
    fill(settings)
    backup = tmp_path / "backup"
    make_backup(settings, backup, clock=now_ms)
    fill(settings, 20)
    data, original = settings.storage.data, tmp_path / "original"
    shutil.copytree(data, original)
    old, new = log_of(settings), log_of(settings)[:20]
    seen: set[str] = set()
    kills = 0
    with killed(settings, "restore", backup) as killed_at:
        for count in steps():
            shutil.rmtree(data)
            shutil.copytree(original, data)
            if not killed_at(count):
                break
            kills += 1
            if (data / RESTORING / "ready").exists():
                with pytest.raises(BackupError, match="interrupted"):
                    open_installation(settings)
                with pytest.raises(BackupError, match="interrupted"):
                    make_backup(settings, tmp_path / "another", clock=now_ms)
            finish_restore(data)
            assert not (data / RESTORING).exists()
            found = log_of(settings)
            assert found in (old, new)
            seen.add("old" if found == old else "new")
            if found == new:
                assert (data / RESTORED).exists()
            open_installation(settings).close()
    assert kills >= 5
    assert seen == {"old", "new"}
    Platform.open(settings, build).close()


def test_the_commands_say_what_they_did(tmp_path: Path, settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        others(live)
        data = ["--data", str(settings.storage.data), "--json"]
        environment = {
            "TACTFUL_ENGINE__FEATURES": str(settings.features),
            "TACTFUL_CONSENT__TOMBSTONES": str(settings.consent.tombstones),
        }

        def run(*arguments: str) -> Any:
            shown = CliRunner().invoke(main, [*arguments, *data], env=environment)
            return shown.exit_code, shown.output

        code, said = run("backup", str(tmp_path / "backup"))
        assert code == 0, said
        assert json.loads(said)["log"] == [0, 20]
        code, said = run("restore", str(tmp_path / "backup"), "--replace")
        assert (code, "another process uses" in said) == (1, True)
    assert run("backup", str(tmp_path / "backup"), "--check")[0] == 0
    code, said = run("restore", str(tmp_path / "backup"), "--replace")
    assert code == 0, said
    told = json.loads(said)
    assert (told["erasures"], told["parts"]["metadata"]) == (0, "present")
    flip_a_bit(tmp_path / "backup")
    code, said = run("backup", str(tmp_path / "backup"), "--check")
    assert (code, "damaged" in said) == (1, True)


def test_a_keyring_in_a_backup_has_the_keys_of_its_metadata(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch begins while files are copied, and a user is erased under it."""
    Platform.open(settings, build).close()
    copy = backup.copy_database

    def rotating(source: Path, target: Path) -> None:
        if source.name == "metadata.db":
            Keyring(settings.keyring, clock=now_ms).rotate()
            suppress(settings, "ada")
        copy(source, target)

    monkeypatch.setattr(backup, "copy_database", rotating)
    make_backup(settings, tmp_path / "backup", clock=now_ms)
    monkeypatch.undo()
    remake(settings.storage.data)
    restored(settings, tmp_path / "backup", without_tombstones=True)
    with installed(settings) as installation:
        assert "ada" in installation.suppression.suppressed


def test_vault_keys_of_an_earlier_epoch_are_deleted(tmp_path: Path, settings: Settings) -> None:
    settings.storage.data.mkdir(exist_ok=True)
    with contextlib.closing(open_installation(settings)) as metadata:
        keyring = Keyring(settings.keyring, clock=now_ms)
        with contextlib.closing(Vault(tmp_path / "vault.db", bytes(32), keyring)) as vault:
            sealed = vault.seal("ada", b"secret")
            vault.seal("bob", b"secret")
        keyring.rotate()
        suppress(settings, "ada")
        rows = metadata.fetch(sa.select(suppressions.c.key_id, suppressions.c.digest))
        assert {row.key_id for row in rows} == set(keyring.key_ids)
    stones = [Pseudonym(row.key_id, bytes(row.digest)) for row in rows]
    assert drop_keys(tmp_path / "vault.db", stones) == 1
    with contextlib.closing(Vault(tmp_path / "vault.db", bytes(32), keyring)) as vault:
        assert vault.open_many([sealed]) == [None]
        assert vault.reference("bob") is not None


@pytest.fixture(params=SERVERS)
def on_server(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Settings]:
    """Settings with the metadata in a database server."""
    database = contextlib.contextmanager(empty_database)(request, settings.storage.data)
    with database as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("METADATA_OF_BACKUPS", str(url))
        yield replace(settings, metadata=MetadataSettings(url_env="METADATA_OF_BACKUPS"))


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
def test_metadata_in_a_database_server_are_as_they_were_left(
    tmp_path: Path, on_server: Settings, lost: bool
) -> None:
    """The server has the erased users, decisions and keys, also where the machine is lost."""
    settings, tokens = on_server, Tokens(*FIELDS)
    with Live(Platform.open(settings, build)) as live:
        leave_traces(live, tokens)
        others(live)
    with open_keys(settings) as (_, keys):
        _, revoked = keys.create(["ingest"])
    backup = tmp_path / "backup"
    manifest = make_backup(settings, backup, clock=now_ms)
    assert any("metadata: a database of its own" in line for line in manifest.elsewhere)
    assert not any(file.path == "metadata.db" for file in manifest.files)
    assert scan(backup, tokens.needles())
    with open_keys(settings) as (metadata, keys):
        keys.revoke(revoked.id)
        consents = ConsentStore(metadata, NOTHING, clock=now_ms)
        consents.record("other-1", {Purpose.PERSONALISATION: False}, source="test")
    erase(settings, tokens["user"])
    if lost:
        kept = settings.keyring.read_bytes()
        remake(settings.storage.data)
        settings.keyring.write_bytes(kept)
    _, parts = restored(settings, backup, replace=True)
    assert parts.metadata == "elsewhere"
    assert not (settings.storage.data / "metadata.db").exists()
    with installed(settings) as installation:
        assert complete_erasures(installation)
        assert tokens["user"] in installation.suppression.suppressed
    assert scan(settings.storage.data, tokens.needles()) == {}
    with open_keys(settings) as (metadata, keys):
        assert [key.revoked_at is not None for key in keys.list()] == [True]
        assert len(ConsentStore(metadata, NOTHING, clock=now_ms).history("other-1")) == 1
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/recommend", json={})
        assert live.http.get("/v1/users/other-0/features").json()["features"]["views"] == 7
