"""Snapshots are there as a whole or not at all, through kills, cuts and damage."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from tests.streaming.s3_server import S3Server

from tactful_streaming.errors import ObjectExistsError, ObjectStoreError, SnapshotError
from tactful_streaming.storage import snapshots as module
from tactful_streaming.storage.objects import ObjectStore, StoredObject, open_objects
from tactful_streaming.storage.snapshots import Snapshots


@dataclass
class MemoryObjects:
    """Objects in memory; `puts` are the names that were written."""

    objects: dict[str, bytes] = field(default_factory=dict)
    puts: list[str] = field(default_factory=list)
    place: str = "memory:"

    def put(self, name: str, content: bytes, *, new: bool = False) -> None:
        if new and name in self.objects:
            raise ObjectExistsError(name)
        self.puts.append(name)
        self.objects[name] = content

    def get(self, name: str) -> bytes:
        return self.objects[name]

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        for name, content in sorted(self.objects.items()):
            if name.startswith(f"{prefix}/" if prefix else ""):
                yield StoredObject(name, len(content), 0.0)

    def delete(self, names: object) -> None:
        assert isinstance(names, list)
        for name in names:
            self.objects.pop(name, None)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 1000)


def filled(folder: Path, seed: int = 1) -> Path:
    draws = random.Random(seed)
    for name, size in (("a", 0), ("b/c", 1000), ("b/d é", 3700), ("e.sst", 2001)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(draws.randbytes(size))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_snapshot_is_read_as_it_was_written(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    store = open_objects((tmp_path / "store").as_uri())
    if kind == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        store = open_objects(server.url(), environ=server.environ())
    snapshots = Snapshots(store, "of this")
    source = filled(tmp_path / "source")
    sent: list[int] = []
    assert snapshots.names() == []
    written = snapshots.write("1", source, new=True, sent=sent.append)
    assert sum(sent) == written.size == 6701
    fetched: list[int] = []
    snapshots.read("1", tmp_path / "copy", fetched=fetched.append)
    assert content(tmp_path / "copy") == content(source)
    assert sum(fetched) == 6701
    with pytest.raises(ObjectExistsError):
        snapshots.write("1", filled(tmp_path / "other", 2), new=True)
    snapshots.sweep()
    (source / "e.sst").unlink()
    snapshots.write("2", source)
    assert snapshots.names() == ["1", "2"]
    Snapshots(store, "of that").write("1", source)
    snapshots.delete(["1"])
    assert snapshots.sweep() == 3  # the parts of e.sst, and none of the other folder
    snapshots.read("2", tmp_path / "second")
    assert content(tmp_path / "second") == content(source)
    snapshots.delete(snapshots.names())
    snapshots.sweep()
    assert list(store.list("of this")) == []
    assert Snapshots(store, "of that").names() == ["1"]


def test_parts_that_are_there_are_not_sent_again(tmp_path: Path) -> None:
    store = MemoryObjects()
    snapshots = Snapshots(store)
    source = filled(tmp_path / "source")
    snapshots.write("1", source)
    del store.puts[:]
    (source / "new").write_bytes(b"content")
    snapshots.write("2", source)
    assert len(store.puts) == 2  # the new part, and the index


def test_damage_is_never_read(tmp_path: Path) -> None:
    """Every object is lost, cut and changed in turn."""
    store = MemoryObjects()
    snapshots = Snapshots(store)
    snapshots.write("1", filled(tmp_path / "source"))
    whole = dict(store.objects)
    reads = 0
    for name, value in whole.items():
        for harmed in (None, value[:-1], value[:-1] + bytes([value[-1] ^ 1])):
            store.objects = dict(whole)
            if harmed is None:
                del store.objects[name]
            else:
                store.objects[name] = harmed
            reads += 1
            with pytest.raises((SnapshotError, KeyError)):
                snapshots.read("1", tmp_path / f"copy-{reads}")
    assert reads == 3 * len(whole) == 27


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "", "a\0b"])
def test_an_index_names_no_file_elsewhere(tmp_path: Path, path: str) -> None:
    store = MemoryObjects()
    snapshots = Snapshots(store)
    snapshots.write("1", filled(tmp_path / "source"))
    (tmp_path / "planned").write_bytes(b"")
    encoded = msgspec.json.encode({"format": 1, "files": [{"path": path, "size": 0, "parts": []}]})
    sealed = {
        "sha256": hashlib.sha256(encoded).hexdigest(),
        "snapshot": msgspec.Raw(encoded),
    }
    store.objects["snapshots/1.json"] = msgspec.json.encode(sealed)
    with pytest.raises(SnapshotError, match="no path below a directory"):
        snapshots.read("1", tmp_path / "copy")


def test_a_swept_part_makes_no_snapshot(tmp_path: Path) -> None:
    """Another writer sweeps while this one sends."""
    store = MemoryObjects()
    snapshots = Snapshots(store)
    snapshots.write("1", filled(tmp_path / "source"))
    left = [4]

    def sweep_at_last(size: int) -> None:
        left[0] -= 1
        if not left[0]:
            assert Snapshots(store).sweep() > 0

    with pytest.raises(SnapshotError, match="try again"):
        snapshots.write("2", filled(tmp_path / "other", 2), sent=sweep_at_last)
    assert snapshots.names() == ["1"]
    snapshots.read("1", tmp_path / "copy")


WRITE = """
import os, signal, sys
from pathlib import Path
from tactful_streaming.storage import snapshots as module
from tactful_streaming.storage.objects import open_objects

