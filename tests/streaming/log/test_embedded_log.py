import errno
import os
import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tactful_streaming.errors import LogCorruptedError, LogError, LogLockedError, LogWriteError
from tactful_streaming.log.embedded_log import EmbeddedLog

HEADER = 20
NOISE = random.Random(7).randbytes(64)


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"payload %d" % number for number in range(start, start + count)]


def filled(path: Path, count: int, per_append: int = 10) -> list[Path]:
    """A log of `count` records, closed; its segments."""
    with EmbeddedLog(path, segment_bytes=1000) as log:
        for start in range(0, count, per_append):
            log.append(numbered(min(per_append, count - start), start))
    return sorted(path.glob("*.log"))


def without_acknowledgement(path: Path) -> None:
    """Forget which records were acknowledged, as a crash in their append does."""
    (path / "bounds").unlink()


def overwrite(file: Path, position: int, data: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(position)
        stream.write(data)


@given(
    st.lists(st.lists(st.binary(max_size=300), max_size=30), max_size=12),
    st.integers(1, 3000),
    st.randoms(use_true_random=False),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_records_are_read_across_segments_after_reopening(
    tmp_path_factory: pytest.TempPathFactory,
    appends: list[list[bytes]],
    segment_bytes: int,
    rng: random.Random,
) -> None:
    path = tmp_path_factory.mktemp("log")
    expected: list[bytes] = []
    log = EmbeddedLog(path, segment_bytes=segment_bytes, durability="process")
    for payloads in appends:
        expected += payloads
        assert len(expected) == log.append(payloads)
        if rng.random() < 0.3:
            log.close()
            log = EmbeddedLog(path, segment_bytes=segment_bytes, durability="process")
        offset, limit = rng.randint(0, len(expected)), rng.randint(0, 50)
        assert [*enumerate(expected)][offset : offset + limit] == log.read(offset, limit)
    assert [*enumerate(expected)] == log.read(0, len(expected) + 1)
    log.close()


def test_random_reads_use_the_index(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path, segment_bytes=20_000) as log:
        log.append(numbered(300))
        for start in range(300, 3000, 7):
            log.append(numbered(7, start))
        end = log.end
    rng = random.Random(1)
    with EmbeddedLog(tmp_path) as log:
        assert end == log.end
        for _ in range(500):
            offset = rng.randrange(end)
            assert [(offset, b"payload %d" % offset)] == log.read(offset, 1)


def test_records_larger_than_a_chunk(tmp_path: Path) -> None:
    payloads = [bytes([i]) * (700_000 * i) for i in range(5)]
    with EmbeddedLog(tmp_path, segment_bytes=10**9) as log:
        log.append(payloads)
        assert [*enumerate(payloads)] == log.read(0, 9)
    with EmbeddedLog(tmp_path) as log:
        assert [*enumerate(payloads)] == log.read(0, 9)


@pytest.mark.parametrize("cut", [*range(1, 40), *range(40, 310, 9)])
def test_a_torn_tail_is_cut_off(tmp_path: Path, cut: int) -> None:
    *_, last = filled(tmp_path, 100)
    size = last.stat().st_size
    os.truncate(last, max(size - cut, 0))
    without_acknowledgement(tmp_path)
    with EmbeddedLog(tmp_path, segment_bytes=1000) as log:
        kept = log.end
        assert 90 <= kept <= 99
        assert [*enumerate(numbered(kept))] == log.read(0, 200)
        log.append([b"after"])
        assert [(kept, b"after")] == log.read(kept, 9)
    with EmbeddedLog(tmp_path) as log:
        assert kept + 1 == log.end


@pytest.mark.parametrize("tail", [b"\x00" * 100, b"\xf1T", b"\xf1T" + b"\xff" * 40, NOISE])
def test_rubbish_after_the_end_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    *_, last = filled(tmp_path, 100)
    with last.open("ab") as stream:
        stream.write(tail)
    with EmbeddedLog(tmp_path) as log:
        assert [*enumerate(numbered(100))] == log.read(0, 200)


def test_a_torn_append_is_cut_off_also_with_later_parts(tmp_path: Path) -> None:
    """At a loss of power, pages of the last append reach the disk in any order."""
    *_, last = filled(tmp_path, 20, per_append=20)
    overwrite(last, 3 * (HEADER + 9), b"\x00" * 40)
    without_acknowledgement(tmp_path)
    with EmbeddedLog(tmp_path) as log:
        assert [*enumerate(numbered(3))] == log.read(0, 99)


@pytest.mark.parametrize("segment", [0, 1, -1])
@pytest.mark.parametrize("byte", [0, 1, 2, 3, 4, 7, 8, 15, 16, 19, 20, 28])
def test_damaged_acknowledged_records_are_an_error(tmp_path: Path, segment: int, byte: int) -> None:
    file = filled(tmp_path, 110, per_append=5)[segment]
    before = file.read_bytes()
    overwrite(file, byte, bytes([before[byte] ^ 0x55]))
    damaged = file.read_bytes()
    with pytest.raises(LogCorruptedError) as caught, EmbeddedLog(tmp_path) as log:
        log.read(0, 200)
    assert file.name in str(caught.value)
    assert "at byte 0" in str(caught.value)
    assert damaged == file.read_bytes()


def test_intact_segments_stay_readable_beside_a_damaged_one(tmp_path: Path) -> None:
    files = filled(tmp_path, 95, per_append=5)
    overwrite(files[0], 25, b"\xff\xff")
    second = int(files[1].stem)
    with EmbeddedLog(tmp_path) as log:
        assert [*enumerate(numbered(95))][second:] == log.read(second, 200)


def test_a_missing_or_shortened_segment_is_an_error(tmp_path: Path) -> None:
    files = filled(tmp_path, 95, per_append=5)
    os.truncate(files[0], files[0].stat().st_size - (HEADER + 10) * 5)
    with EmbeddedLog(tmp_path) as log, pytest.raises(LogCorruptedError, match="ends early"):
        log.read(0, 200)
    with EmbeddedLog(tmp_path) as log, pytest.raises(LogCorruptedError, match="begins elsewhere"):
        log.read(3, 200)
    files[1].unlink()
    with pytest.raises(LogCorruptedError, match=r"log is missing \(offsets"):
        EmbeddedLog(tmp_path)


def test_a_damaged_length_allocates_no_memory(tmp_path: Path) -> None:
    *_, last = filled(tmp_path, 20)
    with last.open("ab") as stream:
        stream.write(struct.pack("<2sHIqI", b"\xf1T", 1, 0xFFFFFFFF, 0, 0))
    with EmbeddedLog(tmp_path) as log:
        assert log.end == 20


def test_strange_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.log").write_text("hello")
    with pytest.raises(LogError, match="notes"):
        EmbeddedLog(tmp_path)


def test_one_writer(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path) as log:
        log.append(numbered(2))
        with pytest.raises(LogLockedError):
            EmbeddedLog(tmp_path)
        with EmbeddedLog(tmp_path, read_only=True) as reader:
            assert [*enumerate(numbered(2))] == reader.read(0, 9)
            with pytest.raises(LogError, match="not open for writing"):
                reader.append([b"x"])
            with pytest.raises(LogError, match="not open for writing"):
                reader.trim(0)
    EmbeddedLog(tmp_path).close()
    with pytest.raises(LogError, match="no event log"):
        EmbeddedLog(tmp_path / "absent", read_only=True)


def test_a_reader_does_not_cut_an_append_in_progress(tmp_path: Path) -> None:
    *_, last = filled(tmp_path, 15)
    with last.open("ab") as stream:
        stream.write(b"\xf1T half a header")
    before = last.read_bytes()
    with EmbeddedLog(tmp_path, read_only=True) as log:
        assert [*enumerate(numbered(15))] == log.read(0, 99)
    assert before == last.read_bytes()


def test_after_a_failed_sync_the_log_must_be_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with EmbeddedLog(tmp_path) as log:
        log.append(numbered(3))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(LogWriteError, match="fdatasync failed"):
                log.append([b"unknown"])
        with pytest.raises(LogWriteError, match="open the log again"):
            log.append([b"x"])
        assert log.end == 3
        assert [*enumerate(numbered(3))] == log.read(0, 9)


APPEND_FOREVER = """
import random, sys
from pathlib import Path
from tactful_streaming.log.embedded_log import EmbeddedLog

log = EmbeddedLog(Path(sys.argv[1]), segment_bytes=2000, durability="process")
while True:
    start = log.end
    end = log.append([b"payload %d" % n for n in range(start, start + random.randrange(1, 9))])
    print(end, flush=True)
"""


@pytest.mark.parametrize("least", [50, 500, 1100])
def test_kill_9_loses_nothing_acknowledged(tmp_path: Path, least: int) -> None:
    command = [sys.executable, "-c", APPEND_FOREVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = 0
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged >= least:
                break
        process.send_signal(signal.SIGKILL)
        # A line cut by the kill was not received whole: it acknowledges nothing.
        rest = process.stdout.read().split("\n")[:-1]
        acknowledged = int(rest[-1]) if rest else acknowledged
    with EmbeddedLog(tmp_path) as log:
        assert log.end >= acknowledged >= least
        assert [*enumerate(numbered(log.end))] == log.read(0, log.end)
