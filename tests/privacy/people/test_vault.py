"""Sealed for a person, and lost when their key is deleted."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tactful_privacy.errors import KeyringError, ParameterError, SealError, VaultError
from tactful_privacy.people.pseudonyms import Keyring
from tactful_privacy.people.vault import Vault

MASTER = bytes(range(32))


@pytest.fixture
def vault(tmp_path: Path, keyring: Keyring) -> Vault:
    return Vault(tmp_path / "vault" / "vault.db", MASTER, keyring)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.binary(max_size=200), st.binary(max_size=20))
def test_what_is_sealed_is_opened(
    vault: Vault, person: str, content: bytes, context: bytes
) -> None:
    sealed = vault.seal(person, content, context=context)
    assert vault.open(sealed, context=context) == content
    assert len(content) < 8 or content not in sealed
    assert vault.seal(person, content, context=context) != sealed
    with pytest.raises(SealError, match="changed, or belong"):
        vault.open(sealed, context=context + b"elsewhere")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_bit_is_noticed(vault: Vault, data: st.DataObject) -> None:
    sealed = bytearray(vault.seal("ada", b"content"))
    place = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[place // 8] ^= 1 << place % 8
    with pytest.raises(SealError):
        vault.open(bytes(sealed))
    with pytest.raises(SealError):
        vault.open(bytes(sealed[: place // 8]))


def test_it_is_aes_256_gcm_under_a_wrapped_key(tmp_path: Path, keyring: Keyring) -> None:
    drawn = []

    def random(count: int) -> bytes:
        drawn.append(secrets.token_bytes(count))
        return drawn[-1]

    vault = Vault(tmp_path / "vault.db", MASTER, keyring, random=random)
    sealed = vault.seal("ada", b"content", context=b"row 7")
    _, reference, key, wrapping, nonce = drawn
    assert [len(each) for each in drawn] == [12, 16, 32, 12, 12]
    assert sealed[:29] == b"\x01" + reference + nonce
    assert AESGCM(key).decrypt(nonce, sealed[29:], sealed[:29] + b"row 7") == b"content"
    stored = (tmp_path / "vault.db").read_bytes() + (tmp_path / "vault.db-wal").read_bytes()
    assert key not in stored
    assert wrapping + AESGCM(MASTER).encrypt(wrapping, key, reference) in stored
    vault.close()


def test_erased_key_opens_nothing_and_is_in_no_file(tmp_path: Path, keyring: Keyring) -> None:
    """After an erasure nothing opens the bytes, and no file holds the key."""
    path = tmp_path / "v" / "vault.db"
    vault = Vault(path, MASTER, keyring)
    sealed, other = vault.seal("ada", b"content"), vault.seal("bob", b"other")
    reference = sealed[1:17]
    assert any(reference in file.read_bytes() for file in path.parent.iterdir())
    assert vault.erase("ada")
    assert not vault.erase("ada")
    with pytest.raises(SealError, match="deleted"):
        vault.open(sealed)
    assert vault.open(other) == b"other"
    assert not any(reference in file.read_bytes() for file in path.parent.iterdir())
    # Somebody of the same id begins anew.
    assert vault.seal("ada", b"again")[1:17] != reference
    vault.close()


def test_people_are_joined_across_epochs_here_alone(vault: Vault, keyring: Keyring) -> None:
    sealed = vault.seal("ada", b"content")
    vault.seal("bob", b"content")
    first = keyring.current
    keyring.rotate()
    assert vault.reference("ada") == sealed[1:17]
    assert vault.reference("cyd") is None
    assert vault.seal("ada", b"more")[1:17] == sealed[1:17]
    keyring.destroy(first)
    # Ada was seen in the new epoch, and Bob was not: nobody can tell any more that he is known.
    assert vault.reference("ada") == sealed[1:17]
    assert vault.reference("bob") is None
    assert vault.open(sealed) == b"content"
    with pytest.raises(KeyringError):
        keyring.pseudonym("bob", key_id=first)
    assert vault.erase("ada")


def test_another_master_key_is_refused(tmp_path: Path, keyring: Keyring) -> None:
    path = tmp_path / "vault.db"
    vault, other = Vault(path, MASTER, keyring), Vault(path, bytes(32), keyring)
    other.check()  # there is nothing yet that could tell
    sealed = vault.seal("ada", b"content")
    vault.check()
    for use in (other.check, lambda: other.open(sealed), lambda: other.seal("ada", b"more")):
        with pytest.raises(VaultError, match="master key"):
            use()
    with pytest.raises(ParameterError, match="32 bytes"):
        Vault(path, b"short", keyring)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "text").write_bytes(b"this is no database, however long one looks at it" * 100)
    with pytest.raises(VaultError, match="cannot be used"):
        Vault(tmp_path / "text", MASTER, keyring)


def test_many_writers_give_a_person_one_key(tmp_path: Path, keyring: Keyring) -> None:
    path = tmp_path / "vault.db"
    vaults = [Vault(path, MASTER, keyring) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        sealed = list(pool.map(lambda n: vaults[n % 4].seal(f"p-{n % 3}", b"x"), range(48)))
    assert len({each[1:17] for each in sealed}) == 3
    assert all(vaults[0].open(each) == b"x" for each in sealed)


def test_the_library_is_loaded_with_the_first_vault_only() -> None:
    code = "import sys, tactful_privacy; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_batches_open_until_another_process_erases(tmp_path: Path, keyring: Keyring) -> None:
    """Many messages are sealed at once and opened until another process erases one."""
    here, there = (Vault(tmp_path / "vault.db", MASTER, keyring, remembered=3) for _ in range(2))
    people = ["ada", "bob", "ada", "cyd", "dan", "eve"]
    contents = [f"{number} of {person}".encode() for number, person in enumerate(people)]
    sealed = here.seal_many(people, contents, context=b"log")
    assert here.open_many(sealed, context=b"log") == contents
    assert there.open_many(sealed, context=b"log") == contents
    assert len({one[1:17] for one in sealed}) == 5
    assert len({one[17:29] for one in sealed}) == 6
    assert here.erase("ada")
    without = [c if p != "ada" else None for p, c in zip(people, contents, strict=True)]
    for vault in (here, there):
        assert vault.open_many(sealed, context=b"log") == without
    (again,) = there.seal_many(["ada"], [b"a new life"], context=b"log")
    assert again[1:17] != sealed[0][1:17]
    assert here.open_many([again, sealed[0]], context=b"log") == [b"a new life", None]
    assert here.open_many([], context=b"log") == []
    with pytest.raises(SealError, match="changed, or belong"):
        here.open_many([again, sealed[1][:-1] + b"?"], context=b"log")
    with pytest.raises(SealError, match="not sealed"):
        here.open_many([again, b"{}"], context=b"log")


def test_number_of_keys_in_memory_is_limited(tmp_path: Path, keyring: Keyring) -> None:
    vault = Vault(tmp_path / "vault.db", MASTER, keyring, remembered=3)
    for people, held in ((["ada", "bob"], 2), (["cyd"], 3), (["dan", "eve"], 2)):
        if len(people) == 1:
            vault.seal(people[0], b"content")
        else:
            vault.seal_many(people, [b"content"] * 2)
        assert len(vault._ciphers) == held


def test_erasing_beside_many_readers_leaves_no_key_remembered(
    tmp_path: Path, keyring: Keyring
) -> None:
    vault = Vault(tmp_path / "vault.db", MASTER, keyring)
    other = Vault(tmp_path / "vault.db", MASTER, keyring)
    people = [f"person {number}" for number in range(40)]
    sealed = vault.seal_many(people, [b"content"] * 40)

    def use(number: int) -> None:
        if number % 5 == 0:
            other.erase(people[number])
        else:
            vault.open_many(sealed)
            vault.seal_many(people[1::5], [b"more"] * 8)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(40)))
    opened = vault.open_many(sealed)
    assert [content is None for content in opened] == [n % 5 == 0 for n in range(40)]


def test_an_erasure_waits_for_readers_of_the_old_page(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader keeps the deleted key in the write-ahead log: the erasure is not done then."""
    path = tmp_path / "vault.db"
    monkeypatch.setattr("tactful_privacy.people.vault._WAIT_S", 0.05)
    vault = Vault(path, MASTER, keyring)
    vault.seal("ada", b"text")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        (wrapped,) = reader.execute("SELECT wrapped FROM people").fetchone()
        with pytest.raises(VaultError, match="another process reads it"):
            vault.erase("ada")
        assert any(wrapped in file.read_bytes() for file in tmp_path.glob("vault.db*"))
    assert not vault.erase("ada"), "the key is deleted, its bytes follow"
    assert not any(wrapped in file.read_bytes() for file in tmp_path.glob("vault.db*"))
    vault.close()
