"""Move rollouts while a server runs: judge outcomes in regular looks, and change shares by them.

Several servers on one database may look at once; the first to write a look decides it, and the
others read the result (`tactful.experiments.store`). Outcomes are read from the log inside the
trusted zone; a look keeps and shows words only, and a private look also what it released.

A private look releases, for each arm, how many users took something from their first recommendation
in the stage, and how many did not, of those whose first recommendation is over since the look
before. Each count gets discrete Laplace noise of scale `1 / ε`.

Guarantee: one user (one key of the log: a user, or a device without a login) stands in one count of
one look of a stage, so all looks of a stage together are ε-differentially private for adding or
removing a user; a rollout costs ε for each stage that it begins. Before a draw, every UTC day that
a look may count is charged ε, once a stage, to the ledger of the published statistics under the
purpose ``rollouts``; if a budget refuses a day, nothing is drawn. All results, rollbacks and holds
of a look are computed from these counts. Histories are not assumed to be independent. A user who
withdraws consent to measurement and gives it again, or is erased and returns, may be counted twice
in a stage; so may a user whose first recommendation left the log by retention before the stage was
over, if the server was restarted since.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import msgspec

from tactful.errors import ConfigError, StorageError
from tactful.event_log.recipients import Recipients
from tactful.experiments.definitions import CHANGE, CONTROL, RolloutDefinition, load_rollouts
from tactful.experiments.messages import NOT_JUDGED
from tactful.experiments.readout import comparable, samples
from tactful.experiments.serving import Served
from tactful.experiments.store import Judged, RolloutStore, StoredRollout
from tactful.experiments.tally import FirstList, Tally, read_on
from tactful.schemas.experiments.rollouts import LookRecord
from tactful_bandits.analysis.noisy_samples import ReleasedProportion, units_behind_noise
from tactful_bandits.analysis.samples import Proportion, Sample
from tactful_bandits.errors import ExperimentError
from tactful_bandits.rollouts.lifecycle import (
    SYSTEM,
    Rollout,
    StageObservations,
    hold_rollout,
    judge_rollout,
)
from tactful_privacy.durable_files import exclusive, replace_file
from tactful_privacy.errors import PrivacyError
from tactful_privacy.ledger.budget import date_of
from tactful_privacy.ledger.query import Query
from tactful_privacy.ledger.statistic import DAY_MS
from tactful_privacy.mechanisms.backends import Noise
from tactful_privacy.mechanisms.laplace import DiscreteLaplace
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.log.event_log import EventLog

logger = logging.getLogger(__name__)

# By arm: noisy counts of the users who took something, and of those who did not.
_Released = Mapping[str, tuple[int, int]]
_PRIVATE_METRIC = "takers"
SETTLE_MS = 2_000
"""Time after a stage began in which some servers may recommend by the former stage."""

PRIVATE_LOOKS = 24
"""Number of private looks of a stage, about: noise adds up look by look."""

NO_MODEL = "no model is trained, so nobody gets the change: train one, then advance"
"""Reason to hold a rollout."""


class OwnOutcomes(Protocol):
    """Outcomes of a stage on metrics of `metrics.yaml`, counted as the log is read."""

    def begin(self, logs: Sequence[EventLog], positions: Sequence[int]) -> None:
        """Read who a device belongs to from the records before the positions."""

    def read(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Count records, given as offset and payload."""

    def forget(self, traces: SubjectIds) -> None:
        """Remove erased users."""

    def pairs(self, now: int) -> dict[str, tuple[Sample, Sample] | None]:
        """Return both arms' outcomes at a time by metric; None where no look can judge them."""


