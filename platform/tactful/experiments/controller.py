"""Move rollouts while a server runs: judge outcomes in regular looks, and change shares by them.

Several servers on one database may look at once; the first to write a look decides it, and the
others read the result (`tactful.experiments.store`). Outcomes are read from the log inside the
trusted zone; a look keeps and shows words only, and a private look also what it released.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tactful.errors import ConfigError, StorageError
from tactful.experiments.definitions import CHANGE, CONTROL, load_rollouts
from tactful.experiments.messages import LookRecord
from tactful.experiments.private_looks import LOOKS, noise_of, observations, release
from tactful.experiments.readout import comparable, samples
from tactful.experiments.serving import Served
from tactful.experiments.store import Judged, RolloutStore, StoredRollout
from tactful.experiments.tally import Tally, read_on
from tactful_bandits.analysis.samples import Proportion, Sample
from tactful_bandits.errors import ExperimentError
from tactful_bandits.rollouts.lifecycle import Rollout, StageObservations, judge_rollout
from tactful_privacy.durable_files import replace_file
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.log.event_log import EventLog

logger = logging.getLogger(__name__)

# Some servers may make lists by the former stage for so long after a stage began.
_SETTLE_MS = 2_000


@dataclass
class _Watched:
    """A stage whose users are being counted, with the log position of each partition."""

    stage: tuple[int, int]
    tally: Tally
    positions: list[int]


class RolloutController:
    """Judges the rollouts of one installation at intervals, and moves them."""

    def __init__(
        self,
        store: RolloutStore,
        logs: Callable[[], Sequence[EventLog]],
        *,
        every_ms: int,
        clock: Callable[[], int],
        allows: Callable[[Event], bool] = lambda event: True,
    ) -> None:
        """Watch no rollout yet.

        `logs` opens the event log, partition by partition; `every_ms` is the least time between two
        looks at a rollout; `allows` says whether an event may be used to measure, by its user's
        present consent.
        """
        self._store = store
        self._open = logs
        self._logs: Sequence[EventLog] | None = None
        self._every_ms = every_ms
        self._clock = clock
        self._allows = allows
        self._watched: dict[str, _Watched] = {}
        self._working = threading.Lock()

    def run(self) -> list[LookRecord]:
        """Take every look that is due, and return the looks that were decided here.

        Raises:
            StorageError: if the database cannot be used.
            StreamingError: if the log cannot be read.
        """
        looks = []
        with self._working:
            active = [row for row in self._store.all() if row.rollout.state in ("canary", "held")]
            keys = {stored.key for stored in active}
            self._watched = {key: it for key, it in self._watched.items() if key in keys}
            for stored in active:
                if stored.archived or self._clock() - stored.looked_at < self._between(stored):
                    continue
                try:
                    look = self._take(stored)
                except ExperimentError as error:  # the others are looked at all the same
                    logger.error("rollout %s cannot be judged: %s", stored.key, error)
                    continue
                if look is not None:
                    looks.append(look)
                    if (state := look.state) != stored.rollout.state:
                        logger.info(
                            "rollout %s is %s after look %d", stored.key, state, look.number
                        )
        return looks

    def forget(self, traces: SubjectIds) -> None:
        """Remove erased users from the counts; waits for looks in progress.

        Their events in the log are not counted again if `allows` refuses them.
        """
        with self._working:
            for watched in self._watched.values():
                watched.tally.forget(traces)

    def _take(self, stored: StoredRollout) -> LookRecord | None:
        tally = self._count(stored)
        if stored.definition.epsilon is not None and stored.rollout.share < 1:
            return self._take_privately(stored, tally, stored.definition.epsilon)
        seen = _exact(stored.rollout, tally)

        def judge(rollout: Rollout, at: int) -> Judged:
            return Judged(judge_rollout(rollout, seen, at=at))

        return self._store.look(stored, judge, every_ms=self._every_ms)

    def _take_privately(
        self, stored: StoredRollout, tally: Tally, epsilon: float
    ) -> LookRecord | None:
        """Judge by what this look and the earlier ones of the stage have released alone."""
        noise, since = noise_of(epsilon), stored.rollout.since
        before = self._store.looks(stored.key, limit=None, since=since)
        latest = max([since, *(look.at for look in before)])

        def judge(rollout: Rollout, at: int) -> Judged:
            drawn = release(tally.first_lists(latest, at), noise)
            looks = [*(look.released for look in before if look.released is not None), drawn]
            seen = observations(looks, float(noise.variance), rollout.share)
            return Judged(judge_rollout(rollout, seen, at=at), drawn)

        return self._store.look(stored, judge, every_ms=self._between(stored))

    def _between(self, stored: StoredRollout) -> int:
        """Return the least time between two looks; private ones are few, as their noise adds up."""
        if stored.definition.epsilon is None:
            return self._every_ms
        return max(self._every_ms, stored.rollout.plan.stage_ms // LOOKS)

    def _count(self, stored: StoredRollout) -> Tally:
        """Count outcomes since the stage began, up to the end of the log."""
        rollout, definition = stored.rollout, stored.definition
        stage = rollout.stage, rollout.since
        watched = self._watched.get(stored.key)
        if self._logs is None:
            self._logs = self._open()
        if watched is None or watched.stage != stage:
            tally = Tally(
                stored.key,
                since=rollout.since + _SETTLE_MS,
                types=definition.outcomes,
                lasts=definition.lasts,
                allows=self._allows,
            )
            begins = [log.offset_at(rollout.since) for log in self._logs]
            watched = self._watched[stored.key] = _Watched(stage, tally, begins)
        for number, log in enumerate(self._logs):
            watched.positions[number] = read_on(log, watched.tally, watched.positions[number])
        watched.tally.close(self._clock())
        return watched.tally


def apply_file(store: RolloutStore, path: Path) -> None:
    """Store the rollouts that a file defines, at the start of a server.

    A rollout that has begun and is now defined differently goes on as it was, with a warning, so
    that the server starts nevertheless. Raise ConfigError if the file is wrong.
    """
    for definition in load_rollouts(path):
        try:
            store.apply(definition, by="tactful serve", reason=f"applied from {path.name}")
        except ConfigError as error:
            logger.warning("%s: %s", path, error)


def _exact(rollout: Rollout, tally: Tally) -> StageObservations:
    """Return the exact outcomes that a look uses inside the trusted zone."""
    seen = tally.outcomes()
    arms = [samples(seen.arms.get(arm, {})) for arm in (CONTROL, CHANGE)]
    pairs = {guard.metric: _pair(guard.metric, *arms) for guard in rollout.plan.guardrails}
    units = seen.exposed.get(CONTROL, 0), seen.exposed.get(CHANGE, 0)
    return StageObservations(units, pairs)


def _pair(
    metric: str, control: Mapping[str, Sample], change: Mapping[str, Sample]
) -> tuple[Sample, Sample] | None:
    if metric not in control or metric not in change:
        return None
    pair = control[metric], change[metric]
    # Shares have exact intervals even if every outcome is 0, as is common for errors.
    shares = all(isinstance(arm, Proportion) for arm in pair)
    return pair if shares or comparable(metric, control, change) else None


def served_now(stored: Iterable[StoredRollout]) -> list[Served]:
    """Return the rollouts that recommendations take part in.

    A draft can be seen by forcing its arm. A change that was shipped serves every user until it is
    archived, except a model, which becomes the champion.
    """
    served = []
    for row in stored:
        rollout = row.rollout
        ended = rollout.state == "rolled back" or rollout.decision in ("keep", "inconclusive")
        shipped_model = rollout.state == "decided" and bool(row.definition.model)
        if not (row.archived or ended or shipped_model):
            served.append(Served(row.definition, rollout.share))
    return served


def write_served(path: Path, stored: Iterable[StoredRollout]) -> None:
    """Write the rollouts that take part to a file; raise StorageError if that fails."""
    content = msgspec.json.encode(served_now(stored))
    try:
        held = path.read_bytes() if path.exists() else b"[]"
        if held == content:
            return
        replace_file(path, content)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error
