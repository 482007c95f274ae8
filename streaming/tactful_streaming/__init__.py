"""Events, the durable log, and the event-time engine that turns them into features.

It may import `tactful_privacy`. Begin with `Engine`. A public name is loaded at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tactful_streaming.contract.log_entries import Entry, Event, Item, Tick, encode_entry
    from tactful_streaming.definitions.reader import load_definitions
    from tactful_streaming.engine.engine import Engine
    from tactful_streaming.engine.options import EngineOptions
    from tactful_streaming.errors import StreamingError
    from tactful_streaming.kafka.kafka_log import KafkaLog
    from tactful_streaming.log.embedded_log import EmbeddedLog
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

_LOADED_WHEN_USED = {
    "EmbeddedLog": "log.embedded_log",
    "Engine": "engine.engine",
    "EngineOptions": "engine.options",
    "Entry": "contract.log_entries",
    "Event": "contract.log_entries",
    "Item": "contract.log_entries",
    "KafkaLog": "kafka.kafka_log",
    "MemoryState": "state.store",
    "RedisOnlineStore": "online.store",
    "RedisRows": "sinks.redis",
    "RocksState": "state.store",
    "StreamingError": "errors",
    "Tick": "contract.log_entries",
    "WebhookSender": "sinks.webhook",
    "Worker": "worker.worker",
    "WriteBehind": "online.write_behind",
    "encode_entry": "contract.log_entries",
    "load_definitions": "definitions.reader",
    "read_packed": "windows.entity_table",
    "restore_checkpoint": "state.store",
    "verify_signature": "sinks.webhook",
}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use."""
    if name not in _LOADED_WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LOADED_WHEN_USED[name]}"), name)


def __dir__() -> list[str]:
    return __all__
