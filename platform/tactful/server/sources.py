"""Ingestion of messages of other programs, assembled from a platform."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tactful.catalogue.request_context import described
from tactful.pipeline.source_ingest import SourceIngest
from tactful.sources.read_mapping import read_mappings

if TYPE_CHECKING:
    from tactful.server.platform import Platform


def make_sources(platform: Platform) -> SourceIngest:
    """Read the mappings and make the ingestion; ConfigError names a mistake in their file."""
    clock = platform.resources.installation.clock

    def description(user: str) -> Mapping[str, Any]:
        """Return the present properties of a user; none of one who was erased."""
        if platform.permissions.is_erased(user):
            return {}
        with platform.lock:
            return dict(described(platform.backend.source, user, clock()))

    return SourceIngest(
        platform.ingest,
        read_mappings(platform.settings.source_mapping),
        platform.metrics,
        platform.permissions,
        described=description,
        clock=clock,
    )
