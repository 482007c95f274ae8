"""One contract for checkpoints in a folder and in a place of objects; kills and outages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.platform.support import wait_until
from tests.streaming.s3_server import S3Server

from tactful_streaming.errors import StateError
from tactful_streaming.state.checkpoints import Checkpoints, FolderCheckpoints, StoredCheckpoints
from tactful_streaming.state.key_layout import FORMAT, Meta, write_meta
from tactful_streaming.state.partition_checkpoint import PartitionState
from tactful_streaming.storage import snapshots
from tactful_streaming.storage.objects import ObjectStore, open_objects

Opened = Callable[[str], Checkpoints]


def stored(store: ObjectStore, folder: Path) -> StoredCheckpoints:
    return StoredCheckpoints(store, "log-7", folder / "sending")


@pytest.fixture(params=["folder", "objects", "s3"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Opens the checkpoints of one partition for a host."""
    if request.param == "folder":
        return lambda host: FolderCheckpoints(tmp_path / "shared")
    store = open_objects((tmp_path / "shared").as_uri())
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        store = open_objects(server.url(), environ=server.environ())
    return lambda host: stored(store, tmp_path / host)


def commit(state: PartitionState, offset: int, *values: bytes) -> None:
    meta = Meta(
        format=FORMAT,
        definitions="",
        fingerprint="",
        offset=offset,
        newest=0,
        watermark=0,
        items_version=0,
        consumers=[],
        missing=[],
    )
    state.store.write([write_meta(meta), *((b"value", value) for value in values)])


def checkpointed(state: PartitionState, checkpoints: Checkpoints, offset: int) -> None:
    """Write a checkpoint until it is complete: one is left out while another is being sent."""
    commit(state, offset, b"at %d" % offset)

    def complete() -> bool:
        state.checkpoint()
        return offset in checkpoints.offsets()

    wait_until(complete)


def test_another_host_begins_with_the_newest(tmp_path: Path, opened: Opened) -> None:
    here = opened("here")
    state = PartitionState(tmp_path / "here", checkpoints=here)
    assert (state.offset, here.offsets()) == (0, [])
    state.checkpoint()  # nothing was committed
    for offset in (10, 20, 30):
        checkpointed(state, here, offset)
    wait_until(lambda: here.offsets() == [20, 30])
    commit(state, 40, b"at 40")
    there = PartitionState(tmp_path / "there", checkpoints=opened("there"))
    assert (there.offset, there.store.get(b"value")) == (30, b"at 30")
    there.close()
    state.close()
    again = PartitionState(tmp_path / "here", checkpoints=opened("here"))
    assert (again.offset, again.store.get(b"value")) == (40, b"at 40")
    again.close()


def test_an_erasure_leaves_one_without_the_user(tmp_path: Path, opened: Opened) -> None:
    here = opened("here")
    state = PartitionState(tmp_path / "here", checkpoints=here)
    state.replace_checkpoints()
    assert here.offsets() == []
    for offset in (10, 20):
        checkpointed(state, here, offset)
    commit(state, 20, b"ada-was-here")
    state.replace_checkpoints()
    commit(state, 20, b"erased")
    state.store.purge()
    state.replace_checkpoints()
    assert here.offsets() == [20]
    there = PartitionState(tmp_path / "there", checkpoints=opened("there"))
    assert (there.offset, there.store.get(b"value")) == (20, b"erased")
    there.close()
    state.close()
    files = [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]
    assert [path for path in files if b"ada-was" in path.read_bytes()] == []


def test_a_damaged_checkpoint_is_left_out(tmp_path: Path) -> None:
    store = open_objects((tmp_path / "shared").as_uri())
    here = stored(store, tmp_path / "here")
    state = PartitionState(tmp_path / "here", checkpoints=here)
    for offset in (10, 20):
        checkpointed(state, here, offset)
    state.close()
    of_first = {
        d for f in snapshots.Snapshots(store, "log-7").index(f"{10:020}").files for d in f.parts
    }
    for entry in store.list("log-7/parts"):
        if entry.name.rpartition("/")[2] not in of_first:
            store.put(entry.name, b"damaged")
    there = PartitionState(tmp_path / "there", checkpoints=stored(store, tmp_path / "there"))
    assert (there.offset, there.store.get(b"value")) == (10, b"at 10")
    there.close()


def test_an_outage_stops_only_a_host_without_a_state(tmp_path: Path, s3_server: S3Server) -> None:
    """Without the checkpoint the partition would be computed from the beginning of the log."""
    proxy = s3_server.proxy
    store = open_objects(s3_server.url(), environ=s3_server.environ(proxy.port))
    here = stored(store, tmp_path / "here")
    state = PartitionState(tmp_path / "here", checkpoints=here)
    checkpointed(state, here, 10)
    proxy.cut()
    commit(state, 20, b"at 20")
    state.checkpoint()
    state.close()
    again = PartitionState(tmp_path / "here", checkpoints=stored(store, tmp_path / "here"))
    assert again.offset == 20
    again.close()
    with pytest.raises(StateError, match=r"checkpoints cannot be listed.*cannot be reached"):
        PartitionState(tmp_path / "there", checkpoints=stored(store, tmp_path / "there"))
    proxy.restore()
    there = PartitionState(tmp_path / "there", checkpoints=stored(store, tmp_path / "there"))
    assert there.offset == 10
    there.close()


WRITE = """
import os, signal, sys, time
from pathlib import Path
import msgspec
from tactful_streaming.state.checkpoints import StoredCheckpoints
from tactful_streaming.state.key_layout import read_meta, write_meta
from tactful_streaming.state.partition_checkpoint import PartitionState
from tactful_streaming.storage.objects import open_objects

folder, count = Path(sys.argv[2]), int(sys.argv[3])
store = open_objects(sys.argv[1])

class Dying:
    def __getattr__(self, name):
        return getattr(store, name)
    def put(self, name, content, *, new=False):
        global count
        count -= 1
        if count < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        store.put(name, content, new=new)

state = PartitionState(folder, checkpoints=StoredCheckpoints(Dying(), "log-7", folder / "sending"))
meta = msgspec.structs.replace(read_meta(state.store), offset=state.offset + 10)
state.store.write([write_meta(meta), (b"value", os.urandom(1000))])
state.checkpoint()
while True:
    time.sleep(1)
"""


@pytest.mark.slow
def test_a_killed_owner_leaves_the_earlier_checkpoint(tmp_path: Path, s3_server: S3Server) -> None:
    url = s3_server.url()
    store = open_objects(url, environ=s3_server.environ())
    here = stored(store, tmp_path / "here")
    state = PartitionState(tmp_path / "here", checkpoints=here)
    checkpointed(state, here, 10)
    state.close()
    for count in (0, 2):
        command = [sys.executable, "-c", WRITE, url, str(tmp_path / "here"), str(count)]
        died = subprocess.run(command, env={**os.environ, **s3_server.environ()}, timeout=60)
        assert died.returncode == -signal.SIGKILL
        assert here.offsets() == [10]
        assert (tmp_path / "here" / "sending").exists()
        there = PartitionState(tmp_path / f"{count}", checkpoints=stored(store, tmp_path / "x"))
        assert (there.offset, there.store.get(b"value")) == (10, b"at 10")
        there.close()
    again = PartitionState(
        tmp_path / "here", checkpoints=(here := stored(store, tmp_path / "here"))
    )
    assert again.offset == 30  # its own state is further
    assert not (tmp_path / "here" / "sending").exists()
    again.checkpoint()
    wait_until(lambda: here.offsets() == [10, 30])
    again.close()
