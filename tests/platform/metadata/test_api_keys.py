"""API keys: what is stored, what is accepted, and when a revocation takes effect."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.platform.databases import Location

from tactful.errors import ApiKeyError, StorageError
from tactful.metadata.api_keys import SCOPES, ApiKey, KeyLimits, KeyStore, KeyUse
from tactful.metadata.store import open_metadata


@contextmanager
def opened(location: Location, **options: Any) -> Iterator[KeyStore]:
    with closing(open_metadata(location)) as metadata:
        yield KeyStore(metadata, **{"clock": lambda: 0} | options)


@pytest.fixture
def store(location: Location) -> Iterator[KeyStore]:
    times = itertools.count(1_000)
    with opened(location, clock=lambda: next(times)) as keys:
        yield keys


def test_a_key_is_accepted_as_what_it_is(store: KeyStore) -> None:
    key, about = store.create(["ingest", "recommend"], note="shop")
    found = store.check(key)
    assert found == about
    assert (found.note, found.scopes) == ("shop", frozenset({"ingest", "recommend"}))
    assert [found.allows(scope) for scope in SCOPES] == [True, True, *[False] * 5]
    admin = store.check(store.create(["admin"])[0])
    assert admin is not None
    assert all(admin.allows(scope) for scope in SCOPES)


def test_only_the_hash_is_on_disk(tmp_path: Path) -> None:
    with opened(tmp_path / "keys.db") as store:
        key, _ = store.create(["analyst"])
    secret = key.split("_", 2)[2]
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert hashlib.sha256(key.encode()).digest() in stored
    assert secret.encode() not in stored


def test_every_other_key_is_refused(store: KeyStore) -> None:
    key, about = store.create(["admin"])
    other, _ = store.create(["admin"])
    flipped = key[:-2] + ("A" if key[-2] != "A" else "B") + key[-1]
    assert other != key
    for wrong in (
        *("", "tactful_", "ключ", flipped),
        *(key + "A", key[:-1], key.upper(), f" {key}", f"{key}\n"),
        f"tactful_{about.id}_{'A' * 43}",
        f"tactful_00000000_{'A' * 43}",
        "tactful_" + other.split("_")[1] + "_" + key.split("_", 2)[2],
    ):
        assert store.check(wrong) is None, wrong


def test_secrets_have_256_bits(tmp_path: Path) -> None:
    asked: list[int] = []

    def token(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    with opened(tmp_path / "k.db", token=token) as store:
        key, _ = store.create(["ingest"])
    assert asked == [4, 32]
    assert key == "tactful_00010203_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"


def test_revocation_is_final_and_followed(store: KeyStore, location: Location) -> None:
    key, about = store.create(["ingest"])
    with opened(location) as server:
        assert server.check(key) == about
        assert server.list() == [about]
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


def test_wrong_scopes_are_refused(store: KeyStore) -> None:
    with pytest.raises(ApiKeyError, match="unknown scope 'root'"):
        store.create(["ingest", "root"])
    with pytest.raises(ApiKeyError, match="at least one scope"):
        store.create([])
    assert store.list() == []


# Ends, limits and uses.

DAY = 86_400_000


def test_a_key_expires_and_says_when(location: Location) -> None:
    now = 1_000
    with opened(location, clock=lambda: now) as store:
        key, about = store.create(["ingest"], lasts_ms=DAY)
        assert about.expires_at == 1_000 + DAY
        assert store.check(key) == about
        now += DAY - 1
        assert (store.check(key), store.expired_at(key)) == (about, None)
        now += 1
        assert (store.check(key), store.expired_at(key)) == (None, about.expires_at)
        assert store.expired_at(f"tactful_{about.id}_{'A' * 43}") is None
        with pytest.raises(ApiKeyError, match="no valid key"):
            store.rotate(about.id, overlap_ms=DAY)
        now -= DAY  # a clock that was set back
        assert store.check(key) == about


def test_a_rotated_key_overlaps_with_the_new_one(location: Location) -> None:
    now = 1_000
    limits = KeyLimits(rate=2.5, burst=7, requests_per_day=10**12, events_per_day=5)
    with opened(location, clock=lambda: now) as store, opened(location, clock=lambda: now) as other:
        old, about = store.create(["ingest", "recommend"], note="é", lasts_ms=90 * DAY)
        store.limit(about.id, limits)
        now += 80 * DAY
        new, replaced = store.rotate(about.id, overlap_ms=7 * DAY)
        assert (replaced.scopes, replaced.note, replaced.limits) == (
            *(about.scopes, about.note),
            limits,
        )
        assert replaced.expires_at == now + 90 * DAY
        other.refresh()
        assert [store.check(each) is not None for each in (old, new)] == [True, True]
        now += 7 * DAY
        assert [other.check(each) is not None for each in (old, new)] == [False, True]
        # An overlap gives no key more time than it had.
        _, third = store.rotate(replaced.id, overlap_ms=900 * DAY, lasts_ms=DAY)
        assert third.expires_at == now + DAY
        ends = {each.id: each.expires_at for each in store.list()}
        assert ends[replaced.id] == replaced.expires_at
        for_ever, lasting = store.create(["ingest"])
        fresh, again = store.rotate(lasting.id, overlap_ms=0)
        assert (again.expires_at, store.check(for_ever)) == (None, None)
        assert store.check(fresh) == again


def test_limits_are_replaced_as_a_whole(store: KeyStore, location: Location) -> None:
    key, about = store.create(["ingest"], limits=KeyLimits(rate=0.5))
    with opened(location) as server:
        for limits in (KeyLimits(events_per_day=3), KeyLimits(), None):
            store.limit(about.id, limits)
            server.refresh()
            found = server.check(key)
            assert found is not None
            assert found.limits == (limits if limits != KeyLimits() else None)
    for wrong in (
        KeyLimits(rate=0),
        KeyLimits(rate=float("nan")),
        KeyLimits(events_per_day=-1),
        KeyLimits(burst=3),
    ):
        with pytest.raises(ApiKeyError, match="the limit"):
            store.limit(about.id, wrong)
        with pytest.raises(ApiKeyError, match="the limit"):
            store.create(["ingest"], limits=wrong)
    assert len(store.list()) == 1
    with pytest.raises(ApiKeyError, match="no valid key"):
        store.limit("00000000", None)


def test_uses_add_up_and_days_replace_each_other(store: KeyStore) -> None:
    a, b = KeyUse("0000000a", 5, 3, 4), KeyUse("0000000b", 5, 0, 0)
    assert store.uses() == {}
    assert [*store.record_uses([a, b])] == [a, b]
    assert [*store.record_uses([a])] == [KeyUse("0000000a", 5, 6, 8)]
    assert [*store.record_uses([KeyUse("0000000a", 5, 0, -3)])] == [KeyUse("0000000a", 5, 6, 5)]
    earlier = KeyUse("0000000a", 4, 1, 1)
    assert [*store.record_uses([earlier])] == [KeyUse("0000000a", 5, 7, 6)]
    later = KeyUse("0000000a", 6, 1, 0)
    assert [*store.record_uses([later])] == [later]
    assert store.uses() == {"0000000a": later, "0000000b": b}


def test_a_use_is_taken_once_a_day(location: Location) -> None:
    now = 10 * DAY
    with opened(location, clock=lambda: now) as store:
        key, about = store.create(["ingest"])
        for _ in range(3):
            store.check(key)
        store.check(key[:-1] + ("A" if key[-1] != "A" else "B"))
        assert store.take_uses() == [about.id]
        store.check(key)
        assert store.take_uses() == []
        store.note_uses([about.id])  # they could not be stored
        assert store.take_uses() == [about.id]
        now += DAY
        store.check(key)
        assert store.take_uses() == [about.id]


# Keys of before the metadata had a database of its own.

OLD_SCHEMA = """
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    scopes TEXT NOT NULL,
    note TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT
