"""Erases people from everything that an installation keeps in its data directory and in Redis.

A person is suppressed first, for good, so nothing comes back: what is sent later is refused, and
lists read nothing of them. Then what they have left is found, and removed place by place: here
while no server uses the data directory, by the server itself (`tactful.online_erasure`) if one
does. Each place may be done again, so a job that was killed goes on
where it was. When all is done the job forgets whose it was, and what remains is a receipt.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import sqlalchemy as sa

from tactful.caps import without_people
from tactful.checkpoints import Checkpoint
from tactful.config import Settings
from tactful.connections import kafka_settings, make_topic, open_redis
from tactful.consent_store import ConsentStore
from tactful.erasure_jobs import ErasureJobs
from tactful.erasure_search import VERIFICATION, WORK, still_there, verified
from tactful.erasure_traces import (
    Found,
    Search,
    find_traces,
    search_log,
    search_partitions,
)
from tactful.errors import ConfigError, StorageError, TrainingBusy
from tactful.messages import Erasure, ErasureStep
from tactful.metadata import MetadataStore, consent_decisions, suppressions
from tactful.partition_erasures import PartitionErasures
from tactful.record_seal import log_in_files, open_seal
from tactful.retraining import after_erasure
from tactful.suppression import SuppressionStore
from tactful.unfinished_work import purge_unfinished
from tactful_privacy import NOTHING, Pseudonym, VaultError, drop_keys
from tactful_streaming import (
    BLANK,
    DEVICE_PREFIX,
    DeadLetter,
    Definitions,
    EmbeddedLog,
    EventLog,
    KafkaLog,
    RocksState,
    SealedLog,
    StreamingError,
    Tick,
    Traces,
    encode_entry,
    forget,
    load_definitions,
    open_beside,
    people_in,
    redact,
)

RESTORED = "restored.json"
"""File that a restore leaves in the data directory until the erased are gone from what came."""

LETTERS = ("dead-letters", "late")
FORGOTTEN = "forgotten"
"""File of an erasure's work: while it is there, the metadata may have bytes of the forgotten."""

_NOWHERE = -1  # what waits in the spool has no offset in the log yet

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
Blank = Callable[[int, bytes], bytes | None]


@dataclass(frozen=True)
class Installation:
    """What an erasure works on; nobody else may use the data directory meanwhile.

    Attributes:
        settings: checked.
        metadata: of the installation.
        suppression: its erased people.
        clock: now in epoch milliseconds.
    """

    settings: Settings
    metadata: MetadataStore
    suppression: SuppressionStore
    clock: Callable[[], int]

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.settings.storage.data

    @property
    def partitions(self) -> PartitionErasures:
        """What the owners of partitions have to do, and have done."""
        return PartitionErasures(self.metadata, self.suppression, clock=self.clock)

    @property
    def jobs(self) -> ErasureJobs:
        """Erasures that were asked for."""
        return ErasureJobs(self.metadata, clock=self.clock, days=self.settings.consent.erase_days)


def request_erasure(installation: Installation, person: str) -> Erasure:
    """Suppress a person and note that what they left is to be removed; the receipt of that.

    Raises:
        StorageError: if that cannot be kept.
    """
    installation.suppression.suppress([person])
    return installation.jobs.request(person)


def request_suppressed(installation: Installation) -> int:
    """Ask for the erasure of all who are suppressed and of whom there is something.

    To be done where what is stored was restored from a backup.

    Returns:
        How many people there were.
    """
    erased: set[str] = set()
    for people in _people(installation):
        erased |= installation.suppression.found_among(people)
    for person in sorted(erased):
        installation.jobs.request(person)
    return len(erased)


def settle_erasures(installation: Installation) -> list[Erasure]:
    """Complete the erasures for which only the owners of partitions were still waited for.

    Returns:
        The receipts.

    Raises:
        StorageError: if the metadata cannot be used.
    """
    ready = [
        receipt
        for receipt, _ in installation.jobs.waiting()
        if is_purged_here(installation, receipt) and installation.partitions.missing(receipt) == 0
    ]
    with names_dropped(installation) if ready else contextlib.nullcontext():
        for told in _told(installation, ready):
            installation.partitions.finish(told.receipt)
            installation.jobs.forget(told.receipt, told.steps)
    return _told(installation, ready)


