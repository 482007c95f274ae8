"""Trimming by age and size, reading by time, and following from other processes."""

import errno
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_privacy.durable_files import replace_file
from tactful_streaming.errors import LogError, LogIncompleteError, OffsetError
from tactful_streaming.log import segment_catalogue
from tactful_streaming.log.embedded_log import EmbeddedLog


class Clock:
    def __init__(self, now: int = 0) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"payload %05d" % number for number in range(start, start + count)]


def bases(path: Path) -> list[int]:
    return sorted(int(file.stem) for file in path.glob("*.log"))


def test_a_full_disk_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue can be written only after segments were removed."""
    full = iter([True, True])  # at the end of the active segment, and before the removal

    def refuse_once(path: Path, content: bytes, *, private: bool) -> None:
        if next(full, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(path, content, private=private)

    clock = Clock()
    with EmbeddedLog(tmp_path, segment_bytes=300, retention_ms=100, clock=clock) as log:
        for number in range(40):
            log.append(numbered(1, number))
        clock.now = 1_000
        monkeypatch.setattr(segment_catalogue, "replace_file", refuse_once)
        assert log.trim(40) == log.begin == 36
    with EmbeddedLog(tmp_path, segment_bytes=300) as log:
        assert (log.begin, log.end) == (36, 40)
    assert bases(tmp_path) == [36]


def test_age_drops_whole_closed_segments(tmp_path: Path) -> None:
    clock = Clock()
    with EmbeddedLog(tmp_path, segment_bytes=300, retention_ms=100, clock=clock) as log:
        for number in range(40):  # nine records of 33 bytes to a segment, one each millisecond
            clock.now = number
            log.append(numbered(1, number))
        assert bases(tmp_path) == [0, 9, 18, 27, 36]
        clock.now = 107
        assert log.trim(40) == 0
        clock.now = 108  # the ninth came at 8
        assert log.trim(40) == log.begin == 9
        clock.now = 10**9
        assert log.trim(8) == 9
        assert log.trim(26) == 18
        assert log.trim(39) == 36  # somebody has yet to read the last one
        assert log.trim(40) == 40  # what was written to is ended when it is old
        assert bases(tmp_path) == [40]
        assert log.append([b"more"]) == 41
        assert log.trim(41) == 40  # what is written to stays
        with pytest.raises(OffsetError, match=r"offset 35 is outside the log \[40, 41\]"):
            log.read(35, 1)
    with EmbeddedLog(tmp_path, segment_bytes=300) as log:
        assert (log.begin, log.end) == (40, 41)
        assert log.read(40, 4) == [(40, b"more")]
        assert log.trim(41) == 40  # without settings nothing goes


def test_size_drops_the_oldest(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path, segment_bytes=300, retention_bytes=700) as log:
        log.append(numbered(1))
        for number in range(1, 40):
            log.append(numbered(1, number))
        assert log.trim(0) == 0
        assert log.trim(20) == 18
        assert log.trim(40) == 27  # 22 records of 33 bytes were still over 700
        assert sum(file.stat().st_size for file in tmp_path.glob("*.log")) == 13 * 33


def test_a_crash_in_the_midst_of_trimming_leaves_a_log(tmp_path: Path) -> None:
    class PowerCut(BaseException):
        pass

    log = EmbeddedLog(tmp_path, segment_bytes=300, retention_bytes=1)
    for number in range(60):
        log.append(numbered(1, number))
    unlink = Path.unlink
    left = [3]

    def dying(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".log":
            if not left[0]:
                raise PowerCut
            left[0] -= 1
        unlink(path, missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", dying)
        with pytest.raises(PowerCut):
            log.trim(60)
    log.close()
    with EmbeddedLog(tmp_path) as log:
        assert (log.begin, log.end) == (27, 60)
        assert [*enumerate(numbered(33, 27), 27)] == log.read(27, 99)


def test_trimming_does_not_disturb_readers(tmp_path: Path) -> None:
    total = 2000
    log = EmbeddedLog(tmp_path, segment_bytes=2000, retention_bytes=4000, durability="process")
    progress = [0] * 4

    def follow(number: int, step: int) -> None:
        while (offset := progress[number]) < total:
            records = log.read(offset, step)
            assert records == [*enumerate(numbered(len(records), offset), offset)]
            progress[number] += len(records)
            if not records:
                time.sleep(0.001)

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(follow, *reader) for reader in enumerate((1, 7, 100, 1000))]
        for start in range(0, total, 20):
            log.append(numbered(20, start))
            log.trim(min(progress))
        assert [reader.result(timeout=60) for reader in readers] == [None] * 4
    assert log.trim(total) > total - 200
    # Descriptors of what was dropped are given back.
    descriptors = [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    held = {str(descriptor.readlink()) for descriptor in descriptors}
    assert not [name for name in held if str(tmp_path) in name and "deleted" in name]
    log.close()


@given(
    st.lists(st.tuples(st.integers(-20, 60), st.integers(1, 5)), max_size=25),
    st.integers(40, 400),
    st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_reading_by_time(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int]],
    segment_bytes: int,
    reopen: int,
) -> None:
    """Against a plain search; a clock that steps back does not make receipts go back."""
    path = tmp_path_factory.mktemp("log")
    clock = Clock(100)
    received: list[int] = []

    def open_log() -> EmbeddedLog:
        return EmbeddedLog(
            path, segment_bytes=segment_bytes, durability="process", clock=clock, retention_bytes=1
        )

    log = open_log()
    for number, (step, count) in enumerate(steps):
        clock.now += step
        log.append(numbered(count, len(received)))
        received += [max(clock.now, received[-1] if received else 0)] * count
        if reopen and number % reopen == 0:
            log.close()
            log = open_log()
    log.trim(len(received) // 2)
    for timestamp in [-(10**12), *range(0, max([*received, 200]) + 2), 10**15]:
        later = (n for n, at in enumerate(received) if n >= log.begin and at >= timestamp)
        expected = next(later, len(received))
        assert expected == log.offset_at(timestamp)
    log.close()


def test_a_reader_follows_the_writer_across_segments_and_trims(tmp_path: Path) -> None:
    writer = EmbeddedLog(tmp_path, segment_bytes=500, retention_bytes=1500, durability="process")
    writer.append(numbered(5))
    reader = EmbeddedLog(tmp_path, read_only=True)
    rng = random.Random(3)
    offset = 0
    for start in range(5, 2000, 5):
        writer.append(numbered(5, start))
        if rng.random() < 0.3:
            assert reader.end == start + 5
            fetched = reader.read(offset, 1000)
            assert [(n, b"payload %05d" % n) for n in range(offset, start + 5)] == fetched
            offset = start + 5
            writer.trim(offset)
            at = rng.randrange(max(reader.begin, offset - 40), offset)
            assert reader.read(at, 1) == [(at, b"payload %05d" % at)]
    assert reader.begin > 0
    reader.close()
    writer.close()


def test_a_reader_never_reads_a_failed_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedLog(tmp_path) as writer:
        writer.append(numbered(3))
        with EmbeddedLog(tmp_path, read_only=True) as early, monkeypatch.context() as patch:
            seen: list[list[tuple[int, bytes]]] = []

            def failing(_: int) -> None:
                with EmbeddedLog(tmp_path, read_only=True) as late:
                    seen.extend([early.read(3, 9), late.read(3, 9)])
                raise OSError(5, "Input/output error")

            patch.setattr(os, "fdatasync", failing)
            with pytest.raises(LogError):
                writer.append(numbered(2, 3))
            assert seen == [[], []]


def test_missing_acknowledged_records_are_refused(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path) as log:
        log.append(numbered(2))
        log.append(numbered(2, 2))
    (file,) = tmp_path.glob("*.log")
    os.truncate(file, file.stat().st_size - 1)
    before = file.read_bytes()
    with pytest.raises(LogIncompleteError, match=r"shortened or emptied \(offsets 3 to 3\)"):
        EmbeddedLog(tmp_path)
    assert file.read_bytes() == before


FOLLOW = """
import sys, time
from pathlib import Path
from tactful_streaming.log.embedded_log import EmbeddedLog

