"""Events, the durable log, and the event-time engine that turns them into features."""

from tactful_streaming._definition_reader import load_definitions
from tactful_streaming.actions import action_of, emitted_types
from tactful_streaming.aggregates import Value
from tactful_streaming.backfilling import backfill, compute_missing
from tactful_streaming.dead_letters import DeadLetter, DeadLetters
from tactful_streaming.definitions import (
    AGGREGATES,
    ENTITIES,
    AnyWindow,
    CumulativeWindow,
    Definition,
    Definitions,
    Feature,
    ForwardDecay,
    Join,
    Sequence,
    SessionWindow,
    Step,
    Window,
    dump_definitions,
)
from tactful_streaming.engine import Applied, Engine, LateEvent
from tactful_streaming.entities import read_packed
from tactful_streaming.entries import (
    DEVICE_PREFIX,
    PERSONALISATION,
    Entry,
    EntryFormat,
    Event,
    Forwarded,
    Item,
    Link,
    Restricted,
    Tick,
    Transfer,
    User,
    decode_entry,
    encode_entry,
    event_for,
    route_key,
    subject_key,
)
from tactful_streaming.errors import (
    BackpressureError,
    DefinitionError,
    EngineError,
    EntryError,
    FencedError,
    FingerprintError,
    FlinkError,
    LogCorruptedError,
    LogError,
    LogLockedError,
    LogSettingsError,
    LogUnreachableError,
    LogWriteError,
    OffsetError,
    OnlineStoreError,
    OnlineStoreLostError,
    PayloadError,
    RuleError,
    StateError,
    StreamingError,
    TopicError,
)
from tactful_streaming.events import (
    EVENT_TYPES,
    Limits,
    Rejection,
    decode_events,
    decode_items,
    decode_users,
    new_event_id,
)
from tactful_streaming.evolution import EvolutionPlan, plan_evolution
from tactful_streaming.fired_rows import encode_fired, encode_matches
from tactful_streaming.firing import Fired
from tactful_streaming.flink_sql import FlinkOptions, FlinkScript, compile_flink
from tactful_streaming.forgetting import (
    Traces,
    devices_of,
    drop_passenger,
    forget,
    people_in,
    stored_of,
)
from tactful_streaming.group_commit import (
    Commit,
    GroupCommit,
    KeyedCommit,
)
from tactful_streaming.identity import CONSENT_PROPERTY, Identity
from tactful_streaming.intake import Consumer
from tactful_streaming.joins import ItemVersions, JoinOperator
from tactful_streaming.kafka import (
    KafkaLog,
    KafkaPartition,
)
from tactful_streaming.kafka_config import (
    KafkaSettings,
    ensure_topic,
)
from tactful_streaming.kafka_group import (
    Lag,
    PartitionGroup,
)
from tactful_streaming.kafka_topic import check_topic, topic_id
from tactful_streaming.log import (
    EmbeddedLog,
    EventLog,
    PartitionedLog,
    Positions,
)
from tactful_streaming.matches import Match, Operator
from tactful_streaming.online import EmbeddedOnlineStore, OnlineStore, RedisOnlineStore
from tactful_streaming.operators import make_operators
from tactful_streaming.partition_erasure import Erasures
from tactful_streaming.partition_job import JobOptions, PartitionJob
from tactful_streaming.partition_online import FencedRedisStore, PartitionView, redis_online
from tactful_streaming.partition_state import PartitionState
from tactful_streaming.redaction import (
    BLANK,
    Redacted,
    draft_segment,
    matching_records,
    redact,
)
from tactful_streaming.rescaling import rescale
from tactful_streaming.rule_definitions import Rule
from tactful_streaming.rules import Cleaner, Dropped, RuleReport, Rules, load_rules
from tactful_streaming.sealing import Seal, SealedLog, SealedPartitions
from tactful_streaming.sequences import SequenceOperator
from tactful_streaming.sink import (
    FiredRow,
    FiredValue,
    RowSource,
    RowTarget,
    SinkProgress,
    open_rows,
    run_sink,
)
from tactful_streaming.sink_redis import RedisRows
from tactful_streaming.spool import (
    Spool,
)
from tactful_streaming.state import (
    Change,
    MemoryState,
    RocksState,
    StateStore,
    copy_state,
    restore_checkpoint,
)
from tactful_streaming.transactional import TransactionalProducer
from tactful_streaming.webhook import (
    Answer,
    Delivery,
    DeliveryQueue,
    RetryPolicy,
    Sent,
    StoredQueue,
    WebhookSender,
    verify_signature,
)
from tactful_streaming.worker import PartitionProgress, Worker, WorkerProgress
from tactful_streaming.write_behind import WriteBehind

