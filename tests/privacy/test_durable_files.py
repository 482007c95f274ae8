"""New content takes the place of the old one whole, or not at all."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tactful_privacy.durable_files import create_file, exclusive, replace_file, replacing


def names(directory: Path) -> list[str]:
    return [file.name for file in directory.iterdir()]


def test_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"first and longer", b"second"):
        replace_file(path, content)
        assert path.read_bytes() == content
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("before", [None, b"old"])
def test_an_error_on_the_way_leaves_the_file_as_it_was(
    tmp_path: Path, before: bytes | None
) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"half")
        raise KeyError
    assert names(tmp_path) == ([] if before is None else ["file"])
    assert before is None or path.read_bytes() == before


def test_content_is_forced_to_disk_before_the_name_and_the_name_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    forced: list[tuple[str, bool]] = []

    def force(handle: int) -> None:
        forced.append((str(Path(f"/proc/self/fd/{handle}").readlink()), path.exists()))

    monkeypatch.setattr("os.fsync", force)
    replace_file(path, b"new")
    assert [there for _, there in forced] == [False, True]
    assert forced[-1][0] == str(tmp_path)


def test_private_files_are_their_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    (tmp_path / ".file.new").write_bytes(b"left by a process that was killed")
    replace_file(path, b"new", private=True)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["file"]


def test_a_file_is_created_once(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for content in (b"first", b"second"):
        create_file(path, content)
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["secret"]


def test_threads_replace_a_file_at_once(tmp_path: Path) -> None:
    path, begin = tmp_path / "file", threading.Barrier(4)

    def write(content: bytes) -> None:
        begin.wait()
        for _ in range(25):
            replace_file(path, content)
            assert len(path.read_bytes()) == 1_000

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, [bytes([it]) * 1_000 for it in b"abcd"]))
    assert names(tmp_path) == ["file"]


def test_what_is_read_and_replaced_exclusively_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")

    def add(_: int) -> None:
        with exclusive(path):
            replace_file(path, str(int(path.read_text()) + 1).encode())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(60)))
    assert path.read_text() == "60"
