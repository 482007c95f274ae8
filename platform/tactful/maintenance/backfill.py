"""Bringing the states of an installation up to changed definitions, and keeping account of it."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

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
    Progress,
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


@dataclass
class _Running:
    """A part whose missing features are being computed."""

    part: Part
    computation: PartComputation
    offset: int
    job: BackfillJob


class Backfill:
    """One run of ``tactful features backfill``, on all states of a data directory.

    A run that is killed leaves jobs in the metadata that are `running`, and states of its own; the
    next run goes on with both.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        definitions: Definitions,
        metadata: MetadataStore,
        suppression: SuppressionStore,
        progress: Progress,
    ) -> None:
        """Open what an earlier run has left.

        Args:
            parts: the states.
            definitions: what they shall hold.
            metadata: where jobs are noted; it stays the caller's to close.
            suppression: who was erased, of whom the parts count nothing; and nothing is merged of
                who was erased meanwhile, or before another run went on here.
            progress: told of the offset reached and the one wanted, over all partitions.

        Raises:
            StreamingError: if the state of an earlier run cannot be used.
        """
        self._parts = parts
        self._definitions = definitions
        self._metadata = metadata
        self._suppression = suppression
        self._tell = progress
        self._jobs: dict[str, BackfillJob] = {}
        with contextlib.ExitStack() as stack:
            self._scratches = [RocksState(part.scratch) for part in parts]
            for scratch in self._scratches:
                stack.callback(scratch.close)
            self._opened = stack.pop_all()

    def compute_ahead(self) -> None:
        """Compute up to where those are that run, again and again until little is left.

        Raises:
            StreamingError: if log or state cannot be used; the jobs are noted as failed.
        """
        reached = [0] * len(self._parts)
        while True:
            with contextlib.ExitStack() as stack:
                states = []
                for part in self._parts:
                    state = part.read()
                    stack.callback(state.close)
                    states.append(state)
                plans = self._plans(states)
                left = sum(
                    plan.offset - at
                    for plan, at in zip(plans, reached, strict=True)
                    if plan.recomputed
                )
                if left < _NEARLY:
                    return
                self._compute(states, plans, final=False)
            reached = [plan.offset for plan in plans]

    def hold(self, stack: contextlib.ExitStack) -> list[StateStore]:
        """Open the states, so that nobody else can, as long as the context lasts.

        Raises:
            StorageError: if somebody has one open.
        """
        return [part.hold(stack) for part in self._parts]

    def complete(self, states: Sequence[StateStore]) -> tuple[str, ...]:
        """Compute the rest and merge it into the states, which :meth:`hold` gave.

        Returns:
            Names of the features that were missing.

        Raises:
            StreamingError: if log or state cannot be used; the jobs are noted as failed.
        """
        plans = self._plans(states)
        for part, state in zip(self._parts, states, strict=True):
            adopt_definitions(state, part.definitions)
        self._compute(states, plans, final=True)
        with self._noting_failure():
            self._suppression.refresh()
            for part, state, scratch in zip(self._parts, states, self._scratches, strict=True):
                self._forget_erased(scratch, part.definitions)
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
            with contextlib.suppress(OSError):  # others are in there
                part.scratch.parent.rmdir()
        return tuple(dict.fromkeys(name for plan in plans for name in plan.recomputed))

    def close(self) -> None:
        """Close what was opened. Closing twice is harmless."""
        self._opened.close()

    def _forget_erased(self, scratch: StateStore, definitions: Definitions) -> None:
        """Merge nothing of them: their own states were purged, and are not purged of it again."""
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
        with self._noting_failure():
            running = []
            together = self._missing_together(plans)
            for part, state, scratch, plan in zip(
                self._parts, states, self._scratches, plans, strict=True
            ):
                missing = together if part.linked else set(plan.recomputed)
                if missing:
                    job = self._begin(part, missing, plan.offset)
                    computation = part.computation(state, scratch, missing, plan.offset)
                    running.append(_Running(part, computation, plan.offset, job))

            def told() -> None:
                for one in running:
                    self._metadata.advance_backfill(one.job.id, one.computation.position)
                self._tell(
                    sum(one.computation.position for one in running),
                    sum(one.offset for one in running),
                )

            linked = [one.computation for one in running if one.part.linked]
            for one in running:
                if not one.part.linked:
                    compute_to_end(one.computation, told)
            if linked:
                compute_together(linked, self._parts[-1].partition_of, final=final, progress=told)

    def _missing_together(self, plans: Sequence[EvolutionPlan]) -> set[str]:
        """What any of the partitions lacks between which histories move.

        Where an earlier run was killed between two merges, all are computed again: what was merged
        is, in those that have it, left as it is.
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

    def _begin(self, part: Part, missing: Collection[str], end: int) -> BackfillJob:
        """Note what is going to be computed; an earlier run of the same is gone on with."""
        job = self._metadata.begin_backfill(
            self._definitions.fingerprint,
            [*missing],
            partition=part.number,
            position=part.begin,
            end=end,
        )
        self._jobs[job.id] = job
        return job

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except (StreamingError, TactfulError) as error:
            for job in self._jobs.values():
                try:
                    self._metadata.finish_backfill(job.id, error=str(error))
                except TactfulError as problem:
                    _logger.warning("the failed backfill is not noted as such: %s", problem)
            raise


def unfinished(settings: Settings, definitions: Definitions) -> list[BackfillJob]:
    """Backfills for `definitions` that have begun and are not done.

    Metadata that is not there is not made for this.

    Raises:
        ConfigError: if the settings name a variable that is not set.
        StorageError: if the database cannot be used.
    """
    if not settings.metadata.url_env and not (settings.storage.data / "metadata.db").is_file():
        return []
    with contextlib.closing(open_installation(settings)) as metadata:
        return [
            job
            for job in metadata.backfills()
            if job.state != "done" and job.fingerprint == definitions.fingerprint
        ]
