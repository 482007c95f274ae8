"""Undo of imports beside a running server: their records leave log, state and features.

The state of an engine cannot subtract events, so it is computed again from the log without them::

    items that only this import described become unavailable   (new descriptions in the log)
    log, dead letters, late events: its records become blank   (tactful.erasure.rewrite_log)
    a scratch state is computed from the log                   (a process of low priority)
    the engine adopts what differs, at one offset, at once     (Engine.adopt)

The server answers and takes events meanwhile. During the last step, events wait to be applied.
Published statistics, trained models, logged recommendations and sent actions stay. Each step may be
repeated: an undo that was killed goes on at the next start.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from tactful.config.settings import Settings
from tactful.erasure.offline_stores import UNDO, purge_training
from tactful.erasure.rewrite_log import rewrite_log
from tactful.event_log.encryption import log_in_files
from tactful.maintenance.backfill_targets import computing_options
from tactful.maintenance.import_records import ImportRecords, find_import
from tactful.metadata.connections import open_installation
from tactful.metadata.import_log import ImportLog
from tactful.models.audit_log import ModelLog
from tactful.pipeline.applier import LogApplier
from tactful.pipeline.backends import memory_limit
from tactful.recall.latest_event import NAME as LATEST
from tactful.recall.takers import NAME as TAKERS
from tactful.recommend.build import open_counts
from tactful.schemas.data.imports import Import, ImportUndo, ModelSeen, UndoPreview, UndoStep
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression
from tactful.util.clock import now_ms
from tactful.util.machine_memory import own_memory
from tactful.util.process_tuning import low_priority
from tactful_privacy.durable_files import replace_file
from tactful_streaming.contract.log_entries import Entry, Item
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.recompute import changes_to, compute_state
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.key_layout import read_meta
from tactful_streaming.state.store import Change, RocksState, open_beside

logger = logging.getLogger(__name__)

_SETTLED_MS = 2_000  # requests of the import that were accepted before are written by then
_NEARLY = 10_000
_RECOMPUTED = (TAKERS, LATEST)
_WITHDRAWN = "withdrawn.json"


@dataclass(frozen=True)
class UndoTarget:
    """Stores that a running server holds open; for one thread at a time."""

    engine: Engine
    state: RocksState
    applier: LogApplier
    lock: AbstractContextManager[object]  # held while the state that readers see changes
    append: Callable[[Sequence[Entry]], None]  # appends to the log, durably
    logs: Mapping[str, EmbeddedLog]  # logs that this process writes, by folder


class ImportUndos:
    """Runs requested undos in a server."""

    def __init__(
        self,
        installation: Installation,
        imports: ImportLog,
        target: UndoTarget,
        *,
        executor: Executor | None = None,  # runs long work; None: a process of low priority
    ) -> None:
        """Prepare; nothing is done before `run`."""
        self._installation = installation
        self._imports = imports
        self._target = target
        self._executor = executor
        self._stopping = False

    def stop(self) -> None:
        """Make `run` return after the current step."""
        self._stopping = True

    def run(self) -> int:
        """Run the requested undos; return the number of finished ones.

        A store that cannot be used raises StorageError or StreamingError; the rest waits.
        """
        now, done = self._installation.clock(), 0
        for each in self._imports.undoing():
            assert each.undo is not None
            if self._stopping or now - each.undo.requested_at < _SETTLED_MS:
                continue
            if problem := self._problem():
                self._imports.note(each.id, msgspec.structs.replace(each.undo, problem=problem))
                continue
            with contextlib.ExitStack() as stack:
                executor = self._executor or stack.enter_context(low_priority())
                done += self._undo(executor, each.id, each.undo)
        return done

    def _problem(self) -> str:
        return problem_of(self._installation.settings, self._target.logs.get("log"))

    def _undo(self, executor: Executor, import_id: str, undo: ImportUndo) -> bool:
        report = _Report(self._installation, self._imports, import_id, undo)
        settings = self._installation.settings
        training = purge_training(settings)  # raises while a training runs, before any long work
        records = executor.submit(find_import, settings, import_id).result()
        withdrawn = self._noted(import_id, records.withdrawn)
        if withdrawn:
            now = self._installation.clock()
            gone = [Item(item_id=i, timestamp=now, available=False) for i in sorted(withdrawn)]
            self._target.append(gone)
            report.add("items", len(gone))
        for name, log in self._target.logs.items():
            rewritten = rewrite_log(
                *(executor, settings, name, log, records), stopping=lambda: self._stopping
            )
            if rewritten is None:
                return False
            report.add(name, rewritten[1])
        report.add("models", training.removed)
        scratch = _folder(settings, import_id) / "state"
        if not self._compute_ahead(executor, scratch):
            return False
        report.add("state", self._target.applier.between(lambda: self._adopt(executor, scratch)))
        self._target.state.purge()
        shutil.rmtree(_folder(settings, import_id), ignore_errors=True)
        report.close()
        logger.info("import %s is undone", import_id)
        return True

    def _noted(self, import_id: str, withdrawn: frozenset[str]) -> frozenset[str]:
        """Return the withdrawn items, also those that an interrupted run found before."""
        path = _folder(self._installation.settings, import_id) / _WITHDRAWN
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            withdrawn |= frozenset(msgspec.json.decode(path.read_bytes(), type=list[str]))
        replace_file(path, msgspec.json.encode(sorted(withdrawn)), private=True)
        return withdrawn

    def _compute_ahead(self, executor: Executor, scratch: Path) -> bool:
        """Compute up to what the engine has committed, until little is left."""
        settings, reached = self._installation.settings, -1
        while (end := self._target.applier.committed) - reached >= _NEARLY or reached < 0:
            if self._stopping:
                return False
            executor.submit(_compute, settings, scratch, end).result()
            reached = end
        return True

    def _adopt(self, executor: Executor, scratch: Path) -> int:
        """Compute the rest and exchange the state, in the engine's thread; count the changes."""
        engine, settings = self._target.engine, self._installation.settings
        engine.commit()
        consumers = _recomputed(self._target.state)
        work = executor.submit(_changes, settings, scratch, engine.offset, consumers)
        changes = work.result()
        engine.adopt(changes, consumers=consumers, lock=self._target.lock)
        return len(changes)


