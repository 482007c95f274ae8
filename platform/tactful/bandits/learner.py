"""Learn bandits from the log while a server runs, exactly once.

The policies are a function of the log: of its decisions and rewards, in its order. A snapshot of a
bandit holds everything that was learnt *and* the position in each partition, in one file that is
replaced at once. A process that is killed at any moment continues at the last snapshot and reads
the rest again, with the same result. Without a snapshot it reads the whole log.

Unlearning deletes the snapshots and learns again from a log without the erased users, so the result
equals a bandit that never had their decisions. Users who have withdrawn consent are left out, too,
whenever a log is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tactful.bandits.definitions import BanditDefinition, State
from tactful.bandits.model import ModelArrays, Policy, arrays_of, new_policy
from tactful.bandits.rewards import JoinedDecision, RewardJoin
from tactful.bandits.serving import PublishedBandit, encode_published
from tactful.event_log.recipients import Recipients
from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.linear import LinearBandit
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file
from tactful_streaming.contract.log_entries import Event, from_offset
from tactful_streaming.log.event_log import EventLog

logger = logging.getLogger(__name__)

DIRECTORY = "bandits"
"""Folder of the snapshots in the data directory."""

_CHUNK = 2_048
_SNAPSHOT_MS = 30_000


class _Snapshot(msgspec.Struct, frozen=True):
    definition: BanditDefinition
    positions: list[int]
    policy: bytes
    joins: list[dict[str, Any]]


@dataclass(frozen=True)
class Learnt:
    """Learnt numbers of a bandit."""

    arrays: ModelArrays
    decisions: int  # decisions that were learnt since the start of the process
    waiting: int  # decisions whose time for a reward is not over


class LearningBandit:
    """One bandit that learns.

    ```text
    partition 0 ─ RewardJoin ─┐
    partition 1 ─ RewardJoin ─┴→ policy
    ```
    """

    def __init__(
        self,
        definition: BanditDefinition,
        partitions: int,
        *,
        allows: Callable[[Event], bool],
        recipients: Callable[[], Recipients],
    ) -> None:
        """Begin without decisions, at the begin of each partition."""
        self.definition = definition
        self.policy: Policy = new_policy(definition)
        self.positions = [0] * partitions
        self.learnt = 0
        self.changed = True
        self._joins = [
            RewardJoin(
                definition,
                self._learn,
                allows=allows,
                recipients=recipients(),
                begun=self._begin,
            )
            for _ in range(partitions)
        ]

    def feed(self, partition: int, records: Sequence[tuple[int, bytes]]) -> None:
        """Learn from records of a partition that were not read before."""
        new = from_offset(records, self.positions[partition])
        if new:
            self._joins[partition].feed(new)
            self.positions[partition] = new[-1][0] + 1

    def expire(self, now: int) -> None:
        """Learn the decisions whose time for a reward is over."""
        for join in self._joins:
            join.expire(now)

    @property
    def waiting(self) -> int:
        """Number of decisions whose time for a reward is not over."""
        return sum(map(len, self._joins))

    def snapshot(self) -> bytes:
        """Encode everything that was learnt, with the positions."""
        joins = [join.state() for join in self._joins]
        return msgspec.msgpack.encode(
            _Snapshot(self.definition, self.positions, self.policy.to_bytes(), joins)
        )

    def restore(self, snapshot: bytes) -> bool:
        """Continue from a snapshot; False if it is damaged, or learnt something else.

        Without success the object must not be used.
        """
        try:
            held = msgspec.msgpack.decode(snapshot, type=_Snapshot)
            if not held.definition.learns_as(self.definition):
                return False
            if len(held.positions) != len(self.positions):
                return False
            kind: Any = type(self.policy)
            self.policy = kind.from_bytes(held.policy)
            for join, state in zip(self._joins, held.joins, strict=True):
                join.restore(state)
        except (*DECODE_ERRORS, PolicyError, KeyError, TypeError, ValueError):
            return False
        self.positions = [*held.positions]
        return True

    def _begin(self, period: int) -> None:
        if period > self.policy.period:
            self.policy.advance(period)
            self.changed = True

    def _learn(self, decision: JoinedDecision) -> None:
        policy, arm, period = self.policy, decision.arm, decision.period
        if isinstance(policy, LinearBandit):
            counts = policy.update(arm, decision.features, decision.reward, period=period)
        else:
            counts = policy.update(arm, decision.reward, period=period)
        self.learnt += counts
        self.changed = True


class BanditLearner:
    """Learns the bandits of one installation, and publishes what they have learnt.

    Use `run` by one thread at a time; `forget` waits for it.
    """

    def __init__(
        self,
        logs: Callable[[], Sequence[EventLog]],
        data: Path,
        published: Path,
        *,
        clock: Callable[[], int],
        allows: Callable[[Event], bool] = lambda event: True,
        recipients: Callable[[], Recipients] = Recipients,
    ) -> None:
        """Follow no bandit yet.

        Args:
            logs: opens the event log, partition by partition.
            data: data directory, with the snapshots.
            published: file of `tactful.bandits.serving`.
            clock: epoch milliseconds.
            allows: whether an event may be used, by its user's present consent.
            recipients: makes the check of whose event it is.
        """
        self._open = logs
        self._logs: Sequence[EventLog] | None = None
        self._directory, self._published = data / DIRECTORY, published
        self._clock, self._allows, self._recipients = clock, allows, recipients
        self._learning: dict[str, LearningBandit] = {}
        self._states: dict[str, State] = {}
        self._arrays: dict[str, ModelArrays] = {}
        self._saved_at: dict[str, int] = {}
        self._content = b""
        self._working = threading.RLock()

    def follow(self, bandits: Sequence[tuple[BanditDefinition, State]]) -> None:
        """Learn these bandits from the next `run` on; a changed one is learnt again from the log.

        Bandits that are off learn nothing new, and their snapshots stay.
        """
        with self._working:
            known = {definition.key for definition, _ in bandits}
            for key in [key for key in self._learning if key not in known]:
                self._learning.pop(key)
                self._arrays.pop(key, None)
                self._path(key).unlink(missing_ok=True)
            self._states = {definition.key: state for definition, state in bandits}
            for definition, _ in bandits:
                held = self._learning.get(definition.key)
                if held is not None and held.definition.learns_as(definition):
                    held.definition = definition
                else:
                    self._learning[definition.key] = self._begin(definition)

    def run(self) -> bool:
        """Read the log on, learn and publish; return whether anything was published.

        Raises:
            OSError: if a file cannot be written.
            StreamingError: if the log cannot be read.
        """
        with self._working:
            # Before the log is read: a reward that came since then may not be read yet.
            now = self._clock()
            self._read()
            for key, bandit in self._learning.items():
                if self._states[key] != "off":
                    bandit.expire(now)
                if now - self._saved_at.get(key, 0) >= _SNAPSHOT_MS:
                    self._save(key, bandit, now)
            return self._publish()

    def save(self) -> None:
        """Write a snapshot of every bandit, at the end of a server; OSError if that fails."""
        with self._working:
            for key, bandit in self._learning.items():
                self._save(key, bandit, self._clock())

    def forget(self) -> int:
        """Unlearn erased users; return the number of snapshots that were replaced.

        All bandits are learnt again from the log, whose events `allows` refuses for these users.
        """
        with self._working:
            removed = 0
            for key, bandit in self._learning.items():
                removed += self._path(key).exists()
                self._path(key).unlink(missing_ok=True)
                self._learning[key] = self._new(bandit.definition)
                self._saved_at.pop(key, None)
            self.run()
            return removed

    def learnt(self, key: str) -> Learnt | None:
        """Return what a bandit has learnt; None for an unknown one."""
        with self._working:
            bandit = self._learning.get(key)
            if bandit is None:
                return None
            return Learnt(self._arrays_of(key, bandit), bandit.learnt, bandit.waiting)

    def _read(self) -> None:
        """Read each partition once, for all bandits that are not off."""
        if not self._learning:
            return
        if self._logs is None:
            self._logs = self._open()
        bandits = [it for key, it in self._learning.items() if self._states[key] != "off"]
        for number, log in enumerate(self._logs):
            while bandits:
                begin = max(log.begin, min(it.positions[number] for it in bandits))
                records = log.read(begin, _CHUNK) if begin < log.end else []
                if not records:
                    break
                for bandit in bandits:
                    bandit.feed(number, records)

    def _publish(self) -> bool:
        published = []
        for key, bandit in self._learning.items():
            arrays = self._arrays_of(key, bandit)
            published.append(PublishedBandit(bandit.definition, self._states[key], arrays))
        content = encode_published(published)
        nothing = not published and not self._published.exists()
        if content == self._content or nothing:
            return False
        replace_file(self._published, content)
        self._content = content
        return True

    def _arrays_of(self, key: str, bandit: LearningBandit) -> ModelArrays:
        if bandit.changed or key not in self._arrays:
            self._arrays[key] = arrays_of(bandit.policy)
            bandit.changed = False
        return self._arrays[key]

    def _new(self, definition: BanditDefinition) -> LearningBandit:
        if self._logs is None:
            self._logs = self._open()
        return LearningBandit(
            definition, len(self._logs), allows=self._allows, recipients=self._recipients
        )

    def _begin(self, definition: BanditDefinition) -> LearningBandit:
        bandit = self._new(definition)
        with contextlib.suppress(FileNotFoundError):
            if bandit.restore(self._path(definition.key).read_bytes()) and self._in_log(bandit):
                self._saved_at[definition.key] = self._clock()
                return bandit
            logger.info("bandit %s is learnt again from the log", definition.key)
            bandit = self._new(definition)
        return bandit

    def _in_log(self, bandit: LearningBandit) -> bool:
        """Return whether the log reaches the positions; not so after an older one was restored."""
        logs = self._logs or ()
        return all(at <= log.end for at, log in zip(bandit.positions, logs, strict=True))

    def _save(self, key: str, bandit: LearningBandit, now: int) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        replace_file(self._path(key), bandit.snapshot(), private=True)
        self._saved_at[key] = now

    def _path(self, key: str) -> Path:
        return self._directory / hashlib.blake2b(key.encode(), digest_size=12).hexdigest()


def delete_snapshots(data: Path) -> int:
    """Delete everything that was learnt, to be learnt again; return the number of files."""
    paths = [*(data / DIRECTORY).iterdir()] if (data / DIRECTORY).is_dir() else []
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)
