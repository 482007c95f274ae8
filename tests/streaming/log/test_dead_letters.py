"""Dead letters: kept as they came, read back once each, through crashes and repeats."""

import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.streaming.shard import definitions, new_shard
from tests.streaming.streams import event_of

from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.errors import LogCorruptedError, LogError
from tactful_streaming.log.dead_letters import UNREADABLE, DeadLetter, DeadLetters
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.rules.rules import load_rules
from tactful_streaming.worker.partition_job import PartitionJob


def letter(
    offset: int, rule: str = "r", partition: int = 0, payload: bytes | None = None
) -> DeadLetter:
    return DeadLetter(
        payload=encode_entry(event(str(offset), offset)) if payload is None else payload,
        rule=rule,
        reason="because",
        partition=partition,
        offset=offset,
        received=None if offset % 2 else offset + 5,
    )


def event(event_id: str, timestamp: int, text: str = "") -> Event:
    return event_of(event_id, "view", timestamp, "u", properties={"text": text} if text else {})


def test_letters_are_read_back_as_they_were(tmp_path: Path) -> None:
    letters = [letter(number, rule="ab"[number % 2]) for number in range(2500)]
    kept = DeadLetters.open(tmp_path / "letters")
    kept.add(letters[:1])
    kept.add([])
    kept.add(letters[1:])
    assert (kept.log.begin, kept.end) == (0, 2500)
    assert list(kept.read()) == list(enumerate(letters))
    assert [position for position, _ in kept.read(2400, ["a"])] == list(range(2400, 2500, 2))
    assert list(kept.read(2500)) == []
    kept.close()
    reader = DeadLetters.open(tmp_path / "letters", read_only=True)
    assert [record.offset for _, record in reader.read()] == list(range(2500))
    with pytest.raises(LogError, match="not open for writing"):
        reader.add(letters[:1])
    reader.close()


def test_dead_letters_can_be_decoded(tmp_path: Path) -> None:
    kept = DeadLetters.open(tmp_path)
    kept.add([letter(7), letter(8, UNREADABLE, payload=b"\xc1 no entry"), letter(9, payload=b"{")])
    entries = [record.entry() for _, record in kept.read()]
    assert entries[0] == Event(event_id="7", type="view", timestamp=7, user_id="u")
    assert entries[1:] == [None, None]
    kept.close()


def test_repetitions_after_a_crash_are_skipped(tmp_path: Path) -> None:
    kept = DeadLetters.open(tmp_path)
    kept.add([letter(1), letter(3)])
    kept.add([letter(1), letter(3), letter(4)])  # applied again from the last commit
    kept.add([letter(3, partition=1), letter(3, rule="other")])
    places = [(record.partition, record.offset, record.rule) for _, record in kept.read()]
    assert places == [(0, 1, "r"), (0, 3, "r"), (0, 4, "r"), (1, 3, "r"), (0, 3, "other")]
    kept.close()


def test_another_letter_at_the_same_offset_is_no_repetition(tmp_path: Path) -> None:
    """Partitions that are read as one may come in another order after a crash."""
    kept = DeadLetters.open(tmp_path)
    first, second = (letter(7, payload=payload) for payload in (b"one", b"two"))
    kept.add([first])
    kept.add([second, first])
    assert [record.payload for _, record in kept.read()] == [b"one", b"two"]
    kept.close()


def test_old_letters_are_deleted_in_whole_segments(tmp_path: Path) -> None:
    now = [1_000_000]
    log = EmbeddedLog(tmp_path, segment_bytes=500, retention_ms=20_000, clock=lambda: now[0])
    kept = DeadLetters(log)
    for offset in range(60):
        now[0] += 1000
        kept.add([letter(offset)])
    kept.trim()
    assert 0 < kept.log.begin < 60
    left = [record.offset for _, record in kept.read()]
    assert left == list(range(kept.log.begin, 60)), "reading from 0 begins at the oldest one left"
    assert 20 <= len(left) < 30, "nothing younger than the retention goes"
    kept.close()


@pytest.mark.service("kafka")
@pytest.mark.parametrize("retention", [1, None])
def test_a_worker_deletes_old_letters_at_checkpoints(
    retention: int | None, kafka_servers: str, tmp_path: Path
) -> None:
    rules = load_rules("- {name: no, when: {type: view}, action: dead_letter}")
    with new_shard(kafka_servers, tmp_path, 2, dead_letter_ms=retention) as shard:
        job = PartitionJob(0, definitions(), replace(shard.options, make_cleaner=lambda: rules))
        text = "x" * 1000
        for number in range(25):
            run = [
                (offset, encode_entry(event(str(offset), 1_000 + offset, text)))
                for offset in range(number * 100, number * 100 + 100)
            ]
            job.apply(run)
            job.commit()
        job.checkpoint()
        job.close()
        (folder,) = shard.options.data.glob("partitions/*/dead-letters")
        kept = DeadLetters.open(folder, read_only=True)
        assert kept.end == 2500
        assert (kept.log.begin > 0) == (retention is not None)
        left = [record.offset for _, record in kept.read()]
        assert left == list(range(kept.log.begin, 2500))
        kept.close()


def test_a_foreign_record_is_named(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    log.append([b"something else"])
    with pytest.raises(LogCorruptedError, match="dead letter 0 is damaged"):
        list(DeadLetters(log).read())
    log.close()


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no event log here"):
        DeadLetters.open(tmp_path / "absent", read_only=True)


_WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from tactful_streaming.log.dead_letters import DeadLetter, DeadLetters
kept = DeadLetters.open(Path(sys.argv[1]), durability="process")
for offset in range(10**9):
    kept.add([DeadLetter(payload=b"x" * 100, rule="r", reason="", partition=0, offset=offset)])
    sys.stdout.write(f"{offset}\\n")
    sys.stdout.flush()
"""


def test_added_letters_survive_a_kill(tmp_path: Path) -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            acknowledged = [int(line) for line in itertools.islice(writer.stdout, 200)]
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
        kept = DeadLetters.open(tmp_path)
        offsets = [record.offset for _, record in kept.read()]
        kept.close()
        assert set(acknowledged) <= set(offsets)
        assert offsets == list(range(len(offsets)))