__all__ = [
    "AGGREGATES",
    "BLANK",
    "CONSENT_PROPERTY",
    "DEVICE_PREFIX",
    "ENTITIES",
    "EVENT_TYPES",
    "PERSONALISATION",
    "Answer",
    "AnyWindow",
    "Applied",
    "BackpressureError",
    "Change",
    "Cleaner",
    "Commit",
    "Consumer",
    "CumulativeWindow",
    "DeadLetter",
    "DeadLetters",
    "Definition",
    "DefinitionError",
    "Definitions",
    "Delivery",
    "DeliveryQueue",
    "Dropped",
    "EmbeddedLog",
    "EmbeddedOnlineStore",
    "Engine",
    "EngineError",
    "Entry",
    "EntryError",
    "EntryFormat",
    "Erasures",
    "Event",
    "EventLog",
    "EvolutionPlan",
    "Feature",
    "FencedError",
    "FencedRedisStore",
    "FingerprintError",
    "Fired",
    "FiredRow",
    "FiredValue",
    "FlinkError",
    "FlinkOptions",
    "FlinkScript",
    "ForwardDecay",
    "Forwarded",
    "GroupCommit",
    "Identity",
    "Item",
    "ItemVersions",
    "JobOptions",
    "Join",
    "JoinOperator",
    "KafkaLog",
    "KafkaPartition",
    "KafkaSettings",
    "KeyedCommit",
    "Lag",
    "LateEvent",
    "Limits",
    "Link",
    "LogCorruptedError",
    "LogError",
    "LogLockedError",
    "LogSettingsError",
    "LogUnreachableError",
    "LogWriteError",
    "Match",
    "MemoryState",
    "OffsetError",
    "OnlineStore",
    "OnlineStoreError",
    "OnlineStoreLostError",
    "Operator",
    "PartitionGroup",
    "PartitionJob",
    "PartitionProgress",
    "PartitionState",
    "PartitionView",
    "PartitionedLog",
    "PayloadError",
    "Positions",
    "Redacted",
    "RedisOnlineStore",
    "RedisRows",
    "Rejection",
    "Restricted",
    "RetryPolicy",
    "RocksState",
    "RowSource",
    "RowTarget",
    "Rule",
    "RuleError",
    "RuleReport",
    "Rules",
    "Seal",
    "SealedLog",
    "SealedPartitions",
    "Sent",
    "Sequence",
    "SequenceOperator",
    "SessionWindow",
    "SinkProgress",
    "Spool",
    "StateError",
    "StateStore",
    "Step",
    "StoredQueue",
    "StreamingError",
    "Tick",
    "TopicError",
    "Traces",
    "TransactionalProducer",
    "Transfer",
    "User",
    "Value",
    "WebhookSender",
    "Window",
    "Worker",
    "WorkerProgress",
    "WriteBehind",
    "action_of",
    "backfill",
    "check_topic",
    "compile_flink",
    "compute_missing",
    "copy_state",
    "decode_entry",
    "decode_events",
    "decode_items",
    "decode_users",
    "devices_of",
    "draft_segment",
    "drop_passenger",
    "dump_definitions",
    "emitted_types",
    "encode_entry",
    "encode_fired",
    "encode_matches",
    "ensure_topic",
    "event_for",
    "forget",
    "load_definitions",
    "load_rules",
    "make_operators",
    "matching_records",
    "new_event_id",
    "open_rows",
    "people_in",
    "plan_evolution",
    "read_packed",
    "redact",
    "redis_online",
    "rescale",
    "restore_checkpoint",
    "route_key",
    "run_sink",
    "stored_of",
    "subject_key",
    "topic_id",
    "verify_signature",
]
