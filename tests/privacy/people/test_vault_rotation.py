"""Another master key: all or nothing, whenever the process dies, and the old one opens nothing."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tactful_privacy.errors import ParameterError, VaultError
from tactful_privacy.people import vault_file
from tactful_privacy.people.pseudonyms import Keyring
from tactful_privacy.people.vault import Vault
from tactful_privacy.people.vault_file import drop_keys, merge_vault, rewrap_vault

OLD, NEW, OTHER = (bytes([n] * 32) for n in (1, 2, 3))
PEOPLE = [f"person {n}" for n in range(250)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "v" / "vault.db"


@pytest.fixture
def sealed(path: Path, keyring: Keyring) -> list[bytes]:
    """Something of everybody, sealed before the master key changes."""
    vault = Vault(path, OLD, keyring)
    found = vault.seal_many(PEOPLE, [person.encode() for person in PEOPLE])
    vault.close()
    return found


def opens(path: Path, master: bytes, keyring: Keyring, sealed: list[bytes]) -> bool:
    """Whether a master key opens the whole vault."""
    with closing(Vault(path, master, keyring)) as vault:
        try:
            return vault.open_many(sealed) == [person.encode() for person in PEOPLE]
        except VaultError:
            return False


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run has several steps to die in."""
    monkeypatch.setattr(vault_file, "_BATCH", 100)