@dataclass
class _Watched:
    """A stage whose users are being counted, with the log position of each partition."""

    stage: tuple[int, int]
    tally: Tally
    own: OwnOutcomes | None
    positions: list[int]

    def begin_log(self) -> None:
        self.tally.begin_log()

    def read(self, records: Iterable[tuple[int, bytes]]) -> None:
        records = list(records)
        self.tally.read(records)
        if self.own is not None:
            self.own.read(records)


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
        charge: Callable[[Iterable[Query]], None] = lambda queries: None,
        recipients: Callable[[], Recipients] = Recipients,
        has_model: Callable[[], bool] = lambda: True,
        own: Callable[[StoredRollout], OwnOutcomes | None] = lambda stored: None,
    ) -> None:
        """Watch no rollout yet.

        `logs` opens the event log, partition by partition; `every_ms` is the least time between two
        looks at a rollout; `allows` says whether an event may be used to measure, by its user's
        present consent; `charge` charges private looks to a ledger, if there is one; `recipients`
        makes the check of whose event it is; `has_model` says whether a model ranks, without which
        no user is assigned; `own` begins the outcomes of a stage on metrics of `metrics.yaml`.
        """
        self._store = store
        self._recipients = recipients
        self._open = logs
        self._logs: Sequence[EventLog] | None = None
        self._every_ms = every_ms
        self._clock = clock
        self._allows = allows
        self._charge = charge
        self._has_model = has_model
        self._own = own
        self._watched: dict[str, _Watched] = {}
        self._failures: dict[str, str] = {}  # latest logged, by rollout
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
            has_model = self._has_model()
            for stored in active:
                if not has_model and not stored.definition.bandit:
                    self._hold(stored)
                    continue
                if stored.archived or self._clock() - stored.looked_at < self._between(stored):
                    continue
                try:
                    look = self._take(stored)
                # The others are looked at all the same.
                except (ExperimentError, PrivacyError) as error:
                    if self._failures.get(stored.key) != (failure := str(error)):
                        self._failures[stored.key] = failure
                        self._store.note(stored.key, NOT_JUDGED, failure)
                        logger.error("rollout %s cannot be judged: %s", stored.key, error)
                    continue
                self._failures.pop(stored.key, None)
                if look is not None:
                    looks.append(look)
                    if (state := look.state) != stored.rollout.state:
                        logger.info("rollout %s: %s after look %d", stored.key, state, look.number)
        return looks

    def forget(self, traces: SubjectIds) -> None:
        """Remove erased users from the counts; waits for looks in progress.

        Their events in the log are not counted again if `allows` refuses them.
        """
        with self._working:
            for watched in self._watched.values():
                watched.tally.forget(traces)
                if watched.own is not None:
                    watched.own.forget(traces)

    def _hold(self, stored: StoredRollout) -> None:
        """Hold a canary that nobody is assigned to."""
        if stored.archived or stored.rollout.state != "canary":
            return
        # A person or another process may have moved it meanwhile.
        with contextlib.suppress(ConfigError):
            self._store.move(stored.key, hold_rollout, by=SYSTEM, reason=NO_MODEL)
            logger.warning("rollout %s is held: %s", stored.key, NO_MODEL)

    def _take(self, stored: StoredRollout) -> LookRecord | None:
        watched = self._count(stored)
        tally = watched.tally
        if stored.definition.epsilon is not None and stored.rollout.share < 1:
            return self._take_privately(stored, tally, stored.definition.epsilon)
        own = {} if watched.own is None else watched.own.pairs(self._clock())
        seen = _exact(stored.rollout, tally, own)

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
            self._charge(charges_of(stored, max(since, latest - stored.definition.lasts), at))
            drawn = release(tally.first_lists(latest, at), noise)
            looks = [*(look.released for look in before if look.released is not None), drawn]
            seen = observations(looks, float(noise.variance), rollout.share)
            return Judged(judge_rollout(rollout, seen, at=at), drawn)

        return self._store.look(stored, judge, every_ms=self._between(stored))

    def _between(self, stored: StoredRollout) -> int:
        """Return the least time between two looks; private ones are few, as their noise adds up."""
        if stored.definition.epsilon is None:
            return self._every_ms
        return max(self._every_ms, stored.rollout.plan.stage_ms // PRIVATE_LOOKS)

    def _count(self, stored: StoredRollout) -> _Watched:
        """Count outcomes since the stage began, up to the end of the log."""
        rollout, definition = stored.rollout, stored.definition
        stage = rollout.stage, rollout.since
        watched = self._watched.get(stored.key)
        if self._logs is None:
            self._logs = self._open()
        if watched is None or watched.stage != stage:
            tally = Tally(
                stored.key,
                since=rollout.since + SETTLE_MS,
                types=definition.outcomes,
                lasts=definition.lasts,
                allows=self._allows,
                recipients=self._recipients(),
            )
            begins = [log.offset_at(rollout.since) for log in self._logs]
            own = self._own(stored)
            if own is not None:
                own.begin(self._logs, begins)
            watched = self._watched[stored.key] = _Watched(stage, tally, own, begins)
        for number, log in enumerate(self._logs):
            watched.positions[number] = read_on(log, watched, watched.positions[number])
        watched.tally.close(self._clock())
        return watched


def apply_file(
    store: RolloutStore,
    path: Path,
    check: Callable[[RolloutDefinition], None] = lambda definition: None,
) -> None:
    """Store the rollouts that a file defines, at the start of a server.

    Definitions whose power must be forecast are left to `Planner.apply_file`, since that reads the
    log. A rollout that has begun and is now defined differently goes on as it was, with a warning,
    so that the server starts nevertheless. Raise ConfigError if the file is wrong.
    """
    for definition in load_rollouts(path):
        if definition.accept_low_power is None and not store.unchanged(definition):
            continue
        try:
            check(definition)
            reason = reason_of(definition, f"applied from {path.name}")
            store.apply(definition, by="tactful serve", reason=reason)
        except ConfigError as error:
            logger.warning("%s: %s", path, error)


def reason_of(definition: RolloutDefinition, reason: str) -> str:
    """Return the reason for the audit log, with that of a low power."""
    accepted = definition.accept_low_power
    return reason if accepted is None else f"{reason}; low power accepted: {accepted}"


def _exact(
    rollout: Rollout, tally: Tally, own: Mapping[str, tuple[Sample, Sample] | None]
) -> StageObservations:
    """Return the exact outcomes that a look uses inside the trusted zone."""
    seen = tally.outcomes()
    arms = [samples(seen.arms.get(arm, {})) for arm in (CONTROL, CHANGE)]
    pairs = {
        guard.metric: own[guard.metric] if guard.metric in own else pair_of(guard.metric, *arms)
        for guard in rollout.plan.guardrails
    }
    units = seen.exposed.get(CONTROL, 0), seen.exposed.get(CHANGE, 0)
    return StageObservations(units, pairs)


def pair_of(
    metric: str, control: Mapping[str, Sample], change: Mapping[str, Sample]
) -> tuple[Sample, Sample] | None:
    """Return both arms' outcomes of a guardrail; None where a look can judge nothing yet."""
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


def write_served(path: Path, rollouts: RolloutStore) -> None:
    """Write the rollouts that take part to a file; raise StorageError if that fails.

    Several threads and processes may do so at once: the file holds the newest stages.
    """
    try:
        with exclusive(path):
            content = msgspec.json.encode(served_now(rollouts.all()))
            held = path.read_bytes() if path.exists() else b"[]"
            if held != content:
                replace_file(path, content)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error


def noise_of(epsilon: float) -> DiscreteLaplace:
    """Return the noise of one count at the epsilon of a definition."""
    return DiscreteLaplace(1, str(epsilon))


def release(firsts: Sequence[FirstList], noise: Noise) -> dict[str, tuple[int, int]]:
    """Release the counts of one look; to be drawn once for each span of time.

    The first recommendations are those that are over since the look before.
    """
    counts = Counter((first.arm, first.took) for first in firsts)
    drawn = noise.sample(4).tolist()
    return {
        arm: (counts[arm, True] + drawn[2 * number], counts[arm, False] + drawn[2 * number + 1])
        for number, arm in enumerate((CONTROL, CHANGE))
    }


def charges_of(stored: StoredRollout, since: int, until: int) -> list[Query]:
    """Return the charges of a private look at recommendations from `since` to `until`.

    One for each UTC day, the same for all looks of a stage: a user stands in one of them.
    """
    stage, epsilon = stored.rollout.since, Fraction(str(stored.definition.epsilon))
    return [
        Query(
            f"rollout {stored.key}, stage of {stage}: {date_of(day)}",
            day,
            day,
            epsilon,
            purpose="rollouts",
            mechanism="discrete Laplace noise on the users who took something, and on the others",
        )
        for day in range(since // DAY_MS, until // DAY_MS + 1)
    ]


def observations(looks: Sequence[_Released], variance: float, share: float) -> StageObservations:
    """Sum the released counts of a stage for `tactful_bandits.judge_rollout`.

    `variance` is that of the noise in one count, `share` that of the users who should get the
    change.
    """
    arms = []
    for arm in (CONTROL, CHANGE):
        took, not_taken = (sum(look[arm][cell] for look in looks) for cell in (0, 1))
        if took + not_taken < 2:
            return StageObservations((0, 0), {_PRIVATE_METRIC: None})
        noise = len(looks) * variance
        arms.append(ReleasedProportion(took, not_taken, noise, noise))
    control, change = arms
    units = units_behind_noise(control, change, share) if share < 1 else (0, 0)
    return StageObservations(units, {_PRIVATE_METRIC: (control, change)})
