"""``tactful privacy rotate`` resumes after a kill, without loss of a key."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from tests.alone import alone
from tests.platform.support import now_ms

from tactful.cli.main import main
from tactful.config.privacy import PrivacySettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.errors import ConfigError, StorageError
from tactful.event_log.encryption import RecordSeal, open_seal
from tactful.maintenance import key_rotation
from tactful.maintenance.key_rotation import begin_epoch, change_master_key
from tactful.metadata.connections import open_installation
from tactful.metadata.directory_lock import exclusive
from tactful.metadata.tables import suppressions
from tactful.subjects.suppression import open_suppression
from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.log.segment import BLANK

OLD, NEW = "01" * 32, "02" * 32


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "master.key").write_text(OLD + "\n")
    return Settings(
        storage=StorageSettings(data=tmp_path / "data"),
        privacy=PrivacySettings(sealed_log=True, master_key_file=tmp_path / "master.key"),
    )


@pytest.fixture
def new(tmp_path: Path) -> Path:
    (tmp_path / "new.key").write_text(NEW + "\n")
    return tmp_path / "new.key"


def of(person: str) -> bytes:
    return encode_entry(Event(event_id=f"of-{person}", type="view", timestamp=1, user_id=person))


@contextmanager
def sealing(settings: Settings) -> Iterator[RecordSeal]:
    seal = open_seal(settings, clock=now_ms)
    assert seal is not None
    with closing(seal):
        yield seal


def sealed(settings: Settings, *people: str) -> list[bytes]:
    with sealing(settings) as seal:
        return seal.seal([of(person) for person in people])


def opened(settings: Settings, records: list[bytes]) -> list[bytes]:
    with sealing(settings) as seal:
        return seal.open(records)


def rotate(settings: Settings, *arguments: object) -> Result:
    data, key = settings.storage.data, settings.privacy.master_key_file
    environment = {"TACTFUL_PRIVACY__MASTER_KEY_FILE": str(key)}
    what = ["privacy", "rotate", "--data", str(data), *map(str, arguments)]
    return CliRunner().invoke(main, what, env=environment)


def test_the_old_key_is_overwritten_by_the_new(settings: Settings, new: Path) -> None:
    records = sealed(settings, "ada", "bob")
    key = settings.privacy.master_key_file
    with key.open("rb") as old:
        result = rotate(settings, "--master-key-file", new, "--json")
        assert result.exit_code == 0, result.output
        assert old.read() == bytes(len(OLD) + 1), "the file that was there"
    assert json.loads(result.stdout) == {"wrapped": 2, "destroyed": True, "todo": ""}
    assert key.read_text().strip() == NEW
    assert key.stat().st_mode & 0o777 == 0o600
    assert not new.exists()
    assert opened(settings, records) == [of("ada"), of("bob")]
    stale = key.with_name("stale.key")
    stale.write_text(OLD)
    old_key = replace(settings, privacy=replace(settings.privacy, master_key_file=stale))
    with pytest.raises(StorageError, match="master key"):
        open_seal(old_key, clock=now_ms)


def kill_oneself(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


KILLED_BEFORE: dict[str, tuple[object, str]] = {
    "the vault is through": (key_rotation, "rewrap_vault"),
    "the file of the settings has it": (key_rotation, "_replace"),
    "the new file is removed": (Path, "unlink"),
}


def rotate_until_killed(settings: Settings, new: Path, place: str) -> None:
    pytest.MonkeyPatch().setattr(*KILLED_BEFORE[place], kill_oneself)
    change_master_key(settings, new)


@pytest.mark.parametrize("place", KILLED_BEFORE)
def test_a_killed_rotation_goes_on(settings: Settings, new: Path, place: str) -> None:
    records = sealed(settings, "ada", "bob")
    with pytest.raises(BrokenProcessPool):
        alone(rotate_until_killed, settings, new, place)
    result = rotate(settings, "--master-key-file", new)
    assert result.exit_code == 0, result.output
    assert opened(settings, records) == [of("ada"), of("bob")]
    assert settings.privacy.master_key_file.read_text().strip() == NEW
    assert not new.exists()


def test_a_key_in_the_environment_is_left_to_its_owner(
    settings: Settings, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_MASTER_KEY", OLD)
    held = replace(
        settings, privacy=PrivacySettings(sealed_log=True, master_key_env="SHOP_MASTER_KEY")
    )
    records = sealed(held, "ada")
    done = change_master_key(held, new)
    assert (done.wrapped, done.destroyed) == (1, False)
    assert "SHOP_MASTER_KEY" in done.todo
    assert new.exists()
    monkeypatch.setenv("SHOP_MASTER_KEY", NEW)
    assert opened(held, records) == [of("ada")]


def test_what_cannot_be_is_refused_and_changes_nothing(settings: Settings, new: Path) -> None:
    assert rotate(settings).exit_code == 2
    records = sealed(settings, "ada")
    with pytest.raises(ConfigError, match="another file"):
        change_master_key(settings, settings.privacy.master_key_file)
    new.write_text("short")
    with pytest.raises(ConfigError, match="32"):
        change_master_key(settings, new)
    new.write_text(NEW)
    with exclusive(settings.storage.data):
        assert rotate(settings, "--master-key-file", new).exit_code != 0, "a server is running"
    assert opened(settings, records) == [of("ada")]


def test_people_of_earlier_epochs_are_found_refused_and_erased(settings: Settings) -> None:
    records = sealed(settings, "ada", "bob")
    metadata = open_installation(settings)
    running = open_suppression(settings, metadata, clock=now_ms)
    running.suppress(["cyd"])
    result = rotate(settings, "--pseudonyms", "--json")
    assert result.exit_code == 0, result.output
    first = json.loads(result.stdout)["epoch"]
    assert begin_epoch(settings, clock=now_ms) != first
    running.suppress(["dan"])
    started = open_suppression(settings, metadata, clock=now_ms)
    started.suppress(["eve"])
    running.refresh()
    for store in (running, started):
        assert [person in store.suppressed for person in ("cyd", "dan", "eve")] == [True] * 3
        assert "ada" not in store.suppressed
    every = opened(settings, [*records, *sealed(settings, "ada")])
    assert every == [of("ada"), of("bob"), of("ada")]
    with sealing(settings) as seal:
        assert len(seal.references(["ada", "bob"])) == 2
        assert seal.erase(["ada"]) == 1
        assert seal.open(records) == [BLANK, of("bob")]
    metadata.close()


def test_erasures_use_an_epoch_of_another_process(settings: Settings) -> None:
    """The vault may hold that epoch only; a user of two epochs is one user."""
    settings.storage.data.mkdir()
    stones = settings.storage.data / "stones"
    kept = replace(settings, consent=replace(settings.consent, tombstones=stones))
    with closing(open_installation(kept)) as metadata:
        running = open_suppression(kept, metadata, clock=now_ms)
        epoch = begin_epoch(kept, clock=now_ms)
        running.suppress(["ada", "bob"])
        noted = metadata.fetch(sa.select(suppressions))
        assert [row.key_id for row in noted].count(epoch) == 2
        assert len(noted) == 4
        metadata.change(lambda connection: connection.execute(sa.delete(suppressions)))
        assert open_suppression(kept, metadata, clock=now_ms).take_tombstones() == 2