log, offset = EmbeddedLog(Path(sys.argv[1]), read_only=True), 0
print("ready", flush=True)
while offset < int(sys.argv[2]):
    for at, payload in log.read(offset, 700):
        assert (at, payload) == (offset, b"payload %05d" % offset), (at, payload, offset)
        offset += 1
print("done", flush=True)
"""


def test_processes_follow_one_writer(tmp_path: Path) -> None:
    total = 20_000
    log = EmbeddedLog(tmp_path, segment_bytes=20_000, durability="process")
    command = [sys.executable, "-c", FOLLOW, str(tmp_path), str(total)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    for start in range(0, total, 40):
        log.append(numbered(40, start))
    assert [reader.communicate(timeout=60)[0] for reader in readers] == ["done\n"] * 2
    log.close()


FILL = """
import resource, sys
from pathlib import Path
from tactful_streaming.errors import LogWriteError
from tactful_streaming.log.embedded_log import EmbeddedLog

path, limited = Path(sys.argv[1]), sys.argv[2] == "limited"
log = EmbeddedLog(path, segment_bytes=10_000_000, durability="process")
if limited:
    # The kernel writes up to the limit and refuses the rest, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
refused = 0
while refused < 5:
    start = log.end
    try:
        log.append([b"payload %05d" % n for n in range(start, start + 100)])
    except LogWriteError as error:
        assert "append refused" in str(error), error
        assert log.end == start
        refused += 1
print(log.end, flush=True)
if limited:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
else:
    (path / "ballast").unlink()
start = log.end
print(log.append([b"payload %05d" % n for n in range(start, start + 100)]), flush=True)
"""


@pytest.mark.parametrize("how", ["limited", "full"])
def test_a_full_file_system(tmp_path: Path, how: str) -> None:
    """Acknowledged records stay; with free space the log continues by itself."""
    mounted = how == "full"
    if mounted:
        command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a small file system needs to be root")
    try:
        if mounted:
            (tmp_path / "ballast").write_bytes(bytes(128 * 1024))
        fill = [sys.executable, "-c", FILL, str(tmp_path), how]
        done = subprocess.run(fill, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        full, after = map(int, done.stdout.split())
        assert after == full + 100 > 1000
        with EmbeddedLog(tmp_path) as log:
            assert [*enumerate(numbered(after))] == log.read(0, after + 1)
    finally:
        if mounted:
            subprocess.run(["umount", str(tmp_path)], check=True)
