"""Erasure of users from the data directory and Redis, while no server runs.

A job runs through these steps; `tactful.erasure.running_server` does the same
beside a running server::

    suppress -> find -> purge each store -> verify -> delete the user id, keep the receipt

A suppressed user stays suppressed: events are refused, and recommendations use no data of them.
Each step may be repeated, so a killed job resumes.
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

from tactful.erasure.offline_stores import LETTERS, check_rebuild, find_person
from tactful.erasure.personal_stores import PersonalStore, StepReport, personal_stores
from tactful.erasure.receivers import ErasureNotices
from tactful.erasure.verify import VERIFICATION, WORK, still_there, verified
from tactful.errors import StorageError
from tactful.metadata.tables import suppressions
from tactful.schemas.users import Erasure, ErasureStep
from tactful.subjects.installation import Installation, people_kept
from tactful.subjects.trace_search import SearchResult
from tactful_privacy.durable_files import replace_file
from tactful_privacy.errors import VaultError
from tactful_privacy.people.pseudonyms import Pseudonym
from tactful_privacy.people.vault_file import drop_keys
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.errors import StreamingError

RESTORED = "restored.json"
"""File in the data directory while erased users may be in data of a restored backup."""

FORGOTTEN = "forgotten"
"""File in the folder of jobs while the metadata may hold bytes of deleted user ids."""

logger = logging.getLogger(__name__)

Say = Callable[[str], None]


def request_erasure(installation: Installation, person: str) -> Erasure:
    """Suppress a user and add an erasure job; return its receipt."""
    installation.suppression.suppress([person])
    return installation.jobs.request(person)


def request_suppressed(installation: Installation) -> int:
    """Add erasure jobs for all suppressed users with stored data, as after a restore.

    Return the number of these users; StorageError if log, state or metadata cannot be read.
    """
    erased: set[str] = set()
    try:
        for people in people_kept(installation):
            erased |= installation.suppression.found_among(people)
    except StreamingError as error:
        raise StorageError(f"the stored users cannot be listed: {error}") from error
    for person in sorted(erased):
        installation.jobs.request(person)
    return len(erased)


def settle_erasures(
    installation: Installation, notices: ErasureNotices | None = None
) -> list[Erasure]:
    """Complete the erasures that only waited for owners of partitions and for receivers."""
    notices = notices or ErasureNotices(installation.settings)
    in_files = installation.settings.log.in_files
    ready = [
        receipt
        for receipt, person in installation.jobs.waiting()
        if is_purged_here(installation, receipt)
        and (in_files or installation.partitions.missing(receipt) == 0)
        and notices.deliver(installation, receipt, person)
    ]
    with names_dropped(installation) if ready else contextlib.nullcontext():
        for erasure in _erasures(installation, ready):
            installation.partitions.finish(erasure.receipt)
            installation.jobs.forget(erasure.receipt, erasure.steps)
    return _erasures(installation, ready)


def _erasures(installation: Installation, receipts: Iterable[str]) -> list[Erasure]:
    return [*filter(None, map(installation.jobs.find, receipts))]


def is_purged_here(installation: Installation, receipt: str) -> bool:
    """Return whether only the owners of partitions and receivers have something left to do."""
    erasure = installation.jobs.find(receipt)
    return erasure is not None and any(step.place == VERIFICATION for step in erasure.steps)


def complete_erasures(
    installation: Installation, *, say: Say = lambda stage: None
) -> list[Erasure]:
    """Complete waiting erasures before a server starts, and those a restore undid.

    A store that cannot be used raises StorageError.
    """
    restored = installation.data / RESTORED
    if installation.suppression.take_tombstones() or restored.exists():
        request_suppressed(installation)
        if not installation.settings.log.in_files:
            # The states of partitions may be as old as the restored database.
            installation.partitions.publish(uuid.uuid4().hex, SubjectIds())
    receipts = run_erasures(installation, say=say)
    if restored.exists():
        _drop_restored_keys(installation)
        restored.unlink()
    return receipts


def _drop_restored_keys(installation: Installation) -> None:
    """Delete restored keys of erased users, which were needed to read their data."""
    vault = installation.settings.vault
    if not vault.exists():
        return
    query = sa.select(suppressions.c.key_id, suppressions.c.digest)
    rows = installation.metadata.fetch(query)
    try:
        drop_keys(vault, (Pseudonym(row.key_id, bytes(row.digest)) for row in rows))
    except VaultError as error:
        raise StorageError(str(error)) from error


def preview(installation: Installation, person: str) -> list[ErasureStep]:
    """Count the data of a user in each store, also beside a running server.

    With the log in Kafka only log and ids are searched: workers hold the states of partitions.
    Metadata that cannot be used raise StorageError, log or state StreamingError.
    """
    result = find_person(installation, person)
    traces = result.traces
    ids = len(traces.event_ids), len(traces.sessions), len(traces.devices)
    events, visits, devices = ids
    shared = len(traces.shared)
    names = ErasureStep(
        place="names",
        removed=sum(ids),
        note=f"{events} events, {visits} visits, {devices} devices of their own, {shared} shared",
    )
    if not installation.settings.log.in_files:
        return [ErasureStep(place="log", removed=result.records), names]
    stores = personal_stores(installation, "")
    found = {store.place: len(store.find(result)) for store in stores}
    letters = sum(found[name] for name in LETTERS)
    return [
        ErasureStep(place="log", removed=found["log"], note=f"{events} of them events"),
        names,
        ErasureStep(place="state", removed=found["state"], note="sets of features"),
        ErasureStep(place="dead letters", removed=letters),
        ErasureStep(place="webhooks", removed=found["webhooks"]),
        ErasureStep(place="consent", removed=found["consent"], note="decisions"),
    ]


def run_erasures(
    installation: Installation, *, rebuild: bool = False, say: Say = lambda stage: None
) -> list[Erasure]:
    """Complete all waiting erasures, also interrupted ones.

    `rebuild` deletes the engine's state instead of deleting users from it; the next start computes
    it again from the log, which must be in files. A store that cannot be used raises StorageError;
    the remaining steps wait for the next run.
    """
    if rebuild:
        check_rebuild(installation.settings)
    notices = ErasureNotices(installation.settings)
    receipts = settle_erasures(installation, notices)
    jobs: list[ErasureJob] = []
    for receipt, person in installation.jobs.waiting():
        if is_purged_here(installation, receipt):
            continue
        try:
            jobs.append(_remove(installation, receipt, person, rebuild=rebuild, say=say))
        except StreamingError as error:
            raise StorageError(f"erasure {receipt} is not complete: {error}") from error
    if jobs:
        say("verify")
    # One pass over all files for all users; only if it matches, one pass for each.
    clean = not still_there(installation.settings, [job.result for job in jobs])
    with names_dropped(installation):
        for job in jobs:
            _finish(installation, job, clean=clean, rebuild=rebuild, say=say)
    if notices.receivers and jobs:
        settle_erasures(installation, notices)
    return receipts + _erasures(installation, [job.receipt for job in jobs])


@contextlib.contextmanager
def names_dropped(installation: Installation) -> Iterator[None]:
    """Remove the bytes of ids deleted in this context from the metadata's files.

    Receipts are complete only then; while another process reads the database, a later call does
    it. A marker file makes it survive a kill.
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
            logger.warning("erased ids stay in the metadata while another process reads it")


