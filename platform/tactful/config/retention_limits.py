"""Retention times by kind of record, as `[retention]` sets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from tactful.config.privacy import RetentionSettings

RecordKind = Literal["measurement", "impressions", "personalisation"]

DAY_MS = 86_400_000


def retention_limits(settings: RetentionSettings) -> dict[RecordKind, int]:
    """Return the retention of each kind in milliseconds, without unlimited kinds."""
    days: Mapping[RecordKind, float] = {
        "measurement": settings.measurement_days,
        "impressions": settings.impressions_days,
        "personalisation": settings.personalisation_days,
    }
    return {kind: days_to_ms(limit) for kind, limit in days.items() if limit}


def days_to_ms(days: float) -> int:
    """Convert days to whole milliseconds."""
    return round(days * DAY_MS)
