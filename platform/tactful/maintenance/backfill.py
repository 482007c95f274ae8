"""Backfill: compute features of changed definitions in existing states."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence

from tactful.config.settings import Settings
from tactful.errors import TactfulError
from tactful.maintenance.backfill_targets import Part
from tactful.metadata.connections import open_installation
from tactful.metadata.store import BackfillJob, MetadataStore
from tactful.subjects.suppression import SuppressionStore
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import Definitions, dump_definitions
from tactful_streaming.engine.backfill import (
    PartComputation,
    adopt_definitions,
    compute_to_end,
    compute_together,
    merge_computed,
)
from tactful_streaming.engine.erasure import delete_subjects, find_subject_ids
from tactful_streaming.engine.schema_evolution import EvolutionPlan, plan_evolution
from tactful_streaming.errors import StreamingError
from tactful_streaming.state.key_layout import read_meta
from tactful_streaming.state.store import RocksState, StateStore

_logger = logging.getLogger(__name__)

_NEARLY = 10_000


class Backfill:
    """One run of ``tactful features backfill``, on all states of a data directory.

    A killed run leaves `running` jobs in the metadata, and scratch states; the next run resumes
    both::

        plan -> compute_ahead (servers run) -> hold (servers stopped) -> complete (merge)
    """

    def __init__(
        self,
        parts: Sequence[Part],
        definitions: Definitions,
        metadata: MetadataStore,  # records the jobs; the caller closes it
        suppression: SuppressionStore,  # users erased during the run are left out, too
        progress: Callable[[int, int], None],  # reached and final offset, of all partitions
    ) -> None:
        """Open the scratch states; StreamingError if one of an earlier run is damaged."""
        self._parts = parts
        self._definitions = definitions
        self._metadata = metadata
        self._suppression = suppression
        self._progress = progress
        self._jobs: dict[str, BackfillJob] = {}
        with contextlib.ExitStack() as stack:
            self._scratches = [RocksState(part.scratch) for part in parts]
            for scratch in self._scratches:
                stack.callback(scratch.close)
            self._opened = stack.pop_all()

    def compute_ahead(self) -> None:
        """Compute up to the offsets of running servers, repeatedly until little is left.

        After a StreamingError of log or state the jobs are recorded as failed.
        """
        reached = [0] * len(self._parts)
        while True:
            with contextlib.ExitStack() as stack:
                opened = (contextlib.closing(part.read()) for part in self._parts)
                states = [stack.enter_context(state) for state in opened]
                plans = self._plans(states)
                pairs = zip(plans, reached, strict=True)
                if sum(plan.offset - at for plan, at in pairs if plan.recomputed) < _NEARLY:
                    return
                self._compute(states, plans, final=False)
            reached = [plan.offset for plan in plans]

    def hold(self, stack: contextlib.ExitStack) -> list[StateStore]:
        """Open the states until `stack` closes; StorageError if another process has one."""
        return [part.hold(stack) for part in self._parts]

    def complete(self, states: Sequence[StateStore]) -> tuple[str, ...]:
        """Compute the rest, merge it into the states of :meth:`hold`, and return the features.

        After a StreamingError of log or state the jobs are recorded as failed.
        """
        plans = self._plans(states)
        for part, state in zip(self._parts, states, strict=True):
            adopt_definitions(state, part.definitions)
        self._compute(states, plans, final=True)
        with self._recording_failure():
            self._suppression.refresh()
            for part, state, scratch in zip(self._parts, states, self._scratches, strict=True):
                self._delete_erased(scratch, part.definitions)
                merge_computed(state, scratch, part.definitions)
                part.merged()
        for job in self._jobs.values():
            self._metadata.finish_backfill(job.id)
        self._metadata.record_definitions(
            self._definitions.fingerprint,
            dump_definitions(self._definitions),
            applied_by="tactful features backfill",
        )
        self.close()
        for part in self._parts:
            shutil.rmtree(part.scratch, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty
                part.scratch.parent.rmdir()
        return tuple(dict.fromkeys(name for plan in plans for name in plan.recomputed))

    def close(self) -> None:
        """Close the scratch states. Closing twice is harmless."""
        self._opened.close()

    def _delete_erased(self, scratch: StateStore, definitions: Definitions) -> None:
        """Delete users erased meanwhile, of whom the states are not purged again."""
        traces = find_subject_ids(scratch, self._suppression.suppressed, definitions)
        if traces != SubjectIds():
            delete_subjects(scratch, traces, definitions, {})

    def _plans(self, states: Sequence[StateStore]) -> list[EvolutionPlan]:
        return [
            plan_evolution(state, part.definitions)
            for part, state in zip(self._parts, states, strict=True)
        ]

    def _compute(
        self, states: Sequence[StateStore], plans: Sequence[EvolutionPlan], *, final: bool
    ) -> None:
        with self._recording_failure():
            running: list[tuple[Part, PartComputation, BackfillJob]] = []
            together = self._missing_together(plans)
            for part, state, scratch, plan in zip(
                self._parts, states, self._scratches, plans, strict=True
            ):
                missing = together if part.linked else set(plan.recomputed)
                if missing:
                    job = self._metadata.begin_backfill(
                        self._definitions.fingerprint,
                        [*missing],
                        partition=part.number,
                        position=part.begin,
                        end=plan.offset,
                    )
                    self._jobs[job.id] = job
                    computation = part.computation(state, scratch, missing, plan.offset)
                    running.append((part, computation, job))

            def report() -> None:
                for _, computation, job in running:
                    self._metadata.advance_backfill(job.id, computation.position)
                reached = sum(computation.position for _, computation, _ in running)
                self._progress(reached, sum(job.end for _, _, job in running))

            linked = [computation for part, computation, _ in running if part.linked]
            for part, computation, _ in running:
                if not part.linked:
                    compute_to_end(computation, report)
            if linked:
                compute_together(linked, self._parts[-1].partition_of, final=final, progress=report)

    def _missing_together(self, plans: Sequence[EvolutionPlan]) -> set[str]:
        """Return the features that any linked partition lacks.

        If an earlier run was killed between two merges, all are computed again; partitions that
        have the merged features keep them.
        """
        linked = [
            (scratch, plan)
            for part, scratch, plan in zip(self._parts, self._scratches, plans, strict=True)
            if part.linked
        ]
        heads = [(read_meta(scratch), plan.offset) for scratch, plan in linked]
        if any(meta is not None and meta.offset > offset for meta, offset in heads):
            for scratch, _ in linked:
                scratch.clear()
        return {name for _, plan in linked for name in plan.recomputed}

    @contextlib.contextmanager
    def _recording_failure(self) -> Iterator[None]:
        try:
            yield
        except (StreamingError, TactfulError) as error:
            for job in self._jobs.values():
                try:
                    self._metadata.finish_backfill(job.id, error=str(error))
                except TactfulError as problem:
                    _logger.warning("the failure of the backfill cannot be recorded: %s", problem)
            raise


def unfinished(settings: Settings, definitions: Definitions) -> list[BackfillJob]:
    """List the unfinished backfills of definitions; a missing database is not created."""
    if not settings.metadata.url_env and not (settings.storage.data / "metadata.db").is_file():
        return []
    with contextlib.closing(open_installation(settings)) as metadata:
        jobs = [job for job in metadata.backfills() if job.state != "done"]
    return [job for job in jobs if job.fingerprint == definitions.fingerprint]
