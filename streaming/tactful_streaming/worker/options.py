"""Options of the workers that compute features from a partitioned log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tactful_streaming.engine.options import DEFAULT_OPTIONS, EngineOptions
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.log.encrypted_log import Seal
from tactful_streaming.online.fenced_store import OpenOnline
from tactful_streaming.rules.rules import Cleaner
from tactful_streaming.worker.erasure import Erasures


@dataclass(frozen=True)
class JobOptions:
    """Options that the jobs of all partitions share."""

    kafka: KafkaSettings  # the log
    data: Path  # folder for states on this host
    group: str = "tactful-worker"  # consumer group, and prefix of the transactional ids
    features_topic: str | None = None  # topic for the results of windows; None: none are emitted
    matches_topic: str | None = None  # topic for matches of sequences and joins; None: none
    late_topic: str | None = None  # topic for events too late for a feature; None: none
    topic_id: str | None = None  # id of the log's topic, to notice its deletion; None: unchecked
    checkpoints: Path | None = None  # folder that all hosts share; None: no checkpoints
    dead_letter_ms: int | None = None  # age at which rejected events may be deleted; None: never
    engine: EngineOptions = DEFAULT_OPTIONS  # a job sets options that depend on its partition
    online: OpenOnline | None = None  # opens the copy of a partition's entities; None: no copy
    make_cleaner: Callable[[], Cleaner] | None = None  # for each partition; None: all events count
    erasures: Erasures | None = None  # erased users, deleted from each state that is opened
    seal: Seal | None = None  # of an encrypted log; None: it is not encrypted
    patience_s: float = 30.0  # time to wait for the former owner of a state on this host, seconds


@dataclass(frozen=True)
class WorkerOptions:
    """Options of one worker: batches and intervals."""

    batch: int = 20_000  # most records applied at once
    publish_interval_s: float | None = None  # between batches copied at once; None: at the commit
    # Time between commits, seconds; 0 commits after every batch. Rows, actions, and a copy that
    # waits for it, are as old as that. With `publish_interval_s`, up to twice as long while there
    # is always something to read.
    commit_interval_s: float = 1.0
    checkpoint_interval_s: float = 60.0  # time between checkpoints, seconds
    # Silence after which a partition is idle: no other partition waits for it, and the clock
    # advances it. Timers wait so much longer than the clock, for events under way.
    idle_ms: int = 1_000
    alignment_ms: int | None = 300_000  # most lead over the slowest partition; None: any
    instance: str | None = None  # name that outlives a restart; None: a new one each time


DEFAULT_WORKER_OPTIONS = WorkerOptions()
