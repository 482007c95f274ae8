"""Erasure of users from stores that no server holds open."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tactful.config.settings import Settings
from tactful.errors import ConfigError, StorageError, TrainingBusy
from tactful.event_log.encryption import open_seal
from tactful.event_log.open import open_partitions
from tactful.flags.sticky import StickyArms
from tactful.metadata.connections import kafka_settings, make_topic, open_redis
from tactful.models.schedule import after_erasure
from tactful.ranking.model import untrained_recall
from tactful.recall.takers import NAME as TAKERS
from tactful.recall.takers import without_takers
from tactful.rerank.frequency_caps import without_people
from tactful.schemas.users import ErasureStep
from tactful.statistics.service import erasers
from tactful.subjects import export
from tactful.subjects.consent import ConsentStore
from tactful.subjects.installation import Installation
from tactful.subjects.trace_search import (
    Progress,
    Search,
    SearchResult,
    find_traces,
    search_log,
    search_partitions,
)
from tactful.util.checkpoint import Checkpoint
from tactful.util.clock import now_ms
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.log_entries import Tick, encode_entry
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.erasure import delete_subjects
from tactful_streaming.errors import StateError
from tactful_streaming.log.dead_letters import DeadLetter
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.redaction import redact
from tactful_streaming.log.segment import BLANK
from tactful_streaming.sinks.webhook import DeliveryQueue
from tactful_streaming.state.store import RocksState, open_beside

LETTERS = export.LETTERS

BACKFILL = "backfill"
"""Folder of a backfill's states in the data directory."""

UNDO = "undo"
"""Folder of the undo of imports in the data directory."""

RESCALING = ("partitions.rescaling", "rescaling.json")
"""Files of an unfinished rescaling in the data directory; without them it restarts."""

_NO_OFFSET = -1  # records in the spool have no offset in the log yet

Blank = Callable[[int, bytes], bytes | None]
"""Returns the replacement of a record at an offset; None keeps the record."""


def find_log(installation: Installation, result: SearchResult) -> Sequence[Any]:
    """List the records of users in the log of the data directory."""
    with search_log(installation.settings, clock=installation.clock) as search:
        return [*export.records_in(search, result)]


def find_letters(installation: Installation, name: str, result: SearchResult) -> Sequence[Any]:
    """List the dead letters of users in a folder of the data directory."""
    return [*export.letters_in(installation.settings, name, result, installation.clock)]


def purge_log(installation: Installation, result: SearchResult) -> ErasureStep:
    """Blank the records of the log in files; a topic keeps them until its retention."""
    if not installation.settings.log.in_files:
        return ErasureStep(place="log", removed=0, note="stays in the topic until its retention")
    path = installation.data / "log"
    _cut_torn_tail(path)
    hashes = hashlib.sha256()

    def written(segment: Path) -> None:
        hashes.update(hashlib.sha256(segment.read_bytes()).digest())

    with blanking(installation.settings, result, clock=installation.clock) as (needles, replace):
        done = redact(path, needles, replace, written=written)
    return ErasureStep(
        place="log",
        removed=result.records,
        note=f"{len(done.segments)} segments were written anew",
        sha256=hashes.hexdigest() if done.segments else "",
    )


def purge_spool(path: Path, result: SearchResult) -> ErasureStep:
    """Replace records that wait for an absent broker by ticks without a user."""
    blank = msgspec.msgpack.encode(("", encode_entry(Tick(timestamp=0), "json")))

    def replace(offset: int, record: bytes) -> bytes | None:
        try:
            _, payload = msgspec.msgpack.decode(record, type=tuple[str | None, bytes])
        except DECODE_ERRORS:
            return None
        return blank if result.owns_payload(_NO_OFFSET, payload) else None

    _cut_torn_tail(path)
    return ErasureStep(place="spool", removed=redact(path, result.needles, replace).records)


def purge_letters(installation: Installation, name: str, result: SearchResult) -> ErasureStep:
    """Blank the dead letters in a folder of the data directory."""
    path = installation.data / name
    _cut_torn_tail(path)
    with blanking(installation.settings, result, clock=installation.clock) as (needles, replace):
        done = redact(path, needles, blank_letter(replace))
    return ErasureStep(place=name, removed=done.records)


def _cut_torn_tail(path: Path) -> None:
    """Remove an incomplete last record, which a crash leaves in a log."""
    if path.is_dir():
        EmbeddedLog(path).close()


class RecordOwner(Protocol):
    """Owner of records of the log: users, or an import."""

    @property
    def needles(self) -> frozenset[bytes]:
        """Bytes of which one occurs in each record that is not sealed."""

    @property
    def keys(self) -> frozenset[str]:
        """Keys under which records may be sealed."""

    def owns_payload(self, offset: int, payload: bytes) -> bool:
        """Return whether a record at an offset belongs to the owner."""


