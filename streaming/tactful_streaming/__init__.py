"""Events, the durable log, and the event-time engine that turns them into features.

It may import `tactful_privacy`. Begin with `Engine`. A public name is loaded at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tactful_privacy.lazy_imports import lazy_names

if TYPE_CHECKING:
    from tactful_streaming.contract.log_entries import Entry, Event, Item, Tick, encode_entry
    from tactful_streaming.definitions.reader import load_definitions
    from tactful_streaming.engine.engine import Engine
    from tactful_streaming.engine.options import EngineOptions
    from tactful_streaming.errors import StreamingError
    from tactful_streaming.kafka.kafka_log import KafkaLog
    from tactful_streaming.log.embedded_log import EmbeddedLog
    from tactful_streaming.online.partitioned_store import PartitionedRedisStore
    from tactful_streaming.online.store import RedisOnlineStore
    from tactful_streaming.online.write_behind import WriteBehind
    from tactful_streaming.sinks.redis import RedisRows
    from tactful_streaming.sinks.webhook import WebhookSender, verify_signature
    from tactful_streaming.state.store import MemoryState, RocksState, restore_checkpoint
    from tactful_streaming.windows.entity_table import read_packed
    from tactful_streaming.worker.worker import Worker

__all__ = [
    "EmbeddedLog",
    "Engine",
    "EngineOptions",
    "Entry",
    "Event",
    "Item",
    "KafkaLog",
    "MemoryState",
    "PartitionedRedisStore",
    "RedisOnlineStore",
    "RedisRows",
    "RocksState",
    "StreamingError",
    "Tick",
    "WebhookSender",
    "Worker",
    "WriteBehind",
    "encode_entry",
    "load_definitions",
    "read_packed",
    "restore_checkpoint",
    "verify_signature",
]

_LAZY = {
    "contract.log_entries": "Entry Event Item Tick encode_entry",
    "definitions.reader": "load_definitions",
    "engine.engine": "Engine",
    "engine.options": "EngineOptions",
    "errors": "StreamingError",
    "kafka.kafka_log": "KafkaLog",
    "log.embedded_log": "EmbeddedLog",
    "online.partitioned_store": "PartitionedRedisStore",
    "online.store": "RedisOnlineStore",
    "online.write_behind": "WriteBehind",
    "sinks.redis": "RedisRows",
    "sinks.webhook": "WebhookSender verify_signature",
    "state.store": "MemoryState RocksState restore_checkpoint",
    "windows.entity_table": "read_packed",
    "worker.worker": "Worker",
}
__getattr__, __dir__ = lazy_names(__name__, __all__, _LAZY)