"""
OLD_KEYS = [f"tactful_{n:08x}_{'A' * 43}" for n in range(3)]


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A file as version 0.1 left it when it was killed: the last rows are in the WAL only."""
    path = tmp_path / "old" / "keys.db"
    path.parent.mkdir()
    code = f"""
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute({OLD_SCHEMA!r})
for row in {[_old_row(key) for key in OLD_KEYS]!r}:
    db.execute("INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?)", row)
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert path.with_name("keys.db-wal").stat().st_size > 0
    return path


def _old_row(key: str) -> tuple[object, ...]:
    number = int(key.split("_")[1], 16)
    digest = hashlib.sha256(key.encode()).digest()
    return key.split("_")[1], digest, "admin ingest", "é", 5 + number, 9 if number == 1 else None


def test_an_old_file_is_opened_as_it_is(old_file: Path) -> None:
    with opened(old_file, clock=lambda: 77) as store:
        accepted = [store.check(key) for key in OLD_KEYS]
        assert [key is not None for key in accepted] == [True, False, True]
        assert accepted[0] == ApiKey("00000000", frozenset({"admin", "ingest"}), "é", 5, None)
        assert [key.revoked_at for key in store.list()] == [None, 9, None]
        store.revoke("00000002")
        new, _ = store.create(["monitor"])
    with opened(old_file) as again:
        assert [key.revoked_at for key in again.list()] == [None, 9, 77, None]
        assert again.check(new) is not None


def test_an_old_file_moves_to_another_database_once(store: KeyStore, old_file: Path) -> None:
    mine, _ = store.create(["ingest"])
    copy = old_file.read_bytes(), old_file.with_name("keys.db-wal").read_bytes()
    assert store.adopt(old_file) == 3
    assert [store.check(key) is not None for key in [*OLD_KEYS, mine]] == [True, False, True, True]
    assert not old_file.exists()
    assert old_file.with_name("keys.db.moved").exists()
    # Killed before it renamed the file, it comes again; what was revoked since stays so.
    store.revoke("00000000")
    old_file.write_bytes(copy[0])
    old_file.with_name("keys.db-wal").write_bytes(copy[1])
    assert store.adopt(old_file) == 0
    assert [store.check(key) is not None for key in OLD_KEYS] == [False, False, True]


@pytest.mark.slow
def test_a_file_without_keys_is_not_adopted(store: KeyStore, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.db"
    with pytest.raises(StorageError, match=r"wrong\.db"):
        store.adopt(wrong)
    wrong.write_bytes(b"no database" * 100)
    for use in (store.adopt, open_metadata):
        with pytest.raises(StorageError, match=r"wrong\.db"):
            use(wrong)
    assert wrong.exists()
