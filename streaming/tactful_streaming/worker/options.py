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
    # Consumer group of the workers, and prefix of their transactional ids
    group: str = "tactful-worker"
    features_topic: str | None = None  # topic for the results of windows; None: none are emitted
    # Topic for matches of sequences and pairs of joins; None: none are written
    matches_topic: str | None = None
    # Topic for events that came too late for a feature; None: none are written
    late_topic: str | None = None
    # Id of the log's topic, to notice that it was deleted and made anew; None: this is not checked
    topic_id: str | None = None
    # Folder for checkpoints that all hosts share; None: none are made
    checkpoints: Path | None = None
    # Age at which rejected events may be deleted, milliseconds; None: never
    dead_letter_ms: int | None = None
    # Options of each partition's engine; a job sets those that depend on its partition
    engine: EngineOptions = DEFAULT_OPTIONS
    # Opens the copy of a partition's entities for serving processes; None: no copy
    online: OpenOnline | None = None
    # Makes the cleaner of a partition; None: all events count
    make_cleaner: Callable[[], Cleaner] | None = None
    # Erased users, which are deleted from each state that is opened; None: none are
    erasures: Erasures | None = None
    # Opens and seals records of an encrypted log; None: it is not encrypted
    seal: Seal | None = None
    patience_s: float = 30.0  # time to wait for the former owner of a state on this host, seconds


@dataclass(frozen=True)
class WorkerOptions:
    """Options of one worker: batches and intervals."""

    batch: int = 20_000  # most records applied at once
    # Time from one batch to the next, seconds, if each is copied to the online store at once; None:
    # the copy waits for the commit
    publish_interval_s: float | None = None
    # Time between commits, seconds; 0 commits after every batch. Rows, actions, and a copy that
    # waits for it, are as old as that. With `publish_interval_s`, up to twice as long while there
    # is always something to read.
    commit_interval_s: float = 1.0
    checkpoint_interval_s: float = 60.0  # time between checkpoints, seconds
    # Silence after which a partition is idle: no other partition waits for it, and the clock
    # advances it. Timers wait so much longer than the clock, for events under way.
    idle_ms: int = 1_000
    # Most milliseconds by which the watermark of a partition may lead the slowest one of this
    # worker that is not idle; None: any
    alignment_ms: int | None = 300_000
    # Name of this worker that outlives a restart; None: a new one each time
    instance: str | None = None


DEFAULT_WORKER_OPTIONS = WorkerOptions()
