"""What of an installation an erasure works on."""

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
    """What an erasure works on; nobody else may use the data directory meanwhile.

    Attributes:
        settings: checked.
        metadata: of the installation.
        suppression: its erased people.
        clock: now in epoch milliseconds.
    """

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
        """What the owners of partitions have to do, and have done."""
        return PartitionErasures(self.metadata, self.suppression, clock=self.clock)

    @property
    def jobs(self) -> ErasureJobs:
        """Erasures that were asked for."""
        return ErasureJobs(self.metadata, clock=self.clock, days=self.settings.consent.erase_days)
