"""Erases people from everything that a server keeps, while it is at work.

What it has in memory and in stores that it holds open, it lets go of itself (`LiveStores`), and
that first: nothing of them may follow from a sequence that was begun. Bytes in files of the state
go by a compaction.

Only the process that writes to a log may change it. It ends the segment that it writes to; another
process, of low priority, looks through the ended ones and writes those anew in which something is
to go, beside their place; then the first moves each into its place, in one step and between two
appends. Readers finish with the file that they have open. A log in Kafka stays as it is: there the
keys of its sealed records go, and workers are asked to purge what they keep.

At the end every file is searched for all of their names. Each step may be done again: a job that
was killed anywhere is finished by the next start, or by the next server that looks.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from tactful.config.settings import Settings
from tactful.erasure.erase import (
    FORGOTTEN,
    Say,
    ask_owners,
    close_erasure,
    erase_consent,
    is_purged_here,
    load_found,
    names_dropped,
    save_found,
    work_of,
)
from tactful.erasure.live_stores import LiveStores
from tactful.erasure.offline_stores import (
    blank_letter,
    blanking,
    delete_keys,
    find_person,
    purge_online,
    purge_training,
)
from tactful.erasure.unfinished_jobs import purge_unfinished
from tactful.erasure.verify import still_there
from tactful.metadata.connections import open_installation
from tactful.schemas.users import ErasureStep
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression
from tactful.subjects.trace_search import SearchResult
from tactful.util.background_process import low_priority
from tactful.util.clock import now_ms
from tactful_streaming.contract.log_entries import DEVICE_PREFIX
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.erasure import SubjectReferences, find_references
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.redaction import draft_segment
from tactful_streaming.state.store import open_beside

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
"""How often a server searches its files; what is left after that, the next start removes."""

_DROP_AGAIN_MS = 60_000
"""How often names in the metadata are dropped again that somebody was reading."""

_SETTLED_MS = 2_000
"""After so long, nothing of whom was suppressed is on its way any more, in no process."""


class OnlineErasures:
    """The erasures that wait, done by a server while it is at work."""

    def __init__(
        self,
        installation: Installation,
        logs: Mapping[str, EmbeddedLog],
        *,
        running: LiveStores | None = None,
        executor: Executor | None = None,
        say: Say = lambda stage: None,
    ) -> None:
        """Prepare; nothing is done before `run`.

        Args:
            installation: whose data directory this process holds.
            logs: the log and the letters that it writes, by their names in the data directory.
            running: what else this process holds; None: nothing, so the erasure stays to be
                finished by who holds the data directory next.
            executor: runs what takes long; None: a process of low priority, when there is any.
            say: told of each step that is done.
        """
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
        """Let `run` return after the segment at hand."""
        self._stopping = True

    def run(self) -> int:
        """Take every erasure that waits as far as can be; how many got there now.

        Raises:
            StorageError: if something cannot be used; what was done is done, and the rest waits.
            StreamingError: likewise.
        """
        if not self._working.acquire(blocking=False):
            return 0  # another thread is at it
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
                with names_dropped(installation):  # somebody has read them until now
                    pass
        if self._stopping or not any(self._is_settled(receipt) for receipt, _ in waiting):
            return 0
        # While a training is under way, this is refused: before anything that takes long. One that
        # begins later passes over who is suppressed, which they and their devices are by then.
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
            done = [job for job in begun if self._remove(executor, job)]
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
    ) -> _Job | None:
        """Find what they have left, and forget it where this process has it; None for later."""
        installation = self._installation
        work = work_of(installation, receipt)
        if self._running is not None:
            self._running.settle()
        known = load_found(work)
        found, listed = executor.submit(_find, installation.settings, person, known).result()
        own = [DEVICE_PREFIX + device for device in found.traces.devices]
        if any(device not in installation.suppression.suppressed for device in own):
            # Their devices were not suppressed until now: what is on its way comes first.
            installation.suppression.suppress(own)
            del self._first_seen[receipt]
            return None
        save_found(work, found)
        self._say("find")
        job = _Job(receipt, (person, *own), found, [])
        if self._running is not None:
            assert training is not None
            definitions = load_definitions(installation.settings.features)
            unfinished = purge_unfinished(installation.settings, definitions, found.traces)
            for step in (training, unfinished, *self._running.forget(found, listed)):
                self._note(job, step)
        return job

    def _remove(self, executor: Executor, job: _Job) -> bool:
        """Remove what lies elsewhere; False if the server stops meanwhile."""
        installation, found = self._installation, job.found
        settings = installation.settings
        if settings.log.kind == "kafka":
            note = "stays in the topic until its retention"
            self._note(job, ErasureStep(place="log", removed=0, note=note))
        for name, log in self._logs.items():
            step = self._rewrite(executor, name, log, found)
            if step is None:
                return False
            self._note(job, step)
        if settings.online.kind == "redis":
            self._note(job, purge_online(settings, load_definitions(settings.features), found))
        for step in delete_keys(installation, found):
            self._note(job, step)
        if settings.log.kind == "kafka":
            self._note(job, ask_owners(installation, job.receipt, found))
        if self._running is not None:
            self._note(job, erase_consent(self._running.consents, job.keys))
        return True

    def _note(self, job: _Job, step: ErasureStep) -> None:
        """Note what was done; of what was done twice, what the first run has removed counts."""
        jobs = self._installation.jobs
        told = jobs.find(job.receipt)
        before = {} if told is None else {step.place: step for step in told.steps}
        earlier = before.get(step.place)
        if earlier is not None and earlier.removed > step.removed:
            step = earlier
        if step.at is None:
            step = msgspec.structs.replace(step, at=self._installation.clock())
        job.steps.append(step)
        jobs.note(job.receipt, [*({**before, **{s.place: s for s in job.steps}}).values()])
        self._say(step.place)

    def _close(self, executor: Executor, jobs: Sequence[_Job]) -> None:
        """Search every file for all of them, and complete the receipts of whom nothing is left."""
        if self._running is None or not jobs:
            return
        settings, founds = self._installation.settings, [job.found for job in jobs]
        clean = not executor.submit(_search, settings, founds).result()
        with names_dropped(self._installation):
            self._complete(executor, jobs, clean=clean)

    def _complete(self, executor: Executor, jobs: Sequence[_Job], *, clean: bool) -> None:
        settings = self._installation.settings
        for job in jobs:
            hits = [] if clean else executor.submit(_search, settings, [job.found]).result()
            if any(not Path(hit).is_absolute() for hit in hits):
                # Something was held open by a reader, or came from another process: once more.
                attempts = self._attempts[job.receipt] = self._attempts.get(job.receipt, 0) + 1
                places = ", ".join(hits)
                logger.warning("erasure %s: something is left in %s", job.receipt, places)
                if attempts < _ATTEMPTS:
                    self._again.add(job.receipt)
                continue
            close_erasure(self._installation, job.receipt, job.found, job.steps, hits)
            self._say("close")

    def _rewrite(
        self, executor: Executor, name: str, log: EmbeddedLog, found: SearchResult
    ) -> ErasureStep | None:
        """Remove them from a log, segment by segment; None if the server stops meanwhile."""
        settings = self._installation.settings
        kind: Literal["log", "letters"] = "log" if name == "log" else "letters"
        replaced = written = 0
        for segment in log.seal():
            if self._stopping:
                return None
            with log.rewriting:
                drafted = executor.submit(_draft, settings, kind, segment, found).result()
                adopted = drafted is not None and log.adopt(drafted[0])
            if drafted is not None and adopted:
                replaced += drafted[1]
                written += 1
        removed = max(replaced, found.records) if kind == "log" else replaced
        note = f"{written} segments were written anew while the server ran"
        return ErasureStep(place=name, removed=removed, note=note)


@dataclass(frozen=True)
class _Job:
    """An erasure under way: its receipt, the keys of who goes, what they left, what was done."""

    receipt: str
    keys: tuple[str, ...]
    found: SearchResult
    steps: list[ErasureStep]


def _find(
    settings: Settings, person: str, known: SearchResult | None
) -> tuple[SearchResult, SubjectReferences]:
    """Search log and state for a person; with what an earlier run has found."""
    with _installation(settings) as installation:
        found = find_person(installation, person)
    found = found if known is None else found | known
    if not (state := settings.storage.data / "state").is_dir():
        return found, SubjectReferences()
    with contextlib.closing(open_beside(state)) as store:
        return found, find_references(store, found.traces, load_definitions(settings.features))


def _search(settings: Settings, found: Sequence[SearchResult]) -> list[str]:
    return still_there(settings, found)


def _draft(
    settings: Settings, kind: Literal["log", "letters"], segment: Path, found: SearchResult
) -> tuple[Path, int] | None:
    """Write one segment anew; None where nothing of theirs is in it."""
    with contextlib.ExitStack() as stack:
        try:
            installation = stack.enter_context(_installation(settings))
            needles, replace = stack.enter_context(blanking(installation, found))
            if kind == "letters":
                replace = blank_letter(replace)
            draft, count = draft_segment(segment, needles, replace)
        except FileNotFoundError:  # retention has removed it
            return None
    return None if draft is None else (draft, count)


@contextlib.contextmanager
def _installation(settings: Settings) -> Iterator[Installation]:
    with contextlib.closing(open_installation(settings)) as metadata:
        suppression = open_suppression(settings, metadata, clock=now_ms)
        yield Installation(settings, metadata, suppression, now_ms)