url, source, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
module.PART_BYTES = 1000

class Dying:
    def __init__(self, store):
        self._store = store
    def __getattr__(self, name):
        return getattr(self._store, name)
    def put(self, name, content, *, new=False):
        global count
        count -= 1
        if count < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._store.put(name, content, new=new)

module.Snapshots(Dying(open_objects(url))).write("2", source)
"""


@pytest.mark.parametrize("kind", ["folder", pytest.param("s3", marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_the_earlier_snapshot(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    url, environ = (tmp_path / "store").as_uri(), {}
    if kind == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        url, environ = server.url(), server.environ()
    snapshots = Snapshots(open_objects(url, environ=environ))
    source = filled(tmp_path / "source")
    snapshots.write("1", source)
    for seed, count in ((2, 3), (3, 8)):  # the ninth object is the index
        other = filled(tmp_path / "other", seed)
        command = [sys.executable, "-c", WRITE, url, str(other), str(count)]
        died = subprocess.run(command, env={**os.environ, **environ}, timeout=60)
        assert died.returncode == -signal.SIGKILL
        assert snapshots.names() == ["1"]
    snapshots.read("1", tmp_path / "copy")
    assert content(tmp_path / "copy") == content(source)
    assert snapshots.sweep() >= 8
    snapshots.write("2", other)
    snapshots.read("2", tmp_path / "second")
    assert content(tmp_path / "second") == content(other)


def test_a_cut_connection_leaves_the_earlier_snapshot(tmp_path: Path, s3_server: S3Server) -> None:
    """The transfer ends with an error; the next one sends what is missing."""
    proxy = s3_server.proxy
    url = s3_server.url()
    through: ObjectStore = open_objects(url, environ=s3_server.environ(proxy.port))
    snapshots = Snapshots(through)
    snapshots.write("1", filled(tmp_path / "source"))
    other = filled(tmp_path / "other", 2)
    left = [3]

    def cut(size: int) -> None:
        left[0] -= 1
        if not left[0]:
            proxy.cut()

    with pytest.raises(ObjectStoreError, match="cannot be reached"):
        snapshots.write("2", other, sent=cut)
    proxy.restore()
    direct = Snapshots(open_objects(url, environ=s3_server.environ()))
    assert direct.names() == ["1"]
    direct.read("1", tmp_path / "copy")
    snapshots.write("2", other)
    direct.read("2", tmp_path / "second")
    assert content(tmp_path / "second") == content(other)
    assert direct.sweep() == 0
