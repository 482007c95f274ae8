"""Retention by purpose: records of users are blanked when their time has passed.

===================  ====================================================  =========================
setting              records                                               in the log
===================  ====================================================  =========================
``measurement``      events for counting, not for recommendations          blank
``impressions``      recommendations that were shown, with features        blank
``personalisation``  all other records of users                            blank; the state, too
                     decisions on coupons, after they expired              –
``model_log``        changes of models                                     –
===================  ====================================================  =========================

Items stay. A segment of the log is processed as a whole, once for each purpose, when its youngest
record is too old. The current segment is ended after a sixteenth of the shortest time, so no record
stays longer than a sixteenth beyond its time. Age counts from receipt.

At its next start the server deletes users from the state without events or descriptions for the
time of ``personalisation``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import msgspec

from tactful.config.privacy import RecordKind, days_to_ms, retention_limits
from tactful.config.settings import Settings
from tactful.coupons.decisions import forget_offers
from tactful.errors import StorageError
from tactful.event_log.encryption import open_seal
from tactful.metadata.store import MetadataStore
from tactful.models.audit_log import ModelLog
from tactful.util.clock import now_ms
from tactful.util.process_tuning import low_priority
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file
from tactful_streaming.contract.log_entries import (
    PERSONALISATION,
    Event,
    Forwarded,
    Item,
    Restricted,
    Tick,
    decode_entry,
)
from tactful_streaming.engine.erasure import expire_users
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.redaction import draft_segment
from tactful_streaming.log.segment import BLANK
from tactful_streaming.state.store import RocksState

PROGRESS = "retention.json"  # file of the job's progress in the data directory

_SHARE = 16
_NOTED_EVERY_MS = 600_000


class Progress(msgspec.Struct, kw_only=True):
    """Progress of retention."""

    until: dict[str, int] = {}  # by kind, the log offset before which its records are blank
    at: int = 0  # last end of the job, within ten minutes, epoch milliseconds
    removed: int = 0  # number of blanked records in total


class Retention:
    """Job of a server that blanks old records; for one thread at a time."""

    def __init__(
        self,
        settings: Settings,
        log: EmbeddedLog,
        *,
        models: ModelLog | None = None,  # log of model changes, if these are to be deleted
        metadata: MetadataStore | None = None,  # decisions on coupons, if these are to be deleted
        executor: Executor | None = None,  # None: a process of low priority, started on demand
        clock: Callable[[], int],  # epoch milliseconds
    ) -> None:
        """Prepare the job; `run` does the work."""
        self._settings = settings
        self._days = settings.retention
        self._path = settings.storage.data / PROGRESS
        self._log = log
        self._models = models
        self._metadata = metadata
        self._coupons_at = -_NOTED_EVERY_MS
        self._executor = executor
        self._clock = clock
        self.stopping = False

    def run(self, needed: int) -> int:
        """Blank the records before offset `needed` that are too old, and return their number.

        Raises:
            StorageError: if the progress or the metadata cannot be used.
            StreamingError: if the log cannot be used; finished segments stay blank.
        """
        now = self._clock()
        if self._models is not None and self._days.model_log_days:
            self._models.forget(now - days_to_ms(self._days.model_log_days))
        limits = retention_limits(self._days)
        if not limits:
            return 0
        kept = limits.get("personalisation")
        if self._metadata is not None and kept and now - self._coupons_at >= _NOTED_EVERY_MS:
            self._coupons_at = now
            forget_offers(self._metadata, now - kept)
        progress = read_progress(self._path)
        ended = self._log.ended(older_than=now - min(limits.values()) // _SHARE)
        removed = 0
        with contextlib.ExitStack() as stack:
            executor = self._executor
            for segment in ended:
                due: frozenset[RecordKind] = frozenset(
                    kind
                    for kind, limit in limits.items()
                    if progress.until.get(kind, 0) <= segment.begin
                    and self._log.received_by(segment, now - limit)
                )
                if not due or segment.end > needed:
                    continue
                if self.stopping:
                    return removed
                executor = executor or stack.enter_context(low_priority())
                with self._log.rewriting:
                    job = executor.submit(forget_segment, self._settings, segment.path, due)
                    drafted = job.result()
                    adopted = drafted is not None and self._log.adopt(drafted[0])
                if drafted is not None and adopted:
                    removed += drafted[1]
                    progress.removed += drafted[1]
                for kind in due:
                    progress.until[kind] = segment.end
                replace_file(self._path, msgspec.json.encode(progress))
        if not 0 <= now - progress.at < _NOTED_EVERY_MS:
            progress.at = now
            replace_file(self._path, msgspec.json.encode(progress))
        return removed


def kind_of(payload: bytes) -> RecordKind | None:
    """Return the kind of a record; None for one without a user or a damaged one."""
    try:
        entry = decode_entry(payload)
    except StreamingError:
        return None
    if isinstance(entry, Item | Tick):
        return None
    if isinstance(entry, Restricted):
        if PERSONALISATION not in entry.purposes:
            return "measurement"
        event = entry.event
    elif isinstance(entry, Forwarded):
        event = entry.event
    elif isinstance(entry, Event):
        event = entry
    else:
        return "personalisation"
    return "impressions" if event.type == "impression" else "personalisation"


def forget_segment(
    settings: Settings, segment: Path, kinds: frozenset[RecordKind]
) -> tuple[Path, int] | None:
    """Write a segment anew without records of some kinds; None if it has none.

    A damaged segment raises StreamingError, a sealed record that cannot be opened StorageError.
    """
    seal = open_seal(settings, clock=now_ms)

    def replace(offset: int, payload: bytes) -> bytes | None:
        if payload == BLANK:
            return None
        if seal is not None:
            (payload,) = seal.open([payload])
            if payload == BLANK:
                return BLANK  # its key is deleted
        return BLANK if kind_of(payload) in kinds else None

    needles = (b"",)  # all records
    if seal is None and kinds == {"impressions"}:
        needles = (b"impression",)
    elif seal is None and kinds == {"measurement"}:
        needles = (b"restricted",)
    try:
        draft, count = draft_segment(segment, needles, replace)
    except FileNotFoundError:
        return None
    finally:
        if seal is not None:
            seal.close()
    return None if draft is None else (draft, count)


def expire_state(settings: Settings, *, clock: Callable[[], int]) -> int:
    """Delete users without recent events from the state before it is opened; count them.

    A state that cannot be used raises StreamingError.
    """
    days, state = settings.retention.personalisation_days, settings.storage.data / "state"
    if not days or not state.is_dir():
        return 0
    with contextlib.closing(RocksState(state)) as store:
        count = expire_users(store, clock() - days_to_ms(days))
        if count:
            store.purge()
    return count


def read_progress(path: Path) -> Progress:
    """Read the progress of the job; without a file it starts again, which is harmless.

    A file that cannot be read raises StorageError.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Progress)
    except FileNotFoundError:
        return Progress()
    except (OSError, *DECODE_ERRORS) as error:
        raise StorageError(f"{path}: cannot be read: {error}; remove it to start again") from error
