"""Versions in a models directory, and what their trainings measured; without MLflow."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from tactful.errors import ModelError, UnknownVersion
from tactful.models.training_record import TrainingRecord, read_record
from tactful.ranking.calibration import Calibration
from tactful.ranking.model import (
    Manifest,
    Pointer,
    read_manifest,
    read_pointer,
    version_directory,
)
from tactful.schemas.models import (
    Alias,
    CalibrationInfo,
    ModelVersion,
    ModelVersionDetails,
    ServedDrift,
)

if TYPE_CHECKING:
    from tactful.models.audit_log import ModelChange

_NUMBER = re.compile(r"[0-9]{1,18}")


def list_versions(
    models: Path, changes: Sequence[ModelChange], *, before: int | None, limit: int
) -> list[ModelVersion]:
    """Return versions with smaller numbers than `before`, newest first; damaged ones are left out.

    Args:
        models: directory of the models.
        changes: latest entries of the audit log, which say what was promoted.
        before: number of a version; None for all.
        limit: most versions.

    Raises:
        ModelError: if the pointer to the champion is damaged.
    """
    numbers = _numbers(models)
    aliases = _aliases(read_pointer(models), numbers, changes)
    found: list[ModelVersion] = []
    for number in numbers:
        if len(found) == limit:
            break
        if before is not None and number >= before:
            continue
        try:
            place = version_directory(models, str(number))
            found.append(_version(place, read_manifest(place), read_record(place), aliases))
        except ModelError:
            continue
    return found


def describe_training(
    models: Path, version: str, changes: Sequence[ModelChange]
) -> ModelVersionDetails:
    """Return what the training of a version measured.

    Raises:
        UnknownVersion: if its files are not in the models directory.
        ModelError: if they are damaged.
    """
    place = version_directory(models, version)
    if not _NUMBER.fullmatch(version) or not place.is_dir():
        raise UnknownVersion("GET /v1/models/versions lists the versions of this server")
    manifest, record = read_manifest(place), read_record(place)
    aliases = _aliases(read_pointer(models), _numbers(models), changes)
    return ModelVersionDetails(
        version=_version(place, manifest, record, aliases),
        rows=manifest.rows,
        questions=manifest.questions,
        shown=manifest.shown,
        seconds=0.0 if record is None else record.seconds,
        curve=[] if record is None else record.curve,
        calibration=_calibration(manifest.calibration),
        gains=manifest.gains,
        losses={} if record is None else record.losses,
        served=_served(models, version),
        attention=manifest.looked,
    )


def _numbers(models: Path) -> list[int]:
    names = (path.name for path in (models / "versions").glob("[!.]*"))
    return sorted((int(name) for name in names if _NUMBER.fullmatch(name)), reverse=True)


def _aliases(
    pointer: Pointer | None, numbers: Sequence[int], changes: Sequence[ModelChange]
) -> dict[str, list[Alias]]:
    aliases: dict[str, list[Alias]] = {}
    if pointer is not None:
        aliases[pointer.version] = ["champion"]
        if pointer.previous:
            aliases.setdefault(pointer.previous, []).append("previous")
    newest = str(numbers[0]) if numbers else ""
    served = any(it.action != "train" and newest in (it.version, it.previous) for it in changes)
    if newest and newest not in aliases and not served:
        aliases[newest] = ["challenger"]
    return aliases


def _version(
    place: Path,
    manifest: Manifest,
    record: TrainingRecord | None,
    aliases: dict[str, list[Alias]],
) -> ModelVersion:
    at = 0 if record is None else record.trained_at
    return ModelVersion(
        version=place.name,
        aliases=aliases.get(place.name, []),
        trained_at=at or (place / "manifest.json").stat().st_mtime_ns // 1_000_000,
        trained_until=manifest.trained_until,
        label=manifest.label,
        metrics=manifest.metrics,
        intervals={} if record is None else record.intervals,
        trees=0 if record is None else record.trees,
        run_id=manifest.run_id,
        run_url="" if record is None else _run_url(record.run_path),
    )


def _run_url(path: str) -> str:
    """Return the address of a run; empty unless MLflow is a server."""
    parts = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if parts.scheme not in ("http", "https") or not parts.hostname or not path:
        return ""
    host = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
    # Without a name and password that the address may hold.
    return f"{urlunsplit((parts.scheme, host, parts.path.rstrip('/'), '', ''))}/{path}"


def _calibration(calibration: Calibration | None) -> CalibrationInfo | None:
    if calibration is None:
        return None
    return CalibrationInfo(
        method=calibration.method,
        of=calibration.of,
        error=calibration.error,
        brier=calibration.brier,
        brier_constant=calibration.brier_constant,
        predicted=calibration.predicted,
        observed=calibration.observed,
    )


def _served(models: Path, version: str) -> ServedDrift | None:
    """Return drift and skew of a version from the newest training while it served."""
    for number in _numbers(models):
        if number <= int(version):
            return None
        try:
            record = read_record(version_directory(models, str(number)))
        except ModelError:
            continue
        if record is not None and record.served.version == version:
            return record.served
    return None
