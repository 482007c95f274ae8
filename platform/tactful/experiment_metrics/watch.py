"""Watch the guardrails of experiments, and record harm in the audit trail.

Rules of alerts send such entries on. Verdicts hold at any number of looks, since exposures count
from a fixed time on, so watching again and again raises no more false alarms than one look.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container

import sqlalchemy as sa

from tactful.errors import ConfigError
from tactful.experiment_metrics.readout import MetricReadOuts
from tactful.metadata.audit import note_change
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import changes
from tactful.schemas.experiments.readouts import ReadOutMessage

logger = logging.getLogger(__name__)

HARM_FOUND = "experiment.harm found"
"""Action of the entries in the audit trail."""

_EVERY_MS = 3_600_000
_AUTHOR = "system"  # of what a rule caused
_SERVER = "tactful serve"  # author of an analysis that a server finds in its file


class MetricWatch:
    """Judges the guardrails of all analyses once an hour, and records changed analyses at once."""

    def __init__(
        self,
        read_outs: MetricReadOuts,
        metadata: MetadataStore,
        *,
        clock: Callable[[], int],
        rollouts: Callable[[], Container[str]] = tuple,
        changed: Callable[[], bool] = lambda: False,
    ) -> None:
        """Use read-outs, the database of the audit trail, and a clock in epoch milliseconds.

        `rollouts` returns the keys of rollouts, which have looks of their own; `changed` says
        whether the file of the analyses was written since the last call.
        """
        self._read_outs = read_outs
        self._metadata = metadata
        self._clock = clock
        self._rollouts = rollouts
        self._changed = changed
        self._due = clock() + _EVERY_MS

    def run(self) -> list[str]:
        """Judge if an hour is over, and return the experiments with newly found harm.

        Raises:
            ConfigError: if the definitions are wrong.
            StorageError: if the database cannot be used.
            StreamingError: if the log cannot be read.
        """
        if self._changed():
            self._read_outs.register(by=_SERVER)
        now = self._clock()
        if now < self._due:
            return []
        self._due = now + _EVERY_MS
        rollouts = self._rollouts()
        harmed = []
        for key, plan in self._read_outs.definitions().plans.items():
            if not plan.guardrails or key in rollouts:
                continue
            try:
                found = self._read_outs.of_recorded(key)
            except ConfigError as error:  # it was planned before its arms are known
                logger.info("the guardrails of an experiment were not judged: %s", error)
                continue
            if self._record(key, found):
                harmed.append(key)
        return harmed

    def _record(self, key: str, found: ReadOutMessage) -> bool:
        """Record the guardrails with harm, each once; return whether one is new."""
        if found.sample_ratio.verdict == "mismatch":  # no number is reliable then
            return False
        latest = {point.metric: point.verdict for point in found.guardrails}
        metrics = [metric for metric, verdict in latest.items() if verdict == "harm"]

        def record(connection: sa.Connection) -> bool:
            new = False
            for metric in metrics:
                detail = f"guardrail {metric}"
                known = sa.select(changes.c.id).where(
                    changes.c.action == HARM_FOUND,
                    changes.c.target == key,
                    changes.c.detail == detail,
                )
                if connection.execute(known.limit(1)).first() is None:
                    note_change(connection, self._clock(), _AUTHOR, HARM_FOUND, key, detail)
                    new = True
            return new

        return bool(metrics) and self._metadata.change(record)