def _told(installation: Installation, receipts: Iterable[str]) -> list[Erasure]:
    found = map(installation.jobs.find, receipts)
    return [erasure for erasure in found if erasure is not None]


def is_purged_here(installation: Installation, receipt: str) -> bool:
    """Whether what is left to do is for the owners of partitions."""
    told = installation.jobs.find(receipt)
    return told is not None and bool(told.steps) and told.steps[-1].place == VERIFICATION


def _people(installation: Installation) -> Iterator[Collection[str]]:
    """Keys of all people of whom anything is kept, some at a time and more than once."""
    if (log := installation.data / "log").is_dir():
        EmbeddedLog(log).close()  # cuts off the torn tail of a crash
        with log_in_files(installation.settings, clock=installation.clock) as opened:
            position = opened.begin
            while records := opened.read(position, 4_096):
                position = records[-1][0] + 1
                yield set[str]().union(*map(_named, (payload for _, payload in records)))
    if (state := installation.data / "state").is_dir():
        with contextlib.closing(RocksState(state, read_only=True)) as store:
            people = people_in(store)
            while some := list(itertools.islice(people, 4_096)):
                yield some
    decided = sa.select(consent_decisions.c.person).distinct()
    yield [row.person for row in installation.metadata.fetch(decided)]


def complete_erasures(
    installation: Installation, *, say: Say = lambda stage: None
) -> list[Erasure]:
    """Do what waits, before the data directory is used; also what a restored backup brought back.

    Returns:
        The receipts.

    Raises:
        StorageError: if it cannot be done.
    """
    restored = installation.data / RESTORED
    if installation.suppression.take_tombstones() or restored.exists():
        request_suppressed(installation)
        if installation.settings.log.kind == "kafka":
            # Whoever they are, the states of partitions may be as old as the database was.
            installation.partitions.publish(uuid.uuid4().hex, Traces())
    receipts = run_erasures(installation, say=say)
    if restored.exists():
        _drop_restored_keys(installation)
        restored.unlink()
    return receipts


def _drop_restored_keys(installation: Installation) -> None:
    """Delete the keys of all who are erased, which came back so that what came could be read."""
    vault = installation.settings.vault
    if not vault.exists():
        return
    query = sa.select(suppressions.c.key_id, suppressions.c.digest)
    rows = installation.metadata.fetch(query)
    try:
        drop_keys(vault, (Pseudonym(row.key_id, bytes(row.digest)) for row in rows))
    except VaultError as error:
        raise StorageError(str(error)) from error


def look_up(installation: Installation, person: str) -> list[ErasureStep]:
    """What an erasure would remove, for a dry run; nothing is changed."""
    found = find_person(installation, person)
    traces = found.traces
    return [
        ErasureStep(place="log", removed=found.records),
        ErasureStep(
            place="names",
            removed=len(traces.event_ids) + len(traces.sessions) + len(traces.devices),
            note=f"{len(traces.event_ids)} events, {len(traces.sessions)} visits, "
            f"{len(traces.devices)} devices of their own, {len(traces.shared)} shared",
        ),
    ]


def run_erasures(
    installation: Installation, *, rebuild: bool = False, say: Say = lambda stage: None
) -> list[Erasure]:
    """Do all erasures that wait, also those that were broken off.

    Args:
        installation: whose data directory this process holds.
        rebuild: throw the engine's state away instead of removing people from it; the next start
            computes it again from the log, as if they had never been there.
        say: told of each stage.

    Returns:
        The receipts.

    Raises:
        ConfigError: if the state is to be rebuilt from a log that is not in files.
        StorageError: if something cannot be used; what was done is done, and the rest waits.
    """
    if rebuild:
        check_rebuild(installation.settings)
    receipts = settle_erasures(installation)
    removed: list[_Removed] = []
    for receipt, person in installation.jobs.waiting():
        if is_purged_here(installation, receipt):
            continue
        try:
            removed.append(_remove(installation, receipt, person, rebuild=rebuild, say=say))
        except StreamingError as error:
            raise StorageError(f"erasure {receipt} is not complete: {error}") from error
    if removed:
        say("verify")
    # All are looked for at once, since that reads every file; each for itself if that finds any.
    clean = not still_there(installation.settings, [one.found for one in removed])
    with names_dropped(installation):
        for one in removed:
            _finish(installation, one, clean=clean, rebuild=rebuild, say=say)
    return receipts + _told(installation, [one.receipt for one in removed])


