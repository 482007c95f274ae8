"""Errors of this package; all derive from `StreamingError`."""


class StreamingError(Exception):
    """Root of every error of this package."""


class PayloadError(StreamingError, ValueError):
    """A request body as a whole cannot be split into elements."""

    def __init__(self, code: str, message: str) -> None:
        """Keep the short stable name of the reason, and the problem and what to do."""
        super().__init__(message)
        self.code = code
        self.message = message


class EntryError(StreamingError, ValueError):
    """A log entry is not an encoded event, item or user."""


class LogError(StreamingError):
    """The event log failed."""


class LogCorruptedError(LogError, ValueError):
    """Bytes on disk differ from those written. Restore the segment from a backup."""


class LogIncompleteError(LogCorruptedError):
    """Segments are missing, exchanged or shortened. The message names files and offsets."""


class LogWriteError(LogError, OSError):
    """The disk refused an append: it is not acknowledged, earlier records are intact."""


class LogLockedError(LogError, RuntimeError):
    """Another process has this log open for writing."""


class OffsetError(LogError, LookupError):
    """The offset is outside the log."""


class _RetryLater(LogError):
    def __init__(self, message: str, retry_after: float) -> None:
        """Make an error with text `message`; a retry makes sense after `retry_after` s."""
        super().__init__(message)
        self.retry_after = retry_after


class BackpressureError(_RetryLater, RuntimeError):
    """Too many bytes wait to be written; nothing was queued."""


class LogSettingsError(LogError, ValueError):
    """A setting of the log is invalid; the message names it."""


class LogUnreachableError(_RetryLater, ConnectionError):
    """No broker of the log answers; pending appends may or may not be in the log."""


class TopicError(LogError, LookupError):
    """The topic of the log or one of its partitions does not exist."""


class TopicMissingError(TopicError):
    """A broker reports a topic or partition missing, as one that restarts may do of any topic."""

    def __init__(self, message: str, topic: str) -> None:
        """Keep the text and the name of the topic."""
        super().__init__(message)
        self.topic = topic


class FencedError(LogError, RuntimeError):
    """Another process owns the partition: writes of this process are refused."""


class DefinitionError(StreamingError, ValueError):
    """The feature definitions are invalid; the message names file, line and key."""


class RuleError(StreamingError, ValueError):
    """The rules that clean events are invalid; the message names file, line and key."""


class EngineError(StreamingError, RuntimeError):
    """The engine cannot continue."""


class FingerprintError(EngineError, ValueError):
    """The stored state was computed by other feature definitions."""


class StateError(EngineError, ValueError):
    """The stored state is damaged or was written by another version."""


class ObjectStoreError(StreamingError, OSError):
    """A place of objects, such as a bucket, cannot be used; the message says what to do."""


class ObjectMissingError(ObjectStoreError, LookupError):
    """There is no object of this name."""


class ObjectExistsError(ObjectStoreError):
    """There is an object of this name already."""


class SnapshotError(ObjectStoreError, ValueError):
    """A snapshot in a place of objects is missing, incomplete or damaged."""


class OnlineStoreError(StreamingError, ConnectionError):
    """The online store cannot be reached, or its client is not installed."""


class OnlineStoreLostError(OnlineStoreError):
    """The online store lost entities: all must be put again."""


class FlinkError(StreamingError, RuntimeError):
    """Flink or its SQL Gateway refused a request or cannot be reached, or its jar is missing."""


class FlinkRefusedError(FlinkError):
    """Flink or its SQL Gateway answered a request with an error."""


class FlinkUnreachableError(FlinkError):
    """Neither Flink nor a SQL Gateway answers at the address."""
