"""The places that an erasure removes people from, while no server uses the data directory."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from tactful.config.settings import Settings
from tactful.erasure.unfinished_jobs import purge_unfinished
from tactful.errors import ConfigError, StorageError, TrainingBusy
from tactful.event_log.encryption import open_seal
from tactful.metadata.connections import kafka_settings, make_topic, open_redis
from tactful.models.schedule import after_erasure
from tactful.rerank.frequency_caps import without_people
from tactful.schemas.users import ErasureStep
from tactful.subjects.installation import Installation
from tactful.subjects.trace_search import (
    Search,
    SearchResult,
    find_traces,
    search_log,
    search_partitions,
)
from tactful.util.checkpoint import Checkpoint
from tactful_streaming.contract.log_entries import Tick, encode_entry
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.erasure import delete_subjects
from tactful_streaming.kafka.kafka_log import KafkaLog
from tactful_streaming.log.dead_letters import DeadLetter
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.encrypted_log import SealedLog
from tactful_streaming.log.event_log import EventLog
from tactful_streaming.log.redaction import BLANK, redact
from tactful_streaming.state.store import RocksState, open_beside

_LETTERS = ("dead-letters", "late")
_NOWHERE = -1  # what waits in the spool has no offset in the log yet

Blank = Callable[[int, bytes], bytes | None]


def purge_places(
    installation: Installation, found: SearchResult, rebuild: bool, *, log: bool
) -> Iterator[ErasureStep]:
    """Remove what was found, place by place; from a log in files if it was not done before."""
    settings, data = installation.settings, installation.data
    if settings.log.kind == "kafka":
        yield ErasureStep(place="log", removed=0, note="stays in the topic until its retention")
        yield purge_spool(data / "spool", found)
    elif log:
        yield _log(installation, found)
    for name in _LETTERS:
        yield _letters(installation, name, found)
    yield from delete_keys(installation, found)  # by which what is sealed was found
    yield _webhooks(data / "webhooks", found)
    definitions = load_definitions(settings.features)
    yield _rebuilt(data) if rebuild else _state(data / "state", found, definitions)
    yield purge_unfinished(settings, definitions, found.traces)
    if settings.online.kind == "redis":
        yield purge_online(settings, definitions, found)
    yield purge_training(settings)


def purge_spool(path: Path, found: SearchResult) -> ErasureStep:
    """Blank what waits in files for an absent broker; it is sent on as ticks of nobody."""
    blank = msgspec.msgpack.encode(("", encode_entry(Tick(timestamp=0), "json")))

    def replace(offset: int, record: bytes) -> bytes | None:
        try:
            _, payload = msgspec.msgpack.decode(record, type=tuple[str | None, bytes])
        except msgspec.MsgspecError:
            return None
        return blank if found.owns_payload(_NOWHERE, payload) else None

    if path.is_dir():
        EmbeddedLog(path).close()  # cuts off the torn tail of a crash
    return ErasureStep(place="spool", removed=redact(path, found.needles, replace).records)


def delete_keys(installation: Installation, found: SearchResult) -> Iterator[ErasureStep]:
    """Delete what sealed records are opened by, wherever copies of them lie."""
    seal = open_seal(installation.settings, clock=installation.clock)
    if seal is not None:
        with contextlib.closing(seal):
            deleted = seal.erase(found.traces.people)
        note = "sealed records cannot be opened any more, in topics and backups, too"
        yield ErasureStep(place="keys", removed=deleted, note=note)


def _log(installation: Installation, found: SearchResult) -> ErasureStep:
    path = installation.data / "log"
    if path.is_dir():
        EmbeddedLog(path).close()  # cuts off the torn tail of a crash
    hashes = hashlib.sha256()

    def written(segment: Path) -> None:
        hashes.update(hashlib.sha256(segment.read_bytes()).digest())

    with blanking(installation, found) as (needles, replace):
        done = redact(path, needles, replace, written=written)
    return ErasureStep(
        place="log",
        removed=found.records,
        note=f"{len(done.segments)} segments were written anew",
        sha256=hashes.hexdigest() if done.segments else "",
    )


@contextlib.contextmanager
def blanking(
    installation: Installation, found: SearchResult
) -> Iterator[tuple[frozenset[bytes], Blank]]:
    """What occurs in records of the log that are theirs, and what stands there afterwards."""
    needles = found.needles
    seal = open_seal(installation.settings, clock=installation.clock)
    if seal is not None:
        needles |= seal.references(found.keys)

    def replace(offset: int, payload: bytes) -> bytes | None:
        if seal is not None:
            (payload,) = seal.open([payload])
        return BLANK if found.owns_payload(offset, payload) else None

    with contextlib.nullcontext() if seal is None else contextlib.closing(seal):
        yield needles, replace


def blank_letter(replace: Blank) -> Blank:
    """What stands in the place of a dead letter that is theirs, by what stands in the log's."""

    def blank(offset: int, payload: bytes) -> bytes | None:
        try:
            letter = msgspec.msgpack.decode(payload, type=DeadLetter)
        except msgspec.MsgspecError:
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


