"""The parts of an installation that an erasure uses, and the users that it stores."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import sqlalchemy as sa

from tactful.config.settings import Settings
from tactful.event_log.batches import read_batches
from tactful.event_log.encryption import log_in_files
from tactful.metadata.audit import AuditTrail
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import consent_decisions
from tactful.subjects.access_log import AccessLog
from tactful.subjects.erasure_requests import ErasureJobs
from tactful.subjects.partition_erasures import PartitionErasures
from tactful.subjects.suppression import SuppressionStore
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.log_entries import DEVICE_PREFIX
from tactful_streaming.engine.erasure import user_keys_in
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import RocksState


@dataclass(frozen=True)
class Installation:
    """Parts of an installation whose data directory this process holds."""

    settings: Settings
    metadata: MetadataStore
    suppression: SuppressionStore
    clock: Callable[[], int]

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.settings.storage.data

    @property
    def partitions(self) -> PartitionErasures:
        """Erasures by the owners of partitions."""
        return PartitionErasures(self.metadata, self.suppression, clock=self.clock)

    @property
    def accesses(self) -> AccessLog:
        """Exports and erasures, with their authors."""
        return AccessLog(self.metadata, self.suppression.keyring, clock=self.clock)

    @property
    def audit(self) -> AuditTrail:
        """All changes and accesses, with their authors."""
        return AuditTrail(self.metadata, clock=self.clock)

    @property
    def jobs(self) -> ErasureJobs:
        """Requested erasures."""
        return ErasureJobs(self.metadata, clock=self.clock, days=self.settings.consent.erase_days)


_CHUNK = 4_096


def people_kept(installation: Installation) -> Iterator[Collection[str]]:
    """Yield the keys of all users in log, state and decisions, with repeats."""
    if (log := installation.data / "log").is_dir():
        EmbeddedLog(log).close()  # removes the torn tail of a crash
        with log_in_files(installation.settings, clock=installation.clock) as opened:
            for records in read_batches(opened, opened.begin, opened.end, size=_CHUNK):
                yield set[str]().union(*map(_named, (payload for _, payload in records)))
    if (state := installation.data / "state").is_dir():
        with contextlib.closing(RocksState(state, read_only=True)) as store:
            people = user_keys_in(store)
            while batch := list(itertools.islice(people, _CHUNK)):
                yield batch
    decided = sa.select(consent_decisions.c.person).distinct()
    yield [row.person for row in installation.metadata.fetch(decided)]


class _Named(msgspec.Struct):
    user_id: str | None = None
    device_id: str | None = None
    event: _Named | None = None


def _named(payload: bytes) -> set[str]:
    """Return the keys of the users in a record."""
    keys: set[str] = set()
    try:
        entry: _Named | None = msgspec.msgpack.decode(payload, type=_Named)
    except DECODE_ERRORS:
        return keys
    while entry is not None:
        keys |= {entry.user_id} if entry.user_id is not None else set()
        keys |= {DEVICE_PREFIX + entry.device_id} if entry.device_id is not None else set()
        entry = entry.event
    return keys
