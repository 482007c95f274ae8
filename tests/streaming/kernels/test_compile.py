"""Cached machine code is whole, private, or compiled anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numba
import pytest
from numba import types

from tactful_streaming.kernels.compile import cache_folder, compilations, compiled

SIGNATURE = (types.int64, types.int64)


def add(a: int, b: int) -> int:
    return a + b


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path / "tactful"


def hits(kernel: object) -> int:
    return sum(kernel.stats.cache_hits.values())  # type: ignore[attr-defined]


def test_what_is_compiled_is_collected_and_what_is_read_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled(add, SIGNATURE)  # outside of a context nobody asks
    for path in folder.iterdir():
        path.unlink()
    with compilations() as first, compilations() as inner:
        compiled(add, SIGNATURE)
    assert first == []
    assert [(it.name, it.folder) for it in inner] == [("add", folder)]
    assert 0 < inner[0].seconds < 60
    with compilations() as again:
        compiled(add, SIGNATURE)
    assert again == []
    folder.chmod(0o777)
    with compilations() as open_to_others:
        compiled(add, SIGNATURE)
    assert [it.folder for it in open_to_others] == [None]


DAMAGE = """
import random
from pathlib import Path
from numba import types
from tactful_streaming.kernels.compile import cache_folder, compiled

def add(a: int, b: int) -> int:
    return a + b

def hit() -> bool:
    kernel = compiled(add, (types.int64, types.int64))
    assert kernel(2, 3) == 5
    return bool(sum(kernel.stats.cache_hits.values()))

assert [hit(), hit()] == [False, True]
(path,) = cache_folder().iterdir()
generator = random.Random(1)
for number in range(24):
    whole = path.read_bytes()
    place = generator.randrange(8 * len(whole))
    damaged = bytearray(whole)
    damaged[place // 8] ^= 1 << place % 8
    path.write_bytes(damaged if number % 4 else damaged[: place // 8])
    assert not hit(), number
assert hit()
"""


@pytest.mark.slow
def test_bit_flips_of_the_cache_kill_nobody(folder: Path, tmp_path: Path) -> None:
    """5 of 46 flips of one bit ended the process; each file is checked before it is unpickled."""
    (tmp_path / "damage.py").write_text(DAMAGE)
    subprocess.run([sys.executable, tmp_path / "damage.py"], check=True)
    assert len([*folder.iterdir()]) == 1


def test_code_is_kept_for_each_function_and_check_of_bounds(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [hits(compiled(add, SIGNATURE)) for _ in range(2)] == [0, 1]
    checked = vars(numba.config)["BOUNDSCHECK"]
    monkeypatch.setattr("numba.config.BOUNDSCHECK", 0 if checked else 1)
    assert hits(compiled(add, SIGNATURE)) == 0
    assert len([*folder.iterdir()]) == 2


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_is_not_read(
    folder: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever writes to the cache runs code here, so nobody else may."""
    compiled(add, SIGNATURE)
    folder.chmod(mode)
    assert hits(compiled(add, SIGNATURE)) == 0
    assert f"no cache in {folder}" in caplog.text


@pytest.mark.parametrize("mode", [0o1777, 0o755, 0o777, 0o757])
def test_a_folder_that_others_may_replace_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """A folder above it may be written by others only if it is sticky, as /tmp is."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "above" / "cache"))
    (tmp_path / "above").mkdir()
    (tmp_path / "above").chmod(mode)
    assert (cache_folder() is None) == (mode in (0o777, 0o757))


@pytest.mark.parametrize("mode", [0o622, 0o602])
def test_a_file_that_others_may_write_is_not_read(folder: Path, mode: int) -> None:
    compiled(add, SIGNATURE)
    (path,) = folder.iterdir()
    assert hits(compiled(add, SIGNATURE)) == 1
    path.chmod(mode)
    assert hits(compiled(add, SIGNATURE)) == 0


def test_a_link_to_a_folder_is_not_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert cache_folder() is None


def test_the_cache_is_with_the_user_and_not_with_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "tactful"
    assert (tmp_path / "cache" / "tactful").stat().st_mode & 0o777 == 0o700