@contextlib.contextmanager
def blanking(
    settings: Settings, owner: RecordOwner, *, clock: Callable[[], int]
) -> Iterator[tuple[frozenset[bytes], Blank]]:
    """Give the bytes that occur in an owner's records of the log, and their replacement."""
    needles = owner.needles
    seal = open_seal(settings, clock=clock)
    if seal is not None:
        needles |= seal.references(owner.keys)

    def replace(offset: int, payload: bytes) -> bytes | None:
        if seal is not None:
            (payload,) = seal.open([payload])
        return BLANK if owner.owns_payload(offset, payload) else None

    with contextlib.nullcontext() if seal is None else contextlib.closing(seal):
        yield needles, replace


def blank_letter(replace: Blank) -> Blank:
    """Convert a replacement of log records into one of dead letters."""

    def blank(offset: int, payload: bytes) -> bytes | None:
        try:
            letter = msgspec.msgpack.decode(payload, type=DeadLetter)
        except DECODE_ERRORS:
            return None
        if replace(letter.offset, letter.payload) is None:
            return None
        erased = DeadLetter(
            payload=BLANK,
            rule=letter.rule,
            reason="erased",
            partition=letter.partition,
            offset=letter.offset,
        )
        return msgspec.msgpack.encode(erased)

    return blank


def delete_keys(installation: Installation, result: SearchResult) -> ErasureStep:
    """Delete the keys of sealed records, so that no copy of these can be opened."""
    seal = open_seal(installation.settings, clock=installation.clock)
    assert seal is not None
    with contextlib.closing(seal):
        deleted = seal.erase(result.traces.people)
    note = "sealed records cannot be opened any more, in topics and backups, too"
    return ErasureStep(place="keys", removed=deleted, note=note)


def purge_webhooks(path: Path, result: SearchResult) -> ErasureStep:
    """Delete waiting calls of webhooks."""
    removed = 0
    for directory in sorted(path.glob("*")) if path.is_dir() else ():
        with contextlib.closing(RocksState(directory)) as store:
            count = DeliveryQueue(store).remove(result.owns_delivery)
            if count:
                store.purge()
            removed += count
    return ErasureStep(place="webhooks", removed=removed)


def purge_unfinished(
    settings: Settings, definitions: Definitions, traces: SubjectIds
) -> ErasureStep:
    """Delete users from an unfinished backfill or undo, and discard an unfinished rescaling.

    Backfill and undo can be resumed; the rescaling starts again. StorageError while one of them
    runs; it may be repeated after a StateError of the disk.
    """
    data, removed = settings.storage.data, 0
    for path in [*_states_in(data / BACKFILL), *_states_in(data / UNDO)]:
        with _held(path) as store:
            removed += delete_subjects(store, traces, definitions, {})
            store.purge()
    draft, note = (data / name for name in RESCALING)
    for path in _states_in(draft):
        with _held(path):
            removed += 1
    if not (data / "partitions").exists():  # else the note means that all is done
        note.unlink(missing_ok=True)  # first: it must not outlive deleted states
    shutil.rmtree(draft, ignore_errors=True)
    return ErasureStep(place="unfinished work", removed=removed)


def _states_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("CURRENT"))


def _held(path: Path) -> contextlib.closing[RocksState]:
    try:
        return contextlib.closing(RocksState(path))
    except StateError as error:
        raise StorageError(
            f"{path}: a backfill, rescaling or undo uses this state; run the erasure again when it "
            f"has ended: {error}"
        ) from error


def snapshots_without(
    settings: Settings, result: SearchResult
) -> dict[str, Callable[[bytes], bytes]]:
    """Return, by name of a consumer of the engine, its snapshot without users."""
    shown = partial(without_people, people=result.keys)
    takers = partial(without_takers, people=result.keys)
    return {"shown": shown, TAKERS: takers, **erasers(settings, result.keys)}


def purge_state(settings: Settings, definitions: Definitions, result: SearchResult) -> ErasureStep:
    """Delete users from the stored state of the engine."""
    path = settings.storage.data / "state"
    if not path.is_dir():
        return ErasureStep(place="state", removed=0)
    with contextlib.closing(RocksState(path)) as store:
        snapshots = snapshots_without(settings, result)
        removed = delete_subjects(store, result.traces, definitions, snapshots)
        store.purge()
    return ErasureStep(place="state", removed=removed)