def _letters(installation: Installation, name: str, found: SearchResult) -> ErasureStep:
    path = installation.data / name
    if path.is_dir():
        EmbeddedLog(path).close()
    with blanking(installation, found) as (needles, replace):
        done = redact(path, needles, blank_letter(replace))
    return ErasureStep(place=path.name, removed=done.records)


def _webhooks(path: Path, found: SearchResult) -> ErasureStep:
    removed = 0
    for directory in sorted(path.glob("*")) if path.is_dir() else ():
        with contextlib.closing(RocksState(directory)) as store:
            gone = [
                key
                for key, value in store.scan(b"")
                if any(needle in value for needle in found.needles)
                or any(event_id.encode() in key for event_id in found.traces.event_ids)
            ]
            if gone:
                store.write([(key, None) for key in gone])
                store.purge()
            removed += len(gone)
    return ErasureStep(place="webhooks", removed=removed)


def _state(path: Path, found: SearchResult, definitions: Definitions) -> ErasureStep:
    if not path.is_dir():
        return ErasureStep(place="state", removed=0)
    with contextlib.closing(RocksState(path)) as store:
        snapshots = {"shown": partial(without_people, people=found.traces.people)}
        removed = delete_subjects(store, found.traces, definitions, snapshots)
        store.purge()
    return ErasureStep(place="state", removed=removed)


def check_rebuild(settings: Settings) -> None:
    """See whether the state can be thrown away and computed again from the log.

    Raises:
        ConfigError: if the log is in Kafka, where it is the server that reads it again.
        StorageError: if the log is not there, or does not reach back to its beginning.
    """
    data = settings.storage.data
    if settings.log.kind == "kafka":
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


def _rebuilt(data: Path) -> ErasureStep:
    shutil.rmtree(data / "state", ignore_errors=True)
    return ErasureStep(place="state", removed=0, note="computed again from the log at the start")


def purge_online(settings: Settings, definitions: Definitions, found: SearchResult) -> ErasureStep:
    """Delete what the online store has of them."""
    online = open_redis(settings.online, definitions)
    try:
        online.put_many(dict.fromkeys(found.traces.people), kind="user")
        online.put_many(dict.fromkeys(found.traces.sessions), kind="session")
    finally:
        online.close()
    return ErasureStep(
        place="online store", removed=len(found.traces.people) + len(found.traces.sessions)
    )


def purge_training(settings: Settings) -> ErasureStep:
    """Remove what an unfinished training has laid out.

    Raises:
        StorageError: while one is under way; it ends by itself.
    """
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


def find_person(installation: Installation, person: str) -> SearchResult:
    """What a person has left, also beside a server that is at work."""
    state = installation.data / "state"
    with contextlib.ExitStack() as stack:
        search = stack.enter_context(_searched(installation))
        store = None
        if state.is_dir():
            store = open_beside(state)
            stack.callback(store.close)
        return find_traces(search, store, [person])


@contextlib.contextmanager
def _searched(installation: Installation) -> Iterator[Search]:
    settings = installation.settings
    if settings.log.kind != "kafka":
        with search_log(settings, clock=installation.clock) as search:
            yield search
        return
    kafka = kafka_settings(settings.log)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(KafkaLog(kafka))
        numbers = range(make_topic(settings.log, kafka))
        opened: list[EventLog] = [
            stack.enter_context(contextlib.closing(log.partition(n))) for n in numbers
        ]
        seal = open_seal(settings, clock=installation.clock)
        if seal is not None:
            stack.callback(seal.close)
            opened = [SealedLog(partition, seal) for partition in opened]
        yield search_partitions(opened)
