"""Erases people from everything that an installation keeps in its data directory and in Redis.

A person is suppressed first, for good, so nothing comes back: what is sent later is refused, and
lists read nothing of them. Then what they have left is found, and removed place by place: here
(`tactful.erasure.offline_stores`) while no server uses the data directory, by the server itself
(`tactful.erasure.online`) if one does. Each place may be done again, so a job that was killed goes
on where it was. When all is done the job forgets whose it was, and what remains is a receipt.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import sqlalchemy as sa

from tactful.erasure.offline_stores import check_rebuild, find_person, purge_places
from tactful.erasure.verify import VERIFICATION, WORK, still_there, verified
from tactful.errors import StorageError
from tactful.metadata.connections import kafka_settings, make_topic
from tactful.metadata.store import suppressions
from tactful.schemas.users import Erasure, ErasureStep
from tactful.subjects.consent import ConsentStore
from tactful.subjects.enumerate import people_kept
from tactful.subjects.installation import Installation
from tactful.subjects.trace_search import SearchResult
from tactful_privacy.durable_files import replace_file
from tactful_privacy.errors import VaultError
from tactful_privacy.people.consent import NOTHING
from tactful_privacy.people.pseudonyms import Pseudonym
from tactful_privacy.people.vault_merge import drop_keys
from tactful_streaming.contract.log_entries import DEVICE_PREFIX
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.errors import StreamingError

RESTORED = "restored.json"
"""File that a restore leaves in the data directory until the erased are gone from what came."""

FORGOTTEN = "forgotten"
"""File of an erasure's work: while it is there, the metadata may have bytes of the forgotten."""

logger = logging.getLogger(__name__)

Say = Callable[[str], None]


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

    Raises:
        StorageError: if log, state or metadata cannot be read.
    """
    erased: set[str] = set()
    try:
        for people in people_kept(installation):
            erased |= installation.suppression.found_among(people)
    except StreamingError as error:
        raise StorageError(f"who is kept here cannot be read: {error}") from error
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
            installation.partitions.publish(uuid.uuid4().hex, SubjectIds())
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
    found: SearchResult
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
    for step in purge_places(installation, found, rebuild, log=searched):
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
    found: SearchResult,
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


def ask_owners(installation: Installation, receipt: str, found: SearchResult) -> ErasureStep:
    """Ask workers to erase what they keep of partitions."""
    settings = installation.settings
    count = 0
    if settings.online.kind == "redis":
        count = make_topic(settings.log, kafka_settings(settings.log))
    installation.partitions.publish(receipt, found.traces, partitions=count)
    note = "the owner of each partition purges its state and its share of the online store"
    return ErasureStep(place="partitions", removed=0, note=note)


def load_found(path: Path) -> SearchResult | None:
    """What a job has noted before it changed anything, if it has."""
    return msgspec.msgpack.decode(path.read_bytes(), type=SearchResult) if path.exists() else None


def save_found(path: Path, found: SearchResult) -> None:
    """Note what a job looks for, before it changes anything."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    replace_file(path, msgspec.msgpack.encode(found), private=True)
