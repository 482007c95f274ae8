"""Retention by purpose: what people left is forgotten when the time is over for which it is kept.

===================  ====================================================  =========================
setting              what it is about                                      in the log
===================  ====================================================  =========================
``measurement``      events that may be counted and not be used for lists  blank
``impressions``      lists that were shown, with their features            blank
``personalisation``  everything else that names a person                   blank; the state, too
                     decisions on coupons, after they expired              –
``model_log``        who changed which model                               –
===================  ====================================================  =========================

Items stay. A segment of the log is looked at as a whole, once for each purpose: when the youngest
record in it is too old. The segment at hand is ended when a sixteenth of the shortest time has gone
by, so nothing stays for longer than a sixteenth beyond its time. Age counts from receipt.

The state forgets people of whom nothing came for so long, no description either, at the next start
of the server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import msgspec

from tactful.config.retention_limits import RecordKind, days_to_ms, retention_limits
from tactful.config.settings import Settings
from tactful.coupons.decisions import forget_offers
from tactful.errors import StorageError
from tactful.event_log.encryption import open_seal
from tactful.metadata.store import MetadataStore
from tactful.models.audit_log import ModelLog
from tactful.util.background_process import low_priority
from tactful.util.clock import now_ms
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
from tactful_streaming.log.redaction import BLANK, draft_segment
from tactful_streaming.state.store import RocksState

PROGRESS = "retention.json"
"""File in the data directory that says how far the job has come."""

_SHARE = 16
_NOTED_EVERY_MS = 600_000
_EVERYTHING = (b"",)


class Progress(msgspec.Struct, kw_only=True):
    """How far retention has come.

    Attributes:
        until: by kind, the log offset before which nothing of it is left.
        at: when the job has ended last, within ten minutes, epoch milliseconds.
        removed: how many records it has made blank in all.
    """

    until: dict[str, int] = {}
    at: int = 0
    removed: int = 0


class Retention:
    """The job of a server that forgets; for one thread at a time."""

    def __init__(
        self,
        settings: Settings,
        log: EmbeddedLog,
        *,
        models: ModelLog | None = None,
        metadata: MetadataStore | None = None,
        executor: Executor | None = None,
        clock: Callable[[], int],
    ) -> None:
        """Prepare; nothing is done before `run`.

        Args:
            settings: say how long what is kept.
            log: of which this process is the writer.
            models: who changed which model, where that is to be forgotten.
            metadata: has decisions on coupons, where these are to be forgotten.
            executor: runs what takes long; None: a process of low priority, when there is any.
            clock: now in epoch milliseconds.
        """
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
        """Forget what is too old and not needed any more.

        Args:
            needed: lowest log offset that somebody has yet to read.

        Returns:
            How many records became blank.

        Raises:
            StorageError: if the progress or the metadata cannot be used.
            StreamingError: if the log cannot be used; what was done is done.
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
                    drafted = executor.submit(
                        forget_segment, self._settings, segment.path, due
                    ).result()
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
    """What a record of the log is kept for; None for one that names nobody or is not legible."""
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
    """Write a segment anew without the records of some kinds; None where there are none of them.

    Raises:
        StreamingError: if it is damaged.
        StorageError: if sealed records cannot be opened.
    """
    seal = open_seal(settings, clock=now_ms)

    def replace(offset: int, payload: bytes) -> bytes | None:
        if payload == BLANK:
            return None
        if seal is not None:
            (payload,) = seal.open([payload])
            if payload == BLANK:
                return BLANK  # nobody can open it any more
        return BLANK if kind_of(payload) in kinds else None

    needles = _EVERYTHING
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
    """Remove people from the state of whom nothing came for too long, before it is opened.

    Returns:
        How many of them there were, as `tactful_streaming.expire_users` counts.

    Raises:
        StreamingError: if the state cannot be used.
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
    """How far the job has come; one whose file is lost begins anew, which is harmless.

    Raises:
        StorageError: if the file cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Progress)
    except FileNotFoundError:
        return Progress()
    except (OSError, msgspec.MsgspecError) as error:
        raise StorageError(f"{path}: cannot be read: {error}; remove it, to begin anew") from error
