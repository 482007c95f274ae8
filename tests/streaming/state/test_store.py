import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tactful_streaming.errors import StateError
from tactful_streaming.state.store import MemoryState, RocksState, StateStore, restore_checkpoint


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
        with pytest.raises(StateError, match="cannot be opened"):
            RocksState(tmp_path)
        store.close()
        store.close()
    store = RocksState(tmp_path)
    assert store.get_many([b"0", b"1"]) == [b"x", b"x"]
    store.close()


def test_a_checkpoint_is_a_moment_and_can_be_restored(tmp_path: Path) -> None:
    store = RocksState(tmp_path / "state")
    store.write([(b"%d" % n, b"old") for n in range(1000)])
    store.checkpoint(tmp_path / "kept" / "monday")
    store.write([(b"%d" % n, b"new") for n in range(0, 2000, 2)])
    with pytest.raises(StateError, match="a checkpoint needs a new directory"):
        store.checkpoint(tmp_path / "kept" / "monday")
    store.close()
    with pytest.raises(StateError, match="move it away first"):
        restore_checkpoint(tmp_path / "kept" / "monday", tmp_path / "state")
    for copy in ("first", "second"):  # using what was restored leaves the checkpoint alone
        restore_checkpoint(tmp_path / "kept" / "monday", tmp_path / copy)
        restored = RocksState(tmp_path / copy)
        assert {key: b"old" for key in (b"%d" % n for n in range(1000))} == dict(restored.scan(b""))
        restored.write([(b"5", b"changed")])
        restored.close()
    with pytest.raises(StateError, match="not a checkpoint"):
        restore_checkpoint(tmp_path / "kept", tmp_path / "third")


def test_a_checkpoint_while_others_write_is_one_of_their_batches(tmp_path: Path) -> None:
    store = RocksState(tmp_path / "state")
    keys = [b"%d" % n for n in range(300)]
    store.write([(key, b"0") for key in keys])
    stop = threading.Event()

    def write() -> None:
        for batch in itertools.count(1):
            if stop.is_set():
                return
            store.write([(key, b"%d" % batch) for key in keys])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            store.checkpoint(tmp_path / str(number))
    finally:
        stop.set()
        writer.join()
        store.close()
    for number in range(3):
        restored = RocksState(tmp_path / str(number))
        assert len(set(restored.get_many(keys))) == 1
        restored.close()


def test_a_reader_sees_what_a_running_writer_has_stored(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot be opened"):
        RocksState(tmp_path / "absent", read_only=True)
    writer = RocksState(tmp_path / "state")
    writer.write([(b"a", b"1")])
    reader = RocksState(tmp_path / "state", read_only=True)
    assert reader.get(b"a") == b"1"
    with pytest.raises(StateError):
        reader.write([(b"a", b"2")])
    reader.close()
    writer.write([(b"a", b"3")])
    assert writer.get(b"a") == b"3"
    writer.close()


FILL_THE_DISK = """
import os, resource, sys
from pathlib import Path
from tactful_streaming.errors import StateError
from tactful_streaming.state.store import RocksState

store = RocksState(Path(sys.argv[1]))
batches = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))
while True:
    changes = [(b"%d-%d" % (batches, n), os.urandom(10_000)) for n in range(20)]
    try:
        store.write(changes)
    except StateError as error:
        assert "free space and try again" in str(error), error
        break
    batches += 1
assert batches > 2 and store.get(b"0-0") is not None
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.write(changes)
stored = dict(store.scan(b""))
assert stored.keys() == {b"%d-%d" % (b, n) for b in range(batches + 1) for n in range(20)}
assert stored.items() >= dict(changes).items()
store.close()
"""


def test_a_refused_write_may_be_tried_again(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_a_store_that_refused_is_closed_without_a_word(tmp_path: Path) -> None:
    script = FILL_THE_DISK.split("resource.setrlimit(resource.RLIMIT_FSIZE, (resource")[0]
    run = subprocess.run(
        [sys.executable, "-c", script + "store.close()", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    again = RocksState(tmp_path)
    assert again.get(b"0-0") is not None
    again.close()
