"""A sealed directory is whole or refused."""

import os
import zlib
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.alone import alone

from tactful.errors import ModelError
from tactful.util import checksummed_directory as sealed
from tactful.util.checksummed_directory import check_seal, remove_scratch, sealing


def write(directory: Path, **files: bytes) -> None:
    with sealing(directory) as scratch:
        for name, data in files.items():
            (scratch / name).write_bytes(data)


def test_what_was_sealed_is_accepted_and_replaced_as_a_whole(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "thing"
    write(place, one=b"1", two=b"22")
    check_seal(place)
    write(place, three=b"333")
    check_seal(place)
    assert sorted(path.name for path in place.iterdir()) == ["seal.json", "three"]
    assert [path.name for path in place.parent.iterdir()] == ["thing"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "thing", one=b"1")
    with pytest.raises(RuntimeError), sealing(tmp_path / "thing") as scratch:
        (scratch / "two").write_bytes(b"2")
        raise RuntimeError
    check_seal(tmp_path / "thing")
    assert (tmp_path / "thing" / "one").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def write_and_die(place: Path) -> None:
    with sealing(place) as scratch:
        (scratch / "two").write_bytes(b"2")
        os._exit(1)


def test_what_a_killed_writer_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "thing", one=b"1")
    with pytest.raises(BrokenProcessPool):
        alone(write_and_die, tmp_path / "thing")
    (tmp_path / "other").mkdir()
    assert len(list(tmp_path.iterdir())) == 3
    remove_scratch(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "thing"]
    check_seal(tmp_path / "thing")


@pytest.mark.parametrize("size", [0, 15, 16, 17, 48, 50])
def test_checksums_of_blocks(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "_BLOCK", 16)
    data = bytes(range(size))
    write(tmp_path / "thing", one=data)
    seal = msgspec.json.decode((tmp_path / "thing" / "seal.json").read_bytes())
    assert seal == {"files": {"one": {"size": size, "crc32": zlib.crc32(data)}}}
    check_seal(tmp_path / "thing")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_damage_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    place = tmp_path_factory.mktemp("sealed") / "thing"
    write(place, one=b"the first file", two=b"the second")
    victim = place / data.draw(st.sampled_from(["one", "two"]))
    content = bytearray(victim.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[where] ^= data.draw(st.integers(1, 255))
    else:
        del content[where:]
    victim.write_bytes(content)
    with pytest.raises(ModelError, match=f"{victim.name}: damaged"):
        check_seal(place)


def test_a_lost_file_or_seal_is_named(tmp_path: Path) -> None:
    write(tmp_path / "thing", one=b"1")
    (tmp_path / "thing" / "one").unlink()
    with pytest.raises(ModelError, match=r"one: cannot be read"):
        check_seal(tmp_path / "thing")
    (tmp_path / "thing" / "seal.json").write_bytes(b"{}")
    with pytest.raises(ModelError, match=r"seal\.json: cannot be read"):
        check_seal(tmp_path / "thing")