@dataclass(frozen=True)
class ErasureJob:
    """An erasure in progress."""

    receipt: str
    person: str
    result: SearchResult
    report: StepReport
    stores: Sequence[PersonalStore]
    searched: bool = True  # whether this run searched the log, and not the server that wrote it


def _remove(
    installation: Installation,
    receipt: str,
    person: str,
    *,
    rebuild: bool,
    say: Say,
    again: bool = False,
) -> ErasureJob:
    work = work_of(installation, receipt)
    say("find")
    report = StepReport(installation, receipt, say)
    result = load_found(work)
    searched = again or result is None or "log" not in report
    if searched:
        # Also after an interrupted run: a server may have written since.
        new = find_person(installation, person)
        result = new if result is None else result | new
    assert result is not None
    save_found(work, result)
    installation.suppression.suppress({person, *result.traces.people})
    stores = personal_stores(installation, receipt, rebuild=rebuild)
    report.purge((store for store in stores if searched or store.place != "log"), result)
    return ErasureJob(receipt, person, result, report, stores, searched)


def _finish(
    installation: Installation, job: ErasureJob, *, clean: bool, rebuild: bool, say: Say
) -> None:
    """Verify an erasure and close it."""
    hits = [] if clean else still_there(installation.settings, [job.result])
    (log,) = (store for store in job.stores if store.place == "log")
    if log.verify(hits) and not job.searched:  # written by the server after its search
        job = _remove(installation, job.receipt, job.person, rebuild=rebuild, say=say, again=True)
        hits = still_there(installation.settings, [job.result])
    close_erasure(installation, job, hits)


def close_erasure(installation: Installation, job: ErasureJob, hits: Sequence[str]) -> None:
    """Delete the user id of an erasure, once all owners of partitions and receivers are done.

    The hits are files and stores in which the verification found ids.
    """
    verification = verified(job.result, hits)
    pending = ErasureNotices(installation.settings).pending()
    if pending:  # the receivers get the ids of the search
        installation.partitions.publish(job.receipt, job.result.traces)
    verification = msgspec.structs.replace(verification, at=installation.clock())
    steps = [*job.report.steps, verification, *pending]
    work_of(installation, job.receipt).unlink(missing_ok=True)
    in_files = installation.settings.log.in_files
    if pending or (not in_files and installation.partitions.missing(job.receipt)):
        installation.jobs.note(job.receipt, steps)
    else:
        installation.partitions.finish(job.receipt)
        installation.jobs.forget(job.receipt, steps)


def work_of(installation: Installation, receipt: str) -> Path:
    """Return the path of the search result of a job."""
    return installation.data / WORK / receipt


def load_found(path: Path) -> SearchResult | None:
    """Read the search result of a job, if an earlier run wrote it."""
    return msgspec.msgpack.decode(path.read_bytes(), type=SearchResult) if path.exists() else None


def save_found(path: Path, result: SearchResult) -> None:
    """Write the search result of a job, before anything is deleted."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    replace_file(path, msgspec.msgpack.encode(result), private=True)
