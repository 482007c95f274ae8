"""Events, the durable log, and the event-time engine that turns them into features."""

from tactful_streaming.aggregates import Value
from tactful_streaming.definitions import (
    AGGREGATES,
    ENTITIES,
    Definitions,
    Feature,
    Window,
    dump_definitions,
    load_definitions,
)
from tactful_streaming.engine import Applied, Consumer, Engine
from tactful_streaming.entities import read_packed
from tactful_streaming.entries import (
    Entry,
    Event,
    Item,
    User,
    decode_entry,
    encode_entry,
    subject_key,
)
from tactful_streaming.errors import (
    BackpressureError,
    DefinitionError,
    EngineError,
    EntryError,
    FingerprintError,
    LogCorruptedError,
    LogError,
    LogLockedError,
    LogWriteError,
    OffsetError,
    OnlineStoreError,
    PayloadError,
    StateError,
    StreamingError,
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
from tactful_streaming.group_commit import GroupCommit
from tactful_streaming.log import EmbeddedLog, EventLog
from tactful_streaming.online import EmbeddedOnlineStore, OnlineStore, RedisOnlineStore
from tactful_streaming.state import MemoryState, RocksState, StateStore

__all__ = [
    "AGGREGATES",
    "ENTITIES",
    "EVENT_TYPES",
    "Applied",
    "BackpressureError",
    "Consumer",
    "DefinitionError",
    "Definitions",
    "EmbeddedLog",
    "EmbeddedOnlineStore",
    "Engine",
    "EngineError",
    "Entry",
    "EntryError",
    "Event",
    "EventLog",
    "Feature",
    "FingerprintError",
    "GroupCommit",
    "Item",
    "Limits",
    "LogCorruptedError",
    "LogError",
    "LogLockedError",
    "LogWriteError",
    "MemoryState",
    "OffsetError",
    "OnlineStore",
    "OnlineStoreError",
    "PayloadError",
    "RedisOnlineStore",
    "Rejection",
    "RocksState",
    "StateError",
    "StateStore",
    "StreamingError",
    "User",
    "Value",
    "Window",
    "decode_entry",
    "decode_events",
    "decode_items",
    "decode_users",
    "dump_definitions",
    "encode_entry",
    "load_definitions",
    "new_event_id",
    "read_packed",
    "subject_key",
]
