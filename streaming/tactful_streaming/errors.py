"""Errors of this package.

* ``StreamingError``
    * ``PayloadError``: a request body cannot be split into events, items or users
    * ``EntryError``: a log entry cannot be decoded
    * ``LogError``: the event log failed
        * ``LogCorruptedError``: bytes on disk differ from those written
        * ``LogWriteError``: the disk refused an append; nothing of it is acknowledged
        * ``LogLockedError``: another process writes to this log
        * ``OffsetError``: the offset is outside the log
        * ``BackpressureError``: too many bytes wait to be written
        * ``LogSettingsError``: a setting of the log is invalid
        * ``LogUnreachableError``: no broker of the log answers
        * ``TopicError``: the topic of the log or one of its partitions does not exist
        * ``FencedError``: another process owns the partition
    * ``DefinitionError``: the feature definitions are invalid
    * ``RuleError``: the rules that clean events are invalid
    * ``EngineError``: the engine cannot continue
        * ``FingerprintError``: the state was computed by other definitions
        * ``StateError``: the stored state is damaged or of another version
    * ``OnlineStoreError``: the online store cannot be reached or is not installed
        * ``OnlineStoreLostError``: it lost entities
    * ``FlinkError``: Flink, its gateway or its jar refused or cannot be reached
"""


class StreamingError(Exception):
    """Root of every error of this package."""


class PayloadError(StreamingError, ValueError):
    """A request body as a whole cannot be split into elements.

    Attributes:
        code: short stable name of the reason.
        message: the problem and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        """Make an error with reason `code` and text `message`."""
        super().__init__(message)
        self.code = code
        self.message = message


class EntryError(StreamingError, ValueError):
    """A log entry is not an encoded event, item or user."""


class LogError(StreamingError):
    """The event log failed."""


class LogCorruptedError(LogError, ValueError):
    """Bytes on disk differ from those written. Restore the segment from a backup."""


class LogWriteError(LogError, OSError):
    """The disk refused an append: it is not acknowledged, earlier records are intact."""


class LogLockedError(LogError, RuntimeError):
    """Another process has this log open for writing."""


class OffsetError(LogError, LookupError):
    """The offset is outside the log."""


class BackpressureError(LogError, RuntimeError):
    """Too many bytes wait to be written; nothing was queued.

    Attributes:
        retry_after: seconds after which a retry is likely to be accepted.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        """Make an error with text `message`; retry after `retry_after` seconds."""
        super().__init__(message)
        self.retry_after = retry_after


class LogSettingsError(LogError, ValueError):
    """A setting of the log is invalid; the message names it."""


class LogUnreachableError(LogError, ConnectionError):
    """No broker of the log answers; pending appends may or may not be in the log.

    Attributes:
        retry_after: seconds after which a retry makes sense.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        """Make an error with text `message`; retry after `retry_after` seconds."""
        super().__init__(message)
        self.retry_after = retry_after


class TopicError(LogError, LookupError):
    """The topic of the log or one of its partitions does not exist."""


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


class OnlineStoreError(StreamingError, ConnectionError):
    """The online store cannot be reached, or its client is not installed."""


class OnlineStoreLostError(OnlineStoreError):
    """The online store lost entities: all must be put again."""


class FlinkError(StreamingError, RuntimeError):
    """Flink or its SQL Gateway refused a request or cannot be reached, or its jar is missing."""