def check_rebuild(settings: Settings) -> None:
    """Check that the state can be computed again from the log.

    A log in Kafka, which the server reads again, raises ConfigError; a log that is absent or does
    not reach back to its beginning raises StorageError.
    """
    data = settings.storage.data
    if not settings.log.in_files:
        raise ConfigError(
            "--rebuild: the log is in Kafka: erase without it, then start `tactful serve "
            "--rebuild`, which computes the state from what the topic still holds"
        )
    if not (data / "log" / "bounds").exists():
        raise StorageError(
            f"{data}: there is no log to compute the state from: erase without --rebuild"
        )
    with contextlib.closing(EmbeddedLog(data / "log", read_only=True)) as log:
        if log.begin:
            raise StorageError(
                f"{data}: the log does not reach back to its beginning, so the state cannot be "
                "computed again from it: erase without --rebuild"
            )


def rebuild_state(data: Path) -> ErasureStep:
    """Delete the state, which the next start computes again."""
    shutil.rmtree(data / "state", ignore_errors=True)
    return ErasureStep(place="state", removed=0, note="computed again from the log at the start")


def purge_online(settings: Settings, definitions: Definitions, result: SearchResult) -> ErasureStep:
    """Delete users and their sessions from the online store."""
    people, sessions = result.traces.people, result.traces.sessions
    partitions = None
    if settings.online.cluster and not settings.log.in_files:
        partitions = make_topic(settings.log, kafka_settings(settings.log))
    store = open_redis(settings.online, definitions, partitions=partitions)
    with contextlib.closing(store) as online:
        online.put_many(dict.fromkeys(people), kind="user")
        online.put_many(dict.fromkeys(sessions), kind="session")
    return ErasureStep(place="online store", removed=len(people) + len(sessions))


def purge_training(settings: Settings) -> ErasureStep:
    """Delete an unfinished training and the recall of untrained servers.

    The server learns the latter again without suppressed users. StorageError while a training runs.
    """
    shutil.rmtree(untrained_recall(settings.models), ignore_errors=True)
    directory = settings.models / "training"
    note = after_erasure(settings.training)
    if not directory.is_dir():
        return ErasureStep(place="models", removed=0, note=note)
    try:
        with Checkpoint.hold(directory) as checkpoint:
            files = sum(1 for file in directory.rglob("*") if file.is_file())
            checkpoint.clear()
    except TrainingBusy as error:
        raise StorageError(f"{error}; then run the erasure again") from error
    return ErasureStep(place="models", removed=files, note=note)


def purge_consent(consents: ConsentStore, result: SearchResult) -> ErasureStep:
    """Delete users' decisions; their suppression stays, under pseudonyms."""
    removed = sum(consents.erase(key) for key in result.traces.people)
    return ErasureStep(place="consent", removed=removed)


def purge_arms(arms: StickyArms, result: SearchResult) -> ErasureStep:
    """Delete the arms that users keep in sticky experiments; tokens of devices are not stored."""
    return ErasureStep(place="flags", removed=arms.erase(result.traces.people))


def purge_profiles(erase: Callable[[Collection[str]], int], result: SearchResult) -> ErasureStep:
    """Delete the profiles that users let cross from other domains."""
    return ErasureStep(place="domains", removed=erase(result.traces.people))


def ask_owners(installation: Installation, receipt: str, result: SearchResult) -> ErasureStep:
    """Request the erasure from the workers that own partitions."""
    settings = installation.settings
    count = 0
    if settings.online.shared:
        count = make_topic(settings.log, kafka_settings(settings.log))
    installation.partitions.publish(receipt, result.traces, partitions=count)
    note = "the owner of each partition purges its state and its share of the online store"
    return ErasureStep(place="partitions", removed=0, note=note)


@contextlib.contextmanager
def open_search(
    settings: Settings,
    *,
    clock: Callable[[], int] = now_ms,
    progress: Progress = lambda done, total: None,
) -> Iterator[Search]:
    """Search the log, in files or in Kafka, also with sealed records."""
    with contextlib.ExitStack() as stack:
        if settings.log.in_files:
            yield stack.enter_context(search_log(settings, clock=clock, progress=progress))
        else:
            partitions = open_partitions(settings, stack, clock=clock)
            yield search_partitions(partitions, progress=progress)


def find_person(installation: Installation, person: str) -> SearchResult:
    """Search log and state for the data of a user, also while a server runs."""
    settings, state = installation.settings, installation.data / "state"
    with contextlib.ExitStack() as stack:
        search = stack.enter_context(open_search(settings, clock=installation.clock))
        store = None
        if state.is_dir():
            store = open_beside(state)
            stack.callback(store.close)
        return find_traces(search, store, [person])
