"""Segments that are missing, exchanged, doubled or emptied are refused; a loss can be accepted."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.errors import LogCorruptedError, LogIncompleteError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.redaction import redact
from tactful_streaming.log.segment import BLANK
from tactful_streaming.log.segment_catalogue import LOSSES

COUNT = 95
"""Records of the log; 33 to a segment."""


class PowerCut(BaseException):
    pass


def fill(path: Path, name: bytes = b"payload", count: int = COUNT, **options: object) -> list[Path]:
    """A closed log of records of one size, all received at once; its segments."""
    with EmbeddedLog(path, segment_bytes=1100, clock=lambda: 7, **options) as log:  # type: ignore[arg-type]
        for number in range(count):
            log.append([b"%s %05d" % (name[:7].ljust(7), number)])
    return sorted(path.glob("*.log"))


def read_all(path: Path) -> list[tuple[int, bytes]]:
    with EmbeddedLog(path) as log:
        return log.read(log.begin, 10_000)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.glob("*.log")}


def other(files: list[Path]) -> list[Path]:
    """Segments of another log, with the same offsets and times."""
    return fill(files[0].parent.with_name("other"), b"another")


def double(files: list[Path]) -> None:
    shutil.copy(files[-1], files[-1].with_name(f"{COUNT:020d}.log"))


def append_double(files: list[Path]) -> None:
    files[-1].write_bytes(files[-1].read_bytes() * 2)


def swap(files: list[Path]) -> None:
    first, second = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(second)
    files[1].write_bytes(first)


def take_all(files: list[Path]) -> None:
    for file in files:
        file.unlink()


ATTACKS: dict[str, Callable[[list[Path]], object]] = {
    "missing first": lambda files: files[0].unlink(),
    "missing middle": lambda files: files[1].unlink(),
    "missing newest": lambda files: files[-1].unlink(),
    "missing all": take_all,
    "emptied first": lambda files: os.truncate(files[0], 0),
    "emptied newest": lambda files: os.truncate(files[-1], 0),
    "shortened newest": lambda files: os.truncate(files[-1], files[-1].stat().st_size - 1),
    "doubled newest": double,
    "newest twice in its file": append_double,
    "swapped": swap,
    "middle of another log": lambda files: shutil.copy(other(files)[1], files[1]),
    "one more of another log": lambda files: shutil.copy(
        other(files)[1], files[0].with_name(f"{5:020d}.log")
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_incomplete_log_is_refused_or_its_loss_accepted(tmp_path: Path, attack: str) -> None:
    """The refusal names file and offsets and changes nothing; acceptance keeps all offsets."""
    path = tmp_path / "log"
    files = fill(path)
    before = dict(read_all(path))
    assert len(files) == 3
    ATTACKS[attack](files)
    damaged = contents(path)
    with pytest.raises(LogIncompleteError, match=r"\.log .*offsets.*--accept-loss"):
        EmbeddedLog(path)
    if "newest" not in attack:
        with pytest.raises(LogIncompleteError):
            EmbeddedLog(path, read_only=True)
    assert contents(path) == damaged

    EmbeddedLog(path, accept_loss=True, clock=lambda: 9).close()
    after = dict(read_all(path))
    assert max(after) == COUNT - 1
    assert list(after) == list(range(min(after), COUNT))
    assert all(payload in (before[offset], BLANK) for offset, payload in after.items())
    losses = [json.loads(line) for line in (path / LOSSES).read_bytes().splitlines()]
    blank = {offset for offset in before if after.get(offset, BLANK) == BLANK}
    assert blank == {n for loss in losses for n in range(loss["begin"], loss["end"])}
    assert all(loss["at"] == 9 and loss["reason"] for loss in losses)
    with EmbeddedLog(path) as log:
        assert log.append([b"more"]) == COUNT + 1


def test_a_newest_segment_of_another_log_is_refused(tmp_path: Path) -> None:
    path, now = tmp_path / "log", iter(range(1_000_000))
    for name in ("log", "other"):
        with EmbeddedLog(tmp_path / name, clock=lambda: next(now)) as log:
            for number in range(9):
                log.append([b"%s %d" % (name.encode(), number)])
    shutil.copy(next((tmp_path / "other").glob("*.log")), next(path.glob("*.log")))
    with pytest.raises(LogIncompleteError, match="exchanged"):
        EmbeddedLog(path)
    EmbeddedLog(path, accept_loss=True).close()
    assert read_all(path) == [(number, BLANK) for number in range(9)]


def test_a_damaged_catalogue_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    before = read_all(tmp_path)
    catalogue = tmp_path / "segments"
    for rubbish in (b"", b"{}", catalogue.read_bytes().replace(b'"begin":0', b'"begin":5')):
        catalogue.write_bytes(rubbish)
        for read_only in (False, True):
            with pytest.raises(LogCorruptedError, match="segments: damaged"):
                EmbeddedLog(tmp_path, read_only=read_only)
    EmbeddedLog(tmp_path, accept_loss=True).close()
    assert read_all(tmp_path) == before


def test_a_log_of_an_earlier_version_opens(tmp_path: Path) -> None:
    files = fill(tmp_path)
    before = read_all(tmp_path)
    (tmp_path / "segments").unlink()
    bounds = tmp_path / "bounds"
    bounds.write_bytes(bounds.read_bytes()[:20])
    assert read_all(tmp_path) == before
    files[0].unlink()
    with pytest.raises(LogIncompleteError, match="is missing"):
        EmbeddedLog(tmp_path)


def test_accepted_losses_stay_readable_for_readers_and_retention(tmp_path: Path) -> None:
    files = fill(tmp_path)
    files[1].unlink()
    with EmbeddedLog(tmp_path, accept_loss=True, retention_bytes=1, clock=lambda: 8) as log:
        assert log.offset_at(7) == 0
        with EmbeddedLog(tmp_path, read_only=True) as reader:
            assert reader.read(0, 999) == log.read(0, 999)
        assert log.trim(COUNT) == int(files[2].stem)


@pytest.mark.parametrize("step", range(3))
def test_a_rewrite_killed_at_any_step_opens(tmp_path: Path, step: int) -> None:
    """The first record, which identifies a segment, is replaced."""
    fill(tmp_path)
    before = dict(read_all(tmp_path))
    left, replace = [step], Path.replace

    def dying(source: Path, target: Path) -> Path:
        if not left[0]:
            raise PowerCut
        left[0] -= 1
        return replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(PowerCut):
            redact(tmp_path, {b"00000"}, lambda offset, payload: BLANK)
    after = dict(read_all(tmp_path))
    assert after in (before, before | {0: BLANK})
    redact(tmp_path, {b"00000"}, lambda offset, payload: BLANK)
    assert dict(read_all(tmp_path)) == before | {0: BLANK}


@given(st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_damage_to_any_file_is_refused_or_makes_no_difference(
    tmp_path_factory: pytest.TempPathFactory, rng: random.Random
) -> None:
    """A file is deleted, exchanged, cut, copied or has a flipped bit."""
    path = tmp_path_factory.mktemp("log")
    fill(path, durability="process")
    before = read_all(path)
    files = sorted(file for file in path.iterdir() if file.name != "lock")
    victim, second = rng.choice(files), rng.choice(files)
    data, strike = bytearray(victim.read_bytes()), rng.randrange(5)
    if strike == 0:
        victim.unlink()
    elif strike == 1:
        os.truncate(victim, rng.randrange(len(data) + 1))
    elif strike == 2:
        (path / f"{rng.choice([COUNT, 40, 0]):020d}.log").write_bytes(data)
    elif strike == 3:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        victim.write_bytes(data)
    else:
        victim.write_bytes(second.read_bytes())
        second.write_bytes(data)
    try:
        after = read_all(path)
    except LogCorruptedError:
        return
    assert after == before