@contextlib.contextmanager
def names_dropped(installation: Installation) -> Iterator[None]:
    """Have no bytes left in the metadata of whom is forgotten within, also after a kill.

    Their receipts are complete then, and not before; while somebody reads the database, later.
    """
    mark, jobs = work_of(installation, FORGOTTEN), installation.jobs
    needed = mark.exists() or bool(jobs.waiting()) or jobs.forgotten()
    if needed:
        mark.parent.mkdir(mode=0o700, exist_ok=True)
        mark.touch()
    yield
    if needed:
        if installation.metadata.compact():
            jobs.complete()
            mark.unlink(missing_ok=True)
        else:
            logger.warning("erased names lie in the metadata until who reads them is done")


@dataclass(frozen=True)
class _Removed:
    """What was removed of a person; what is left to do is to look whether anything remains.

    Attributes:
        receipt: of the job.
        person: whose it is.
        found: what was looked for.
        steps: what was done.
        searched: whether the log was searched now, and not by the server that wrote it.
    """

    receipt: str
    person: str
    found: Found
    steps: list[ErasureStep]
    searched: bool


def _remove(
    installation: Installation,
    receipt: str,
    person: str,
    *,
    rebuild: bool,
    say: Say,
    again: bool = False,
) -> _Removed:
    jobs, work = installation.jobs, work_of(installation, receipt)
    say("find")
    told = jobs.find(receipt)
    before = {step.place: step for step in told.steps} if told is not None else {}
    found = load_found(work)
    searched = again or found is None or "log" not in before
    if searched:
        # Also after a run that was broken off: a server may have been at work since.
        now = find_person(installation, person)
        found = now if found is None else found | now
    assert found is not None
    save_found(work, found)
    own = [DEVICE_PREFIX + device for device in found.traces.devices]
    installation.suppression.suppress([person, *own])
    steps: list[ErasureStep] = [] if searched else [before["log"]]
    for step in _purge(installation, found, rebuild, log=searched):
        # What a run that was killed has removed is not there to be counted again.
        done = before.get(step.place, step)
        steps.append(_dated(installation, done if done.removed > step.removed else step))
        jobs.note(receipt, steps)
        say(step.place)
    consents = ConsentStore(installation.metadata, NOTHING, clock=installation.clock)
    steps.append(_dated(installation, erase_consent(consents, (person, *own))))
    if installation.settings.log.kind == "kafka":
        step = ask_owners(installation, receipt, found)
        steps.append(_dated(installation, step))
    return _Removed(receipt, person, found, steps, searched)


def _finish(
    installation: Installation, removed: _Removed, *, clean: bool, rebuild: bool, say: Say
) -> None:
    """Look whether anything is left of a person, and forget whose erasure it was."""
    hits = [] if clean else still_there(installation.settings, [removed.found])
    if "log" in {hit.split("/")[0] for hit in hits} and not removed.searched:
        # It came while the server was at work, after it had searched.
        removed = _remove(
            installation, removed.receipt, removed.person, rebuild=rebuild, say=say, again=True
        )
        hits = still_there(installation.settings, [removed.found])
    close_erasure(installation, removed.receipt, removed.found, removed.steps, hits)


def close_erasure(
    installation: Installation,
    receipt: str,
    found: Found,
    steps: Sequence[ErasureStep],
    hits: Sequence[str],
) -> None:
    """Complete a receipt and forget whose it was; while owners of partitions are missing, not yet.

    Args:
        installation: whose.
        receipt: of the job.
        found: what was looked for.
        steps: what was done.
        hits: where the search at the end found something.
    """
    steps = [*steps, _dated(installation, verified(found, hits))]
    work_of(installation, receipt).unlink(missing_ok=True)
    if installation.settings.log.kind == "kafka" and installation.partitions.missing(receipt):
        installation.jobs.note(receipt, steps)
    else:
        installation.partitions.finish(receipt)
        installation.jobs.forget(receipt, steps)


def erase_consent(consents: ConsentStore, keys: Iterable[str]) -> ErasureStep:
    """Delete what people have decided; that they are erased stays, under their pseudonyms."""
    return ErasureStep(place="consent", removed=sum(consents.erase(key) for key in keys))