def kill_oneself(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_only_the_new_master_key_opens_the_vault(
    path: Path, keyring: Keyring, sealed: list[bytes]
) -> None:
    """The new master key opens everything and the old key nothing."""
    with closing(sqlite3.connect(path)) as connection:
        before = [row[0] for row in connection.execute("SELECT wrapped FROM people")]
    told: list[int] = []
    assert rewrap_vault(path, OLD, NEW, advanced=told.append) == len(PEOPLE) == sum(told)
    assert opens(path, NEW, keyring, sealed)
    assert not opens(path, OLD, keyring, sealed)
    assert rewrap_vault(path, OLD, NEW) == 0, "it was done"
    stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert not any(wrapped in stored for wrapped in before), "what the old key opens is gone"


@pytest.mark.alone  # its fork waits for locks that threads of other tests hold
@pytest.mark.parametrize("dies_after", [1, 2, 3])
def test_killed_rotation_keeps_the_old_key_and_repeats(
    path: Path, keyring: Keyring, sealed: list[bytes], in_child: Callable[..., int], dies_after: int
) -> None:
    """After a kill in the middle the old key opens everything, and a repetition succeeds."""
    told: list[int] = []

    def advanced(count: int) -> None:
        told.append(count)
        if len(told) == dies_after:
            kill_oneself()

    assert in_child(lambda: rewrap_vault(path, OLD, NEW, advanced=advanced)) == -signal.SIGKILL
    assert not opens(path, NEW, keyring, sealed)
    assert opens(path, OLD, keyring, sealed)
    assert rewrap_vault(path, OLD, NEW) == len(PEOPLE)
    assert opens(path, NEW, keyring, sealed)


@pytest.mark.alone  # its fork waits for locks that threads of other tests hold
def test_planted_wrapping_without_a_transaction_is_caught(
    path: Path,
    keyring: Keyring,
    sealed: list[bytes],
    in_child: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same kill, where every key is stored at once: then neither master key opens it all."""
    right = sqlite3.connect

    class Eager(sqlite3.Connection):
        def execute(self, sql: str, *more: object) -> sqlite3.Cursor:
            if sql in ("BEGIN IMMEDIATE", "COMMIT"):
                sql, more = "SELECT 1", ()
            return super().execute(sql, *more)  # type: ignore[arg-type]

    def connect(*what: object, **more: object) -> sqlite3.Connection:
        return right(*what, factory=Eager, **more)  # type: ignore[call-overload, no-any-return]

    with monkeypatch.context() as planted:
        planted.setattr(sqlite3, "connect", connect)
        killed = in_child(lambda: rewrap_vault(path, OLD, NEW, advanced=kill_oneself))
    assert killed == -signal.SIGKILL
    assert not opens(path, OLD, keyring, sealed)
    assert not opens(path, NEW, keyring, sealed)


def test_open_vault_makes_no_key_under_the_old_master(
    path: Path, keyring: Keyring, sealed: list[bytes]
) -> None:
    with closing(Vault(path, OLD, keyring)) as running:
        running.seal("person 0", b"more")
        rewrap_vault(path, OLD, NEW)
        with pytest.raises(VaultError, match="start again with the new one"):
            running.seal("somebody new", b"content")
        with pytest.raises(VaultError, match="start again with the new one"):
            running.open_many(sealed)
    assert opens(path, NEW, keyring, sealed), "nobody was wrapped by the old one since"


def test_new_person_during_rotation_has_one_valid_key(
    path: Path, keyring: Keyring, sealed: list[bytes]
) -> None:
    """Writers beside the change either come before it, or are refused."""
    found: list[bytes] = []
    began = threading.Event()

    def write() -> None:
        with closing(Vault(path, OLD, keyring)) as vault:
            for n in range(10_000):
                try:
                    found.append(vault.seal(f"new {n}", b"content"))
                except VaultError:
                    return
                began.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert began.wait(60)
    rewrap_vault(path, OLD, NEW)
    writer.join()
    with closing(Vault(path, NEW, keyring)) as vault:
        assert set(vault.open_many(found)) == {b"content"}


def test_reader_that_blocks_overwriting_is_reported(
    path: Path, keyring: Keyring, sealed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader keeps the old wrapped keys in the log, and the error says so."""
    monkeypatch.setattr(vault_file, "_WAIT_S", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        (before, *_), *_ = reader.execute("SELECT wrapped FROM people").fetchall()
        with pytest.raises(VaultError, match="stop that process, and run this again"):
            rewrap_vault(path, OLD, NEW)
        assert any(before in file.read_bytes() for file in path.parent.iterdir())
    assert rewrap_vault(path, OLD, NEW) == 0
    assert not any(before in file.read_bytes() for file in path.parent.iterdir())
    assert opens(path, NEW, keyring, sealed)


def test_wrong_keys_change_nothing(path: Path, keyring: Keyring, sealed: list[bytes]) -> None:
    with pytest.raises(VaultError, match="neither"):
        rewrap_vault(path, OTHER, NEW)
    with pytest.raises(ParameterError, match="32 bytes"):
        rewrap_vault(path, OLD, b"short")
    with pytest.raises(VaultError, match="no vault"):
        rewrap_vault(path.with_name("elsewhere.db"), OLD, NEW)
    assert not path.with_name("elsewhere.db").exists()
    with closing(sqlite3.connect(path)) as connection:  # as older versions left it
        connection.execute("DROP TABLE master")
    with pytest.raises(VaultError, match="the old key is not"):
        rewrap_vault(path, OTHER, NEW)
    with closing(Vault(path, OTHER, keyring)) as vault, pytest.raises(VaultError):
        vault.seal("somebody new", b"content")
    assert opens(path, OLD, keyring, sealed)
    assert rewrap_vault(path, OLD, NEW) == len(PEOPLE)


def test_older_backup_adds_no_unusable_keys(
    path: Path, keyring: Keyring, sealed: list[bytes], tmp_path: Path
) -> None:
    """A backup from before the rotation adds no key that the new master cannot open."""
    copy = tmp_path / "copy.db"
    shutil.copy(path, copy)
    with closing(Vault(path, OLD, keyring)) as vault:
        vault.erase("person 7")
    merge_vault(path, copy)
    with closing(Vault(path, OLD, keyring)) as vault:
        assert vault.open_many(sealed)[7] == b"person 7", "of one master key, until it is dropped"
    drop_keys(path, [keyring.pseudonym("person 7")])
    rewrap_vault(path, OLD, NEW)
    merge_vault(path, copy)
    with closing(Vault(path, NEW, keyring)) as vault:
        assert [n for n, it in enumerate(vault.open_many(sealed)) if it is None] == [7]
        assert vault.reference("person 7") is None


def test_epoch_of_another_process_makes_no_second_key(path: Path, keyring: Keyring) -> None:
    """Else an erasure would find one of the two, and leave what the other one sealed."""
    stale = Vault(path, OLD, Keyring(keyring.path, clock=lambda: 0))
    keyring.rotate()
    fresh = Vault(path, OLD, Keyring(keyring.path, clock=lambda: 0))
    first = fresh.seal("ada", b"of the new epoch")
    second = stale.seal("ada", b"of one who did not see it")
    assert first[1:17] == second[1:17]
    assert stale.erase("ada")
    assert fresh.open_many([first, second]) == [None, None]
    fresh.close()
    stale.close()


def test_epochs_that_begin_at_once_lose_no_key(keyring: Keyring) -> None:
    rings = [Keyring(keyring.path, clock=lambda: 0) for _ in range(4)]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(Keyring.rotate, rings * 3))
    keyring.follow()
    assert len(set(keyring.key_ids)) == 13
