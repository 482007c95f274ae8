"""When a worker asks its client for records, and when it tells its group of commits."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.streaming.shard import definitions

from tactful_streaming import JobOptions, KafkaSettings, Worker

pytest.importorskip("confluent_kafka")


class SilentGroup:
    """A group without partitions, which notes what it is asked and told."""

    made: "SilentGroup"

    def __init__(self, *_: object, **__: object) -> None:
        SilentGroup.made = self
        self.waits: list[float] = []
        self.commits = 0

    def poll(self, limit: int, wait_s: float) -> dict[int, list[tuple[int, bytes]]]:
        self.waits.append(wait_s)
        return {}

    def commit(self, offsets: Mapping[int, int], *, wait: bool = False) -> None:
        self.commits += 1


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> JobOptions:
    monkeypatch.setattr("tactful_streaming.worker.PartitionGroup", SilentGroup)
    return JobOptions(kafka=KafkaSettings("127.0.0.1:9092"), data=tmp_path)


def test_a_wait_is_never_shorter_than_the_client_can_wait(silent: JobOptions) -> None:
    now = [0.0]
    worker = Worker(definitions(), silent, commit_interval_s=0.01, clock=lambda: now[0])
    worker.step()
    for left in (0.0096, 0.0008, 0.00001, 0.0):
        now[0] = 0.01 - left
        worker.step()
    # A wait of less than a millisecond is none to it, and would be asked for again and again.
    assert SilentGroup.made.waits == pytest.approx([0.0, 0.0096, 0.001, 0.001, 0.0])


def test_the_group_is_told_of_commits_now_and_then(silent: JobOptions) -> None:
    now = [0.0]
    worker = Worker(definitions(), silent, commit_interval_s=0.0, clock=lambda: now[0])
    for _ in range(1000):
        worker.step()
        now[0] += 0.004
    assert 2 <= SilentGroup.made.commits <= 10
