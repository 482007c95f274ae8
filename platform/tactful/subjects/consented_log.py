"""The log without users who do not agree now or were erased, for training.

Events of users who withdraw consent stay in the log until retention or an erasure removes them.
This reader blanks them, so models learn only from users who agree on the day of the training, also
during an erasure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.event_log.batches import reach_of, reach_to
from tactful.event_log.open import open_log, open_partitions
from tactful.metadata.connections import open_installation
from tactful.schemas.positions import Position
from tactful.subjects.consent import ConsentStore
from tactful.subjects.permissions import Permissions, claimed
from tactful.subjects.suppression import open_suppression
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.people.consent import EVERYTHING, NOTHING, Purpose
from tactful_streaming.contract.log_entries import Tick, encode_entry
from tactful_streaming.errors import LogError
from tactful_streaming.log.event_log import EventLog
from tactful_streaming.log.segment import BLANK

_Decisions = dict[tuple[str | None, str | None, str | None], bool]

Allows = Callable[[str | None, str | None, int, str | None], bool]
"""Returns whether an event may be used, by user id, device id, time and its own claim."""


class _Context(msgspec.Struct, frozen=True):
    """Field of an event's context that claims consent."""

    consent: object = None


class _Narrow(msgspec.Struct, frozen=True):
    """Fields of an entry that identify the user."""

    kind: str
    timestamp: int = 0
    user_id: str | None = None
    device_id: str | None = None
    context: _Context = _Context()
    event: msgspec.Raw = msgspec.Raw()
    purposes: tuple[str, ...] = ()


_from_msgpack = msgspec.msgpack.Decoder(_Narrow).decode
_from_json = msgspec.json.Decoder(_Narrow).decode
_JSON_BLANK = encode_entry(Tick(timestamp=0), "json")


@dataclass(frozen=True)
class PermittedLog:
    """A read-only `EventLog` in which records that are not permitted are blank; offsets stay."""

    log: EventLog
    allows: Allows
    purpose: Purpose = Purpose.PERSONALISATION

    @property
    def begin(self) -> int:
        """Offset of the oldest record."""
        return self.log.begin

    @property
    def end(self) -> int:
        """Offset of the next record."""
        return self.log.end

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        """Read up to `limit` records from `offset` on; blank ones are ticks at time 0."""
        decisions: _Decisions = {}  # of these records alone: people may decide meanwhile
        records = self.log.read(offset, limit)
        return [(at, self._shown(payload, decisions)) for at, payload in records]

    @property
    def reach(self) -> Position:
        """End of the log."""
        return reach_of(self.log)

    def reach_to(self, position: Position) -> bool:
        """End a bounded log at an earlier end; return whether it reaches that."""
        return reach_to(self.log, position)

    def append(self, payloads: object) -> int:
        """Raise, since the log is read only."""
        raise TypeError("a permitted log is read only")

    def offset_at(self, timestamp: int) -> int:
        """Offset of the first record received at or after `timestamp`, epoch milliseconds."""
        return self.log.offset_at(timestamp)

    def close(self) -> None:
        """Close the log."""
        self.log.close()

    def _shown(self, payload: bytes, decisions: _Decisions) -> bytes:
        json = payload[:1] == b"{"
        decode, blank = (_from_json, _JSON_BLANK) if json else (_from_msgpack, BLANK)
        try:
            entry = decode(payload)
        except (ValueError, *DECODE_ERRORS):
            return payload  # the reader counts it as damaged
        if entry.kind == "restricted":
            if self.purpose not in entry.purposes:
                return blank
            return self._shown(bytes(entry.event), decisions)
        if entry.kind not in ("event", "user"):
            return payload
        if entry.user_id is None and entry.device_id is None:
            return payload
        claim = entry.context.consent if isinstance(entry.context.consent, str) else None
        asked = (entry.user_id, entry.device_id, claim)
        allowed = decisions.get(asked)
        if allowed is None:
            allowed = self.allows(entry.user_id, entry.device_id, entry.timestamp, claim)
            decisions[asked] = allowed
        return payload if allowed else blank


@contextlib.contextmanager
def training_permissions(
    settings: Settings, *, clock: Callable[[], int], purpose: Purpose = Purpose.PERSONALISATION
) -> Iterator[Allows]:
    """Open a check whether an event may be used, by the present decisions.

    A device counts under its own decisions and under those of the user that an event names. The log
    holds events of users without a decision as the default at their time allowed; they are used
    unless the settings say ``deny`` now. Events of an erased user are unused from the request on.
    Metadata or keyring that cannot be used, or are missing beside a log in Kafka, raise
    StorageError.
    """
    file = settings.storage.data / "metadata.db"
    if not settings.log.in_files and not settings.metadata.url_env and not file.exists():
        raise StorageError(
            f"{file} does not exist, so users' consent is unknown: name the data directory "
            "of the server with --data, or its database in metadata.url_env"
        )
    with contextlib.closing(open_installation(settings)) as metadata:
        default = NOTHING if settings.consent.default == "deny" else EVERYTHING
        consents = ConsentStore(metadata, default, clock=clock).consents
        suppressed = open_suppression(settings, metadata, clock=clock).suppressed
        permissions = Permissions(consents, suppressed=suppressed)

        def allows(user_id: str | None, device_id: str | None, at: int, claim: str | None) -> bool:
            return purpose in permissions.of(user_id, device_id, at, claimed(claim))

        yield allows


@contextlib.contextmanager
def measured_partitions(
    settings: Settings, *, clock: Callable[[], int]
) -> Iterator[list[PermittedLog]]:
    """Open each partition of the log as `measured_log` does; they can be searched by time.

    A log that is absent, damaged or does not answer raises StorageError.
    """
    if settings.log.in_files:
        with measured_log(settings, clock=clock) as log:
            yield [log]
        return
    purpose = Purpose.MEASUREMENT
    try:
        with (
            contextlib.ExitStack() as stack,
            training_permissions(settings, clock=clock, purpose=purpose) as allows,
        ):
            logs = open_partitions(settings, stack, clock=clock)
            yield [PermittedLog(log, allows, purpose) for log in logs]
    except LogError as error:
        raise StorageError(f"nothing to measure: {error}") from error


@contextlib.contextmanager
def measured_log(settings: Settings, *, clock: Callable[[], int]) -> Iterator[PermittedLog]:
    """Open the log with the events that may be used to measure recommendations.

    A log that is absent, damaged or does not answer raises StorageError.
    """
    purpose = Purpose.MEASUREMENT
    try:
        with (
            open_log(settings, clock=clock) as log,
            training_permissions(settings, clock=clock, purpose=purpose) as allows,
        ):
            yield PermittedLog(log, allows, purpose)
    except LogError as error:
        cure = "; name the data with --data" if settings.log.in_files else ""
        raise StorageError(f"nothing to measure: {error}{cure}") from error