class _Report:
    """Steps of one undo, written as they are done."""

    def __init__(
        self, installation: Installation, imports: ImportLog, import_id: str, undo: ImportUndo
    ) -> None:
        self._clock, self._imports, self._id = installation.clock, imports, import_id
        self._undo = undo

    def add(self, place: str, removed: int) -> None:
        """Write a step; a repeated one finds nothing left, so the larger count is kept."""
        earlier = {step.place: step for step in self._undo.steps}
        if place not in earlier or earlier[place].removed <= removed:
            earlier[place] = UndoStep(place=place, removed=removed, at=self._clock())
        self._write(steps=[*earlier.values()], problem="")

    def close(self) -> None:
        """Write the end."""
        self._write(done_at=self._clock())

    def _write(self, **changes: object) -> None:
        self._undo = msgspec.structs.replace(self._undo, **changes)
        self._imports.note(self._id, self._undo)


def problem_of(settings: Settings, log: EmbeddedLog | None) -> str:
    """Return why no import can be undone; empty if it can."""
    if not settings.log.in_files or log is None:
        return (
            "the log is in Kafka, where records stay until the retention of the topic: only a log "
            "in files can be rewritten"
        )
    if log.begin:
        return (
            "the log does not reach back to its beginning (retention has removed records), so the "
            "features cannot be computed again without the import"
        )
    return ""


def preview_undo(
    settings: Settings, found: Import, models: ModelLog, log: EmbeddedLog | None
) -> UndoPreview:
    """Count what the undo of an import takes out; reads the log, which takes time if it is long."""
    records = find_import(settings, found.id) if settings.log.in_files else ImportRecords(found.id)
    return UndoPreview(
        import_id=found.id,
        events=records.events,
        users=records.users,
        items=records.items,
        people=len(records.people),
        restored_items=len(records.restored),
        withdrawn_items=len(records.withdrawn),
        models=_models_since(models, found.begun_at),
        problem=problem_of(settings, log),
    )


def _models_since(models: ModelLog, begun_at: int) -> list[ModelSeen]:
    """List the models that were trained since a time, newest first."""
    return [
        ModelSeen(name=change.name, version=change.version, trained_at=change.ended_at)
        for change in models.changes(limit=1_000)
        if change.action == "train" and change.state == "done" and change.version
        if change.ended_at is not None and change.ended_at >= begun_at
    ]


def _folder(settings: Settings, import_id: str) -> Path:
    return settings.storage.data / UNDO / import_id


def _recomputed(state: RocksState) -> tuple[str, ...]:
    """Return the consumers of the live state that are computed again."""
    meta = read_meta(state)
    return tuple(name for name in _RECOMPUTED if meta is not None and name in meta.consumers)


def _compute(settings: Settings, scratch: Path, until: int) -> None:
    """Compute a scratch state up to an offset, or go on with it."""
    with contextlib.ExitStack() as stack:
        metadata = stack.enter_context(contextlib.closing(open_installation(settings)))
        suppression = open_suppression(settings, metadata, clock=now_ms)
        log = stack.enter_context(log_in_files(settings, clock=now_ms))
        counters = open_counts(settings).consumers()
        options = replace(
            computing_options(settings, suppression.suppressed),
            memory_bytes=memory_limit(settings.engine),
            resident=own_memory,
            consumers={name: counters[name] for name in _RECOMPUTED if name in counters},
        )
        definitions = load_definitions(settings.features)
        compute_state(log, RocksState(scratch), definitions, options, until=until)


def _changes(
    settings: Settings, scratch: Path, until: int, consumers: Sequence[str]
) -> list[Change]:
    """Compute the rest of a scratch state, and return what it changes in the live one."""
    _compute(settings, scratch, until)
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(contextlib.closing(open_beside(settings.storage.data / "state")))
        new = stack.enter_context(contextlib.closing(RocksState(scratch)))
        return changes_to(live, new, consumers)
