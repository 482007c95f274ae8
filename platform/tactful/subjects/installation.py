"""The parts of an installation that an erasure uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tactful.config.settings import Settings
from tactful.metadata.store import MetadataStore
from tactful.subjects.erasure_requests import ErasureJobs
from tactful.subjects.partition_erasures import PartitionErasures
from tactful.subjects.suppression import SuppressionStore


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
    def jobs(self) -> ErasureJobs:
        """Requested erasures."""
        return ErasureJobs(self.metadata, clock=self.clock, days=self.settings.consent.erase_days)
