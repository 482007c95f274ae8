"""Live quality as it was measured last, in a file of the models directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tactful.schemas.models import LiveQuality, QualityDay
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file

_FILE = "quality.json"
_KEPT_DAYS = 60


def keep_quality(models: Path, days: Sequence[QualityDay], *, now: int, label: str) -> LiveQuality:
    """Keep figures in a models directory; days that were not measured again stay as they are."""
    before = {day.day: day for day in read_quality(models).days}
    merged = before | {day.day: day for day in days}
    latest = sorted(merged.values(), key=lambda day: day.day)[-_KEPT_DAYS:]
    quality = LiveQuality(measured_at=now, label=label, days=latest)
    models.mkdir(parents=True, exist_ok=True)
    replace_file(models / _FILE, msgspec.json.encode(quality))
    return quality


def read_quality(models: Path) -> LiveQuality:
    """Return the figures that were kept last; none if there are none, or if they are damaged."""
    try:
        return msgspec.json.decode((models / _FILE).read_bytes(), type=LiveQuality)
    except (OSError, *DECODE_ERRORS):
        return LiveQuality()
