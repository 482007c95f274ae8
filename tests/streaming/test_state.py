from collections.abc import Iterator
from pathlib import Path

import pytest

from tactful_streaming import MemoryState, RocksState, StateStore


@pytest.fixture(params=["memory", "rocks"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    store: StateStore = (
        MemoryState() if request.param == "memory" else RocksState(tmp_path / "a" / "b")
    )
    yield store
    store.close()


def test_puts_and_deletes(store: StateStore) -> None:
    store.write([(b"a", b"1"), (b"b", b""), (b"c", b"3"), (b"a", b"2")])
    store.write([(b"c", None), (b"absent", None)])
    assert store.get_many([b"a", b"b", b"c"]) == [b"2", b"", None]
    assert (store.get(b"a"), store.get(b"c")) == (b"2", None)
    assert store.get_many([]) == []


def test_scans_are_sorted_and_keep_to_their_prefix(store: StateStore) -> None:
    keys = [b"a", b"b", b"b\x00", b"b1", b"b2", b"b\xff", b"c"]
    store.write([(key, key) for key in reversed(keys)])
    assert [(key, key) for key in sorted(keys[1:-1])] == list(store.scan(b"b"))
    assert [key for key, _ in store.scan(b"b", b"b2")] == [b"b2", b"b\xff"]
    assert list(store.scan(b"x")) == []
    assert sorted(keys) == [key for key, _ in store.scan(b"")]


def test_clear(store: StateStore) -> None:
    store.write([(b"a", b"1"), (b"b", b"2")])
    store.clear()
    assert list(store.scan(b"")) == []
    store.clear()


def test_rocks_state_outlives_the_object(tmp_path: Path) -> None:
    for sync in (False, True):
        store = RocksState(tmp_path, sync=sync)
        store.write([(b"%d" % sync, b"x")])
        store.close()
    store = RocksState(tmp_path)
    assert store.get_many([b"0", b"1"]) == [b"x", b"x"]
    store.close()