def _dated(installation: Installation, step: ErasureStep) -> ErasureStep:
    return step if step.at else msgspec.structs.replace(step, at=installation.clock())


def work_of(installation: Installation, receipt: str) -> Path:
    """File in which a job keeps what it looks for."""
    return installation.data / WORK / receipt


def _purge(
    installation: Installation, found: Found, rebuild: bool, *, log: bool
) -> Iterator[ErasureStep]:
    """Remove what was found, place by place; from a log in files if it was not done before."""
    settings, data = installation.settings, installation.data
    if settings.log.kind == "kafka":
        yield ErasureStep(place="log", removed=0, note="stays in the topic until its retention")
        yield purge_spool(data / "spool", found)
    elif log:
        yield _log(installation, found)
    for name in LETTERS:
        yield _letters(installation, name, found)
    yield from delete_keys(installation, found)  # by which what is sealed was found
    yield _webhooks(data / "webhooks", found)
    definitions = load_definitions(settings.features)
    yield _rebuilt(data) if rebuild else _state(data / "state", found, definitions)
    yield purge_unfinished(settings, definitions, found.traces)
    if settings.online.kind == "redis":
        yield purge_online(settings, definitions, found)
    yield purge_training(settings)


def purge_spool(path: Path, found: Found) -> ErasureStep:
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


def ask_owners(installation: Installation, receipt: str, found: Found) -> ErasureStep:
    """Ask workers to erase what they keep of partitions."""
    settings = installation.settings
    count = 0
    if settings.online.kind == "redis":
        count = make_topic(settings.log, kafka_settings(settings.log))
    installation.partitions.publish(receipt, found.traces, partitions=count)
    note = "the owner of each partition purges its state and its share of the online store"
    return ErasureStep(place="partitions", removed=0, note=note)


def delete_keys(installation: Installation, found: Found) -> Iterator[ErasureStep]:
    """Delete what sealed records are opened by, wherever copies of them lie."""
    seal = open_seal(installation.settings, clock=installation.clock)
    if seal is not None:
        with contextlib.closing(seal):
            deleted = seal.erase(found.traces.people)
        note = "sealed records cannot be opened any more, in topics and backups, too"
        yield ErasureStep(place="keys", removed=deleted, note=note)


def _log(installation: Installation, found: Found) -> ErasureStep:
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
def blanking(installation: Installation, found: Found) -> Iterator[tuple[frozenset[bytes], Blank]]:
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


def _letters(installation: Installation, name: str, found: Found) -> ErasureStep:
    path = installation.data / name
    if path.is_dir():
        EmbeddedLog(path).close()
    with blanking(installation, found) as (needles, replace):
        done = redact(path, needles, blank_letter(replace))
    return ErasureStep(place=path.name, removed=done.records)


def _webhooks(path: Path, found: Found) -> ErasureStep:
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


def _state(path: Path, found: Found, definitions: Definitions) -> ErasureStep:
    if not path.is_dir():
        return ErasureStep(place="state", removed=0)
    with contextlib.closing(RocksState(path)) as store:
        snapshots = {"shown": partial(without_people, people=found.traces.people)}
        removed = forget(store, found.traces, definitions, snapshots)
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


def purge_online(settings: Settings, definitions: Definitions, found: Found) -> ErasureStep:
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


def find_person(installation: Installation, person: str) -> Found:
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


def load_found(path: Path) -> Found | None:
    """What a job has noted before it changed anything, if it has."""
    return msgspec.msgpack.decode(path.read_bytes(), type=Found) if path.exists() else None


def save_found(path: Path, found: Found) -> None:
    """Note what a job looks for, before it changes anything."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.msgpack.encode(found))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


class _Named(msgspec.Struct):
    user_id: str | None = None
    device_id: str | None = None
    event: _Named | None = None


def _named(payload: bytes) -> set[str]:
    """Keys of the people whom a record names."""
    try:
        entry = msgspec.msgpack.decode(payload, type=_Named)
    except msgspec.MsgspecError:
        return set()
    named = _named_by(entry)
    return named if entry.event is None else named | _named_by(entry.event)


def _named_by(entry: _Named) -> set[str]:
    keys = {entry.user_id} if entry.user_id is not None else set()
    return keys | ({DEVICE_PREFIX + entry.device_id} if entry.device_id is not None else set())
