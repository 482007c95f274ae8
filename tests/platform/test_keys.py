"""API keys: what is stored, what is accepted, and when a revocation takes effect."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tactful.errors import ApiKeyError, StorageError
from tactful.keys import SCOPES, KeyStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    times = itertools.count(1_000)
    opened = KeyStore(tmp_path / "keys.db", clock=lambda: next(times))
    yield opened
    opened.close()


def test_a_key_is_accepted_as_what_it_is(store: KeyStore) -> None:
    key, about = store.create(["ingest", "recommend"], note="shop")

    found = store.check(key)

    assert found == about
    assert (found.note, found.scopes) == ("shop", frozenset({"ingest", "recommend"}))
    assert [found.allows(scope) for scope in SCOPES] == [True, True, False, False, False]


def test_admin_may_do_everything(store: KeyStore) -> None:
    key, _ = store.create(["admin"])

    found = store.check(key)

    assert found is not None
    assert all(found.allows(scope) for scope in SCOPES)


def test_only_the_hash_is_on_disk(store: KeyStore, tmp_path: Path) -> None:
    key, _ = store.create(["analyst"])
    secret = key.split("_", 2)[2]
    store.close()

    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())

    assert hashlib.sha256(key.encode()).digest() in stored
    assert secret.encode() not in stored


def test_every_other_key_is_refused(store: KeyStore) -> None:
    key, about = store.create(["admin"])
    other, _ = store.create(["admin"])
    flipped = key[:-2] + ("A" if key[-2] != "A" else "B") + key[-1]

    assert other != key
    for wrong in (
        "",
        "tactful_",
        flipped,
        key + "A",
        key[:-1],
        key.upper(),
        f" {key}",
        f"{key}\n",
        f"tactful_{about.id}_{'A' * 43}",
        f"tactful_00000000_{'A' * 43}",
        "tactful_" + other.split("_")[1] + "_" + key.split("_", 2)[2],
        "ключ",
    ):
        assert store.check(wrong) is None, wrong


def test_secrets_have_256_bits(tmp_path: Path) -> None:
    asked: list[int] = []

    def token(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    store = KeyStore(tmp_path / "k.db", clock=lambda: 0, token=token)
    key, _ = store.create(["ingest"])
    store.close()

    assert asked == [4, 32]
    assert key == "tactful_00010203_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"


def test_revocation_is_final_and_seen_by_other_processes(store: KeyStore, tmp_path: Path) -> None:
    key, about = store.create(["ingest"])
    server = KeyStore(tmp_path / "keys.db", clock=lambda: 0)
    assert server.check(key) == about

    store.revoke(about.id)
    server.refresh()

    assert store.check(key) is None
    assert server.check(key) is None
    assert [known.revoked_at is None for known in store.list()] == [False]
    with pytest.raises(ApiKeyError, match="no valid key"):
        store.revoke(about.id)
    late, _ = store.create(["ingest"])
    assert server.check(late) is None
    server.refresh()
    assert server.check(late) is not None
    server.close()


def test_keys_survive_a_restart(store: KeyStore, tmp_path: Path) -> None:
    key, about = store.create(["monitor"])
    store.close()

    again = KeyStore(tmp_path / "keys.db", clock=lambda: 0)

    assert again.check(key) == about
    assert again.list() == [about]
    again.close()


def test_wrong_scopes_are_refused(store: KeyStore) -> None:
    with pytest.raises(ApiKeyError, match="unknown scope 'root'"):
        store.create(["ingest", "root"])
    with pytest.raises(ApiKeyError, match="at least one scope"):
        store.create([])
    assert store.list() == []


def test_an_unusable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys.db").write_bytes(b"not a database" * 100)

    with pytest.raises(StorageError, match=r"keys\.db"):
        KeyStore(tmp_path / "keys.db", clock=lambda: 0)
