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
    """Options that the jobs of all partitions share.

    Attributes:
        kafka: the log.
        data: folder for states on this host.
        group: consumer group of the workers, and prefix of their transactional ids.
        features_topic: topic for the results of windows; None: none are emitted.
        matches_topic: topic for matches of sequences and pairs of joins; None: none are written.
        late_topic: topic for events that came too late for a feature; None: none are written.
        topic_id: id of the log's topic, to notice that it was deleted and made anew; None: this is
            not checked.
        checkpoints: folder for checkpoints that all hosts share; None: none are made.
        dead_letter_ms: age at which rejected events may be deleted, milliseconds; None: never.
        engine: options of each partition's engine; a job sets those that depend on its partition.
        online: opens the copy of a partition's entities for serving processes; None: no copy.
        make_cleaner: makes the cleaner of a partition; None: all events count.
        erasures: erased users, which are deleted from each state that is opened; None: none are.
        seal: opens and seals records of an encrypted log; None: it is not encrypted.
        patience_s: time to wait for the former owner of a state on this host, seconds.
    """

    kafka: KafkaSettings
    data: Path
    group: str = "tactful-worker"
    features_topic: str | None = None
    matches_topic: str | None = None
    late_topic: str | None = None
    topic_id: str | None = None
    checkpoints: Path | None = None
    dead_letter_ms: int | None = None
    engine: EngineOptions = DEFAULT_OPTIONS
    online: OpenOnline | None = None
    make_cleaner: Callable[[], Cleaner] | None = None
    erasures: Erasures | None = None
    seal: Seal | None = None
    patience_s: float = 30.0


@dataclass(frozen=True)
class WorkerOptions:
    """Options of one worker: batches and intervals.

    Attributes:
        batch: most records applied at once.
        publish_interval_s: time from one batch to the next, seconds, if each is copied to the
            online store at once; None: the copy waits for the commit.
        commit_interval_s: time between commits, seconds; 0 commits after every batch. Rows,
            actions, and a copy that waits for it, are as old as that. With `publish_interval_s`, up
            to twice as long while there is always something to read.
        checkpoint_interval_s: time between checkpoints, seconds.
        idle_ms: silence after which a partition is idle: no other partition waits for it, and the
            clock advances it. Timers wait so much longer than the clock, for events under way.
        alignment_ms: most milliseconds by which the watermark of a partition may lead the slowest
            one of this worker that is not idle; None: any.
        instance: name of this worker that outlives a restart; None: a new one each time.
    """

    batch: int = 20_000
    publish_interval_s: float | None = None
    commit_interval_s: float = 1.0
    checkpoint_interval_s: float = 60.0
    idle_ms: int = 1_000
    alignment_ms: int | None = 300_000
    instance: str | None = None


DEFAULT_WORKER_OPTIONS = WorkerOptions()
