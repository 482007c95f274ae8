"""Bringing the state of an installation up to changed definitions, and keeping account of it."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tactful.backends import engine_options
from tactful.config import Settings
from tactful.connections import open_installation
from tactful.errors import TactfulError
from tactful.metadata import BackfillJob, MetadataStore
from tactful.record_seal import log_in_files
from tactful_streaming import (
    Definitions,
    RocksState,
    StreamingError,
    backfill,
    compute_missing,
    dump_definitions,
    load_rules,
    plan_evolution,
)
from tactful_streaming.backfilling import Progress

_logger = logging.getLogger(__name__)

_NEARLY = 10_000
_PARTITION = 0


class Backfill:
    """One run of ``tactful features backfill``, on the embedded log and state.

    A run that is killed leaves a job in the metadata that is `running`, and a state of its own; the
    next run goes on with both.
    """

    def __init__(
        self,
        settings: Settings,
        definitions: Definitions,
        metadata: MetadataStore,
        progress: Progress,
    ) -> None:
        """Open the log, and what an earlier run has left.

        Args:
            settings: name the data directory, and how the engine counts.
            definitions: what the state shall hold.
            metadata: where the job is noted; it stays the caller's to close.
            progress: told of the offset reached and the one wanted.

        Raises:
            StreamingError: if the log or the state of an earlier run cannot be used.
        """
        self._settings = settings
        self._definitions = definitions
        self._metadata = metadata
        self._tell = progress
        self._job: BackfillJob | None = None
        self._scratch_path = settings.storage.data / "backfill"
        with contextlib.ExitStack() as stack:
            self._log = stack.enter_context(log_in_files(settings, clock=_now))
            self._scratch = RocksState(self._scratch_path)
            stack.callback(self._scratch.close)
            self._opened = stack.pop_all()

    def compute_ahead(self) -> None:
        """Compute up to where a running server is, again and again until little is left.

        Raises:
            StreamingError: if log or state cannot be used; the job is noted as failed.
        """
        reached = 0
        while True:
            with contextlib.closing(stored_state(self._settings)) as state:
                planned = plan_evolution(state, self._definitions)
            if not planned.recomputed or planned.offset - reached < _NEARLY:
                return
            self._begin(planned.recomputed, planned.offset)
            with self._noting_failure():
                compute_missing(
                    self._log,
                    self._scratch,
                    self._definitions,
                    set(planned.recomputed),
                    planned.offset,
                    self._options(),
                    self._progress,
                )
            reached = planned.offset

    def complete(self) -> tuple[str, ...]:
        """Compute the rest and merge it into the state, which no engine may have open.

        Returns:
            Names of the features that were missing.

        Raises:
            StreamingError: if log or state cannot be used; the job is noted as failed.
        """
        with contextlib.closing(RocksState(self._settings.storage.data / "state")) as state:
            planned = plan_evolution(state, self._definitions)
            if planned.recomputed:
                self._begin(planned.recomputed, planned.offset)
            with self._noting_failure():
                done = backfill(
                    self._log,
                    state,
                    self._scratch,
                    self._definitions,
                    options=self._options(),
                    progress=self._progress,
                )
        if self._job is not None:
            self._metadata.finish_backfill(self._job.id)
        self._metadata.record_definitions(
            self._definitions.fingerprint,
            dump_definitions(self._definitions),
            applied_by="tactful features backfill",
        )
        self.close()
        shutil.rmtree(self._scratch_path, ignore_errors=True)
        return done

    def close(self) -> None:
        """Close what was opened. Closing twice is harmless."""
        self._opened.close()

    def _begin(self, features: Collection[str], end: int) -> None:
        """Note what is going to be computed; an earlier run of the same is gone on with."""
        self._job = self._metadata.begin_backfill(
            self._definitions.fingerprint,
            [*features],
            partition=_PARTITION,
            position=self._log.begin,
            end=end,
        )

    def _progress(self, reached: int, wanted: int) -> None:
        if self._job is not None:
            self._metadata.advance_backfill(self._job.id, reached)
        self._tell(reached, wanted)

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except (StreamingError, TactfulError) as error:
            if self._job is not None:
                try:
                    self._metadata.finish_backfill(self._job.id, error=str(error))
                except TactfulError as problem:
                    _logger.warning("the failed backfill is not noted as such: %s", problem)
            raise

    def _options(self) -> dict[str, Any]:
        """What an engine is opened with; each gets rules of its own, which have seen nothing."""
        engine = self._settings.engine
        options = engine_options(self._settings)
        if engine.rules != Path():
            options["cleaner"] = load_rules(engine.rules)
        return options


def stored_state(settings: Settings) -> RocksState:
    """The state of an installation, to be read beside the server that writes it."""
    return RocksState(settings.storage.data / "state", read_only=True)


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


def _now() -> int:
    return time.time_ns() // 1_000_000
