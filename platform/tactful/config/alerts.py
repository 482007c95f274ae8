"""Settings of alerts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from tactful.config.fields import PositiveFloat


@dataclass(frozen=True)
class AlertSettings:
    """Settings of the alert engine."""

    enabled: bool = True  # whether this server takes part in the evaluation
    rules: Path = Path()  # file of rules and routes of the shop; empty: only packaged rules
    every_s: PositiveFloat = 15.0  # pause between two evaluations
    history_days: Annotated[float, Meta(ge=1)] = 400.0  # age at which cleared alerts are deleted
    # PEM files of certificates whose end is watched, separated by commas; empty for none
    certificates: str = ""
    # address of the runbook where you serve this documentation, which messages link to
    runbook: str = "docs/reference/alerts.md"
