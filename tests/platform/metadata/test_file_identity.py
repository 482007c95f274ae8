"""Metadata and a vault that are not those of their data directory are refused by name."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.platform.support import small_settings

from tactful.cli.main import main
from tactful.config.privacy import PrivacySettings
from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.event_log.encryption import RecordSeal, open_seal
from tactful.metadata.connections import open_installation
from tactful.util.clock import now_ms
from tactful_streaming.contract.log_entries import Event, encode_entry

PAYLOAD = encode_entry(Event(event_id="e", type="view", timestamp=5, user_id="ada"))


def sealed_settings(folder: Path) -> Settings:
    folder.mkdir(exist_ok=True)
    key = folder / "master.key"
    key.write_text("a5" * 32)
    privacy = PrivacySettings(sealed_log=True, master_key_file=key)
    settings = replace(small_settings(folder), privacy=privacy)
    settings.storage.data.mkdir(exist_ok=True)
    return settings


def seal(settings: Settings) -> RecordSeal:
    opened = open_seal(settings, clock=now_ms)
    assert opened is not None
    return opened


def forge(path: Path, other: Path) -> None:
    """Put a file in place of a database, without its journals."""
    for journal in path.parent.glob(path.name + "-*"):
        journal.unlink()
    path.write_bytes(other.read_bytes())


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path, other: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [(empty, "emptied or replaced"), (forge, "of another installation"), (remove, "missing")],
)
def test_a_vault_of_other_keys_is_refused(
    tmp_path: Path, damage: Callable[[Path, Path], None], problem: str
) -> None:
    """Sealed records do not open blank where the vault was emptied or exchanged."""
    settings, other = sealed_settings(tmp_path / "a"), sealed_settings(tmp_path / "b")
    with closing(seal(other)) as foreign:
        foreign.seal([PAYLOAD])
    with closing(seal(settings)) as own:
        (record,) = own.seal([PAYLOAD])
    with closing(seal(settings)) as own:
        assert own.open([record]) == [PAYLOAD]
    damage(settings.vault, other.vault)
    content = settings.vault.read_bytes() if settings.vault.exists() else None
    for switched_off in (False, True):
        privacy = replace(settings.privacy, sealed_log=not switched_off)
        with pytest.raises(StorageError, match=problem) as refused:
            open_seal(replace(settings, privacy=privacy), clock=now_ms)
        assert str(refused.value).startswith(str(settings.vault))
        assert "--accept-loss" in str(refused.value)
    after = settings.vault.read_bytes() if settings.vault.exists() else None
    assert after == content, "nothing was changed"


@pytest.mark.parametrize(
    ("damage", "problem"), [(empty, "emptied or replaced"), (forge, "of another installation")]
)
def test_metadata_of_others_are_refused_until_the_loss_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    damage: Callable[[Path, Path], None],
    problem: str,
) -> None:
    """Emptied or exchanged metadata are refused by name, and accepted once on demand."""
    settings, other = sealed_settings(tmp_path / "a"), sealed_settings(tmp_path / "b")
    for one in (settings, other):
        for _ in range(2):
            open_installation(one).close()
    data = settings.storage.data
    damage(data / "metadata.db", other.storage.data / "metadata.db")
    with pytest.raises(StorageError, match=problem):
        open_installation(settings)
    for command in (["keys", "list"], ["serve", "--dev", "--port", "0"]):
        shown = CliRunner().invoke(main, [*command, "--data", str(data)])
        assert shown.exit_code == 1
        assert f"{data / 'metadata.db'} " in shown.output
        assert "--accept-loss" in shown.output
    monkeypatch.setattr("tactful.workers.pool.run_server", lambda *_, **__: None)
    accepted = CliRunner().invoke(main, ["serve", "--accept-loss", "--data", str(data)])
    assert accepted.exit_code == 0, accepted.output
    for _ in range(2):
        open_installation(settings).close()


def test_a_lost_vault_is_accepted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the loss accepted, a new vault seals, and earlier records stay blank."""
    settings = sealed_settings(tmp_path)
    with closing(seal(settings)) as own:
        (record,) = own.seal([PAYLOAD])
    empty(settings.vault, settings.vault)
    monkeypatch.setattr("tactful.workers.pool.run_server", lambda *_, **__: None)
    data = str(settings.storage.data)
    accepted = CliRunner().invoke(main, ["serve", "--accept-loss", "--data", data])
    assert accepted.exit_code == 0, accepted.output
    for _ in range(2):
        with closing(seal(settings)) as own:
            assert own.open([record, *own.seal([PAYLOAD])])[1:] == [PAYLOAD]
            assert own.open([record]) != [PAYLOAD]


def test_metadata_moved_away_begin_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An operator may move the metadata away; this is logged, and the new ones are marked."""
    settings = small_settings(tmp_path)
    settings.storage.data.mkdir(exist_ok=True)
    open_installation(settings).close()
    file, mark = (settings.storage.data / name for name in ("metadata.db", "metadata.db.id"))
    before = mark.read_text()
    file.unlink()
    open_installation(settings).close()
    assert f"{file} is missing and begins anew" in caplog.text
    assert mark.read_text() != before
    open_installation(settings).close()


def test_a_copied_directory_is_its_own(tmp_path: Path) -> None:
    """The number travels with a copy of database and mark, and an older directory gets one."""
    settings = small_settings(tmp_path)
    settings.storage.data.mkdir(exist_ok=True)
    open_installation(settings).close()
    mark = settings.storage.data / "metadata.db.id"
    number = mark.read_text()
    mark.unlink()
    open_installation(settings).close()
    assert mark.read_text() == number
