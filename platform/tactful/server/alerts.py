"""The alert engine of a server, and the gauges that its rules need beside those of the platform."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tactful.alerts.rules import load_alerts
from tactful.alerts.service import AlertService
from tactful.alerts.sinks import check_sinks
from tactful.alerts.sources import Sources
from tactful.ranking.model import read_manifest, read_pointer
from tactful.server.gauges import Kept

if TYPE_CHECKING:
    from tactful.server.platform import Platform

T = TypeVar("T")

_DAY_S = 86_400


def make_alerts(platform: Platform) -> AlertService:
    """Read the rules and make the engine; ConfigError names a mistake in their file."""
    settings, installation = platform.settings.alerts, platform.resources.installation
    file = load_alerts(settings.rules)
    for route in file.routes:
        check_sinks(route)
    service = AlertService(
        installation.metadata,
        file,
        Sources(platform.metrics.all_samples, platform.statistics),
        lease=platform.lease,
        clock=installation.clock,
        runbook=settings.runbook,
        history_days=settings.history_days,
    )
    add_gauges(platform, service)
    return service


def add_gauges(platform: Platform, service: AlertService) -> None:
    """Register what rules look at: disk, certificates, model, budget, rollouts, messages."""
    gauge, settings = platform.metrics.gauge, platform.settings
    clock = platform.resources.installation.clock

    def lately(read: Callable[[], float]) -> Callable[[], float]:
        return Kept(read, 0.0, lambda: clock() / 1000, keeps=True)

    gauge(
        "disk_free_share",
        "Free share of the disk of the data directory",
        lately(lambda: free_share(settings.storage.data)),
    )
    if files := [Path(name) for name in settings.alerts.certificates.split(",") if name.strip()]:
        gauge(
            "certificate_days",
            "Days until the first of the watched certificates ends; 0 if one cannot be read",
            lately(lambda: min(days_left(file, clock()) for file in files)),
        )
    gauge(
        "model_age_days",
        "Days since the last event that the champion was trained on; 0 without a champion",
        lately(lambda: model_age_days(settings.models, clock())),
    )
    gauge(
        "rollouts_rolled_back",
        "Rollouts that were rolled back and are not archived",
        lately(lambda: rolled_back(platform)),
    )
    gauge(
        "budget_reserved_share",
        "Largest share of a privacy budget that is reserved or spent",
        lately(lambda: budget_share(platform)),
    )
    gauge("alert_sinks_failing", "Sinks whose last message failed", lambda: service.outbox.failing)
    watermark = _Stall(lambda: platform.engine.watermark, lambda: platform.applier.position, clock)
    text = "Seconds for which records were applied and the watermark did not move"
    gauge("watermark_stalled_seconds", text, watermark)


class _Stall:
    """Time for which a mark has stood still although records were applied meanwhile."""

    def __init__(
        self, mark: Callable[[], int], applied: Callable[[], int], clock: Callable[[], int]
    ) -> None:
        self._mark, self._applied, self._clock = mark, applied, clock
        self._last: tuple[int, int] | None = None
        self._since: int | None = None

    def __call__(self) -> float:
        now, seen = self._clock(), (self._mark(), self._applied())
        if self._last is None or seen[0] != self._last[0]:
            self._last, self._since = seen, None
            return 0.0
        if seen[1] == self._last[1]:
            return 0.0
        if self._since is None:
            self._since = now
        return (now - self._since) / 1000


def free_share(path: Path) -> float:
    """Return the free share of the file system of a path, for users without privileges."""
    status = os.statvfs(path)
    return status.f_bavail / status.f_blocks if status.f_blocks else 1.0


def days_left(certificate: Path, now: int) -> float:
    """Return the days until the first certificate of a PEM file ends; 0 if it cannot be read."""
    from cryptography import x509

    try:
        chain = x509.load_pem_x509_certificates(certificate.read_bytes())
    except (OSError, ValueError):
        return 0.0
    end = min(link.not_valid_after_utc for link in chain)
    moment = dt.datetime.fromtimestamp(now / 1000, dt.UTC)
    return max(0.0, (end - moment).total_seconds() / _DAY_S)


def model_age_days(models: Path, now: int) -> float:
    """Return the days since the last event that the champion learned from; 0 without one."""
    if (pointer := read_pointer(models)) is None:
        return 0.0
    trained_until = read_manifest(models / "versions" / pointer.version).trained_until
    return max(0.0, (now - trained_until) / 1000 / _DAY_S)


def rolled_back(platform: Platform) -> int:
    """Return the number of rollouts that ended by a rollback and wait for somebody's look."""
    return sum(
        stored.rollout.state == "rolled back" and not stored.archived
        for stored in platform.rollouts.all()
    )


def budget_share(platform: Platform) -> float:
    """Return the largest used share of a privacy budget of the month; 0 without statistics."""
    if platform.statistics is None:
        return 0.0
    budgets = platform.statistics.ledger().budgets
    return max(
        (max(it.reserved, it.largest_day) / it.epsilon for it in budgets if it.epsilon > 0),
        default=0.0,
    )
