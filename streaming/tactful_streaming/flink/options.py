"""Options of a compiled job, and its script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

DecayPlan = Literal["exact", "panes"]
"""Computation of a decayed window, see `FlinkOptions`."""


@dataclass(frozen=True)
class FlinkOptions:
    """Options of a compiled job: topics, watermark, state and execution."""

    servers: str  # bootstrap servers of Kafka
    topic: str  # the log's topic, with entries in JSON
    features_topic: str = "features"  # topic for values of features
    matches_topic: str = "matches"  # topic for matches of sequences and pairs of joins
    group_id: str = "tactful-flink"  # consumer group whose offsets show the job's progress
    watermark_delay_ms: int = 5_000  # as of the engine
    idle_timeout_ms: int = 60_000  # silence after which a partition counts as idle; 0: never
    # As of the engine. Windows of `output` results are written once, this much later than the
    # engine writes them first; without windows it has no effect there.
    allowed_lateness_ms: int = 300_000
    dedupe_days: int = 7  # days for which an event id is stored; 0: events are not deduplicated
    # Whether the topic holds items, too. Without them the category comes from the event alone, and
    # `item.` sources are refused.
    catalogue: bool = True
    # `exact` counts an event for every decayed window that has not ended, as the engine does;
    # `panes` adds up panes first and windows from them (TUMBLE, then HOP over `window_time`):
    # faster, but an event that is late for its pane is lost
    decay: DecayPlan = "exact"
    parallelism: int = 0  # subtasks of each operator; 0: the cluster's default
    checkpoint_ms: int = 10_000  # milliseconds between checkpoints
    state_backend: Literal["rocksdb", "hashmap"] = "rocksdb"
    exactly_once: bool = False  # whether results are written in transactions; else perhaps twice
    end_offsets: Mapping[int, int] | None = None  # by partition, where reading ends; None: never
    kafka: Mapping[str, str] = field(default_factory=dict)  # further client properties
    job: str = "tactful"
    # `results`: rows of windows, matches and pairs; `entities`: packed values of users and
    # sessions, from which recommendations are made
    output: Literal["results", "entities"] = "results"
    entities_topic: str = "tactful-entities"  # topic for packed values, partitioned as the log is
    erased_topic: str = "tactful-erased"  # topic of erased users, read by the job
    publish_ms: int = 40  # time between two packed values of an entity, at least
    # time after a change until the job looks, at least, whether no feature reads an entity any more
    look_ms: int = 60_000

    def execution(self) -> dict[str, str]:
        """Return the settings of Flink for the execution."""
        settings = {
            "pipeline.name": self.job,
            "state.backend.type": self.state_backend,
            "execution.checkpointing.interval": f"{self.checkpoint_ms} ms",
            # A job that fails for good or is cancelled resumes from its last checkpoint.
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        }
        if self.state_backend == "rocksdb":
            settings["execution.checkpointing.incremental"] = "true"
        if self.parallelism:
            settings["parallelism.default"] = str(self.parallelism)
        return settings


@dataclass(frozen=True)
class FlinkScript:
    """A compiled job."""

    statements: tuple[str, ...]  # SQL statements in order, without semicolons

    @property
    def text(self) -> str:
        """One text for Flink's SQL client, which needs our jar on its classpath."""
        return "\n\n".join(f"{statement};" for statement in self.statements) + "\n"
