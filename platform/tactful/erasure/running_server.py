"""Erasure of users beside a running server, from every store that it holds.

The server deletes users first from its memory and from stores that it holds open (`LiveStores`),
so that no begun sequence leads to an action. Their bytes leave the state's files by a compaction.

Logs are rewritten by `tactful.erasure.rewrite_log`. A log in Kafka stays as it is: the keys of its
sealed records are deleted, and workers are asked to purge their stores.

At the end every file is searched for all ids. Each step may be repeated: a killed job is finished
by the next start, or by the next server.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from tactful.config.settings import Settings
from tactful.erasure.erase import (
    FORGOTTEN,
    ErasureJob,
    Say,
    close_erasure,
    is_purged_here,
    load_found,
    names_dropped,
    save_found,
    work_of,
)
from tactful.erasure.offline_stores import (
    LETTERS,
    find_person,
    purge_training,
)
from tactful.erasure.personal_stores import LiveStores, PersonalStore, StepReport, personal_stores
from tactful.erasure.rewrite_log import rewrite_log
from tactful.erasure.verify import still_there
from tactful.metadata.connections import open_installation
from tactful.schemas.users import ErasureStep
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression
from tactful.subjects.trace_search import SearchResult
from tactful.util.clock import now_ms
from tactful.util.process_tuning import low_priority
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.erasure import SubjectReferences, find_references
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import open_beside

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
"""Number of searches by a server; the next start removes remaining data."""

_DROP_AGAIN_MS = 60_000
"""Interval of attempts to drop ids from metadata that another process reads."""

_SETTLED_MS = 2_000
"""Time after which no process has unapplied events of a suppressed user."""


class OnlineErasures:
    """Runs waiting erasures in a server."""

    def __init__(
        self,
        installation: Installation,  # owner of the data directory, which this process holds
        # logs that this process writes, by their folders in the data directory
        logs: Mapping[str, EmbeddedLog],
        *,
        # other stores that this process holds; None: none, so the next process that holds the data
        # directory finishes the erasure
        running: LiveStores | None = None,
        # runs long work; None: a process of low priority, started on demand
        executor: Executor | None = None,
        say: Say = lambda stage: None,
    ) -> None:
        """Prepare; nothing is done before `run`."""
        self._installation = installation
        self._logs = dict(logs)
        self._running = running
        self._executor = executor
        self._say = say
        self._first_seen: dict[str, int] = {}
        self._attempts: dict[str, int] = {}
        self._again: set[str] = set()
        self._done: set[str] = set()
        self._dropped_at = 0
        self._stopping = False
        self._working = threading.Lock()

    def stop(self) -> None:
        """Make `run` return after the current segment."""
        self._stopping = True

    def run(self) -> int:
        """Run the waiting erasures as far as possible; return the number of finished ones.

        A store that cannot be used raises StorageError or StreamingError; the remaining steps wait.
        """
        if not self._working.acquire(blocking=False):
            return 0  # another thread runs
        try:
            return self._run()
        finally:
            self._working.release()

    def _run(self) -> int:
        installation = self._installation
        waiting = [
            (receipt, person)
            for receipt, person in installation.jobs.waiting()
            if receipt not in self._done and not is_purged_here(installation, receipt)
        ]
        if not waiting and installation.clock() - self._dropped_at >= _DROP_AGAIN_MS:
            self._dropped_at = installation.clock()
            if work_of(installation, FORGOTTEN).exists():
                with names_dropped(installation):  # another process was reading
                    pass
        if self._stopping or not any(self._is_settled(receipt) for receipt, _ in waiting):
            return 0
        # Raises while a training runs, before any long work. A later training skips suppressed
        # users, which the users and their devices are by then.
        training = None if self._running is None else purge_training(installation.settings)
        with contextlib.ExitStack() as stack:
            executor = self._executor or stack.enter_context(low_priority())
            begun = [
                job
                for receipt, person in waiting
                if self._is_settled(receipt)
                and not self._stopping
                and (job := self._begin(executor, receipt, person, training))
            ]
            if begun and self._running is not None:
                self._running.purge()
                self._say("purge")
            done = [job for job in begun if _purge(job, recorded=True)]
            self._close(executor, done)
        again, self._again = self._again, set()
        done = [job for job in done if job.receipt not in again]
        self._done.update(job.receipt for job in done)
        return len(done)

    def _is_settled(self, receipt: str) -> bool:
        now = self._installation.clock()
        return now - self._first_seen.setdefault(receipt, now) >= _SETTLED_MS

    def _begin(
        self, executor: Executor, receipt: str, person: str, training: ErasureStep | None
    ) -> ErasureJob | None:
        """Find the data of a user and purge the server's derived stores; None for later."""
        installation = self._installation
        work = work_of(installation, receipt)
        if self._running is not None:
            self._running.settle()
        known = load_found(work)
        result, references = executor.submit(_find, installation.settings, person, known).result()
        suppressed = installation.suppression.suppressed
        if any(key not in suppressed for key in result.traces.people - {person}):
            # Devices were not suppressed until now: their events on the way come first.
            installation.suppression.suppress(result.traces.people)
            del self._first_seen[receipt]
            return None
        save_found(work, result)
        self._say("find")
        live = [
            PersonalStore(name, partial(self._rewrite, executor, name, log))
            for name, log in self._logs.items()
        ]
        if self._running is not None:
            live.append(PersonalStore("models", lambda result: training, recorded=False))
            live += self._running.stores(references)
        offline_only = {"spool", "consent", *LETTERS} - {store.place for store in live}
        stores = personal_stores(installation, receipt, live=live)
        stores = [store for store in stores if store.place not in offline_only]
        report = StepReport(installation, receipt, self._say)
        job = ErasureJob(receipt, person, result, report, stores)
        if self._running is not None:
            _purge(job, recorded=False)
        return job

    def _close(self, executor: Executor, jobs: Sequence[ErasureJob]) -> None:
        """Search every file for the ids of all jobs, and close those without a match."""
        if self._running is None or not jobs:
            return
        settings, results = self._installation.settings, [job.result for job in jobs]
        clean = not executor.submit(still_there, settings, results).result()
        with names_dropped(self._installation):
            self._complete(executor, jobs, clean=clean)

    def _complete(self, executor: Executor, jobs: Sequence[ErasureJob], *, clean: bool) -> None:
        settings = self._installation.settings
        for job in jobs:
            hits = [] if clean else executor.submit(still_there, settings, [job.result]).result()
            if any(not Path(hit).is_absolute() for hit in hits):
                # A reader held a file open, or another process wrote since: try again.
                attempts = self._attempts[job.receipt] = self._attempts.get(job.receipt, 0) + 1
                places = ", ".join(hits)
                logger.warning("erasure %s: ids of the user are left in %s", job.receipt, places)
                if attempts < _ATTEMPTS:
                    self._again.add(job.receipt)
                continue
            close_erasure(self._installation, job, hits)
            self._say("close")

    def _rewrite(
        self, executor: Executor, name: str, log: EmbeddedLog, result: SearchResult
    ) -> ErasureStep | None:
        """Remove records from a log by segments; None if the server stops meanwhile."""
        done = rewrite_log(
            *(executor, self._installation.settings, name, log, result),
            stopping=lambda: self._stopping,
        )
        if done is None:
            return None
        written, replaced = done
        removed = replaced if name in LETTERS else max(replaced, result.records)
        note = f"{written} segments were written anew while the server ran"
        return ErasureStep(place=name, removed=removed, note=note)


def _purge(job: ErasureJob, *, recorded: bool) -> bool:
    """Purge the recorded or the computed stores of a job; False if the server stops meanwhile."""
    stores = (store for store in job.stores if store.recorded is recorded)
    return job.report.purge(stores, job.result)


def _find(
    settings: Settings, person: str, known: SearchResult | None
) -> tuple[SearchResult, SubjectReferences]:
    """Search log and state for a user; adds the result of an earlier run."""
    with _installation(settings) as installation:
        result = find_person(installation, person)
    result = result if known is None else result | known
    if not (state := settings.storage.data / "state").is_dir():
        return result, SubjectReferences()
    with contextlib.closing(open_beside(state)) as store:
        return result, find_references(store, result.traces, load_definitions(settings.features))


@contextlib.contextmanager
def _installation(settings: Settings) -> Iterator[Installation]:
    with contextlib.closing(open_installation(settings)) as metadata:
        suppression = open_suppression(settings, metadata, clock=now_ms)
        yield Installation(settings, metadata, suppression, now_ms)
